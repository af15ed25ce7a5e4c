//! The layers of gateway and shim. Each works alone in an `axum::Router::layer` or any tower stack.
//!
//! Most of them are [gates](Gate): they read the head of a request and the facts in its
//! [`McpContext`](crate::context::McpContext), and let it pass or refuse it. The others change bodies or answers.
//!
//! The order matters, and [`Gateway`](crate::gateway::Gateway) and [`Shim`](crate::shim::Shim) know it. A layer that
//! misses a fact which a layer before it should have set refuses with 500 and logs which one is absent.

mod either;
mod gate;

pub mod admit;
pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod context;
pub mod cors;
pub mod deploy;
pub mod filter;
pub mod host;
pub mod limit;
pub mod peek;
pub mod refusals;
pub mod resolve;
pub mod revoke;
pub mod session;

pub use either::Either;
pub use gate::{Gate, Gated, GatedFuture};
