//! The suites that every implementation of a contract is run against, and what tests of the consumers need.

pub mod audit_sink;
pub mod audit_store;
pub mod catalog_source;
mod flaky_store;
pub mod key_management;
mod manual_clock;
pub mod rate_limiter;
pub mod resource_store;
pub mod runtime;

pub use flaky_store::FlakyStore;
pub use manual_clock::ManualClock;
