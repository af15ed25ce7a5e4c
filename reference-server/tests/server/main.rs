//! The whole server, started and ended as its operators do.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "the clients of this server")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod harness;
mod lifecycle;
mod listener;
mod start;
mod tls;
mod upstream;
