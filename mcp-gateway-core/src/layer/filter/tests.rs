use bytes::Bytes;
use tower::ServiceExt;

use super::*;
use crate::contract::{Ask, Decision, SystemClock};
use crate::layer::audit::event_of;
use crate::layer::peek::PeekLayer;
use crate::record::{EventKind, Principal, Route};
use crate::{BoxError, MaybeReady};

/// Replaces one text by another wherever it stands, or refuses it.
struct Swap {
    from: &'static str,
    to: Option<&'static str>,
}

impl Swap {
    fn judge(&self, view: &View) -> MaybeReady<Verdict> {
        let text = String::from_utf8(view.body.to_vec()).unwrap();
        let verdict = match (text.contains(self.from), self.to) {
            (false, _) => Verdict::Pass,
            (true, None) => Verdict::refuse("not that word"),
            (true, Some(to)) => Verdict::Replace(text.replace(self.from, to).into()),
        };
        MaybeReady::wait(async move {
            tokio::task::yield_now().await;
            verdict
        })
    }
}

impl Filter for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn needs(&self, _: &Head<'_>) -> Needs {
        Needs { request: true, response: true, events: true }
    }

    fn request(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.judge(view)
    }

    fn response(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.judge(view)
    }

    fn event(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.judge(view)
    }
}

/// Answers with what it received, or with the given text.
async fn exchange<F: Filter>(filters: Vec<F>, tool: &str, answer: Option<(&'static str, Bytes)>) -> (u16, String) {
    let (status, text, _) = exchange_with(filters, tool, answer).await;
    (status, text)
}

/// The same, with the request's context.
async fn exchange_with<F: Filter>(
    filters: Vec<F>,
    tool: &str,
    answer: Option<(&'static str, Bytes)>,
) -> (u16, String, McpContext) {
    let server = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let name = request.headers().get("mcp-name").map(|name| name.to_str().unwrap().to_owned());
            let received = request.into_body().collect().await.unwrap().to_bytes();
            let (content_type, body) = answer.unwrap_or_else(|| {
                let (name, received) = (name.unwrap_or_default(), String::from_utf8_lossy(&received));
                let echo = format!(r#"{{"jsonrpc":"2.0","id":7,"result":["{name}",{received}]}}"#);
                ("application/json", Bytes::from(echo))
            });
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
            Ok::<_, Infallible>(response)
        }
    });
    let authorizer: Arc<dyn Authorizer> = Arc::new(|ask: &Ask<'_>| match ask.target.name {
        Some("forbidden") => Decision::deny("no"),
        _ => Decision::allow("yes"),
    });
    let filters = filters.into_iter().map(|filter| Arc::new(filter) as Arc<dyn Filter>).collect();
    let stack =
        PeekLayer::default().layer(FilterLayer::new(filters, authorizer, FilterOptions::default()).layer(server));
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
    cx.set_route(Arc::new(Route::remote("a"))).unwrap();
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
    );
    let request = Request::post("/")
        .header(CONTENT_TYPE, "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .extension(cx.clone())
        .body(Body::from(Bytes::from(body)))
        .unwrap();
    let response = stack.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (status, text, cx)
}

