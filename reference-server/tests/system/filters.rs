//! Filters that an administrator made, as clients, servers and the services that they ask see it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Response;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::mcp::{self, Session};
use crate::support::upstream::Arrived;
use crate::support::{Answer, Call, Fixture, Gateway, Key, Upstream, upstream};

const SECRET: &str = "of the webhook";
const WHERE: &[(&str, &str)] = &[("EGRESS__FILTER__ALLOW", "127.0.0.0/8")];

#[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
async fn put(gateway: &Gateway, id: &str, mut filter: Value) {
    gateway.admin(Call::delete(&format!("/api/v1/filters/{id}"))).await;
    (filter["id"], filter["name"]) = (id.into(), id.into());
    gateway.admin(Call::post("/api/v1/filters", filter.to_string())).await.expect(201);
}

fn call(server: &str, key: &Key, tool: &str, text: &str) -> Call {
    mcp::modern_tool(server, key, 1, tool, &json!({ "a": text }))
}

/// Answers a call with its own body as text.
fn echo(arrived: &Arrived) -> Response<axum::body::Body> {
    let text = String::from_utf8_lossy(&arrived.body);
    let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] });
    upstream::json(json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string())
}

fn status(status: u16) -> Response<axum::body::Body> {
    Response::builder().status(status).body(axum::body::Body::empty()).unwrap()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a request is signed by this secret.
fn is_signed(arrived: &Arrived) -> bool {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(&arrived.body);
    let expected = format!("sha256={}", hexadecimal(&mac.finalize().into_bytes()));
    arrived.headers.get("x-obot-signature-256").is_some_and(|value| *value == *expected)
}

async fn facts(gateway: &Gateway, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<String> {
    let judged = |row: &Value| row["filters"].as_array().is_some_and(|facts| !facts.is_empty());
    let rows = gateway.audit_of(count, |row| judged(row) && fits(row)).await;
    rows.iter()
        .map(|row| {
            let said =
                |fact: &Value| format!("{}:{}", fact["filter"].as_str().unwrap(), fact["verdict"].as_str().unwrap());
            row["filters"].as_array().unwrap().iter().map(said).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

#[tokio::test]
async fn a_webhook_lets_refuses_and_replaces() {
    let server = Upstream::start(echo).await;
    let hook = Upstream::start(|arrived| {
        if !is_signed(arrived) {
            return status(401);
        }
        let text = String::from_utf8_lossy(&arrived.body);
        match () {
            () if text.contains("stop") => status(403),
            () if text.contains("rename") => upstream::json(text.replace("\"first\"", "\"second\"")),
            () if text.contains("smuggle") => upstream::json(text.replace("\"first\"", "\"forbidden\"")),
            () if text.contains("another") => upstream::json(text.replace("\"id\":1", "\"id\":2")),
            () => status(200),
        }
    })
    .await;
    let gateway = Gateway::start_with(&[server.entry("toy")], WHERE).await;
    let key = gateway.key().await;
    let denied = json!([{ "effect": "deny", "subjects": ["everyone"], "targets": [{ "tools": ["forbidden"] }] }]);
    let policy = json!({ "id": "less", "name": "less", "rules": denied });
    gateway.admin(Call::post("/api/v1/policies", policy.to_string())).await.expect(201);
    let filter = |secret: &str| {
        json!({
            "selectors": [{ "servers": ["toy"], "directions": ["request"] }],
            "check": { "kind": "webhook", "url": hook.url(), "secret": secret, "mutation": true },
        })
    };
    put(&gateway, "hook", filter(SECRET)).await;
    let send = async |text: &str| call("toy", &key, "first", text).send(gateway.address).await;

    let passed = send("hello").await.expect(200);
    let (asked, served) = (hook.arrived(), server.arrived());
    assert_eq!(asked[0].body, served[0].body, "the message, byte for byte");
    assert_eq!(
        (&asked[0].headers["mcp-gateway-server"], &asked[0].headers["mcp-gateway-direction"]),
        (&"toy".parse().unwrap(), &"request".parse().unwrap())
    );
    assert!(asked[0].headers.get("authorization").is_none(), "no credential of the caller");
    assert!(passed.tool_text().contains("hello"));

    let refused = send("stop").await.expect(200).json();
    assert_eq!(
        (&refused["result"]["isError"], &refused["result"]["content"][0]["text"]),
        (&json!(true), &json!("The filter \"hook\" refuses this."))
    );
    assert_eq!(server.arrived().len(), 1, "it went no further");

    send("rename").await.expect(200);
    let renamed = &server.arrived()[1];
    assert_eq!(
        (&renamed.headers["mcp-name"], &renamed.headers["mcp-method"]),
        (&"second".parse().unwrap(), &"tools/call".parse().unwrap())
    );
    assert!(String::from_utf8_lossy(&renamed.body).contains("\"second\""));

    assert_eq!(send("smuggle").await.status, 502, "what a filter made of it is authorized, too");
    assert_eq!(send("another").await.status, 502, "another id is another message");
    assert_eq!(server.arrived().len(), 2);
    put(&gateway, "hook", filter("another secret")).await;
    assert!(send("hello").await.json()["result"]["isError"] == true);
    assert_eq!(server.arrived().len(), 2);

    let said = facts(&gateway, 6, |row| row["server"] == "toy").await;
    assert_eq!(said, ["hook:passed", "hook:refused", "hook:replaced", "hook:replaced", "hook:failed", "hook:refused"]);
    let rows = gateway.audit_of(1, |row| row["forwarded_target"] == "second").await;
    assert_eq!((&rows[0]["target"], &rows[0]["request_mutated"]), (&json!("first"), &json!(true)));
    let acts = gateway.audit_of(2, |row| row["method"] == "filter.create" && row["outcome"] == "ok").await;
    assert_eq!(acts[0]["target"], "hook");
    assert!(!gateway.log().contains(SECRET));
}

#[tokio::test]
async fn a_service_that_is_away_closes_or_opens() {
    let server = Upstream::start(echo).await;
    // Takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = crate::support::gateway::free_address();
    let gateway = Gateway::start_with(&[server.entry("toy")], WHERE).await;
    let key = gateway.key().await;
    for address in [silent.local_addr().unwrap(), closed] {
        for (mode, expected) in [("closed", 502), ("open", 200)] {
            let check = json!({ "kind": "webhook", "url": format!("http://{address}/") });
            put(&gateway, "hook", json!({ "check": check, "fail_mode": mode, "timeout_ms": 150, "retries": 1, "selectors": [{ "directions": ["request"] }] })).await;
            call("toy", &key, "first", "x").send(gateway.address).await.expect(expected);
        }
    }
    assert_eq!(server.arrived().len(), 2);
    let said = facts(&gateway, 4, |row| row["server"] == "toy").await;
    assert_eq!(said, ["hook:failed", "hook:failed_open", "hook:failed", "hook:failed_open"]);
}

#[tokio::test]
async fn where_no_hole_is_open_no_private_address_is_asked() {
    let server = Upstream::start(echo).await;
    let hook = Upstream::start(|_| status(200)).await;
    let gateway = Gateway::start(&[server.entry("toy")]).await;
    let key = gateway.key().await;
    put(&gateway, "hook", json!({ "check": { "kind": "webhook", "url": hook.url().replace("http:", "https:") } }))
        .await;
    call("toy", &key, "first", "x").send(gateway.address).await.expect(502);
    assert!(hook.arrived().is_empty() && server.arrived().is_empty());
}

#[tokio::test]
async fn filters_are_asked_in_their_order_and_survive_a_restart() {
    let server = Upstream::start(echo).await;
    let hook = Upstream::start(|arrived| status(if is_signed(arrived) { 200 } else { 401 })).await;
    let mut gateway = Gateway::start_with(&[server.entry("toy")], WHERE).await;
    let key = gateway.key().await;
    let request = json!([{ "directions": ["request"] }]);
    put(&gateway, "a-late", json!({ "order": 2, "selectors": request, "check": { "kind": "webhook", "url": hook.url(), "secret": SECRET } })).await;
    put(
        &gateway,
        "z-early",
        json!({ "order": 1, "selectors": request, "check": { "kind": "secrets", "action": "redact" } }),
    )
    .await;
    gateway.kill_and_restart().await;
    let secret = format!("AKIA{}", "IOSFODNN7EXAMPLE");
    let text = format!("it is {secret}!");
    let sent = call("toy", &key, "first", &text).header("mcp-param-a", &text).send(gateway.address).await;
    sent.expect(200);
    assert_eq!(server.arrived()[0].headers["mcp-param-a"], "it is [redacted:aws-access-key]!");
    for seen in [&hook.arrived()[0].body, &server.arrived()[0].body] {
        let text = String::from_utf8_lossy(seen);
        assert!(text.contains("it is [redacted:aws-access-key]!") && !text.contains(&secret), "{text}");
    }
    assert_eq!(facts(&gateway, 1, |row| row["server"] == "toy").await, ["z-early:replaced a-late:passed"]);
}

#[tokio::test]
async fn answers_and_events_are_judged_each_on_its_way() {
    const CARD: &str = "4111111111111111";
    let message =
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"data":"card {CARD}" , "n":1.50}}}}"#);
    let answer = format!(
        r#"{{"jsonrpc":"2.0", "id":1,"result":{{"resultType":"complete","content":[{{"type":"text","text":"{CARD}"}}]}}}}"#
    );
    let stream = format!(": hi\n\nid: 1\ndata: {message}\n\nid: 2\ndata: {answer}\n\n");
    let sent = stream.clone();
    let server = Upstream::start(move |_| upstream::events(sent.clone())).await;
    let gateway = Gateway::start(&[server.entry("toy")]).await;
    let key = gateway.key().await;
    let ask = async || call("toy", &key, "first", "x").send(gateway.address).await.expect(200).text();
    assert_eq!(ask().await, stream);
    let redact = |directions: Value| json!({ "selectors": [{ "directions": directions }], "check": { "kind": "pii", "action": "redact" } });
    let redacted = |text: &str| text.replace(CARD, "[redacted:payment-card]");
    put(&gateway, "cards", redact(json!(["event"]))).await;
    assert_eq!(ask().await, stream.replace(&message, &redacted(&message)));
    put(&gateway, "cards", redact(json!(["response"]))).await;
    assert_eq!(ask().await, stream.replace(&answer, &redacted(&answer)));
    put(&gateway, "cards", redact(json!(["response", "event"]))).await;
    assert_eq!(ask().await, redacted(&stream));
    let refuse =
        json!({ "selectors": [{ "directions": ["response"] }], "check": { "kind": "pii", "action": "refuse" } });
    put(&gateway, "cards", refuse).await;
    let refused = ask().await;
    assert!(!refused.contains(&answer) && refused.contains("it holds payment-card"), "{refused}");
    let rows = gateway.audit_of(1, |row| row["filters"][0]["verdict"] == "refused").await;
    assert_eq!(
        (&rows[0]["filters"][0]["found"], &rows[0]["response_mutated"]),
        (&json!(["payment-card"]), &json!(true))
    );
}

#[tokio::test]
async fn a_resumed_stream_is_no_way_around_a_filter() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let check =
        json!({ "kind": "regex", "action": "redact", "patterns": [{ "name": "word", "pattern": "stream was" }] });
    let selectors = json!([{ "servers": ["fixture"], "methods": ["tools/call"], "targets": ["test_reconnection"], "directions": ["response"] }]);
    put(&gateway, "words", json!({ "selectors": selectors, "check": check })).await;
    let mut stream = session.call(7, "test_reconnection", &json!({})).open(gateway.address).await;
    let mut last = None;
    while let Some(event) = stream.event().await {
        last = event.id.or(last);
    }
    let mut resumed = session.get().header("last-event-id", &last.unwrap()).open(gateway.address).await;
    let answer = resumed.message().await.expect("the answer is replayed");
    assert_eq!(answer["result"]["content"][0]["text"], "Answered after the [redacted:word] closed");
}

