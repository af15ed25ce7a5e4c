//! The whole server, started and ended as its operators do.

mod harness;
mod lifecycle;
mod listener;
mod start;
mod tls;
