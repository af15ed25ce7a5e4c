//! Legacy sessions belong to whoever opened them.

use http::Method;
use serde_json::json;

use crate::support::gateway::stdio_fixture;
use crate::support::mcp::{self, LEGACY, Session};
use crate::support::process::header;
use crate::support::{Call, Fixture, Gateway};

#[tokio::test]
async fn the_id_is_sealed_and_reads_the_same_in_every_answer() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;

    let listed = session.post(&mcp::request(1, "tools/list", &json!({}))).send(gateway.address).await.expect(200);
    if let Some(again) = listed.headers.get("mcp-session-id") {
        assert_eq!(again.to_str().unwrap(), session.id);
    }
    let seen = fixture.seen().await;
    let upstream = header(seen.last().unwrap(), "mcp-session-id")[0].to_owned();
    assert_ne!(upstream, session.id);
    assert!(!session.id.contains(&upstream));
    assert!(session.id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{}", session.id);

    // The far side's own id is no session here.
    let bare = session.with_id(upstream).call(2, "test_simple_text", &json!({}));
    assert_eq!(bare.send(gateway.address).await.status, 404);
}

#[tokio::test]
async fn a_session_of_another_credential_or_server_is_absent() {
    let fixture = Fixture::start();
    let other_server = fixture.entry().replace("entryKey: fixture", "entryKey: twin");
    let gateway = Gateway::start(&[fixture.entry(), other_server]).await;
    // Both keys speak for the same subject: a session belongs to the credential that opened it.
    let (one, two) = (gateway.key().await, gateway.key().await);
    let session = Session::open(&gateway, "fixture", &one).await;
    let stolen = session.stolen_by(&two);
    fixture.forget().await;

    let call = |session: &Session| session.call(1, "test_simple_text", &json!({}));
    for attempt in [call(&stolen), stolen.get(), stolen.delete()] {
        attempt.send(gateway.address).await.expect(404);
    }
    let elsewhere = mcp::post("twin", &one, mcp::tool(1, "test_simple_text", &json!({})).to_string())
        .header("mcp-session-id", &session.id)
        .header("mcp-protocol-version", LEGACY);
    elsewhere.send(gateway.address).await.expect(404);
    assert_eq!(fixture.seen().await.len(), 0, "the server saw none of it");

    // None of that has ended it.
    call(&session).send(gateway.address).await.expect(200);
}

#[tokio::test]
async fn a_forged_id_is_absent() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    fixture.forget().await;

    let id = &session.id;
    let mut forged = vec![
        id[..id.len() - 1].to_owned(),
        id[..id.len() / 2].to_owned(),
        id[1..].to_owned(),
        format!("{id}A"),
        format!("{id}="),
        id.to_ascii_uppercase(),
        "A".repeat(id.len()),
        "00000000-0000-4000-8000-000000000000".to_owned(),
        "x".to_owned(),
        "y".repeat(8_000),
    ];
    // One character at a time: no part of it may be free to choose.
    for at in (0..id.len()).step_by(id.len() / 16) {
        let mut bytes = id.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
        forged.push(String::from_utf8(bytes).unwrap());
    }
    for id in &forged {
        let answer = session.with_id(id).call(1, "test_simple_text", &json!({})).send(gateway.address).await;
        assert_eq!(answer.status, 404, "{id}: {}", answer.text());
    }
    // Two ids: which of them would count?
    let twice = session.call(1, "test_simple_text", &json!({})).header("mcp-session-id", id);
    twice.send(gateway.address).await.expect(404);
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn delete_ends_the_session_at_the_server() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let deleted = session.delete().send(gateway.address).await;
    assert!(deleted.status.is_success(), "{}", deleted.status);

    let seen = fixture.seen().await;
    assert_eq!(seen.last().unwrap()["method"], "DELETE");
    let again = session.call(1, "test_simple_text", &json!({})).send(gateway.address).await;
    assert_eq!(again.status, 404, "{}", again.text());
    // It is the server's own 404 that came through.
    assert_eq!(fixture.seen().await.len(), seen.len() + 1);
}

#[tokio::test]
async fn an_ended_session_is_absent_for_everybody_who_holds_it_and_for_good() {
    let fixture = Fixture::start();
    let mut gateway = Gateway::start(&[fixture.entry(), stdio_fixture()]).await;
    let key = gateway.key().await;
    for server in ["fixture", "stdio"] {
        let session = Session::open(&gateway, server, &key).await;
        let other = Session::open(&gateway, server, &key).await;
        let holder = session.clone();
        let mut stream = holder.get().open(gateway.address).await;
        assert_eq!(stream.status, 200);
        let deleted = session.delete().send(gateway.address).await;
        assert!(deleted.status.is_success(), "{}", deleted.status);

        while stream.event().await.is_some() {}
        let call = |session: &Session| session.call(1, "test_simple_text", &json!({}));
        for attempt in [call(&holder), holder.get()] {
            attempt.send(gateway.address).await.expect(404);
        }
        call(&other).send(gateway.address).await.expect(200);
        // The gateway has nothing to forget: a server that still runs says the same to one that has just started.
        if server == "fixture" {
            gateway.kill_and_restart().await;
            call(&holder).send(gateway.address).await.expect(404);
            call(&other).send(gateway.address).await.expect(200);
        }
    }
}

#[tokio::test]
async fn a_session_that_the_server_has_lost_is_absent() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let upstream = header(fixture.seen().await.last().unwrap(), "mcp-session-id")[0].to_owned();
    let behind = Call::delete("/mcp").header("mcp-session-id", &upstream).header("mcp-protocol-version", LEGACY);
    assert!(behind.send(fixture.address).await.status.is_success());
    let answer = session.call(1, "test_simple_text", &json!({})).send(gateway.address).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
}

#[tokio::test]
async fn get_opens_the_servers_own_stream() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let mut stream = session.get().open(gateway.address).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    session.call(1, "test_trigger_tool_change", &json!({})).send(gateway.address).await.expect(200);
    let message = stream.message().await.expect("the stream goes on");
    assert_eq!(message["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn other_methods_are_refused_without_asking_the_server() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    for method in [Method::PUT, Method::PATCH, Method::HEAD, Method::TRACE] {
        let answer = Call::new(method.clone(), &mcp::path("fixture")).bearer(&key.secret).send(gateway.address).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), "POST, GET, DELETE");
    }
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn a_modern_request_has_no_session_whatever_it_sends() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let call = mcp::modern_tool("fixture", &gateway.key().await, 1, "test_simple_text", &json!({}))
        .header("mcp-session-id", "forged")
        .header("last-event-id", "7");
    call.send(gateway.address).await.expect(200);
    let seen = fixture.seen().await;
    assert!(header(&seen[0], "mcp-session-id").is_empty());
    assert!(header(&seen[0], "last-event-id").is_empty());
}
