//! Serves a stdio MCP server over streamable HTTP on 127.0.0.1: `bridge --port 3000 -- npx -y some-server`.
//!
//! The address is printed on standard output, the child's standard error goes to this one.

use std::error::Error;
use std::ffi::OsString;
use std::sync::Arc;

use futures_util::StreamExt as _;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{Upstream as _, UpstreamError, UpstreamErrorKind};
use mcp_gateway_core::refusal::Refusal;
use mcp_gateway_deploy::bridge::{Bridge, BridgeOptions};
use mcp_gateway_deploy::process::{CommandSpawner, RingLog};

#[tokio::main]
#[allow(clippy::print_stdout, clippy::print_stderr)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let mut port = 0;
    loop {
        match args.next() {
            Some(arg) if arg == "--port" => {
                port = args.next().and_then(|port| port.to_str()?.parse().ok()).unwrap_or(0);
            }
            Some(arg) if arg == "--" => break,
            _ => return Err("usage: bridge [--port N] -- COMMAND [ARGUMENT…]".into()),
        }
    }
    let program = args.next().ok_or("no command after --")?;
    let log = RingLog::new(1000, Vec::new());
    let mut lines = Box::pin(log.follow(0));
    tokio::spawn(async move {
        while let Some(line) = lines.next().await {
            eprintln!("[{}] {}", line.child.unwrap_or(0), line.text);
        }
    });
    let spawner = CommandSpawner::new(program, args.collect::<Vec<OsString>>(), log);
    let bridge = Bridge::new(Arc::new(spawner), BridgeOptions::default());

    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/mcp", listener.local_addr()?);
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = tokio::signal::ctrl_c() => break,
        };
        socket.set_nodelay(true)?;
        let bridge = bridge.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(bridge.clone(), request));
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
    bridge.shutdown();
    Ok(())
}

async fn answer(bridge: Bridge, request: Request<Incoming>) -> Result<Response<Body>, std::convert::Infallible> {
    // A page on another site may reach this port through the user's browser (DNS rebinding).
    if !is_local(request.headers().get(header::HOST)) || !is_local(request.headers().get(header::ORIGIN)) {
        return Ok(Refusal::new(StatusCode::FORBIDDEN, "Only local clients are served.").into_mcp(None));
    }
    Ok(bridge.call(request.map(Body::from)).await.unwrap_or_else(|error| refusal(&error).into_mcp(None)))
}

fn is_local(value: Option<&http::HeaderValue>) -> bool {
    let Some(value) = value else { return true };
    let Some(authority) = value.to_str().ok().map(|text| text.rsplit("//").next().unwrap_or(text)) else {
        return false;
    };
    let host =
        authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(authority, |(host, _)| host);
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

fn refusal(error: &UpstreamError) -> Refusal {
    let status = match error.kind {
        UpstreamErrorKind::Unavailable | UpstreamErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let refusal = Refusal::new(status, error.public.clone());
    if status == StatusCode::SERVICE_UNAVAILABLE { refusal.retry_after(1) } else { refusal }
}
