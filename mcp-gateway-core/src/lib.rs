//! The protocol, the domain, the contracts and the tower layers of mcp-gateway.
//!
//! An MCP gateway gives each MCP server one governed URL. This crate is its heart, made to be embedded: every part is
//! a [`tower`](tower_service) layer or a trait, works alone, and is replaced alone.

mod body;
mod map;
mod ready;

pub mod catalog;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod context;
pub mod contract;
pub mod egress;
pub mod filter;
pub mod gateway;
pub mod layer;
pub mod lease;
pub mod memory;
pub mod pin;
pub mod policy;
pub mod record;
pub mod refusal;
pub mod retire;
pub mod seal;
pub mod shim;
pub mod snapshot;
pub mod trail;
pub mod wire;

#[cfg(all(any(doc, doctest), feature = "axum"))]
#[doc = include_str!("docs/embed.md")]
pub mod embed {}

pub use body::{Body, BoxError, Unread};
pub use map::Map;
pub use ready::{BoxFuture, MaybeReady, MaybeReadyFuture};
