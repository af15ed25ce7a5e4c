use std::convert::Infallible;

use http_body_util::StreamBody;

use super::*;
use crate::context::{MessageFacts, MessageKind};
use crate::contract::SystemClock;

const MESSAGE: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

/// What becomes of an answer with these headers: a response, or the status of a refusal.
async fn admitted(status: u16, headers: &[(&str, &str)], body: &'static str) -> Result<(u16, HeaderMap, String), u16> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    // Without a length, as a chunked answer.
    let frames = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(body)))]);
    let response = response.body(Body::new(StreamBody::new(frames))).unwrap();
    let route = Route { response_headers: [HeaderName::from_static("x-listed")].into(), ..Route::remote("a") };
    match admit(response, &McpContext::new(&SystemClock), &route).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Ok((parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap()))
        }
        Err(refusal) => Err(refusal.status().as_u16()),
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENTS: (&str, &str) = ("content-type", "text/event-stream");
const TEXT: (&str, &str) = ("content-type", "text/html");

#[tokio::test]
async fn statuses_keep_their_class_unless_a_client_would_log_in_or_go_elsewhere() {
    for status in [200, 202, 400, 404, 405, 409, 429, 500, 503] {
        assert_eq!(admitted(status, &[JSON], MESSAGE).await.unwrap().0, status);
    }
    for status in [401, 403, 407, 301, 302, 303, 307, 308] {
        let location = ("location", "https://evil.example");
        assert_eq!(admitted(status, &[JSON, location], MESSAGE).await.unwrap_err(), 502, "{status}");
    }
}

#[tokio::test]
async fn a_body_is_json_or_events_or_none_and_an_error_loses_its_text() {
    assert_eq!(admitted(200, &[EVENTS], ": hi\n\n").await.unwrap().2, ": hi\n\n");
    assert_eq!(
        admitted(200, &[("content-type", "Application/JSON; charset=utf-8")], MESSAGE).await.unwrap().2,
        MESSAGE
    );
    assert_eq!(admitted(200, &[TEXT], "<script>").await.unwrap_err(), 502);
    assert_eq!(admitted(200, &[], "x").await.unwrap_err(), 502);
    assert_eq!(admitted(202, &[TEXT], "").await.unwrap().2, "");
    let (status, _, body) = admitted(404, &[TEXT], "<script>").await.unwrap();
    assert_eq!((status, body.contains("<script>"), body.contains("40400")), (404, false, true), "{body}");
}

#[tokio::test]
async fn an_event_stream_that_cannot_be_read_is_refused_and_json_is_not() {
    let gzip = ("content-encoding", "gzip");
    assert_eq!(admitted(200, &[EVENTS, gzip], "x").await.unwrap_err(), 502);
    assert_eq!(admitted(200, &[("content-type", "text/event-stream; charset=utf-16")], "x").await.unwrap_err(), 502);
    assert_eq!(admitted(200, &[("content-type", "text/event-stream; charset=utf-8")], "").await.unwrap().0, 200);
    assert_eq!(admitted(200, &[JSON, gzip], "x").await.unwrap().1["content-encoding"], "gzip");
}

