//! Implementations of the contracts that keep everything in memory: for tests, examples and throw-away gateways.

mod audit;
mod keys;
mod rate_limiter;
mod resource_store;
mod routes;
mod runtime;

pub use audit::{MemoryAuditSink, MemoryAuditStore};
pub use keys::MemoryKeys;
pub use rate_limiter::MemoryRateLimiter;
pub use resource_store::{MemoryStore, MemoryStoreOptions};
pub use routes::MemoryRoutes;
pub use runtime::MemoryRuntime;
