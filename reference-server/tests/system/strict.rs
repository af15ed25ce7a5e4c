//! What two parsers could read in two ways is read by nobody.

use serde_json::json;

use crate::support::mcp::{self, LEGACY, MODERN};
use crate::support::{Call, Fixture, Gateway};

const PARSE: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const HEADER_MISMATCH: i64 = -32020;

#[tokio::test]
async fn ambiguous_bodies_never_reach_the_server() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let call = r#""jsonrpc":"2.0","id":1,"method":"tools/call""#;
    let deep = format!(r#"{{{call},"params":{{"name":"x","arguments":{}1{}}}}}"#, "[".repeat(200), "]".repeat(200));
    let cases: Vec<(&str, Vec<u8>, i64)> = vec![
        ("repeated method", format!(r#"{{{call},"method":"ping","params":{{"name":"x"}}}}"#).into(), INVALID_REQUEST),
        ("repeated id", format!(r#"{{{call},"id":2,"params":{{"name":"x"}}}}"#).into(), INVALID_REQUEST),
        ("repeated params", format!(r#"{{{call},"params":{{"name":"x"}},"params":{{}}}}"#).into(), INVALID_REQUEST),
        ("repeated name", format!(r#"{{{call},"params":{{"name":"a","name":"b"}}}}"#).into(), INVALID_REQUEST),
        ("escaped twin", format!(r#"{{{call},"params":{{"name":"a","n\u0061me":"b"}}}}"#).into(), INVALID_REQUEST),
        ("case variant of name", format!(r#"{{{call},"params":{{"name":"a","Name":"b"}}}}"#).into(), INVALID_REQUEST),
        (
            "case variant of method",
            format!(r#"{{{call},"METHOD":"ping","params":{{"name":"a"}}}}"#).into(),
            INVALID_REQUEST,
        ),
        (
            "folded twin",
            format!("{{{call},\"params\":{{\"name\":\"a\",\"_meta\":{{}},\"_META\":{{}}}}}}").into(),
            INVALID_REQUEST,
        ),
        ("batch", format!(r#"[{{{call},"params":{{"name":"a"}}}}]"#).into(), INVALID_REQUEST),
        ("empty batch", b"[]".to_vec(), INVALID_REQUEST),
        ("by position", br#"["2.0",1,"tools/call",{"name":"a"}]"#.to_vec(), INVALID_REQUEST),
        ("mark", format!("\u{feff}{{{call},\"params\":{{\"name\":\"a\"}}}}").into(), PARSE),
        ("trailing", format!(r#"{{{call},"params":{{"name":"a"}}}}{{}}"#).into(), PARSE),
        ("not UTF-8", [b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"", &b"\xff\xfe"[..], b"\"}"].concat(), PARSE),
        ("null id", br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_vec(), INVALID_REQUEST),
        ("both kinds", br#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#.to_vec(), INVALID_REQUEST),
        ("no version", br#"{"id":1,"method":"ping"}"#.to_vec(), INVALID_REQUEST),
        ("empty", Vec::new(), PARSE),
        ("too deep", deep.into(), INVALID_REQUEST),
    ];
    for (what, body, code) in cases {
        let answer =
            mcp::post("fixture", &key, body).header("mcp-protocol-version", LEGACY).send(gateway.address).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let found = answer.json()["error"]["code"].as_i64();
        assert!(found == Some(code) || what == "too deep" && found == Some(PARSE), "{what}: {}", answer.text());
    }
    assert_eq!(fixture.seen().await.len(), 0, "the server has seen some of it");
}

#[tokio::test]
async fn encoded_and_foreign_bodies_never_reach_the_server() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let ping = mcp::request(1, "ping", &json!({})).to_string();
    for encoding in ["gzip", "identity, gzip", "br"] {
        let call = mcp::post("fixture", &key, ping.clone()).header("content-encoding", encoding);
        call.send(gateway.address).await.expect(415);
    }
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"] {
        let call = mcp::post("fixture", &key, ping.clone()).without("content-type").header("content-type", media_type);
        call.send(gateway.address).await.expect(415);
    }
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn headers_that_contradict_the_body_never_reach_the_server() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let good = || mcp::modern_tool("fixture", &key, 1, "test_simple_text", &json!({}));
    let bare = |message: &serde_json::Value| mcp::post("fixture", &key, message.to_string());
    let legacy = mcp::tool(1, "test_simple_text", &json!({}));
    let modern = mcp::modern_request(1, "tools/call", json!({ "name": "test_simple_text", "arguments": {} }));
    let cases: Vec<(&str, Call)> = vec![
        ("method twice", good().header("mcp-method", "tools/call")),
        ("name twice", good().header("mcp-name", "test_simple_text")),
        ("version twice", good().header("mcp-protocol-version", LEGACY)),
        ("other method", good().without("mcp-method").header("mcp-method", "tools/list")),
        ("method of another case", good().without("mcp-method").header("mcp-method", "Tools/Call")),
        ("other name", good().without("mcp-name").header("mcp-name", "greet")),
        ("no method", good().without("mcp-method")),
        ("no name", good().without("mcp-name")),
        ("modern body, no version", bare(&modern)),
        ("modern body, legacy version", bare(&modern).header("mcp-protocol-version", LEGACY)),
        (
            "legacy body, modern version",
            bare(&legacy)
                .header("mcp-protocol-version", MODERN)
                .header("mcp-method", "tools/call")
                .header("mcp-name", "test_simple_text"),
        ),
    ];
    for (what, call) in cases {
        let answer = call.send(gateway.address).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let code = answer.json()["error"]["code"].as_i64();
        let missing_meta = what.starts_with("legacy body") && code == Some(-32602);
        assert!(code == Some(HEADER_MISMATCH) || missing_meta, "{what}: {}", answer.text());
    }
    assert_eq!(fixture.seen().await.len(), 0, "the server has seen some of it");
    good().send(gateway.address).await.expect(200);
}

#[tokio::test]
async fn paths_that_lead_elsewhere_never_reach_the_server() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    for (rest, status) in [
        ("/admin", 404),
        ("/../admin", 400),
        ("/%2e%2e/admin", 400),
        ("/a%2fb", 400),
        ("/a%5cb", 400),
        ("//host/x", 400),
        ("/%00", 400),
    ] {
        let call = Call::get(&format!("{}{rest}", mcp::path("fixture"))).bearer(&key.secret);
        let answer = call.send(gateway.address).await;
        assert_eq!(answer.status.as_u16(), status, "{rest}: {}", answer.text());
    }
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn the_known_error_is_an_error_of_this_request() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let call =
        mcp::modern_tool("fixture", &key, "seven", "greet", &json!({})).without("mcp-name").header("mcp-name", "x");
    let answer = call.send(gateway.address).await;
    answer.expect_error(400, HEADER_MISMATCH);
    assert_eq!(answer.json()["id"], "seven");
}
