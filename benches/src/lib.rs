//! What the benchmarks share: the messages they send and a plain HTTP server loop.

pub mod audit;
pub mod memory;
pub mod rules;

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

/// A `tools/call` of the 2025-11-25 revision whose body has `size` bytes.
#[must_use]
pub fn legacy_call(size: usize) -> String {
    call(size, "")
}

/// A `tools/call` of the 2026-07-28 revision whose body has `size` bytes.
#[must_use]
pub fn modern_call(size: usize) -> String {
    call(
        size,
        r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}"#,
    )
}

fn call(size: usize, meta: &str) -> String {
    let head = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"message":""#;
    let tail = format!(r#""}}{meta}}}}}"#);
    let fill = size.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "x".repeat(fill))
}

/// The result of such a call, with a body of `size` bytes.
#[must_use]
pub fn result(size: usize) -> Bytes {
    let head = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":""#;
    let tail = r#""}],"isError":false,"resultType":"complete"}}"#;
    let fill = size.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "x".repeat(fill)).into()
}

/// Serves connections for ever.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve<S, B>(address: SocketAddr, service: S) -> anyhow::Result<()>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // A client that goes away is no failure of the benchmark.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A whole body.
#[must_use]
pub fn full(bytes: Bytes) -> Full<Bytes> {
    Full::new(bytes)
}
