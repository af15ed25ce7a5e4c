//! Limits that an operator sets, each at its edge.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::support::gateway::remote;
use crate::support::mcp::{self, Session};
use crate::support::upstream::{events, json as answer};
use crate::support::{Call, Fixture, Gateway, Key, Upstream, until};

fn call(key: &Key) -> Call {
    mcp::modern_tool("fixture", key, 1, "test_simple_text", &json!({}))
}

#[tokio::test]
async fn a_server_has_so_many_calls_in_a_time_whoever_calls() {
    let fixture = Fixture::start();
    let settings = [("LIMITS__RATE__SERVER__LIMIT", "3"), ("LIMITS__RATE__SERVER__SECONDS", "3600")];
    let other = remote("other", &fixture.url());
    let gateway = Gateway::start_with(&[fixture.entry(), other], &settings).await;
    let keys = [gateway.key().await, gateway.key().await];
    for key in [&keys[0], &keys[1], &keys[0]] {
        call(key).send(gateway.address).await.expect(200);
    }
    for key in &keys {
        let refused = call(key).send(gateway.address).await.expect(429);
        let seconds: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=3_600).contains(&seconds), "{seconds}");
    }
    let elsewhere = mcp::modern_tool("other", &keys[0], 1, "test_simple_text", &json!({}));
    elsewhere.send(gateway.address).await.expect(200);
    assert_eq!(fixture.seen().await.len(), 4);
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_for_a_place() {
    let gateway = Gateway::start_with(&[], &[("LIMITS__CONNECTIONS", "2")]).await;
    let address = gateway.address;
    let held: Vec<TcpStream> =
        [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()].into();
    let mut third = tokio::spawn(Call::get("/livez").send(address));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut third).await;
    assert!(early.is_err(), "the third connection was served beside two others");
    drop(held);
    assert_eq!(tokio::time::timeout(crate::support::PATIENCE, third).await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn an_http2_connection_has_so_many_requests_at_once() {
    let fixture = Fixture::start();
    let gateway = Gateway::start_with(&[fixture.entry()], &[("LIMITS__STREAMS_PER_CONNECTION", "2")]).await;
    let key = gateway.key().await;
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = |ms: u64| {
        let message = mcp::modern_request(1, "tools/call", json!({ "name": "sleep_ms", "arguments": { "ms": ms } }));
        Request::post(format!("http://{}/mcp-connect/fixture", gateway.address))
            .version(Version::HTTP_2)
            .header("authorization", format!("Bearer {}", key.secret))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", mcp::MODERN)
            .header("mcp-method", "tools/call")
            .header("mcp-name", "sleep_ms")
            .body(Full::new(Bytes::from(message.to_string())))
            .unwrap()
    };
    // The server's settings, which name the limit, are here with the first answer.
    let mut first = sender.clone();
    assert_eq!(first.send_request(request(0)).await.unwrap().status(), StatusCode::OK);
    fixture.forget().await;
    let mut waiting: Vec<_> = [120_000, 120_000, 0]
        .map(|ms| {
            let (mut sender, request) = (sender.clone(), request(ms));
            tokio::spawn(async move { sender.send_request(request).await.map(|response| response.status()) })
        })
        .into();
    until("two calls to arrive", async || (fixture.seen().await.len() == 2).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fixture.seen().await.len(), 2, "a third went beside them");
    // One of those that sleep leaves.
    waiting.remove(0).abort();
    until("the third", async || (fixture.seen().await.len() == 3).then_some(())).await;
    for one in waiting {
        one.abort();
    }
}

#[tokio::test]
async fn a_silent_stream_ends_and_a_silent_call_fails_later() {
    let upstream = Upstream::start(|_| {
        let first = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": hello\n\n"))]);
        events(Body::from_stream(first.chain(futures_util::stream::pending())))
    })
    .await;
    let settings = [("LIMITS__STREAM_IDLE_SECONDS", "1"), ("LIMITS__CALL_MAX_DURATION_SECONDS", "3")];
    let gateway = Gateway::start_with(&[upstream.entry("quiet")], &settings).await;
    let key = gateway.key().await;
    let get = Call::get(&mcp::path("quiet")).header("accept", "text/event-stream").bearer(&key.secret);
    let params = json!({ "notifications": { "toolsListChanged": true } });
    let listen = mcp::modern("quiet", &key, &mcp::modern_request(1, "subscriptions/listen", params));
    let call = mcp::modern_tool("quiet", &key, 1, "work", &json!({}));
    for (exchange, seconds, whole) in [(get, 1, true), (listen, 1, true), (call, 3, false)] {
        let begun = std::time::Instant::now();
        let mut open = exchange.open(gateway.address).await;
        assert_eq!(open.status, 200);
        let ended_well = open.ends_well().await;
        let took = begun.elapsed();
        // Not before its time, and not only with the test's own patience.
        let least = Duration::from_millis(seconds * 1_000 - 100);
        assert!(took >= least && took < Duration::from_secs(20), "{took:?}");
        assert_eq!(ended_well, whole);
    }
    let rows = gateway.audit_of(3, |row| row["server"] == "quiet" && row["kind"] != "opened").await;
    let ends: Vec<_> =
        rows.iter().map(|row| (row["kind"].as_str().unwrap(), row["outcome"].as_str().unwrap())).collect();
    assert_eq!(ends, [("closed", "ok"), ("closed", "ok"), ("exchange", "upstream_failed")], "{rows:?}");
}

