//! The contracts in memory: for tests, for embedders, and as the plainest example of each.

mod audit;

pub use audit::{MemoryAuditSink, MemoryAuditStore};
