//! What answers an MCP request: an HTTP address or something in this process.

use std::fmt;
use std::sync::Arc;

use http::{Request, Response, Uri};

use crate::{Body, BoxError, BoxFuture};

/// Answers MCP over streamable HTTP in this process: the stdio bridge, a built-in server, the shim itself.
///
/// Called once a request. Dropping the future or the response's body means that the client went away: the callee
/// cancels what it does for it.
pub trait Upstream: Send + Sync + 'static {
    /// Answers one request. The request's extensions carry the [`McpContext`](crate::context::McpContext).
    fn call(&self, request: Request<Body>) -> BoxFuture<Result<Response<Body>, UpstreamError>>;
}

/// One replica of a server that can be called.
#[derive(Clone)]
pub struct Endpoint {
    /// Which life of which workload this is: sessions are bound to it.
    pub incarnation: Incarnation,
    /// How to reach it.
    pub address: Address,
    /// Whether it takes new work. One that does not still serves its sessions.
    pub ready: bool,
    /// Calls in flight, as far as known; new work goes to the lowest.
    pub load: u32,
}

/// One life of a workload: `{workload}~{start}`, never used again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub Arc<str>);

/// How to reach an endpoint.
#[derive(Clone)]
pub enum Address {
    /// By HTTP at this URL (scheme, authority, path).
    Http(Uri),
    /// In this process.
    Local(Arc<dyn Upstream>),
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address: &dyn fmt::Debug = match &self.address {
            Address::Http(uri) => uri,
            Address::Local(_) => &"local",
        };
        f.debug_struct("Endpoint")
            .field("incarnation", &self.incarnation)
            .field("address", address)
            .field("ready", &self.ready)
            .field("load", &self.load)
            .finish()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(uri) => uri.fmt(f),
            Self::Local(_) => f.write_str("local"),
        }
    }
}

/// Why an upstream did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpstreamErrorKind {
    /// It cannot be started or reached: 503 when it may come, with `Retry-After`.
    Unavailable,
    /// No room: too many children, sessions or starts: 503 with `Retry-After`.
    Exhausted,
    /// It broke off or answered something that is not HTTP or MCP: 502.
    Broken,
    /// It did not answer in time: 504.
    Timeout,
    /// The address may not be reached: 502, and the operator is told which setting opens it.
    Forbidden,
}

/// A failure of an upstream, before its head was sent.
#[derive(Debug)]
pub struct UpstreamError {
    /// What happened.
    pub kind: UpstreamErrorKind,
    /// For every caller: plain, nothing of the inside.
    pub public: String,
    /// For an owner: the server's last stderr lines, the program that is missing and how to get it.
    pub detail: Option<String>,
    /// For the log.
    pub source: Option<BoxError>,
}

impl UpstreamError {
    /// An error with its public reason.
    pub fn new(kind: UpstreamErrorKind, public: impl Into<String>) -> Self {
        Self { kind, public: public.into(), detail: None, source: None }
    }

    /// Adds what only an owner may read.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
