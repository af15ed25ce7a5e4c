//! Where MCP servers run: the stdio bridge, and the runtime over child processes.
//!
//! [`bridge`] turns a server on standard input and output into one that answers streamable HTTP in this process.
#![cfg_attr(feature = "process", doc = "[`process`] starts `npx`, `uvx` and plain commands as children and bridges them.")]

pub mod bridge;
#[cfg(feature = "process")]
pub mod process;
