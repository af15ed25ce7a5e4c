//! The catalog: which servers there are.
//!
//! Entries come from a [`CatalogSource`](crate::contract::CatalogSource) such as a [`DirectorySource`], are kept in the
//! store by a [`Sync`], and are [compiled](compile()) into the routes that the data plane serves.
//!
//! ```
//! use mcp_gateway_core::catalog;
//! use mcp_gateway_core::record::{Mount, RouteTarget};
//!
//! let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
//! let entries = catalog::parse(b"entryKey: docs\nname: Docs\nruntime: remote\nremoteConfig: {fixedURL: https://docs.example/mcp}", "docs.yaml");
//! let entry = entries[0].as_ref().unwrap();
//! let route = catalog::compile(entry, &mount).unwrap();
//! assert_eq!(&*route.resource.url, "https://gateway.example/mcp-connect/docs");
//! assert!(matches!(&route.target, RouteTarget::Remote { url, .. } if url == "https://docs.example/mcp"));
//! ```

mod auth;
mod compile;
mod digest;
mod directory;
mod headers;
mod limits;
mod parse;
mod program;
mod quantity;
mod remote;
mod starter;
mod sync;

pub use compile::compile;
pub use directory::DirectorySource;
pub use limits::CatalogLimits;
pub use parse::{check, parse};
pub use starter::{StarterSource, starter};
pub use sync::{Sync, SyncError, SyncReport, retain_sources};