#[tokio::test]
async fn headers_pass_by_a_list_and_ours_are_ours() {
    let sent = [
        JSON,
        ("content-type", "text/html"),
        ("set-cookie", "a=b"),
        ("www-authenticate", "Bearer"),
        ("access-control-allow-origin", "*"),
        ("vary", "*"),
        ("content-security-policy", "default-src *"),
        ("mcp-session-id", "s"),
        ("retry-after", "3"),
        ("cache-control", "max-age=5"),
        ("x-listed", "kept"),
        ("x-other", "dropped"),
    ];
    let (_, headers, _) = admitted(200, &sent, MESSAGE).await.unwrap();
    let mut left: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    left.sort();
    assert_eq!(
        left,
        [
            "cache-control: private, max-age=5",
            "content-security-policy: default-src 'none'; sandbox",
            "content-type: application/json",
            "mcp-session-id: s",
            "retry-after: 3",
            "vary: Authorization",
            "x-content-type-options: nosniff",
            "x-listed: kept",
        ]
    );
    for (said, passed) in [
        (&[][..], "no-store"),
        (&["public, max-age=60"], "no-store"),
        (&["max-age=60", "S-MaxAge=60"], "no-store"),
        (&["max-age=60, must-revalidate"], "no-store"),
        (&["private, max-age=60"], "private, max-age=60"),
        (&["No-Store"], "no-store"),
        (&["no-cache", "max-age=60"], "private, no-cache, max-age=60"),
    ] {
        let headers: Vec<_> = [JSON].into_iter().chain(said.iter().map(|said| ("cache-control", *said))).collect();
        let (_, headers, _) = admitted(200, &headers, MESSAGE).await.unwrap();
        let cached: Vec<_> = headers.get_all("cache-control").iter().collect();
        assert_eq!(cached, [passed], "{said:?}");
    }
}

#[test]
fn only_redirects_of_the_same_origin_are_followed() {
    let from: http::Uri = "https://up.example/mcp?v=1".parse().unwrap();
    let leads = |status: u16, location: &str| {
        let response = Response::builder().status(status).header("location", location).body(()).unwrap();
        same_origin_redirect(&response, &from).map(|uri| uri.to_string())
    };
    assert_eq!(leads(307, "/other?w=2").as_deref(), Some("https://up.example/other?w=2"));
    assert_eq!(leads(308, "https://up.example/x").as_deref(), Some("https://up.example/x"));
    for (status, location) in [
        (302, "/other"),
        (307, "//evil.example/x"),
        (307, "https://evil.example/x"),
        (307, "http://up.example/x"),
        (307, "https://up.example:8443/x"),
        (307, "other"),
    ] {
        assert_eq!(leads(status, location), None, "{status} {location}");
    }
}

/// A stream that says something three times, each after so long, and the end.
fn pausing(pause: Duration, silence: Silence) -> UpstreamBody {
    let frames = futures_util::stream::unfold(0, move |at| async move {
        tokio::time::sleep(pause).await;
        (at < 3).then(|| (Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), at + 1))
    });
    UpstreamBody::new(Body::new(StreamBody::new(frames)), silence, McpContext::new(&SystemClock), None)
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_silent_for_so_long() {
    let (time, moment) = (Duration::from_secs(10), Duration::from_millis(1));
    for silence in [Silence::Ends(time), Silence::Fails(time)] {
        assert_eq!(pausing(time - moment, silence).collect().await.unwrap().to_bytes(), "xxx");
    }
    assert!(pausing(time + moment, Silence::Fails(time)).collect().await.is_err());
    let ended = pausing(time + moment, Silence::Ends(time)).collect().await;
    assert_eq!(ended.unwrap().to_bytes(), "", "a stream of events ends as if the server had ended it");
}

#[test]
fn only_streams_of_events_end_by_silence() {
    let options = ForwardOptions::default();
    let said = |method: Option<&str>, media: &'static str| {
        let cx = McpContext::new(&SystemClock);
        let none = MessageFacts::none();
        cx.set_message(match method {
            Some(method) => MessageFacts { kind: MessageKind::Request, method: Some(method.to_owned().into()), ..none },
            None => none,
        })
        .unwrap();
        Silence::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]), &cx, &options)
    };
    let events = "text/event-stream; charset=utf-8";
    assert_eq!(said(None, events), Silence::Ends(options.stream_idle));
    assert_eq!(said(Some("subscriptions/listen"), events), Silence::Ends(options.stream_idle));
    // A part of a message is none.
    assert_eq!(said(None, "application/json"), Silence::Fails(options.head_timeout));
    assert_eq!(said(Some("tools/call"), events), Silence::Fails(options.head_timeout));
}
