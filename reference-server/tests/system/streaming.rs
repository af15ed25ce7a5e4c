//! Streams: at once, for long, and no faster than they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::mcp::{self, Session};
use crate::support::{Fixture, Gateway, Key, Open, PATIENCE, Upstream, until, upstream};

const MIB: u64 = 1 << 20;

/// Seconds without an event: past the pings of the server; with `MCP_GATEWAY_TEST_LONG` for minutes, past
/// where idle times of proxies end.
fn idle() -> Duration {
    Duration::from_secs(if std::env::var_os("MCP_GATEWAY_TEST_LONG").is_some() { 180 } else { 20 })
}

async fn listen(gateway: &Gateway, key: &Key) -> Open {
    let params = json!({ "notifications": { "resourceSubscriptions": ["test://watched-resource"] } });
    let message = mcp::modern_request("listening", "subscriptions/listen", params);
    let mut stream = mcp::modern("fixture", key, &message).open(gateway.address).await;
    assert_eq!(stream.status, 200);
    let first = stream.message().await.expect("an acknowledgement");
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    stream
}

#[tokio::test]
async fn idle_streams_of_both_eras_stay_open_and_then_deliver() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    let mut modern = listen(&gateway, &key).await;
    let mut legacy = session.get().open(gateway.address).await;
    let subscribe = mcp::request(1, "resources/subscribe", &json!({ "uri": "test://watched-resource" }));
    session.post(&subscribe).send(gateway.address).await.expect(200);

    tokio::time::sleep(idle()).await;
    let trigger = json!({ "uri": "test://watched-resource" });
    session.call(2, "trigger_resource_update", &trigger).send(gateway.address).await.expect(200);
    for stream in [&mut modern, &mut legacy] {
        let mut comments = 0;
        let update = loop {
            let event = stream.event().await.expect("the stream is still open");
            if event.comment.is_some() {
                comments += 1;
            } else if !event.data.is_empty() {
                break event.json();
            }
        };
        assert_eq!(update["method"], "notifications/resources/updated", "{update}");
        assert!(comments > 0, "the server's pings pass");
    }
}

#[tokio::test]
async fn each_event_is_out_before_the_next_is_in() {
    let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
    let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let upstream = Upstream::start(move |_| {
        let receiver = receiver.lock().unwrap().take().expect("one call");
        upstream::events(Body::from_stream(stream::unfold(receiver, async |mut receiver| {
            let event = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(event), receiver))
        })))
    })
    .await;
    let gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let call = mcp::post("toy", &gateway.key().await, mcp::tool(1, "x", &json!({})).to_string());
    let mut stream = call.open(gateway.address).await;
    let mut delays = Vec::new();
    for number in 0..200 {
        let event = format!(
            "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progress\":{number}}}}}\n\n"
        );
        let sent = Instant::now();
        sender.send(event.into()).unwrap();
        // The server says nothing more until this one has arrived: buffering would stop here.
        let message = stream.message().await.expect("the event");
        delays.push(sent.elapsed());
        assert_eq!(message["params"]["progress"], number);
    }
    delays.sort();
    println!("event in to event out: median {:?}, worst {:?}", delays[100], delays[199]);
    sender.send(Bytes::from_static(b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n")).unwrap();
    drop(sender);
    assert_eq!(stream.message().await.expect("the answer")["id"], 1);
    assert!(stream.event().await.is_none());
}

/// Sends 200 MiB, as JSON or as events, to a client that reads nothing for a while.
async fn slow_reader(events: bool) {
    const TOTAL: u64 = 200 * MIB;
    let pulled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&pulled);
    let upstream = Upstream::start(move |_| {
        let counter = Arc::clone(&counter);
        let body = stream::unfold(0_u64, move |sent| {
            let counter = Arc::clone(&counter);
            async move {
                let (head, tail) = if events {
                    (
                        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"data\":\"",
                        "\"}}\n\n",
                    )
                } else if sent == 0 {
                    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"text\":\"", "")
                } else {
                    ("", if sent == TOTAL / MIB - 1 { "\"}}" } else { "" })
                };
                if sent == TOTAL / MIB {
                    return None;
                }
                counter.fetch_add(MIB, Ordering::Relaxed);
                let filling = usize::try_from(MIB).unwrap() - head.len() - tail.len();
                let chunk = [head, &"x".repeat(filling), tail].concat();
                Some((Ok::<_, std::convert::Infallible>(Bytes::from(chunk)), sent + 1))
            }
        });
        if events { upstream::events(Body::from_stream(body)) } else { upstream::json(Body::from_stream(body)) }
    })
    .await;
    let gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let key = gateway.key().await;
    let before = gateway.process.resident();
    let call = mcp::post("toy", &key, mcp::tool(1, "x", &json!({})).to_string());
    let mut stream = call.open(gateway.address).await;
    // Until the server can send no more.
    let stalled = until("the stream to stall", async || {
        let then = pulled.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        (pulled.load(Ordering::Relaxed) == then && then > 0).then_some(then)
    })
    .await;
    let grown = gateway.process.resident().saturating_sub(before);
    println!("stalled after {} MiB, grown by {} MiB", stalled / MIB, grown / MIB);
    // Sockets on both sides and the pieces in between; far from what there is to send.
    assert!(stalled < 64 * MIB, "{} MiB were taken from the server", stalled / MIB);
    assert!(grown < 32 * MIB, "the gateway has grown by {} MiB", grown / MIB);

    let mut read = 0;
    while let Some(chunk) = stream.chunk().await {
        read += chunk.len() as u64;
    }
    assert_eq!(read, TOTAL);
    let grown = gateway.process.resident().saturating_sub(before);
    assert!(grown < 32 * MIB, "the gateway has grown by {} MiB", grown / MIB);
}