/// An event of exactly so many bytes, which answers call 1.
fn event_of(bytes: usize) -> String {
    let with = |text: &str| {
        let result = json!({ "content": [{ "type": "text", "text": text }], "resultType": "complete" });
        format!("data: {}\n\n", json!({ "jsonrpc": "2.0", "id": 1, "result": result }))
    };
    let event = with(&"x".repeat(bytes - with("").len()));
    assert_eq!(event.len(), bytes);
    event
}

#[tokio::test]
async fn an_event_is_read_up_to_its_limit() {
    const LIMIT: usize = 2_000;
    let upstream = Upstream::start(|request| {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let bytes = message["params"]["arguments"]["bytes"].as_u64().unwrap();
        events(event_of(usize::try_from(bytes).unwrap()))
    })
    .await;
    let gateway = Gateway::start_with(&[upstream.entry("long")], &[("LIMITS__EVENT_BYTES", "2000")]).await;
    let key = gateway.key().await;
    let ask = |bytes: usize| mcp::modern_tool("long", &key, 1, "work", &json!({ "bytes": bytes }));
    let whole = ask(LIMIT).send(gateway.address).await.expect(200);
    assert_eq!(whole.body.len(), LIMIT, "{}", whole.text());
    // Cut off: nobody could read it for the trail. Whether a head went before depends on when.
    if let Ok(mut cut) = ask(LIMIT + 1).try_open(gateway.address).await {
        assert_eq!(cut.event().await, None);
    }
    let rows = gateway.audit_of(2, |row| row["kind"] == "exchange").await;
    let outcomes: Vec<_> = rows.iter().map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["ok", "upstream_failed"], "{rows:?}");
}

#[tokio::test]
async fn a_message_is_as_deep_as_the_setting_says() {
    let fixture = Fixture::start();
    let gateway = Gateway::start_with(&[fixture.entry()], &[("LIMITS__MESSAGE_DEPTH", "10")]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    // Message, params and arguments are three.
    let deep = |depth: usize| {
        let nested = (0..depth - 3).fold(json!(1), |inner, _| json!([inner]));
        session.call(1, "echo_sha256", &json!({ "nested": nested }))
    };
    deep(10).send(gateway.address).await.expect(200);
    deep(11).send(gateway.address).await.expect_error(400, -32600);
}

/// An upstream that counts the connections that it takes.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, taken) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let message: Value = serde_json::from_slice(&body).unwrap();
                let result = json!({ "content": [], "resultType": "complete" });
                let message = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
                Ok::<_, Infallible>(answer(message.to_string()))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (address, taken)
}

/// Calls in turn with these settings and a pause between them; how many connections the upstream took.
async fn connections_of(settings: &[(&str, &str)], pause: Duration) -> usize {
    let (address, taken) = counting().await;
    let gateway = Gateway::start_with(&[remote("pooled", &format!("http://{address}/mcp"))], settings).await;
    let key = gateway.key().await;
    for number in 0..3 {
        let call = mcp::modern_tool("pooled", &key, number, "work", &json!({}));
        call.send(gateway.address).await.expect(200);
        tokio::time::sleep(pause).await;
    }
    taken.load(Ordering::SeqCst)
}

#[tokio::test]
async fn connections_to_servers_are_kept_as_many_and_as_long_as_the_settings_say() {
    let none = Duration::from_millis(50);
    assert_eq!(connections_of(&[], none).await, 1);
    assert_eq!(connections_of(&[("LIMITS__POOL_IDLE_PER_HOST", "0")], none).await, 3);
    assert_eq!(connections_of(&[("LIMITS__POOL_IDLE_SECONDS", "1")], Duration::from_millis(1_500)).await, 3);
}
