//! Stores in SQLite files: the embedded default.
//!
//! One process owns a file, which a lock beside it (`FILE.lock`) enforces. All files have mode 0600.

mod audit;
mod audit_chain;
mod audit_detail;
mod audit_presence;
mod audit_query;
mod audit_row;
mod audit_writer;
mod connection;
mod error;
mod lock;
mod migrate;
mod resource;
mod resource_feed;
mod resource_reader;
mod resource_writer;
mod transfer;

pub use audit::{SqliteAuditOptions, SqliteAuditStore};
pub use connection::Durability;
pub use error::OpenError;
pub use resource::{SqliteOptions, SqliteStore};
pub use transfer::SqliteRecords;
