//! The process runtime against the suite of its contract.

mod support;

use std::sync::Arc;

use mcp_gateway_core::conformance::runtime;
use mcp_gateway_core::contract::{Runtime, Workload};
use mcp_gateway_deploy::process::ProcessRuntime;
use support::{options, script, workload};

struct Bench(Arc<ProcessRuntime>);

impl runtime::Bench for Bench {
    fn runtime(&self) -> Arc<dyn Runtime> {
        self.0.clone()
    }

    fn works(&self, id: &str) -> Workload {
        workload(id, script("legacy"))
    }

    fn fails(&self, id: &str) -> Workload {
        workload(id, script("fail"))
    }
}

#[tokio::test]
async fn processes_are_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    runtime::suite(&Bench(Arc::new(ProcessRuntime::new(options(dir.path())).unwrap()))).await;
}
