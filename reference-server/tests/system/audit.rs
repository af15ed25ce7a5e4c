//! What the trail says afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::mcp::{self, Session};
use crate::support::{Call, Fixture, Gateway, until, upstream};

/// The row of the call with this JSON-RPC id.
async fn row(gateway: &Gateway, id: &str) -> Value {
    gateway.audit_of(1, |row| rpc_id(row).as_deref() == Some(id)).await.remove(0)
}

/// The id without the quotes of a string.
fn rpc_id(row: &Value) -> Option<String> {
    row["rpc_id"].as_str().map(|id| id.trim_matches('"').to_owned())
}

#[tokio::test]
async fn a_row_says_who_called_what_and_how_it_ended() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    let answer = session
        .call("ok", "test_simple_text", &json!({ "secret": "argument" }))
        .header("user-agent", "system-tests/1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .send(gateway.address)
        .await
        .expect(200);
    session.call("tool-error", "test_error_handling", &json!({})).send(gateway.address).await.expect(200);
    session.call("rpc-error", "no_such_tool", &json!({})).send(gateway.address).await;
    mcp::modern_tool("fixture", &key, "modern", "greet", &json!({})).send(gateway.address).await;

    let ok = row(&gateway, "ok").await;
    assert_eq!(ok["category"], "mcp", "{ok}");
    assert_eq!(ok["kind"], "exchange");
    assert_eq!(ok["outcome"], "ok");
    assert_eq!(ok["status"], 200);
    assert_eq!(ok["server"], "fixture");
    assert_eq!(ok["method"], "tools/call");
    assert_eq!(ok["target"], "test_simple_text");
    assert_eq!(ok["era"], "legacy");
    assert_eq!(ok["protocol_version"], mcp::LEGACY);
    assert_eq!(ok["http_method"], "POST");
    assert_eq!(ok["user_agent"], "system-tests/1");
    assert_eq!(ok["address"], "127.0.0.1");
    assert_eq!(ok["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(ok["actor"]["id"], key.id);
    // Event ids are tagged behind the trail.
    let tags = answer.text().lines().filter(|line| line.starts_with("id:") && line.contains('~')).count();
    assert_eq!(ok["bytes_out"], answer.body.len() - tags * "~0123456789012345678901".len());
    assert!(ok["bytes_in"].as_u64().unwrap() > 0);
    assert!(ok["total_us"].as_u64().unwrap() >= ok["first_byte_us"].as_u64().unwrap());
    let text = ok.to_string();
    assert!(!text.contains("argument") && !text.contains(&key.secret) && !text.contains(&session.id), "{text}");

    let tool_error = row(&gateway, "tool-error").await;
    assert_eq!((&tool_error["outcome"], &tool_error["status"]), (&json!("tool_error"), &json!(200)), "{tool_error}");
    let rpc_error = row(&gateway, "rpc-error").await;
    assert_eq!((&rpc_error["outcome"], &rpc_error["rpc_code"]), (&json!("rpc_error"), &json!(-32602)), "{rpc_error}");
    let modern = row(&gateway, "modern").await;
    assert_eq!((&modern["era"], &modern["client_name"]), (&json!("modern"), &json!("system-tests")), "{modern}");
}

#[tokio::test]
async fn refusals_and_failures_have_rows_too() {
    let fixture = Fixture::start();
    let down = upstream_gone();
    let gateway = Gateway::start(&[fixture.entry(), down]).await;
    let key = gateway.key().await;
    let narrow = gateway.key_for(&json!({ "name": "narrow", "servers": ["down"] })).await;

    mcp::modern_tool("fixture", &narrow, "denied", "greet", &json!({})).send(gateway.address).await.expect(403);
    let twice = r#"{"jsonrpc":"2.0","id":"malformed","method":"ping","method":"ping"}"#;
    mcp::post("fixture", &key, twice).send(gateway.address).await.expect(400);
    mcp::modern_tool("down", &key, "failed", "greet", &json!({})).send(gateway.address).await.expect(502);
    let address = gateway.address;
    let call = mcp::modern_tool("fixture", &key, "left", "sleep_ms", &json!({ "ms": 120_000 }));
    let waiting = tokio::spawn(async move { call.open(address).await.finish().await });
    until("the call to arrive", async || (!fixture.seen().await.is_empty()).then_some(())).await;
    waiting.abort();

    let failed = row(&gateway, "failed").await;
    assert_eq!((&failed["outcome"], &failed["status"]), (&json!("upstream_failed"), &json!(502)), "{failed}");
    assert_eq!(failed["server"], "down");
    let left = row(&gateway, "left").await;
    assert_eq!((&left["outcome"], &left["target"]), (&json!("disconnected"), &json!("sleep_ms")), "{left}");
    let denied = gateway.audit_of(2, |row| row["outcome"] == "denied").await;
    let statuses: HashSet<u64> = denied.iter().filter_map(|row| row["status"].as_u64()).collect();
    assert_eq!(statuses, HashSet::from([403, 400]), "{denied:?}");
    let forbidden = denied.iter().find(|row| row["status"] == 403).unwrap();
    assert_eq!(forbidden["actor"]["id"], narrow.id);
    assert_eq!(forbidden["server"], "fixture");
}

fn upstream_gone() -> String {
    let nobody = crate::support::gateway::free_address();
    crate::support::gateway::remote("down", &format!("http://{nobody}/mcp"))
}

#[tokio::test]
async fn strangers_are_counted_not_listed() {
    let gateway = Gateway::start(&[]).await;
    for _ in 0..20 {
        Call::get(&mcp::path("x")).send(gateway.address).await.expect(401);
    }
    let rows: Vec<Value> = gateway.audit().await.into_iter().filter(|row| row["kind"] == "refused").collect();
    assert!(rows.len() < 20, "an anonymous flood must not fill the trail: {}", rows.len());
}

#[tokio::test]
async fn an_event_that_reads_in_two_ways_passes_as_it_is_and_has_a_row() {
    const EVENTS: &str = concat!(
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"result\":{}}\n\n",
        "data: [{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}]\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n",
    );
    let upstream = crate::support::Upstream::start(|_| crate::support::upstream::events(EVENTS)).await;
    let gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let call = mcp::post("toy", &gateway.key().await, mcp::tool(1, "x", &json!({})).to_string());
    assert_eq!(call.send(gateway.address).await.expect(200).text(), EVENTS);
    let rows = gateway.audit_of(3, |row| row["server"] == "toy").await;
    let kinds = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).collect::<Vec<_>>();
    let unread = kinds("resumed");
    assert_eq!(unread.len(), 2, "{rows:?}");
    assert!(unread.iter().all(|row| row["outcome"] == "opaque"), "{unread:?}");
    assert_eq!(kinds("exchange")[0]["outcome"], "ok");
}

#[tokio::test]
async fn administrative_acts_are_rows() {
    let gateway = Gateway::start(&[]).await;
    let key = gateway.key().await;
    gateway.revoke(&key).await;
    let acts = gateway.audit_of(2, |row| row["category"] == "admin" && row["target"] == key.id).await;
    let methods: HashSet<&str> = acts.iter().filter_map(|row| row["method"].as_str()).collect();
    assert_eq!(methods, HashSet::from(["api-key.create", "api-key.revoke"]));
    assert!(!json!(acts).to_string().contains(&key.secret));
}

/// What the clients know of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Sent,
    Answered,
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_answered_call_and_doubles_none() {
    const CLIENTS: u64 = 8;
    let upstream = crate::support::Upstream::start(|request| {
        let message: Value = serde_json::from_slice(&request.body).unwrap();
        let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": "x" }] });
        upstream::json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }).to_string())
    })
    .await;
    let mut gateway = Gateway::start(&[upstream.entry("toy")]).await;
    let key = gateway.key().await;
    let calls = Arc::new(Mutex::new(HashMap::<String, Seen>::new()));
    for round in 0..3_u64 {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (calls, stop, answered) = (Arc::clone(&calls), Arc::clone(&stop), Arc::clone(&answered));
                let (key, address) = (key.clone(), gateway.address);
                tokio::spawn(async move {
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let id = format!("call-{round}-{client}-{number}");
                        calls.lock().unwrap().insert(id.clone(), Seen::Sent);
                        let call = mcp::modern_tool("toy", &key, id.clone(), "work", &json!({}));
                        let Ok(mut answer) = call.try_open(address).await else { return };
                        let mut body = Vec::new();
                        while let Some(chunk) = answer.chunk().await {
                            body.extend_from_slice(&chunk);
                        }
                        // Answered is what has arrived whole.
                        if answer.status != 200 || serde_json::from_slice::<Value>(&body).is_err() {
                            return;
                        }
                        calls.lock().unwrap().insert(id, Seen::Answered);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        until("some load", async || (answered.load(Ordering::Relaxed) > 200).then_some(())).await;
        gateway.kill_and_restart().await;
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
    }
    let calls = calls.lock().unwrap().clone();
    let wanted: HashSet<&String> =
        calls.iter().filter(|(_, seen)| **seen == Seen::Answered).map(|(id, _)| id).collect();
    println!("{} calls, {} answered", calls.len(), wanted.len());
    assert!(wanted.len() > 600);

    // Replay and the writer take a moment; what counts is where they end.
    let missing = |rows: &[Value]| {
        let ids: HashSet<String> = rows.iter().filter_map(rpc_id).collect();
        wanted.iter().filter(|id| !ids.contains(id.as_str())).count()
    };
    let rows = until("every answered call in the trail", async || {
        let rows = gateway.audit().await;
        (missing(&rows) == 0).then_some(rows)
    })
    .await;
    let mut count = HashMap::<String, usize>::new();
    for row in rows.iter().filter(|row| row["method"] == "tools/call") {
        let id = rpc_id(row).expect("a call has an id");
        let outcome = row["outcome"].as_str().unwrap();
        match calls.get(&id) {
            Some(Seen::Answered) => assert_eq!(outcome, "ok", "{row}"),
            // The server had it, and nobody can say more; or the answer did not make it to the client.
            Some(Seen::Sent) => assert!(matches!(outcome, "unknown" | "ok" | "disconnected"), "{row}"),
            None => panic!("nobody made this call: {row}"),
        }
        *count.entry(id).or_default() += 1;
    }
    let doubled: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
}

#[tokio::test]
async fn a_session_is_a_hash_that_tells_sessions_apart() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let (one, two) = (Session::open(&gateway, "fixture", &key).await, Session::open(&gateway, "fixture", &key).await);
    for (session, id) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        session.call(id, "test_simple_text", &json!({})).send(gateway.address).await.expect(200);
    }
    let session_of = async |id: &str| row(&gateway, id).await["session"].as_str().expect("a session").to_owned();
    let (a, b, c) = (session_of("a").await, session_of("b").await, session_of("c").await);
    assert_eq!(a, b);
    assert_ne!(a, c);
    assert!(!one.id.contains(&a));
}

