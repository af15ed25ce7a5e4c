//! Limits at their edges.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::gateway::remote;
use crate::support::mcp::{self, Session};
use crate::support::{Answer, Call, Fixture, Gateway, Key, until};

fn call(key: &Key) -> Call {
    mcp::modern_tool("fixture", key, 1, "test_simple_text", &json!({}))
}

#[track_caller]
fn retry_after(answer: &Answer) -> u64 {
    let seconds = answer.header("retry-after").parse().unwrap();
    assert!(seconds >= 1);
    seconds
}

/// A modern call whose body has exactly this many bytes.
fn sized(key: &Key, bytes: usize) -> Call {
    let with = |filling: &str| {
        mcp::modern_request(1, "tools/call", json!({ "name": "echo_sha256", "arguments": { "filling": filling } }))
    };
    let rest = with("").to_string().len();
    let message = with(&"x".repeat(bytes - rest));
    assert_eq!(message.to_string().len(), bytes);
    mcp::modern("fixture", key, &message)
}

#[tokio::test]
async fn a_body_of_4_mib_passes_and_one_byte_more_does_not() {
    const LIMIT: usize = 4 << 20;
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let echoed = sized(&key, LIMIT).send(gateway.address).await.expect(200).tool_text();
    let echoed: serde_json::Value = serde_json::from_str(&echoed).unwrap();
    assert_eq!(echoed["bytes"], LIMIT);
    fixture.forget().await;
    sized(&key, LIMIT + 1).send(gateway.address).await.expect(413);
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn a_body_that_does_not_say_its_size_is_measured() {
    let fixture = Fixture::start();
    let gateway = Gateway::start_with(&[fixture.entry()], &[("LIMITS__BODY_BYTES", "1000")]).await;
    let key = gateway.key().await;
    for (size, status) in [(1_000, "200"), (1_001, "413")] {
        let message = mcp::request(1, "ping", &json!({})).to_string();
        let body = format!("{message}{}", " ".repeat(size - message.len()));
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST /mcp-connect/fixture HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            gateway.address, key.secret
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for chunk in body.as_bytes().chunks(300) {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.unwrap();
            stream.write_all(chunk).await.unwrap();
            stream.write_all(b"\r\n").await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let found = answer.split(' ').nth(1).unwrap();
        // A ping without a session is the server's to refuse; that it arrived is what counts.
        let arrived = fixture.seen().await.len();
        if status == "413" {
            assert_eq!((found, arrived), ("413", 1), "{answer}");
        } else {
            assert_ne!(found, "413", "{answer}");
            assert_eq!(arrived, 1);
        }
    }
}

/// Reads one answer with a length, and returns its head.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.unwrap();
    head
}

#[tokio::test]
async fn a_connection_goes_on_after_a_refusal_or_says_that_it_does_not() {
    const READ: usize = 64 << 10;
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    for (size, expects, goes_on) in [(READ, "", true), (READ + 1, "", false), (9, "Expect: 100-continue\r\n", false)] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST /mcp-connect/fixture HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{expects}Content-Length: {size}\r\n\r\n",
            gateway.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        if goes_on {
            // The refusal is made long before the body comes.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            stream.write_all(&vec![b' '; size]).await.unwrap();
        }
        let first = head_of(&mut stream).await;
        assert!(first.starts_with("http/1.1 401 "), "{first}");
        assert_eq!(!first.contains("\r\nconnection: close\r\n"), goes_on, "{size} {first}");
        if goes_on {
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b' '; size]).await.unwrap();
            assert!(head_of(&mut stream).await.starts_with("http/1.1 401 "));
        }
    }
}

