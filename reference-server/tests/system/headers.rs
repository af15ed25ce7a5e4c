//! Which header fields travel, as the server saw them.

use serde_json::json;

use crate::support::mcp::{self, LEGACY, Session};
use crate::support::process::header;
use crate::support::{Call, Fixture, Gateway};

#[tokio::test]
async fn no_credential_or_address_of_the_caller_travels() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    fixture.forget().await;
    let secrets = [
        ("cookie", "session=SECRET"),
        ("proxy-authorization", "Basic SECRET"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
        ("origin", "http://localhost:3000"),
        ("connection", "close, x-hop"),
        ("x-hop", "SECRET"),
    ];
    let decorated = |mut call: Call| {
        for (name, value) in secrets {
            call = call.header(name, value);
        }
        call
    };
    decorated(session.call(1, "test_simple_text", &json!({}))).send(gateway.address).await.expect(200);
    let by_key_header = mcp::modern_tool("fixture", &key, 2, "test_simple_text", &json!({})).without("authorization");
    decorated(by_key_header.header("x-api-key", &key.secret)).send(gateway.address).await.expect(200);
    drop(decorated(session.get()).open(gateway.address).await);
    decorated(session.delete()).send(gateway.address).await;

    let seen = fixture.seen().await;
    assert_eq!(seen.len(), 4);
    for entry in &seen {
        let text = entry.to_string();
        assert!(!text.contains(&key.secret) && !text.contains("SECRET") && !text.contains("203.0.113.9"), "{text}");
        for name in ["authorization", "x-api-key", "cookie", "proxy-authorization", "forwarded", "origin", "x-hop"] {
            assert!(header(entry, name).is_empty(), "{name}: {text}");
        }
        for name in ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"] {
            assert!(header(entry, name).is_empty(), "a remote server learns nothing about callers: {name}: {text}");
        }
        assert_eq!(header(entry, "host"), [fixture.address.to_string()]);
    }
}

#[tokio::test]
async fn no_credential_in_the_query_counts_or_travels() {
    let fixture = Fixture::start();
    let listed = format!("{}queryParameters: [tenant]\n", fixture.entry());
    let gateway = Gateway::start(&[listed]).await;
    let key = gateway.key().await;
    let path = format!("{}?access_token={}&tenant=a%2Fb&other=1", mcp::path("fixture"), key.secret);
    let body = mcp::initialize().to_string();
    let plain = |path: &str| {
        Call::post(path, body.clone())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
    };
    plain(&path).send(gateway.address).await.expect(401);
    assert_eq!(fixture.seen().await.len(), 0);
    plain(&path).bearer(&key.secret).send(gateway.address).await.expect(200);
    let seen = fixture.seen().await;
    assert_eq!(seen[0]["path"], "/mcp?tenant=a%2Fb");
}

#[tokio::test]
async fn the_headers_of_an_entry_replace_those_of_the_caller() {
    let fixture = Fixture::start();
    let entry = format!(
        "{}  headers:\n    - {{key: Authorization, value: Bearer vendor-token}}\n    - {{key: X-Tenant, value: ours}}\n",
        fixture.entry()
    );
    let gateway = Gateway::start(&[entry]).await;
    let key = gateway.key().await;
    let call = mcp::modern_tool("fixture", &key, 1, "test_simple_text", &json!({})).header("x-tenant", "theirs");
    call.send(gateway.address).await.expect(200);
    let seen = fixture.seen().await;
    assert_eq!(header(&seen[0], "authorization"), ["Bearer vendor-token"]);
    assert_eq!(header(&seen[0], "x-tenant"), ["ours"]);
}

#[tokio::test]
async fn mirrored_headers_of_a_legacy_request_do_not_travel() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    fixture.forget().await;
    let call = session
        .call(1, "test_simple_text", &json!({}))
        .header("mcp-method", "tools/list")
        .header("mcp-name", "something_harmless")
        .header("mcp-param-region", "eu");
    call.send(gateway.address).await.expect(200);
    let seen = fixture.seen().await;
    for name in ["mcp-method", "mcp-name", "mcp-param-region"] {
        assert!(header(&seen[0], name).is_empty(), "{name}");
    }
    assert_eq!(header(&seen[0], "mcp-protocol-version"), [LEGACY]);
}

#[tokio::test]
async fn modern_mirrored_headers_travel_unchanged() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let call = mcp::modern_tool("fixture", &gateway.key().await, 1, "test_simple_text", &json!({}))
        .header("mcp-param-unknown", "=?base64?SGVsbG8=?=");
    call.send(gateway.address).await.expect(200);
    let seen = fixture.seen().await;
    assert_eq!(header(&seen[0], "mcp-method"), ["tools/call"]);
    assert_eq!(header(&seen[0], "mcp-name"), ["test_simple_text"]);
    assert_eq!(header(&seen[0], "mcp-param-unknown"), ["=?base64?SGVsbG8=?="]);
}

#[tokio::test]
async fn credentials_that_contradict_each_other_are_refused() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let (one, two) = (gateway.key().await, gateway.key().await);
    let call = || mcp::modern_tool("fixture", &one, 1, "test_simple_text", &json!({}));
    call().header("x-api-key", &two.secret).send(gateway.address).await.expect(400);
    call().bearer(&two.secret).send(gateway.address).await.expect(400);
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn a_path_that_the_entry_does_not_list_starts_nothing() {
    let entry =
        "entryKey: away\nname: away\nruntime: command\nserverUserType: multiUser\ncommand: /nonexistent/server\n";
    let gateway = Gateway::start(&[entry.to_owned()]).await;
    let key = gateway.key().await;
    let post = |path: &str| {
        Call::post(path, mcp::request(1, "ping", &json!({})).to_string())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .bearer(&key.secret)
    };
    post("/mcp-connect/away/admin").send(gateway.address).await.expect_error(404, 40400);
    // Its own URL would have started it.
    post("/mcp-connect/away").send(gateway.address).await.expect_error(503, 50300);
}
