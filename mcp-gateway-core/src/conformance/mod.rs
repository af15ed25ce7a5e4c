//! The suites that every implementation of a contract is run against, ours and an integrator's.
//!
//! Each panics at the first rule that does not hold, and names it.

pub mod audit_sink;
pub mod audit_store;
