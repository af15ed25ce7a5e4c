//! The example of the same name, run in this process.

#[allow(dead_code, reason = "its `main` is not called here")]
#[path = "../src/bin/own_resource_store.rs"]
mod example;

// ANCHOR: suite
use std::sync::Arc;

use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::conformance::resource_store::{Bench, Setup};

async fn bench(setup: Setup) -> Bench {
    let clock = Arc::new(ManualClock::default());
    let store = example::SmallStore::new(clock.clone(), setup.log_commits.unwrap_or(1_000_000));
    Bench::new(Arc::new(store), clock)
}

// Every rule of the contract, a test each.
mcp_gateway_core::resource_store_suite!(bench);
// ANCHOR_END: suite
