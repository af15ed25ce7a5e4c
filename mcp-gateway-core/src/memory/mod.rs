//! Implementations of the contracts that keep everything in memory: for tests, examples and throw-away gateways.

mod keys;
mod resource_store;

pub use keys::MemoryKeys;
pub use resource_store::{MemoryStore, MemoryStoreOptions};
