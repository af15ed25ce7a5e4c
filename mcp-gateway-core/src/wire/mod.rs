//! The bytes of MCP: strict, allocation-free readers for what a gateway must know of a message, and nothing else.
//!
//! A gateway that decides by what it reads must read as every server behind it does. Where JSON parsers differ
//! (repeated members, letter case, arrays as structures, byte order marks) the readers here refuse the message instead
//! of choosing. What they accept is forwarded as the original bytes.
//!
//! | module | reads |
//! |---|---|
//! | [`peek`] | one JSON-RPC message: kind, id, method, targets, `_meta` |
//! | [`duplicates`](fn@duplicates) | repeated members at any depth |
//! | [`canonical`](fn@canonical) | any value, written in one way |
//! | [`version`], [`method`] | protocol revisions, their eras and their methods |
//! | [`mirror`] | the headers that mirror the body since revision 2026-07-28 |
//! | [`sse`] | server-sent events, byte-exact |
//! | [`outcome`] | how a response ended, from chunks, without keeping them |
//! | [`list`] | what a list result lists, and what a listener subscribes to |
//! | [`rpc`] | JSON-RPC errors that the gateway answers itself |
//! | [`untrusted`] | foreign text on its way into a log |

mod bytes;
mod canonical;
#[cfg(any(test, feature = "fuzzing"))]
pub mod check;
mod duplicates;
mod error;
mod id;
mod json;
mod limits;
pub mod list;
mod message;
pub mod method;
pub mod mirror;
pub mod outcome;
mod peeker;
pub mod rpc;
mod scalars;
pub mod sse;
mod text;
pub mod untrusted;
pub mod version;

pub use self::canonical::canonical;
pub use self::duplicates::{MAX_OPEN_MEMBERS, duplicates};
pub use self::error::{Fault, PeekError};
pub use self::id::same_id;
pub use self::limits::Limits;
pub use self::message::{Id, Kind, Message, Meta, Params, Reference};
pub use self::peeker::peek;
pub(crate) use self::scalars::{Role, Scalar, ScalarKind, scalars};