#[tokio::test]
async fn what_no_filter_asks_for_is_not_held_back() {
    let server = Upstream::start(|arrived| {
        let head = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[]"#);
        let json = upstream::json("");
        // The rest never comes.
        match arrived.headers.get("mcp-name").is_some_and(|name| name == "slow") {
            true => {
                // The last piece is held back for the audit trail, and nobody knows which is the last.
                let more = async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok::<_, std::io::Error>(Bytes::from_static(b" "))
                };
                let pieces = futures_util::stream::once(async { Ok(head) }).chain(futures_util::stream::once(more));
                let body = pieces.chain(futures_util::stream::pending());
                json.map(|_| axum::body::Body::from_stream(body))
            }
            false => echo(arrived),
        }
    })
    .await;
    let gateway = Gateway::start(&[server.entry("toy")]).await;
    let key = gateway.key().await;
    let filter = |tool: &str, direction: &str| json!({ "selectors": [{ "servers": ["toy"], "targets": [tool], "directions": [direction] }], "check": { "kind": "secrets", "action": "refuse" } });
    let begins = async || {
        let mut answer = call("toy", &key, "slow", "x").open(gateway.address).await;
        answer.chunk().await.is_some()
    };
    put(&gateway, "secrets", filter("other", "response")).await;
    assert!(begins().await, "another tool");
    put(&gateway, "secrets", filter("slow", "request")).await;
    assert!(begins().await, "the other direction");
    put(&gateway, "secrets", filter("slow", "response")).await;
    let held = call("toy", &key, "slow", "x");
    let held = tokio::time::timeout(Duration::from_millis(700), held.open(gateway.address)).await;
    assert!(held.is_err(), "a filter sees the whole answer first");
}

