//! What an MCP gateway keeps: stores in SQLite files or Postgres, and the audit spool.
//!
//! Every store implements a contract of [`mcp_gateway_core::contract`] and passes its suite.

mod append;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod spool;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod transfer;