#[tokio::test]
async fn a_replaced_request_is_read_and_authorized_again() {
    let swap = |from, to| vec![Swap { from, to }];
    let (status, received) = exchange(swap("alpha", Some("beta")), "alpha", None).await;
    assert_eq!(status, 200);
    assert!(received.contains(r#"["beta",{"#) && received.contains(r#""name":"beta""#), "{received}");
    assert_eq!(exchange(swap("alpha", Some("forbidden")), "alpha", None).await.0, 502);
    assert_eq!(exchange(swap("tools/call", Some("tools/list")), "alpha", None).await.0, 502);
    assert_eq!(exchange(swap("\"id\":7", Some("\"id\":8")), "alpha", None).await.0, 502);
    assert_eq!(exchange(swap("jsonrpc", Some("")), "alpha", None).await.0, 502);
    let (status, refused) = exchange(swap("alpha", None), "alpha", None).await;
    assert_eq!(status, 200);
    assert!(refused.contains(r#""isError":true"#) && refused.contains("not that word"), "{refused}");
}

#[tokio::test]
async fn the_trail_tells_what_a_filter_changed() {
    let answer = |text: &str| format!(r#"{{"jsonrpc":"2.0","id":7,"result":"{text}"}}"#);
    let events = |text: &str| format!("data: {}\n\n", answer(text));
    for (tool, (content_type, answer), target, request, response) in [
        ("alpha", ("application/json", answer("ok")), Some("beta"), true, false),
        ("gamma", ("application/json", answer("ok")), None, false, false),
        ("gamma", ("application/json", answer("alpha")), None, false, true),
        ("gamma", ("text/event-stream", events("alpha")), None, false, true),
        ("gamma", ("text/event-stream", events("ok")), None, false, false),
    ] {
        let swap = vec![Swap { from: "alpha", to: Some("beta") }];
        let (_, _, cx) = exchange_with(swap, tool, Some((content_type, answer.clone().into()))).await;
        let row = event_of(&cx, EventKind::Exchange, &SystemClock);
        assert_eq!((row.target.as_deref(), row.forwarded_target.as_deref()), (Some(tool), target), "{answer}");
        assert_eq!((row.request_mutated, row.response_mutated), (request, response), "{tool} {answer}");
    }
}

#[tokio::test]
async fn answers_and_events_are_seen_and_untouched_plain_ones_keep_their_bytes() {
    let swap = |to| vec![Swap { from: "secret", to }];
    let answer = r#"{"jsonrpc":"2.0","id":7,"result":{"text":"secret"}}"#;
    let (_, seen) = exchange(swap(Some("[gone]")), "alpha", Some(("application/json", answer.into()))).await;
    assert_eq!(seen, answer.replace("secret", "[gone]"));

    let stream = concat!(
        ": note\r\n\r\n",
        "id: 1\rdata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/a\"}\r\r",
        "data:{\"jsonrpc\":\"2.0\",\"method\":\"notifications/b\"}\nother: x\nid:9\n\n",
        "event: message\nid: 2\n: why\nretry: 5\n",
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/c\",\"params\":\"secret\"}\n\n",
        "id: 3\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\ndata: \"result\":\"secret\"}\n\n",
        ": rest"
    );
    let (_, seen) = exchange(swap(Some("[gone]")), "alpha", Some(("text/event-stream", stream.into()))).await;
    let expected = stream
        .replace("event: message\nid: 2\n: why\nretry: 5\n", ": why\nid: 2\nretry: 5\nevent: message\n")
        .replace("\r\n", "\n")
        .replace('\r', "\n")
        .replace("secret", "[gone]");
    assert_eq!(seen, expected);

    let (_, seen) = exchange(swap(None), "alpha", Some(("text/event-stream", stream.into()))).await;
    assert!(seen.contains(": why\nid: 2\nretry: 5\n\n"), "{seen}");
    let (_, alone) = exchange(swap(None), "alpha", Some(("application/json", answer.into()))).await;
    assert!(alone.contains(r#""isError":true"#) && alone.contains(r#""resultType":"complete""#), "{alone}");
    assert!(seen.contains(&format!("id: 3\ndata: {alone}\n\n")), "the same in a stream: {seen}");
    assert!(!seen.contains("secret"), "{seen}");
}

#[tokio::test]
async fn a_response_is_known_by_what_its_id_means() {
    // Only a response that answers this request is told to be of its method.
    struct Methods(Needs);

    impl Filter for Methods {
        fn name(&self) -> &'static str {
            "methods"
        }

        fn needs(&self, _: &Head<'_>) -> Needs {
            self.0
        }

        fn response(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
            let body = std::str::from_utf8(&view.body).unwrap();
            Verdict::Replace(body.replace("{}", &format!("\"{:?}\"", view.method.as_ref().map(|_| ()))).into()).into()
        }
    }

    let own = "data: {\"jsonrpc\":\"2.0\",\"id\":7.0,\"result\":{}}\n\n";
    let foreign = "data: {\"jsonrpc\":\"2.0\",\"id\":8,\"result\":{}}\n\n";
    let responses = Needs { response: true, ..Needs::NONE };
    let events = Needs { events: true, ..Needs::NONE };
    for (needs, answer, known) in [
        (responses, own, "Some(())"),
        (responses, foreign, "None"),
        // Which filters would have asked for what a foreign one answers, nobody knows.
        (events, own, "{}"),
        (events, foreign, "None"),
    ] {
        let (_, seen) = exchange(vec![Methods(needs)], "alpha", Some(("text/event-stream", answer.into()))).await;
        assert!(seen.contains(known), "{seen}");
    }
    for (id, known) in [("7.0", "Some(())"), ("8", "None"), ("null", "Some(())")] {
        let answer = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}");
        let (_, seen) = exchange(vec![Methods(responses)], "alpha", Some(("application/json", answer.into()))).await;
        assert!(seen.contains(known), "{seen}");
    }
}

#[tokio::test]
async fn what_only_some_readers_would_see_does_not_pass() {
    let exchange = async |content_type, stream: &[u8]| {
        let answer = Some((content_type, Bytes::copy_from_slice(stream)));
        exchange(vec![Swap { from: "secret", to: None }], "alpha", answer).await
    };
    let secret = r#"data: {"jsonrpc":"2.0","id":7,"result":"secret"}"#;
    // A comment that some readers take for a comment and an event, and an event without its end.
    let (_, seen) = exchange("text/event-stream", format!(": a\u{2028}{secret}\n\n").as_bytes()).await;
    assert_eq!(seen, format!(": a?{secret}\n\n"));
    assert_eq!(exchange("text/event-stream", secret.as_bytes()).await.1, "");
    let bytes = b"data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"\xff\"}\n\n";
    let (_, seen) = exchange("text/event-stream", bytes).await;
    assert!(seen.contains("cannot be inspected"), "{seen}");
    assert_eq!(exchange("text/event-stream; charset=utf-16", b"data: {}\n\n").await.0, 502);
}

#[tokio::test]
async fn an_answer_that_is_not_one_message_is_no_way_around_a_filter() {
    let exchange = async |answer: &'static str| {
        let swap = vec![Swap { from: "secret", to: None }];
        exchange(swap, "alpha", Some(("application/json", answer.into()))).await
    };
    let message = r#"{"jsonrpc":"2.0","id":7,"result":"plain"}"#;
    assert_eq!(exchange(message).await, (200, message.to_owned()));
    for answer in [
        r#"[{"jsonrpc":"2.0","id":7,"result":"secret"}]"#,
        r#"[{"jsonrpc":"2.0","id":7,"result":"plain"}]"#,
        r#"{"jsonrpc":"2.0","id":7,"result":"plain","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"res"#,
        r#"{"detail":"plain"}"#,
    ] {
        let (status, text) = exchange(answer).await;
        assert_eq!((status, text.contains("not one message")), (502, true), "{answer} {text}");
    }
}

#[test]
fn an_error_that_is_no_message_keeps_its_status_and_headers_without_its_text() {
    let (parts, ()) = Response::builder().status(429).header("retry-after", "3").body(()).unwrap().into_parts();
    let response = no_message(parts, &McpContext::new(&SystemClock)).unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"3".parse().unwrap()));
    let body = response.into_body().bytes().unwrap();
    assert_eq!(body, r#"{"jsonrpc":"2.0","id":null,"error":{"code":42900,"message":"Too Many Requests"}}"#);
}

/// Says one thing of answers, at once or after a while.
struct Says {
    verdict: Verdict,
    after: Option<Duration>,
    open: bool,
}

impl Filter for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    fn needs(&self, _: &Head<'_>) -> Needs {
        Needs { response: true, ..Needs::NONE }
    }

    fn fail_open(&self) -> bool {
        self.open
    }

    fn response(&self, _: &McpContext, _: &View) -> MaybeReady<Verdict> {
        let verdict = self.verdict.clone();
        match self.after {
            None => verdict.into(),
            Some(after) => MaybeReady::wait(async move {
                tokio::time::sleep(after).await;
                verdict
            }),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_fails_refuses_unless_it_fails_open() {
    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":7,"result":"x"}"#;
    let limit = FilterOptions::default().filter_time;
    let replaced = |id| Verdict::Replace(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"y"}}"#).into());
    let cases = [
        (Verdict::failed("away"), None, false),
        (Verdict::Replace("{}".into()), None, false),
        (replaced("8"), None, false),
        (replaced("7.0"), None, true),
        (Verdict::Pass, Some(limit + Duration::from_millis(1)), false),
        (Verdict::Pass, Some(limit - Duration::from_millis(1)), true),
    ];
    for (verdict, after, good) in cases {
        for open in [false, true] {
            let says = || vec![Says { verdict: verdict.clone(), after, open }];
            let case = format!("{verdict:?} after {after:?}, open: {open}");
            let (status, text, cx) = exchange_with(says(), "alpha", Some(("application/json", ANSWER.into()))).await;
            assert_eq!(status, if good || open { 200 } else { 502 }, "{case} {text}");
            assert_eq!(
                text == ANSWER,
                !matches!(verdict, Verdict::Replace(_)) && good || open && !good,
                "{case} {text}"
            );
            assert_eq!(cx.refusal().map(|refusal| refusal.code), (!good && !open).then_some(40301), "{case}");
            let events = format!("data: {ANSWER}\n\n");
            let (_, text) = exchange(says(), "alpha", Some(("text/event-stream", events.into()))).await;
            assert_eq!(text.contains("A filter failed."), !good && !open, "{case} {text}");
        }
    }
}

#[tokio::test]
async fn an_event_that_reads_in_two_ways_is_withheld() {
    let stream = concat!(
        "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\",\"result\":\"one\"}\n\n",
        "id: 2\ndata: [{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"two\"}]\n\n",
        "id: 3\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"three\"}\n\n",
    );
    let filters = vec![Swap { from: "secret", to: None }];
    let (status, seen) = exchange(filters, "alpha", Some(("text/event-stream", stream.into()))).await;
    assert_eq!(status, 200);
    assert!(!seen.contains("one") && !seen.contains("two"), "{seen}");
    assert_eq!(seen.matches("cannot be inspected").count(), 2, "{seen}");
    assert!(seen.starts_with("id: 1\n") && seen.ends_with(&stream[stream.find("id: 3").unwrap()..]), "{seen}");
}

/// Refuses events that hold a word, and looks at nothing else.
struct Events;

impl Filter for Events {
    fn name(&self) -> &'static str {
        "events"
    }

    fn needs(&self, _: &Head<'_>) -> Needs {
        Needs { events: true, ..Needs::NONE }
    }

    fn event(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        assert_eq!(view.method.as_deref(), Some("notifications/x"));
        let secret = view.body.windows(6).any(|part| part == b"secret");
        if secret { Verdict::refuse("no such event") } else { Verdict::Pass }.into()
    }
}

#[tokio::test]
async fn an_event_is_one_also_where_a_response_belongs() {
    let ask =
        async |answer: &'static str| exchange(vec![Events], "alpha", Some(("application/json", answer.into()))).await;
    for (answer, status, told) in [
        (r#"{"jsonrpc":"2.0","method":"notifications/x","params":"secret"}"#, 200, "no such event"),
        (r#"{"jsonrpc":"2.0","method":"notifications/x","params":"plain"}"#, 200, "plain"),
        (r#"{"jsonrpc":"2.0","id":7,"result":"secret"}"#, 200, "secret"),
        (r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"secret"}}"#, 200, "secret"),
        (r#"[{"jsonrpc":"2.0","method":"notifications/x","params":"plain"}]"#, 502, "not one message"),
        (r#"{"method":"notifications/x","params":"plain","result":1}"#, 502, "not one message"),
    ] {
        let (got, text) = ask(answer).await;
        assert_eq!((got, text.contains(told)), (status, true), "{answer} {text}");
    }
}

#[tokio::test]
async fn a_response_is_not_held_back_for_filters_of_events_and_stays_one() {
    let frames = |parts: &[&'static str]| {
        let frames =
            parts.iter().map(|part| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(part.as_bytes()))));
        let frames = futures_util::stream::iter(frames.collect::<Vec<_>>());
        Body::new(http_body_util::StreamBody::new(frames))
    };
    let begin = async |parts: &[&'static str]| match json::begin(frames(parts), 64).await {
        Ok(json::Begun::Response(body)) => body,
        _ => panic!("no response"),
    };
    let mut whole = begin(&["{\"id\":7,", "\"result\":{", "\"a\":1", "}}"]).await;
    let first = whole.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "{\"id\":7,\"result\":{", "as much as tells");
    assert_eq!(whole.collect().await.unwrap().to_bytes(), "\"a\":1}}");
    let changed = begin(&["{\"id\":7,\"result\":{}", ",\"method\":\"notifications/x\"}"]).await;
    assert!(changed.collect().await.is_err());
    let sixty_four = "{\"id\":7,\"params\":\"012345678901234567890123456789012345678901234\"";
    assert_eq!(sixty_four.len(), 64);
    assert!(matches!(json::begin(frames(&[sixty_four]), 64).await, Ok(json::Begun::Whole(_))));
    assert!(json::begin(frames(&[sixty_four, "}"]), 64).await.is_err());
}

#[tokio::test]
async fn what_a_filter_puts_there_is_as_large_as_what_came_may_be() {
    let options = FilterOptions::default();
    for (events, most) in [(false, options.body_bytes), (true, options.event_bytes)] {
        for (length, good) in [(most, true), (most + 1, false)] {
            let start = r#"{"jsonrpc":"2.0","id":7,"result":""#;
            let body = format!(r#"{start}{}"}}"#, "y".repeat(length - start.len() - 2));
            let says = Says { verdict: Verdict::Replace(body.into()), after: None, open: false };
            let answer = r#"{"jsonrpc":"2.0","id":7,"result":"x"}"#;
            let answer = match events {
                true => ("text/event-stream", format!("data: {answer}\n\n").into()),
                false => ("application/json", answer.into()),
            };
            let (_, text) = exchange(vec![says], "alpha", Some(answer)).await;
            assert_eq!(text.contains("A filter failed."), !good, "{events} {length}");
        }
    }
}

#[tokio::test]
async fn a_filter_sees_the_answer_of_a_tool_that_another_one_put_there() {
    /// Looks at one tool alone.
    struct Beta(Swap);

    impl Filter for Beta {
        fn name(&self) -> &'static str {
            "beta"
        }

        fn needs(&self, head: &Head<'_>) -> Needs {
            if head.target == Some("beta") {
                Needs { request: true, response: true, events: false }
            } else {
                Needs::NONE
            }
        }

        fn request(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
            assert_eq!(view.target.as_deref(), Some("beta"));
            Verdict::Pass.into()
        }

        fn response(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
            self.0.judge(view)
        }
    }

    /// Calls another tool, and looks at requests alone.
    struct Rename(Swap);

    impl Filter for Rename {
        fn name(&self) -> &'static str {
            "rename"
        }

        fn needs(&self, _: &Head<'_>) -> Needs {
            Needs { request: true, ..Needs::NONE }
        }

        fn request(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
            self.0.judge(view)
        }
    }

    /// One of them, since all filters of an exchange here are of one type.
    enum Either {
        Beta(Beta),
        Rename(Rename),
    }

    impl Either {
        fn one(&self) -> &dyn Filter {
            match self {
                Self::Beta(one) => one,
                Self::Rename(one) => one,
            }
        }
    }

    impl Filter for Either {
        fn name(&self) -> &str {
            self.one().name()
        }

        fn needs(&self, head: &Head<'_>) -> Needs {
            self.one().needs(head)
        }

        fn request(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
            self.one().request(cx, view)
        }

        fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
            self.one().response(cx, view)
        }
    }

    for (tool, seen) in [("alpha", "[gone]"), ("gamma", "secret")] {
        let filters = vec![
            Either::Rename(Rename(Swap { from: "alpha", to: Some("beta") })),
            Either::Beta(Beta(Swap { from: "secret", to: Some("[gone]") })),
        ];
        let answer = r#"{"jsonrpc":"2.0","id":7,"result":"secret"}"#;
        let (_, text) = exchange(filters, tool, Some(("application/json", answer.into()))).await;
        assert!(text.contains(seen), "{tool} {text}");
    }
}
