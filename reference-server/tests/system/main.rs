//! The built gateway as its clients and servers see it: one process in front of real upstreams, over real sockets.
//!
//! Here is what a protocol conformance suite cannot see: what reached the far side, when it was told that the caller
//! hung up, whose session it was, and what the audit trail says afterwards.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which print what they measure")]
#![allow(clippy::disallowed_methods, reason = "a client that shows every byte")]

mod access;
mod accounts;
mod answers;
mod audit;
mod bodies;
mod bytes;
mod company;
#[cfg(feature = "postgres")]
mod degraded;
mod devices;
mod disconnect;
mod edges;
mod filters;
mod headers;
mod issuers;
mod keys;
#[cfg(feature = "postgres")]
mod leading;
mod limits;
mod oauth;
mod pinning;
#[cfg(feature = "postgres")]
mod postgres;
mod resumption;
mod retire;
#[cfg(feature = "postgres")]
mod roles;
mod secrets;
mod server_requests;
mod sessions;
mod standalone;
mod stdio;
mod streaming;
mod strict;
mod support;
#[cfg(feature = "otel")]
mod traces;
mod upstream_tls;
mod waking;