#[tokio::test]
async fn a_body_that_trickles_in_is_cut_short() {
    let fixture = Fixture::start();
    let gateway = Gateway::start_with(&[fixture.entry()], &[("LIMITS__BODY_TOTAL_SECONDS", "1")]).await;
    let key = gateway.key().await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /mcp-connect/fixture HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: 4000\r\n\r\n",
        gateway.address, key.secret
    );
    let (mut answer, mut body) = stream.into_split();
    body.write_all(head.as_bytes()).await.unwrap();
    // Every byte is well within the time that a chunk has. Once the answer is there, nobody reads on.
    let trickle = tokio::spawn(async move {
        while body.write_all(b" ").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let mut text = Vec::new();
    while !text.ends_with(b"}}") {
        assert_ne!(answer.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
    }
    trickle.abort();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("1 seconds in all"), "{text}");
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn header_fields_are_counted_and_measured() {
    let fixture = Fixture::start();
    let settings = [("LIMITS__HEADER_COUNT", "20"), ("LIMITS__HEADER_BYTES", "4096")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    // A modern call has eight: host, length, type, accept, authorization and three of MCP.
    let with = |more: usize| (0..more).fold(call(&key), |call, at| call.header(&format!("x-{at}"), "1"));
    with(12).send(gateway.address).await.expect(200);
    with(13).send(gateway.address).await.expect(431);
    call(&key).header("x-long", &"y".repeat(3_000)).send(gateway.address).await.expect(200);
    call(&key).header("x-long", &"y".repeat(4_096)).send(gateway.address).await.expect(431);
    assert_eq!(fixture.seen().await.len(), 2);
}

/// A call that is under way until it is aborted.
fn asleep(gateway: &Gateway, key: &Key, id: u32) -> JoinHandle<Answer> {
    let call = mcp::modern_tool("fixture", key, id, "sleep_ms", &json!({ "ms": 120_000 }));
    let address = gateway.address;
    tokio::spawn(async move { call.open(address).await.finish().await })
}

#[tokio::test]
async fn more_calls_than_there_is_room_for_are_told_to_come_back() {
    let fixture = Fixture::start();
    let settings = [("LIMITS__CALLS", "2"), ("LIMITS__CALLS_PER_PRINCIPAL", "2")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    let address = gateway.address;
    let sleeping: Vec<_> = (0..2).map(|id| asleep(&gateway, &key, id)).collect();
    until("both calls to arrive", async || (fixture.seen().await.len() == 2).then_some(())).await;
    let refused = call(&key).send(address).await.expect(503);
    retry_after(&refused);
    assert_eq!(fixture.seen().await.len(), 2);
    for sleeping in sleeping {
        sleeping.abort();
    }
    until("room", async || (call(&key).send(address).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn one_caller_cannot_take_all_the_room_for_calls() {
    let fixture = Fixture::start();
    let settings = [("LIMITS__CALLS", "8"), ("RUNTIME__PROCESS__I_TRUST_ALL_SERVERS", "true")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let (key, second) = (gateway.key().await, gateway.key().await);
    let bob = gateway.key_for(&json!({ "name": "b", "servers": ["*"], "subject": "bob" })).await;
    let sleeping: Vec<_> = (0..2).map(|id| asleep(&gateway, &key, id)).collect();
    until("both calls to arrive", async || (fixture.seen().await.len() == 2).then_some(())).await;
    // A quarter of all is one caller's, with however many keys.
    for key in [&key, &second] {
        retry_after(&call(key).send(gateway.address).await.expect(429));
    }
    call(&bob).send(gateway.address).await.expect(200);
    for sleeping in sleeping {
        sleeping.abort();
    }
    until("room", async || (call(&key).send(gateway.address).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_caller_has_so_many_streams() {
    let fixture = Fixture::start();
    let gateway = Gateway::start_with(&[fixture.entry()], &[("LIMITS__STREAMS_PER_PRINCIPAL", "2")]).await;
    let open = async |session: &Session| session.get().open(gateway.address).await;
    let key = gateway.key().await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Session::open(&gateway, "fixture", &key).await);
    }
    let first = open(&sessions[0]).await;
    let second = open(&sessions[1]).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
    let third = open(&sessions[2]).await.finish().await;
    assert_eq!(third.status, 429, "{}", third.text());
    retry_after(&third);
    drop(first);
    until("a stream's place", async || (open(&sessions[2]).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_caller_has_so_many_calls_in_a_time() {
    let fixture = Fixture::start();
    let settings = [
        ("LIMITS__RATE__PRINCIPAL__LIMIT", "5"),
        ("LIMITS__RATE__PRINCIPAL__SECONDS", "3600"),
        ("RUNTIME__PROCESS__I_TRUST_ALL_SERVERS", "true"),
    ];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    for _ in 0..5 {
        call(&key).send(gateway.address).await.expect(200);
    }
    let refused = call(&key).send(gateway.address).await.expect(429);
    let seconds = retry_after(&refused);
    assert!(seconds <= 3_600, "{seconds}");
    assert_eq!(fixture.seen().await.len(), 5);
    let bob = gateway.key_for(&json!({ "name": "b", "servers": ["*"], "subject": "bob" })).await;
    call(&bob).send(gateway.address).await.expect(200);
}

#[tokio::test]
async fn an_address_has_so_many_requests_in_a_time_whoever_calls() {
    let fixture = Fixture::start();
    let settings = [("LIMITS__RATE__ADDRESS__LIMIT", "5"), ("LIMITS__RATE__ADDRESS__SECONDS", "3600")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let (one, other) = (gateway.key().await, gateway.key().await);
    let unknown = || call(&one).without("authorization");
    for (allowed, status) in
        [(call(&one), 200), (call(&other), 200), (call(&one), 200), (unknown(), 401), (unknown(), 401)]
    {
        allowed.send(gateway.address).await.expect(status);
    }
    // The sixth, with a key or without: the budget is looked at before a credential is.
    for refused in [call(&one), call(&other), unknown()] {
        let seconds = retry_after(&refused.send(gateway.address).await.expect(429));
        assert!(seconds <= 3_600, "{seconds}");
    }
    assert_eq!(fixture.seen().await.len(), 3);
}

#[tokio::test]
async fn a_tool_has_so_many_calls_in_a_time() {
    let fixture = Fixture::start();
    let settings = [("LIMITS__RATE__TOOL__LIMIT", "2"), ("LIMITS__RATE__TOOL__SECONDS", "3600")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    // Counted by what the body says, in either era.
    call(&key).send(gateway.address).await.expect(200);
    session.call(1, "test_simple_text", &json!({})).send(gateway.address).await.expect(200);
    let refused = session.call(2, "test_simple_text", &json!({})).send(gateway.address).await.expect(429);
    retry_after(&refused);
    session.call(3, "cancelled_count", &json!({})).send(gateway.address).await.expect(200);
}

#[tokio::test]
async fn guessing_keys_stops_being_looked_at() {
    let fixture = Fixture::start();
    let gateway = Gateway::start_with(&[fixture.entry()], &[("LIMITS__AUTH_FAILURES_PER_MINUTE", "5")]).await;
    let key = gateway.key().await;
    let guess = || call(&key).without("authorization").bearer("mcpgw_guess");
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(guess().send(gateway.address).await.status.as_u16());
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
}

#[tokio::test]
async fn a_server_that_thinks_for_too_long_is_a_timeout() {
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entry = remote("silent", &format!("http://{}/mcp", silent.local_addr().unwrap()));
    let gateway = Gateway::start_with(&[entry], &[("LIMITS__CALL_MAX_DURATION_SECONDS", "1")]).await;
    let key = gateway.key().await;
    let call = mcp::modern_tool("silent", &key, 4, "work", &json!({}));
    let answer = call.send(gateway.address).await.expect(504);
    assert_eq!(answer.json()["id"], 4);
    drop(silent);
}
