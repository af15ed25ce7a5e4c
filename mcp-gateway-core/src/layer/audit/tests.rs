use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use http_body_util::BodyExt;
use proptest::prelude::*;
use tower::ServiceExt;

use super::*;
use crate::contract::{Action, Ask, AuditFull, Decision, Seq};
use crate::layer::peek::PeekLayer;
use crate::record::{AuditEvent, EventKind, Outcome, Principal, Route};
use crate::{BoxError, MaybeReady};

/// Records into a vector, after a pause, or not at all.
#[derive(Default)]
struct Sink {
    events: Arc<Mutex<Vec<AuditEvent>>>,
    pause: Option<Duration>,
    full: bool,
}

#[async_trait]
impl AuditSink for Sink {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        if self.full {
            return Err(AuditFull::Space).into();
        }
        let events = Arc::clone(&self.events);
        let push = move || {
            let mut events = events.lock().unwrap();
            events.push(event);
            Ok(Seq(events.len() as u64))
        };
        match self.pause {
            None => push().into(),
            Some(pause) => MaybeReady::wait(async move {
                tokio::time::sleep(pause).await;
                push()
            }),
        }
    }

    async fn flush(&self) {}
}

/// Frames with pauses between them; without a length, as a chunked answer has none.
struct Frames(VecDeque<Result<Bytes, BoxError>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(|frame| frame.map(Frame::data)))
    }
}

struct Exchange {
    sink: Arc<Sink>,
    on_full: OnFull,
    authorizer: Arc<dyn Authorizer>,
}

