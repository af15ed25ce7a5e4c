//! The suites that every implementation of a contract is run against, and what tests of the consumers need.

pub mod audit_sink;
pub mod audit_store;
mod flaky_store;
mod manual_clock;
pub mod resource_store;

pub use flaky_store::FlakyStore;
pub use manual_clock::ManualClock;