/// `mcp-gateway audit …` beside a gateway, over its data: whether it succeeded, and what it said.
fn audit(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-gateway"))
        .arg("audit")
        .args(arguments)
        .current_dir(gateway.folder())
        .env("MCP_GATEWAY__DATA_DIR", gateway.folder().join("data"))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn the_trail_verifies_beside_the_server_and_after_its_death() {
    let fixture = Fixture::start();
    let settings = [("AUDIT__CHECKPOINT_ROWS", "1")];
    let mut gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    session.call("before", "test_simple_text", &json!({})).send(gateway.address).await.expect(200);
    row(&gateway, "before").await;
    let (sound, said) = audit(&gateway, &["verify"]);
    assert!(sound && !said.contains("BAD"), "{said}");
    gateway.kill_and_restart().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    session.call("after", "test_simple_text", &json!({})).send(gateway.address).await.expect(200);
    row(&gateway, "after").await;
    let signed = until("what is there is signed", async || {
        let (sound, said) = audit(&gateway, &["verify"]);
        assert!(sound && !said.contains("BAD"), "{said}");
        said.contains("\n0 events are chained and not signed yet").then_some(said)
    });
    assert!(signed.await.contains("events in 2 streams are as they were signed"));

    // Whoever has the public keys needs nothing else of ours; with other keys nothing is good.
    let (printed, keys) = audit(&gateway, &["keys"]);
    assert!(printed && keys.contains("\"kid\"") && !keys.contains("\"d\""), "{keys}");
    let other = Gateway::start(&[]).await;
    let (_, others) = audit(&other, &["keys"]);
    for (keys, good) in [(keys, true), (others, false)] {
        let file = gateway.folder().join("keys.json");
        std::fs::write(&file, keys).unwrap();
        let (sound, said) = audit(&gateway, &["verify", "--key", file.to_str().unwrap()]);
        assert_eq!((sound, said.contains("was not signed with a known key")), (good, !good), "{said}");
    }
}
