//! `Last-Event-ID` through the gateway.

use serde_json::json;

use crate::support::mcp::{LEGACY, Session};
use crate::support::process::header;
use crate::support::{Call, Fixture, Gateway, mcp};

/// Calls the tool whose stream ends before its answer; the last event's id.
async fn interrupted(gateway: &Gateway, session: &Session) -> String {
    let mut stream = session.call(7, "test_reconnection", &json!({})).open(gateway.address).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let mut last = None;
    while let Some(event) = stream.event().await {
        assert!(!event.data.contains("\"result\""), "the stream was not cut: {event:?}");
        last = event.id.or(last);
    }
    last.expect("the first event of a stream that can be resumed has an id")
}

#[tokio::test]
async fn a_call_whose_stream_ended_is_answered_on_the_resumed_one() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let last = interrupted(&gateway, &session).await;

    let mut resumed = session.get().header("last-event-id", &last).open(gateway.address).await;
    assert_eq!(resumed.status, 200);
    let answer = resumed.message().await.expect("the answer is replayed");
    assert_eq!(answer["id"], 7);
    assert_eq!(answer["result"]["content"][0]["text"], "Answered after the stream was closed");

    let seen = fixture.seen().await;
    let get = seen.iter().find(|entry| entry["method"] == "GET").expect("the server was asked to resume");
    let (own, tag) = last.rsplit_once('~').expect("the id has a tag");
    assert_eq!((header(get, "last-event-id"), tag.len()), (vec![own], 22), "the server's own id, byte for byte");

    // What was answered on a stream nobody asked for in this request is in the trail all the same.
    let rows = gateway.audit_of(1, |row| row["kind"] == "resumed").await;
    assert_eq!(rows[0]["server"], "fixture", "{rows:?}");
}

#[tokio::test]
async fn an_event_id_without_a_session_does_not_travel() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let get = Call::get(&mcp::path("fixture"))
        .header("accept", "text/event-stream")
        .header("mcp-protocol-version", LEGACY)
        .header("last-event-id", "0/0")
        .bearer(&key.secret);
    let answer = get.send(gateway.address).await;
    assert!(!answer.status.is_success(), "{}", answer.status);
    for entry in fixture.seen().await {
        assert!(header(&entry, "last-event-id").is_empty(), "{entry}");
    }
}

#[tokio::test]
async fn nobody_resumes_the_stream_of_another() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let last = interrupted(&gateway, &session).await;
    let stolen = session.stolen_by(&gateway.key().await);
    fixture.forget().await;
    stolen.get().header("last-event-id", &last).send(gateway.address).await.expect(404);
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn nobody_resumes_the_stream_of_another_session() {
    let fixture = Fixture::start();
    let settings = [("RUNTIME__PROCESS__I_TRUST_ALL_SERVERS", "true")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    let bob = gateway.key_for(&json!({ "name": "b", "servers": ["*"], "subject": "bob" })).await;
    let session = Session::open(&gateway, "fixture", &key).await;
    let last = interrupted(&gateway, &session).await;
    let (own, _) = last.rsplit_once('~').unwrap();
    let (second, of_bob) =
        (Session::open(&gateway, "fixture", &key).await, Session::open(&gateway, "fixture", &bob).await);
    fixture.forget().await;
    for (session, id) in [(&second, &*last), (&of_bob, &last), (&of_bob, own), (&session, own)] {
        let refused = session.get().header("last-event-id", id).send(gateway.address).await.expect(400);
        assert!(refused.text().contains("was not issued in this session"), "{}", refused.text());
    }
    assert_eq!(fixture.seen().await.len(), 0);
}

#[tokio::test]
async fn a_gateway_that_never_saw_a_stream_passes_its_id_on() {
    let fixture = Fixture::start();
    let mut gateway = Gateway::start(&[fixture.entry()]).await;
    let session = Session::open(&gateway, "fixture", &gateway.key().await).await;
    let last = interrupted(&gateway, &session).await;
    let (own, _) = last.rsplit_once('~').unwrap();
    gateway.kill_and_restart().await;
    fixture.forget().await;
    let resumed = session.get().header("last-event-id", &last).open(gateway.address).await;
    assert_eq!(resumed.status, 200);
    // How long the answer is kept there is the server's.
    assert_eq!(header(&fixture.seen().await[0], "last-event-id"), [own]);
}