#[tokio::test]
async fn a_stream_ends_when_a_filter_comes_to_look_into_it() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let mut stream = session.get().open(gateway.address).await;
    assert_eq!(stream.status, 200);
    let check = json!({ "kind": "secrets", "action": "redact" });
    put(&gateway, "requests", json!({ "selectors": [{ "directions": ["request"] }], "check": check })).await;
    put(&gateway, "elsewhere", json!({ "selectors": [{ "servers": ["other"] }], "check": check })).await;
    let ended = async { while stream.chunk().await.is_some() {} };
    assert!(tokio::time::timeout(Duration::from_millis(300), ended).await.is_err(), "neither looks into it");
    put(&gateway, "events", json!({ "selectors": [{ "directions": ["event"] }], "check": check })).await;
    while stream.chunk().await.is_some() {}
    session.get().open(gateway.address).await;
}

/// What the caller is told of a filter that is tried: the answer is the same as in earnest.
#[tokio::test]
async fn a_test_asks_the_service() {
    let hook = Upstream::start(|arrived| status(if is_signed(arrived) { 403 } else { 401 })).await;
    let gateway = Gateway::start_with(&[], WHERE).await;
    put(
        &gateway,
        "hook",
        json!({ "enabled": false, "check": { "kind": "webhook", "url": hook.url(), "secret": SECRET } }),
    )
    .await;
    let body = json!({ "direction": "request", "message": mcp::tool(1, "x", &json!({})) });
    let answer: Answer = gateway.admin(Call::post("/api/v1/filters/hook/test", body.to_string())).await.expect(200);
    assert_eq!((&answer.json()["verdict"], hook.arrived().len()), (&json!("refused"), 1));
    assert!(is_signed(&hook.arrived()[0]));
}