impl Exchange {
    fn new(sink: Sink) -> Self {
        let authorizer = Arc::new(|_: &Ask<'_>| Decision::allow("everything"));
        Self { sink: Arc::new(sink), on_full: OnFull::Refuse, authorizer }
    }

    fn events(&self) -> Vec<AuditEvent> {
        self.sink.events.lock().unwrap().clone()
    }

    async fn answer(
        &self,
        method: &str,
        message: &str,
        content_type: &'static str,
        frames: Vec<&str>,
    ) -> Response<Body> {
        let frames: VecDeque<_> =
            frames.into_iter().map(|frame| Ok(Bytes::copy_from_slice(frame.as_bytes()))).collect();
        self.answer_with(method, message, content_type, Body::new(Frames(frames))).await
    }

    async fn answer_with(&self, method: &str, message: &str, content_type: &'static str, body: Body) -> Response<Body> {
        let body = Arc::new(Mutex::new(Some(body)));
        let server = tower::service_fn(move |request: Request<Body>| {
            McpContext::of(request.extensions()).unwrap().forward();
            let mut response = Response::new(body.lock().unwrap().take().unwrap());
            if !content_type.is_empty() {
                response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
            }
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let audit = AuditLayer::with_authorizer(
            Arc::clone(&self.sink) as Arc<dyn AuditSink>,
            Arc::clone(&self.authorizer),
            AuditOptions { on_full: self.on_full, ..AuditOptions::default() },
        );
        let stack = audit.layer(PeekLayer::default().layer(audit.intent().layer(server)));
        let request = Request::builder()
            .method(method)
            .header(CONTENT_TYPE, "application/json")
            .header("mcp-protocol-version", if message.contains("2026-07-28") { "2026-07-28" } else { "2025-11-25" })
            .header("mcp-method", "ping")
            .extension(context())
            .body(Body::from(Bytes::copy_from_slice(message.as_bytes())))
            .unwrap();
        stack.oneshot(request).await.unwrap()
    }
}

fn context() -> McpContext {
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
    cx.set_route(Arc::new(Route::remote("a"))).unwrap();
    cx
}

async fn text(response: Response<Body>) -> Result<String, BoxError> {
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec()).unwrap())
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo"}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;

#[tokio::test(start_paused = true)]
async fn a_call_has_an_intent_and_an_end_with_its_outcome() {
    for (answer, outcome, code) in [
        (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, Outcome::Ok, None),
        (r#"{"jsonrpc":"2.0","id":7,"result":{"isError":true}}"#, Outcome::ToolError, None),
        (r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"no"}}"#, Outcome::RpcError, Some(-32602)),
        ("not json", Outcome::Opaque, None),
    ] {
        let exchange = Exchange::new(Sink { pause: Some(Duration::from_secs(1)), ..Sink::default() });
        let response = exchange.answer("POST", CALL, "application/json", vec![&answer[..3], &answer[3..]]).await;
        assert_eq!(text(response).await.unwrap(), answer);
        let events = exchange.events();
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Intent, EventKind::Exchange]);
        assert_eq!((events[1].outcome, events[1].rpc_code), (outcome, code));
        assert_eq!((events[1].target.as_deref(), events[1].rpc_id.as_deref()), (Some("echo"), Some("7")));
        assert_eq!(events[0].request_id, events[1].request_id);
        assert_eq!(events[1].bytes_out, answer.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_frame_waits_for_its_record_and_the_others_do_not() {
    let exchange = Exchange::new(Sink { pause: Some(Duration::from_secs(5)), ..Sink::default() });
    let start = tokio::time::Instant::now();
    let frames = vec![r#"{"jsonrpc":"2.0","#, r#""id":7,"#, r#""result":{}}"#];
    let mut body = exchange.answer("POST", PING, "application/json", frames).await.into_body();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
    assert!(exchange.events().is_empty());
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), r#""result":{}}"#);
    assert_eq!((start.elapsed(), exchange.events().len()), (Duration::from_secs(5), 1));
}

#[tokio::test(start_paused = true)]
async fn only_the_event_that_carries_the_response_waits() {
    let exchange = Exchange::new(Sink { pause: Some(Duration::from_secs(5)), ..Sink::default() });
    let start = tokio::time::Instant::now();
    let stream = concat!(
        ": hello\n\n",
        "id: 1\ndata:\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n",
        ": bye\n\n: torn"
    );
    let mut body = exchange.answer("POST", PING, "text/event-stream; charset=utf-8", vec![stream]).await.into_body();
    let mut seen = Vec::new();
    let mut waited = Vec::new();
    while let Some(frame) = body.frame().await {
        seen.extend_from_slice(&frame.unwrap().into_data().unwrap());
        waited.push(start.elapsed().as_secs());
    }
    assert_eq!(String::from_utf8(seen).unwrap(), stream);
    assert_eq!(waited, [0, 0, 0, 5, 5, 5]);
    let events = exchange.events();
    assert_eq!((events.len(), events[0].outcome, events[0].messages), (1, Outcome::Ok, 1));
}

#[tokio::test(start_paused = true)]
async fn streams_have_an_opening_and_an_end_and_server_requests_are_rows() {
    let exchange = Exchange::new(Sink::default());
    let stream = concat!(
        "data: {\"jsonrpc\":\"2.0\",\"id\":\"s1\",\"method\":\"sampling/createMessage\"}\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"isError\":true}}\n\n",
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n",
    );
    let response = exchange.answer("GET", "", "text/event-stream", vec![stream]).await;
    assert_eq!(exchange.events().len(), 1);
    assert_eq!(text(response).await.unwrap(), stream);
    let rows: Vec<_> = exchange.events().into_iter().map(|event| (event.kind, event.outcome)).collect();
    assert_eq!(
        rows,
        [
            (EventKind::Opened, Outcome::Ok),
            (EventKind::ServerRequest, Outcome::Ok),
            (EventKind::Resumed, Outcome::ToolError),
            (EventKind::Closed, Outcome::Ok),
        ]
    );
    assert_eq!(exchange.events()[1].method.as_deref(), Some("sampling/createMessage"));
}

/// An event with a request of the server.
fn asks(method: &str) -> String {
    format!("id: {method}\ndata: {{\"jsonrpc\":\"2.0\",\"id\":\"s\",\"method\":\"{method}\"}}\n\n")
}

const ANSWER: &str = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n";

#[tokio::test(start_paused = true)]
async fn requests_of_the_server_leave_only_if_they_may() {
    let stream = asks("sampling/createMessage") + &asks("roots/list") + ANSWER + asks("ping").trim_end();
    let decide = |ask: &Ask<'_>| match ask.action {
        Action::ServerRequest("sampling/createMessage") => Decision::deny("no-sampling"),
        action => Decision::allow(if matches!(action, Action::ServerRequest(_)) { "default" } else { "other" }),
    };
    /// Decides after a while.
    struct Slow<A>(A);
    impl<A: Authorizer> Authorizer for Slow<A> {
        fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
            let decision = self.0.decide(ask);
            MaybeReady::wait(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                decision.await
            })
        }
    }
    for authorizer in [Arc::new(decide) as Arc<dyn Authorizer>, Arc::new(Slow(decide))] {
        let exchange = Exchange { authorizer, ..Exchange::new(Sink::default()) };
        let response = exchange.answer("POST", PING, "text/event-stream", vec![&stream]).await;
        assert_eq!(text(response).await.unwrap(), asks("roots/list") + ANSWER, "nor one without its end");
        let rows: Vec<_> = exchange.events();
        let rows: Vec<_> =
            rows.iter().map(|row| (row.kind, row.method.as_deref(), row.outcome, row.rule.as_deref())).collect();
        assert_eq!(
            rows,
            [
                (EventKind::ServerRequest, Some("sampling/createMessage"), Outcome::Denied, Some("no-sampling")),
                (EventKind::ServerRequest, Some("roots/list"), Outcome::Ok, Some("default")),
                (EventKind::Exchange, Some("ping"), Outcome::Ok, None),
            ]
        );
    }
}

