//! The listeners: accepted connections, their protocol, TLS and limits, and how they end.
//!
//! An accept loop of its own, because `axum::serve` sets none of the limits that a public listener needs: time for a
//! request's head, number of header fields, size of buffers, resets of HTTP/2 streams.

mod accept;
mod activity;
mod connection;
mod dispatch;
mod drain;
mod end;
mod handover;
mod linger;
mod tls;
mod unread;

pub use self::accept::{Listener, ListenerOptions};
pub use self::dispatch::Dispatch;
pub(crate) use self::dispatch::is_below;
pub use self::drain::Drain;
pub use self::tls::{TlsError, TlsFiles, TlsReloader};
