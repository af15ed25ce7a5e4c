//! Stores in Postgres: for several replicas over one database.
//!
//! Everything is in the schema `mcp_gateway` of that database; [`migrate`] makes it. Replicas share it without knowing of
//! one another: what they must agree on, the order of commits and the time at which records expire, is the server's.

mod audit;
mod audit_chain;
mod audit_row;
mod database;
mod error;
mod migrate;
mod options;
mod resource;
mod resource_batch;
mod resource_feed;
#[cfg(test)]
mod testing;
mod transfer;
mod types;

pub use audit::{PostgresAuditOptions, PostgresAuditStore};
pub use error::PostgresError;
pub use migrate::{Contract, migrate};
pub use options::PostgresOptions;
pub use resource::PostgresStore;
pub use transfer::PostgresRecords;