#[tokio::test]
async fn a_server_of_the_era_without_server_requests_sends_none() {
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let note = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n";
    let batch = "data: [{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"roots/list\"}]\n\n";
    let both = "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"roots/list\",\"result\":{}}\n\n";
    let stream = asks("elicitation/create") + note + batch + both + ANSWER;
    let exchange = Exchange::new(Sink::default());
    let response = exchange.answer("POST", call, "text/event-stream", vec![&stream]).await;
    assert_eq!(text(response).await.unwrap(), format!("{note}{ANSWER}"));
    let rows: Vec<_> = exchange.events().into_iter().map(|row| (row.kind, row.outcome, row.bytes_out)).collect();
    let withheld = (EventKind::ServerRequest, Outcome::Denied, 0);
    assert_eq!(rows[..3], [withheld; 3]);
    assert_eq!((rows.len(), rows[3].0, rows[3].1), (4, EventKind::Exchange, Outcome::Ok));
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_no_way_for_a_request() {
    let modern = r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let asks = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#;
    let batch = format!("[{asks}]");
    for (call, answer) in [(CALL, asks), (modern, asks), (modern, batch.as_str())] {
        let exchange = Exchange::new(Sink::default());
        let response = exchange.answer("POST", call, "application/json", vec![answer]).await;
        assert!(text(response).await.is_err(), "{answer}");
        let end = exchange.events().pop().map(|row| (row.kind, row.outcome));
        assert_eq!(end, Some((EventKind::Exchange, Outcome::UpstreamFailed)), "{answer}");
    }
    // A stream's end without the blank line that would make it an event.
    let exchange = Exchange::new(Sink::default());
    let tail = format!("data: {batch}");
    let response = exchange.answer("POST", modern, "text/event-stream", vec![ANSWER, &tail]).await;
    assert_eq!(text(response).await.unwrap(), ANSWER);
}

#[tokio::test]
async fn a_caller_that_hangs_up_is_recorded() {
    let exchange = Exchange::new(Sink::default());
    let mut body = exchange
        .answer(
            "POST",
            CALL,
            "text/event-stream",
            vec![": ping\n\n", "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n"],
        )
        .await
        .into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let events = exchange.events();
    assert_eq!((events.len(), events[1].outcome), (2, Outcome::Disconnected));
}

#[tokio::test]
async fn a_server_that_breaks_off_is_recorded() {
    let exchange = Exchange::new(Sink::default());
    let frames = VecDeque::from([Ok(Bytes::from_static(b"{\"jsonrpc\"")), Err("reset".into())]);
    let response = exchange.answer_with("POST", CALL, "application/json", Body::new(Frames(frames))).await;
    assert!(text(response).await.is_err());
    assert_eq!(exchange.events()[1].outcome, Outcome::UpstreamFailed);
}

#[tokio::test]
async fn an_empty_answer_is_recorded_at_its_head() {
    let exchange = Exchange::new(Sink::default());
    let message = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let response = exchange.answer_with("POST", message, "", Body::empty()).await;
    assert!(http_body::Body::is_end_stream(response.body()));
    assert_eq!(exchange.events()[0].kind, EventKind::Notification);
}

#[tokio::test]
async fn when_the_sink_is_full_the_operator_has_chosen() {
    let answer = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
    let mut exchange = Exchange::new(Sink { full: true, ..Sink::default() });
    // Refused before anything is called.
    let refused = exchange.answer("POST", CALL, "application/json", vec![answer]).await;
    assert_eq!(refused.status().as_u16(), 503);
    // Without an intent, the answer is what cannot leave.
    assert!(text(exchange.answer("POST", PING, "application/json", vec![answer]).await).await.is_err());
    exchange.on_full = OnFull::Count;
    assert_eq!(text(exchange.answer("POST", CALL, "application/json", vec![answer]).await).await.unwrap(), answer);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_pass_unchanged_whatever_they_are(
        body in prop::collection::vec(prop_oneof![
            Just(b"data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"big\":123456789012345678901}}\n\n".to_vec()),
            Just(b"id: 1\r\nretry: 3\r\ndata\r\n\r\n".to_vec()),
            Just(b": c\r\r".to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ], 0..12),
        size in 1_usize..50,
        events: bool,
    ) {
        let whole: Vec<u8> = body.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let out = runtime.block_on(async {
            let exchange = Exchange::new(Sink::default());
            let frames: VecDeque<_> = whole.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let content_type = if events { "text/event-stream" } else { "application/json" };
            let response = exchange.answer_with("POST", PING, content_type, Body::new(Frames(frames))).await;
            let out = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(exchange.events().len() - exchange.events().iter().filter(|event| event.kind == EventKind::Resumed).count(), 1);
            out
        });
        prop_assert_eq!(out, whole);
    }
}

#[tokio::test]
async fn an_answer_whose_id_is_written_in_another_way_ends_its_exchange() {
    let long = "x".repeat(1_000);
    for (asked, answered) in [
        (r#""\u0061""#.to_owned(), r#""a""#.to_owned()),
        ("1.0".to_owned(), "1".to_owned()),
        (format!("\"{long}\""), format!("\"{long}\"")),
    ] {
        let exchange = Exchange::new(Sink::default());
        let call = CALL.replace("\"id\":7", &format!("\"id\":{asked}"));
        let answer = format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{answered},\"result\":{{}}}}\n\n");
        let response = exchange.answer("POST", &call, "text/event-stream", vec![&answer]).await;
        assert_eq!(text(response).await.unwrap(), answer);
        let events = exchange.events();
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::Intent, EventKind::Exchange]);
        assert_eq!(events[1].outcome, Outcome::Ok, "{asked}");
    }
}
