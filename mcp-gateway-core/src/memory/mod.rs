//! In-memory implementations of the contracts: for tests, for embedding, and as models for others.

mod rate_limiter;

pub use rate_limiter::MemoryRateLimiter;
