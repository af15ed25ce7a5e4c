//! Who is at the other end of the connection.

use std::net::SocketAddr;

/// The address of the connection's other end: an extension that the listener puts on each request.
///
/// Behind a proxy this is the proxy; the context layer decides by its `trusted_proxies` whether to believe
/// `Forwarded` or `X-Forwarded-For`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);
