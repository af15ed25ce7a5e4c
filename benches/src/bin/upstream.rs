//! A fast MCP server for benchmarks: it reads a call and answers with a result of a fixed size.
//!
//! `/mcp` answers 1 KB JSON, `/mcp/65536` so many bytes, `/sse/65536` the same as one server-sent event; GET opens a
//! stream that stays silent. `/sessions` begins a legacy session with each answer. `/rpc` reads what is said to it, for
//! what wants a real server of the 2025-11-25 revision.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use mcp_gateway_benches::{full, result, serve};
use serde_json::value::RawValue;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    serve(options.listen, tower::service_fn(answer)).await
}

/// Sessions that were begun.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let size = request.uri().path().rsplit('/').next().and_then(|size| size.parse().ok()).unwrap_or(1024);
    let events = request.uri().path().starts_with("/sse");
    let begins = request.uri().path() == "/sessions";
    let get = request.method() == Method::GET;
    if request.uri().path() == "/rpc" {
        return Ok(if get { status(StatusCode::METHOD_NOT_ALLOWED) } else { rpc(request.into_body()).await });
    }
    let mut body = request.into_body();
    while body.frame().await.is_some() {}
    if get {
        let silent = futures_util::stream::once(async {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            Ok(Frame::data(Bytes::from_static(b": over\n\n")))
        });
        return Ok(typed("text/event-stream", StreamBody::new(silent).boxed_unsync()));
    }
    let answer = result(size);
    if begins {
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let mut response = typed("application/json", full(answer).boxed_unsync());
        response.headers_mut().insert("mcp-session-id", number.into());
        return Ok(response);
    }
    Ok(if events {
        let event = [b"event: message\ndata: ", &answer[..], b"\n\n"].concat();
        typed("text/event-stream", full(event.into()).boxed_unsync())
    } else {
        typed("application/json", full(answer).boxed_unsync())
    })
}

/// One tool, `echo`, whose result has 1 KB.
async fn rpc(body: Incoming) -> Response<Body> {
    let Ok(body) = body.collect().await else { return status(StatusCode::BAD_REQUEST) };
    let Ok(message) = serde_json::from_slice::<Message<'_>>(&body.to_bytes()).map(Message::owned) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let (Some(id), method) = message else { return status(StatusCode::ACCEPTED) };
    let answer = match &*method {
        "initialize" => concat!(
            r#""result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"#,
            r#""serverInfo":{"name":"bench","version":"1"}}"#
        )
        .to_owned(),
        "tools/list" => r#""result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}"#.to_owned(),
        "tools/call" => {
            let text = "x".repeat(900);
            format!(r#""result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":false}}"#)
        }
        "ping" => r#""result":{}"#.to_owned(),
        _ => r#""error":{"code":-32601,"message":"no such method"}"#.to_owned(),
    };
    typed("application/json", full(format!(r#"{{"jsonrpc":"2.0","id":{id},{answer}}}"#).into()).boxed_unsync())
}

#[derive(serde::Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: String,
}

impl Message<'_> {
    fn owned(self) -> (Option<String>, String) {
        (self.id.map(|id| id.get().to_owned()), self.method)
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
