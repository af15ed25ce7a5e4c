//! What the tests share: a server to call, a client to call with, and a place to serve at.

#![allow(dead_code, reason = "each test uses a part")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// A listener on a free port, and its URL.
pub(crate) async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Serves until the test is over.
pub(crate) fn serve(listener: TcpListener, router: Router) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// The session id of the server.
pub(crate) const SESSION: &str = "session-of-the-server";

/// An MCP server with one tool, which answers with the message (put together, when it comes in halves) and the names of
/// the headers that it received. A message that says `later` gets a stream that ends before its answer, to be resumed.
pub(crate) async fn upstream() -> String {
    let (listener, url) = listener().await;
    let kept = Arc::new(Mutex::new(None));
    serve(listener, Router::new().route("/mcp", post(answer).get(resume)).with_state(kept));
    format!("{url}/mcp")
}

/// The answer that waits for its stream to be resumed.
type Kept = Arc<Mutex<Option<Value>>>;

async fn resume(State(kept): State<Kept>, headers: HeaderMap) -> Response {
    let answer = kept.lock().unwrap().take().filter(|_| headers["last-event-id"] == "event-1");
    events(&format!("id: event-2\ndata: {}\n\n", answer.expect("an answer waits")))
}

fn events(stream: &str) -> Response {
    ([("mcp-session-id", SESSION), ("content-type", "text/event-stream")], stream.to_owned()).into_response()
}

async fn answer(State(kept): State<Kept>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let asked = &message["params"]["arguments"]["message"];
    let text = match asked["halves"].as_array() {
        Some(halves) => {
            let whole: String = halves.iter().filter_map(Value::as_str).collect();
            format!("card {whole}, {whole} again")
        }
        None => asked.as_str().unwrap_or_default().to_owned(),
    };
    let session = headers.get("mcp-session-id").and_then(|id| id.to_str().ok());
    let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    let body = json!({
        "jsonrpc": "2.0",
        "id": message["id"],
        "result": { "content": [{ "type": "text", "text": text }, { "type": "text", "text": text }], "headers": names, "session": session },
    });
    if asked["later"].is_boolean() {
        *kept.lock().unwrap() = Some(body);
        return events("id: event-1\ndata:\n\n");
    }
    ([("mcp-session-id", SESSION)], Json(body)).into_response()
}

/// A `tools/call` with this message as its argument.
pub(crate) fn call(message: &str) -> Value {
    json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": "echo", "arguments": { "message": message } },
    })
}

/// POSTs a message when there is one, else GETs, and returns the status and the body.
pub(crate) async fn send(
    address: SocketAddr,
    path: &str,
    header: Option<(&str, &str)>,
    message: Option<Value>,
) -> (StatusCode, String) {
    let (status, _, body) = exchange(address, path, header.as_slice(), message).await;
    (status, body)
}

/// The same with any headers, and with those of the answer.
#[expect(clippy::disallowed_methods, reason = "a client to test with")]
pub(crate) async fn exchange(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    message: Option<Value>,
) -> (StatusCode, HeaderMap, String) {
    let exchange = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header("host", address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match &message {
            Some(message) => {
                request = request
                    .method(Method::POST)
                    .header("content-type", "application/json")
                    .header("accept", "application/json, text/event-stream");
                message.to_string()
            }
            None => String::new(),
        };
        let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    };
    tokio::time::timeout(Duration::from_secs(20), exchange).await.expect("an answer came")
}
