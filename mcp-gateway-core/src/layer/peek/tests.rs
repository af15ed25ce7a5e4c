use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;

use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::context::MessageKind;
use crate::contract::SystemClock;

/// Chunks with pauses between them.
struct Slow(VecDeque<Bytes>, Duration, Option<Pin<Box<tokio::time::Sleep>>>);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let pause = self.1;
        let sleep = self.2.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        std::task::ready!(std::future::Future::poll(sleep.as_mut(), task));
        self.2 = None;
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}

async fn call<B>(options: PeekOptions, body: B, content_type: &str) -> (u16, Bytes, McpContext)
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let echo = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, Infallible>(Response::new(request.into_body().collect().await.unwrap().to_bytes()))
    });
    let cx = McpContext::new(&SystemClock);
    let request = Request::post("/").header(CONTENT_TYPE, content_type).extension(cx.clone()).body(body).unwrap();
    let response = PeekLayer::new(options).layer(echo).oneshot(request).await.unwrap();
    (response.status().as_u16(), response.into_body(), cx)
}

fn chunks(text: &str, size: usize) -> VecDeque<Bytes> {
    text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect()
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":1.0,"method":"tools\/call","params":{"name":"a","arguments":{"big":123456789012345678901234567890}},"x":null}"#;

#[tokio::test(start_paused = true)]
async fn the_bytes_pass_unchanged_whatever_the_chunks() {
    for size in [1, 7, 1_000] {
        let slow = Slow(chunks(CALL, size), Duration::from_millis(1), None);
        let (status, body, cx) = call(PeekOptions::default(), slow, "application/json; charset=UTF-8").await;
        assert_eq!((status, &body[..]), (200, CALL.as_bytes()));
        let message = cx.message().unwrap();
        assert_eq!((message.kind, message.method.as_deref()), (MessageKind::Request, Some("tools/call")));
        assert_eq!(message.arguments(), Some(&br#"{"big":123456789012345678901234567890}"#[..]));
    }
}

#[tokio::test(start_paused = true)]
async fn limits_at_their_edges() {
    let options =
        |max_bytes| PeekOptions { message: Limits { max_bytes, ..Limits::default() }, ..PeekOptions::default() };
    let body = || Slow(chunks(CALL, 50), Duration::ZERO, None);
    assert_eq!(call(options(CALL.len()), body(), "application/json").await.0, 200);
    assert_eq!(call(options(CALL.len() - 1), body(), "application/json").await.0, 413);

    let pause = |seconds: u64, chunk| Slow(chunks(CALL, chunk), Duration::from_millis(seconds * 1_000 - 10), None);
    assert_eq!(call(PeekOptions::default(), pause(10, 1_000), "application/json").await.0, 200);
    assert_eq!(call(PeekOptions::default(), pause(11, 1_000), "application/json").await.0, 408);
}

#[tokio::test(start_paused = true)]
async fn a_trickled_body_has_a_deadline_as_a_whole() {
    let options = |total| PeekOptions { total: Duration::from_secs(total), ..PeekOptions::default() };
    // A byte a second keeps every other time; the last second is the end of the body.
    let took = CALL.len() as u64 + 1;
    let trickle = || Slow(chunks(CALL, 1), Duration::from_secs(1), None);
    assert_eq!(call(options(took + 1), trickle(), "application/json").await.0, 200);
    let begun = tokio::time::Instant::now();
    let (status, body, _) = call(options(took - 1), trickle(), "application/json").await;
    assert_eq!((status, begun.elapsed().as_secs()), (408, took - 1));
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains(&format!("it may take {} seconds in all", took - 1)), "{body}");
}

#[tokio::test]
async fn other_types_and_charsets_are_refused() {
    for refused in ["text/plain", "application/json; charset=utf-16", "", "application/jsonx"] {
        assert_eq!(call(PeekOptions::default(), Body::from(Bytes::from(CALL)), refused).await.0, 415, "{refused}");
    }
}

#[tokio::test]
async fn a_refusal_carries_the_id_once_it_is_known() {
    let options = PeekOptions { unknown_methods: UnknownMethods::Deny, ..PeekOptions::default() };
    let message = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call "}"#;
    let (status, body, _) = call(options, Body::from(Bytes::from(message)), "application/json").await;
    assert_eq!(status, 200);
    assert_eq!(body, r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32601,"message":"Method not found"}}"#);
    let (status, body, _) = call(PeekOptions::default(), Body::from(Bytes::from("[]")), "application/json").await;
    assert_eq!(status, 400);
    assert!(body.starts_with(br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600"#), "{body:?}");
}

#[test]
fn what_is_unknown_is_a_matter_of_the_era() {
    let denied = |method: &str, version: Option<&'static str>| {
        let mut headers = http::HeaderMap::new();
        let mut meta = String::new();
        if let Some(version) = version {
            headers.insert("mcp-protocol-version", http::HeaderValue::from_static(version));
            headers.insert("mcp-method", method.parse().unwrap());
            meta = format!(r#","_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"}}"#);
        }
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"uri":"a:b"{meta}}}}}"#);
        let read = |unknown_methods| {
            let options = PeekOptions { unknown_methods, ..PeekOptions::default() };
            inspect(&headers, &body.clone().into(), &options)
                .err()
                .map(|(refusal, _)| (refusal.status().as_u16(), refusal.code()))
        };
        assert_eq!(read(UnknownMethods::Allow), None, "{method} {version:?}");
        read(UnknownMethods::Deny)
    };
    let modern = Some("2026-07-28");
    for (method, version, refusal) in [
        ("tools/list", None, None),
        ("tools/list", modern, None),
        ("server/discover", modern, None),
        ("server/discover", None, Some((200, -32601))),
        ("resources/unsubscribe", None, None),
        ("resources/unsubscribe", modern, Some((404, -32601))),
        ("x/invoke", None, Some((200, -32601))),
        ("x/invoke", modern, Some((404, -32601))),
    ] {
        assert_eq!(denied(method, version), refusal, "{method} {version:?}");
    }
}

#[test]
fn a_client_says_how_it_can_ask_its_user() {
    for (capabilities, form, url) in [
        ("{}", false, false),
        ("null", false, false),
        (r#"{"elicitation":null}"#, false, false),
        (r#"{"elicitation":true}"#, false, false),
        (r#"{"elicitation":{}}"#, true, false),
        (r#"{"sampling":{},"elicitation":{"form":{}}}"#, true, false),
        (r#"{"elicitation":{"url":{}}}"#, false, true),
        (r#"{"elicitation":{"form":{},"url":{}}}"#, true, true),
    ] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{capabilities}}}}}"#
        );
        let facts = inspect(&http::HeaderMap::new(), &body.into(), &PeekOptions::default()).unwrap();
        assert_eq!((facts.elicitation.form, facts.elicitation.url), (form, url), "{capabilities}");
    }
}