#[tokio::test]
async fn a_slow_reader_of_events_holds_the_server_back() {
    slow_reader(true).await;
}

#[tokio::test]
async fn a_slow_reader_of_json_holds_the_server_back() {
    slow_reader(false).await;
}

#[tokio::test]
async fn a_revoked_key_ends_its_streams() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let (revoked, kept) = (gateway.key().await, gateway.key().await);
    let mut ending = listen(&gateway, &revoked).await;
    let mut staying = listen(&gateway, &kept).await;
    gateway.revoke(&revoked).await;
    let ended = tokio::time::timeout(PATIENCE, async { while ending.event().await.is_some() {} }).await;
    assert!(ended.is_ok(), "the stream of a revoked key is still open after {PATIENCE:?}");
    assert!(staying.is_quiet_for(Duration::from_secs(1)).await, "another key's stream has nothing to do with it");
}

#[tokio::test]
async fn the_streams_of_a_key_end_with_it() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let kept = gateway.key().await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(4);
    let short = gateway.key_for(&json!({ "name": "short", "servers": ["*"], "expires_at": soon })).await;
    let session = Session::open(&gateway, "fixture", &short).await;
    let mut staying = listen(&gateway, &kept).await;
    for mut ending in [listen(&gateway, &short).await, session.get().open(gateway.address).await] {
        let ended = tokio::time::timeout(PATIENCE, async { while ending.event().await.is_some() {} }).await;
        assert!(ended.is_ok(), "a stream is open {PATIENCE:?} after its key has expired");
    }
    assert!(jiff::Timestamp::now() >= soon);
    assert!(staying.is_quiet_for(Duration::from_millis(500)).await, "another key's stream has nothing to do with it");
}

#[tokio::test]
async fn the_streams_of_a_server_end_when_it_is_removed() {
    let fixture = Fixture::start();
    let other = fixture.entry().replace("entryKey: fixture", "entryKey: other");
    let settings = [("CATALOG__POLL_SECONDS", "1")];
    let gateway = Gateway::start_with(&[other, fixture.entry()], &settings).await;
    let key = gateway.key().await;
    let mut staying = listen(&gateway, &key).await;
    let session = Session::open(&gateway, "other", &key).await;
    let mut ending = session.get().open(gateway.address).await;
    assert_eq!(ending.status, 200);
    gateway.remove_entry(0);
    let ended = tokio::time::timeout(PATIENCE, async { while ending.event().await.is_some() {} }).await;
    assert!(ended.is_ok(), "the stream of a removed server is still open after {PATIENCE:?}");
    session.call(1, "test_simple_text", &json!({})).send(gateway.address).await.expect(404);
    assert!(
        staying.is_quiet_for(Duration::from_millis(500)).await,
        "another server's stream has nothing to do with it"
    );
}

#[tokio::test]
async fn a_call_on_two_streams_at_once_is_answered_on_its_own() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let calls = (0..16).map(|number| {
        let arguments = json!({ "count": 3, "interval_ms": 20 });
        let params = json!({ "name": "stream_events", "arguments": arguments, "_meta": { "progressToken": number } });
        let call = mcp::modern("fixture", &key, &mcp::modern_request(number, "tools/call", params));
        let address = gateway.address;
        tokio::spawn(async move {
            let mut stream = call.open(address).await;
            let mut tokens: Vec<Value> = Vec::new();
            loop {
                let message = stream.message().await.expect("an answer");
                if message.get("result").is_some() {
                    assert_eq!(message["id"], number);
                    return tokens;
                }
                tokens.push(message["params"]["progressToken"].clone());
            }
        })
    });
    for (number, tokens) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        assert_eq!(tokens.unwrap(), vec![json!(number); 3]);
    }
}
