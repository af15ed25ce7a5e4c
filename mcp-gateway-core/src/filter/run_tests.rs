use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::context::{Inspected, MessageFacts};
use crate::contract::{Key, ResourceStore, StoreError, SystemClock, When, Write};
use crate::egress::{FetchError, Fetched};
use crate::filter::FilterSpec;
use crate::memory::MemoryStore;
use crate::record::{FieldSealer, Resources, Route, ServerRequests, TenantId};
use crate::snapshot::SnapshotOptions;
use crate::wire::version::Era;

/// Says of every secret where it belongs.
struct Marked;

impl FieldSealer for Marked {
    fn seal(&self, key: &Key, field: &str, plain: &str) -> Result<String, StoreError> {
        Ok(format!("{} {field} {plain}", key.id))
    }

    fn open(&self, key: &Key, field: &str, sealed: &str) -> Result<String, StoreError> {
        Ok(sealed.strip_prefix(&format!("{} {field} ", key.id)).expect("a field of this record").to_owned())
    }
}

/// Answers as it is told, one after the other: a status with a body, or nothing.
#[derive(Default)]
struct Service {
    answers: Mutex<VecDeque<Option<(u16, String)>>>,
    seen: Mutex<Vec<Request<Bytes>>>,
}

#[async_trait]
impl Fetch for Service {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        self.seen.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().pop_front().expect("an answer for every request");
        let Some((status, body)) = answer else { return std::future::pending().await };
        Ok(Fetched { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: body.into() })
    }
}

struct World {
    kept: Resources<FilterSpec>,
    service: Arc<Service>,
    filters: SnapshotFilters,
}

impl World {
    async fn new() -> Self {
        let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let mount = crate::record::Mount::new("https://gateway.example", "/mcp-connect").unwrap();
        let compile = Arc::new(move |entry: &_| crate::catalog::compile(entry, &mount));
        let options = SnapshotOptions::new(Arc::new(Marked), compile);
        let (snapshots, driver) = Snapshots::follow(Arc::clone(&store), options).await.unwrap();
        tokio::spawn(driver);
        let service = Arc::new(Service::default());
        let filters = SnapshotFilters::new(snapshots, service.clone(), Arc::new(SystemClock));
        Self { kept: Resources::new(store, Arc::new(Marked), TenantId::default()), service, filters }
    }

    async fn put(&self, id: &str, mut spec: Value) {
        spec["name"] = id.into();
        let spec: FilterSpec = serde_json::from_value(spec).unwrap();
        let revision = self.kept.save(id, &spec, When::Any).await.unwrap();
        self.filters.snapshots.wait_for(revision).await;
    }

    /// What comes of a tool call with this argument, and what each filter said.
    async fn judge(&self, argument: &str) -> (String, String) {
        let cx = context("tools/call", Some("t"));
        let said = match self.filters.request(&cx, &call(argument)).await {
            Verdict::Pass => "pass".to_owned(),
            Verdict::Replace(body) => {
                let body: Value = serde_json::from_slice(&body).unwrap();
                body["params"]["arguments"]["a"].as_str().unwrap().to_owned()
            }
            Verdict::Refuse { public } => format!("refused: {public}"),
            Verdict::Failed { cause } => format!("failed: {cause}"),
        };
        let facts: Vec<String> = cx
            .filters()
            .iter()
            .map(|fact| {
                format!(
                    "{} {}{}",
                    fact.filter,
                    fact.verdict.as_str(),
                    fact.found.iter().map(|name| format!(" {name}")).collect::<String>()
                )
            })
            .collect();
        (said, facts.join(", "))
    }

    fn answer(&self, answers: &[Option<(u16, &str)>]) {
        let answers = answers.iter().map(|answer| answer.map(|(status, body)| (status, body.to_owned())));
        self.service.answers.lock().unwrap().extend(answers);
    }
}

fn context(method: &'static str, target: Option<&str>) -> McpContext {
    let cx = McpContext::new(&SystemClock);
    cx.set_route(Arc::new(Route::remote("a"))).unwrap();
    let facts = MessageFacts {
        kind: MessageKind::Request,
        method: Some(method.into()),
        target: target.map(Into::into),
        ..MessageFacts::none()
    };
    cx.set_message(facts).unwrap();
    cx
}

/// A call of `t` with this argument.
fn call(argument: &str) -> View {
    let params = json!({ "name": "t", "arguments": { "a": argument } });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    View {
        direction: Direction::Request,
        method: Some("tools/call".into()),
        target: Some("t".into()),
        body: body.to_string().into(),
    }
}

fn regex(order: i32, action: &str, name: &str, pattern: &str) -> Value {
    json!({ "order": order, "check": { "kind": "regex", "action": action, "patterns": [{ "name": name, "pattern": pattern }] } })
}

fn webhook(order: i32, change: &Value) -> Value {
    let mut spec =
        json!({ "order": order, "check": { "kind": "webhook", "url": "https://a.example/x", "secret": "s" } });
    for (name, value) in change.as_object().unwrap() {
        match name.as_str() {
            "mutation" => spec["check"]["mutation"] = value.clone(),
            _ => spec[name] = value.clone(),
        }
    }
    spec
}

#[tokio::test]
async fn each_filter_judges_what_the_one_before_made_of_it() {
    let world = World::new().await;
    assert_eq!(world.judge("one two").await, ("pass".into(), String::new()));
    world.put("z-first", regex(1, "redact", "one", "one")).await;
    world.put("a-second", regex(2, "flag", "name", "redacted:one")).await;
    world.put("third", regex(3, "refuse", "two", "two")).await;
    let (said, facts) = world.judge("one").await;
    assert_eq!((&*said, &*facts), ("[redacted:one]", "z-first replaced one, a-second flagged name, third passed"));
    let (said, facts) = world.judge("two").await;
    assert_eq!(said, "refused: The filter \"third\" refuses this: it holds two.");
    assert_eq!(facts, "z-first passed, a-second passed, third refused two");
    let revision = world.kept.delete("third", When::Any).await.unwrap();
    world.filters.snapshots.wait_for(revision).await;
    assert_eq!(world.judge("two").await.0, "pass");
}

#[tokio::test]
async fn a_refusal_ends_it_or_is_only_remembered() {
    let world = World::new().await;
    world.put("later", regex(9, "redact", "x", "x")).await;
    for (short_circuit, facts) in [(true, "first refused x"), (false, "first refused x, later replaced x")] {
        let mut first = regex(1, "refuse", "x", "x");
        first["short_circuit"] = short_circuit.into();
        first["message"] = "Not here.".into();
        world.put("first", first).await;
        assert_eq!(world.judge("x").await, ("refused: Not here.".into(), facts.into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_is_asked_again_and_its_fail_mode_decides() {
    let world = World::new().await;
    let message = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{"a":"new"}}}"#;
    let other = message.replace("\"id\":1", "\"id\":2");
    let (ok, away, silent) = (Some((200, "")), Some((503, "")), None);
    for (change, answers, said, facts) in [
        (json!({}), vec![ok], "pass", "hook passed"),
        (json!({}), vec![Some((403, ""))], "refused: The filter \"hook\" refuses this.", "hook refused"),
        (json!({}), vec![Some((200, message))], "refused: The filter \"hook\" refuses this.", "hook refused"),
        (json!({ "mutation": true }), vec![Some((200, message))], "new", "hook replaced"),
        (
            json!({ "mutation": true }),
            vec![Some((200, "OK"))],
            "failed: hook: its answer cannot be read",
            "hook failed",
        ),
        (json!({ "mutation": true }), vec![Some((200, &*other))], "failed: hook: it replaced a message", "hook failed"),
        (json!({ "mutation": true, "fail_mode": "open" }), vec![Some((200, &*other))], "pass", "hook failed_open"),
        (json!({}), vec![away], "failed: hook: it answered 503", "hook failed"),
        (json!({}), vec![silent], "failed: hook: no answer in 5s", "hook failed"),
        (json!({ "timeout_ms": 7 }), vec![silent], "failed: hook: no answer in 7ms", "hook failed"),
        (json!({ "fail_mode": "open" }), vec![silent], "pass", "hook failed_open"),
        (json!({ "retries": 2 }), vec![away, silent, ok], "pass", "hook passed"),
        (json!({ "retries": 2 }), vec![away, away, away], "failed: hook: it answered 503", "hook failed"),
        (
            json!({ "retries": 2 }),
            vec![away, Some((403, ""))],
            "refused: The filter \"hook\" refuses this.",
            "hook refused",
        ),
    ] {
        world.put("hook", webhook(1, &change)).await;
        world.answer(&answers);
        let (got, noted) = world.judge("old").await;
        assert!(got.starts_with(said), "{change} {answers:?}: {got}");
        assert_eq!(noted, facts, "{change} {answers:?}");
        let mut seen = world.service.seen.lock().unwrap();
        assert_eq!(seen.len(), answers.len(), "{change}");
        let deliveries: Vec<_> = seen.drain(..).map(|request| request.headers()["webhook-id"].clone()).collect();
        assert!(deliveries.windows(2).all(|pair| pair[0] == pair[1]), "one message is one delivery");
    }
    // What two readers could understand differently is not sent, and goes no further in any fail mode.
    world.put("hook", webhook(1, &json!({ "fail_mode": "open" }))).await;
    let view = View {
        direction: Direction::Request,
        method: Some("tools/call".into()),
        target: None,
        body: Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"a":1,"a":2}}}"#,
        ),
    };
    let verdict = world.filters.request(&context("tools/call", None), &view).await;
    assert!(matches!(verdict, Verdict::Refuse { .. }), "{verdict:?}");
    assert!(world.service.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn secrets_are_sealed_where_they_are_kept() {
    let world = World::new().await;
    world.put("hook", webhook(1, &json!({}))).await;
    let record = world.kept.store().get(&[world.kept.key("hook")]).await.unwrap().pop().flatten().unwrap();
    let kept: Value = serde_json::from_slice(&record.value).unwrap();
    assert_eq!(kept["check"]["secret"], "hook /check/secret s");
    world.answer(&[Some((200, ""))]);
    assert_eq!(world.judge("x").await.0, "pass");
    assert!(world.service.seen.lock().unwrap()[0].headers().contains_key("x-obot-signature-256"));
}

#[tokio::test]
async fn a_filter_that_cannot_be_read_refuses_everything_until_it_is_gone() {
    let world = World::new().await;
    let value = Bytes::from_static(br#"{"name":"x","check":{"kind":"ofALaterVersion"}}"#);
    let write = Write::Put { key: world.kept.key("bad"), value, index: Vec::new(), ttl: None, when: When::Any };
    let revision = world.kept.store().commit(vec![write]).await.unwrap();
    world.filters.snapshots.wait_for(revision).await;
    assert_eq!(world.judge("x").await, ("refused: The filter \"bad\" refuses this.".into(), "bad refused".into()));
    let revision = world.kept.delete("bad", When::Any).await.unwrap();
    world.filters.snapshots.wait_for(revision).await;
    assert_eq!(world.judge("x").await.0, "pass");
}

#[tokio::test]
async fn streams_outlive_filters_that_look_no_further() {
    let world = World::new().await;
    let head = |method| Head {
        server: "a",
        method,
        target: None,
        era: Era::Legacy,
        server_requests: ServerRequests::default(),
    };
    assert_eq!(world.filters.needs(&head(Some("ping"))), Needs::NONE);
    assert!(!world.filters.resumed("a"));
    let opened = |needs| {
        let cx = context("subscriptions/listen", None);
        cx.set_inspected([(world.filters.name().into(), needs)].into_iter().collect()).unwrap();
        cx
    };
    let (before, after) = (opened(Needs::NONE), opened(Needs { request: true, response: true, events: true }));
    let get = McpContext::new(&SystemClock);
    get.set_route(Arc::new(Route::remote("a"))).unwrap();
    get.set_message(MessageFacts::none()).unwrap();
    get.set_inspected(Inspected::default()).unwrap();
    assert!(!world.filters.outgrow(&before) && !world.filters.outgrow(&get));
    let mut spec = regex(1, "flag", "x", "x");
    spec["selectors"] = json!([{ "directions": ["request"] }, { "servers": ["b"] }]);
    world.put("f", spec.clone()).await;
    assert!(!world.filters.outgrow(&before) && !world.filters.outgrow(&get), "it looks at no stream of this server");
    spec["selectors"] = json!([{ "servers": ["a"], "methods": ["prompts/get"], "directions": ["response"] }]);
    world.put("f", spec.clone()).await;
    assert!(!world.filters.outgrow(&before), "a listener brings no such response");
    assert!(world.filters.outgrow(&get), "a resumed stream may");
    spec["selectors"] = json!([{ "servers": ["a"], "directions": ["event"] }]);
    world.put("f", spec).await;
    assert!(world.filters.outgrow(&before) && world.filters.outgrow(&get) && !world.filters.outgrow(&after));
    assert!(!world.filters.outgrow(&context("ping", None)), "what has not come to the filters yet");
}

#[tokio::test]
async fn what_a_stream_is_told_from_is_what_these_filters_look_at_alone() {
    use tower::ServiceExt as _;

    use crate::Body;
    use crate::contract::{Ask, Decision};
    use crate::layer::filter::{FilterLayer, FilterOptions};

    let world = World::new().await;
    let open = async || {
        let others = |_: &McpContext, _: &View| Verdict::Pass;
        let filters: Vec<Arc<dyn Filter>> = vec![Arc::new(world.filters.clone()), Arc::new(others)];
        let authorizer = Arc::new(|_: &Ask<'_>| Decision::allow("yes"));
        let server = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(Bytes::new())))
        });
        let cx = McpContext::new(&SystemClock);
        cx.set_route(Arc::new(Route::remote("a"))).unwrap();
        cx.set_message(MessageFacts::none()).unwrap();
        let request = Request::get("/").extension(cx.clone()).body(Body::from(Bytes::new())).unwrap();
        let layer = FilterLayer::new(filters, authorizer, FilterOptions::default());
        tower_layer::Layer::layer(&layer, server).oneshot(request).await.unwrap();
        cx
    };
    let before = open().await;
    assert!(!world.filters.outgrow(&before));
    let mut spec = regex(1, "flag", "x", "x");
    spec["selectors"] = json!([{ "directions": ["event"] }]);
    world.put("f", spec).await;
    assert!(world.filters.outgrow(&before), "another filter saw its events, these did not");
    assert!(!world.filters.outgrow(&open().await));
}

#[tokio::test]
async fn who_is_asked_depends_on_what_is_called_now() {
    let world = World::new().await;
    let renamed =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_x","arguments":{"a":"x"}}}"#;
    world.put("rename", webhook(1, &json!({ "mutation": true, "selectors": [{ "targets": ["t"] }] }))).await;
    let mut guard = regex(2, "refuse", "x", "x");
    guard["selectors"] = json!([{ "targets": ["delete_*"] }]);
    world.put("guard", guard).await;
    let mut gone = regex(3, "refuse", "x", "x");
    gone["selectors"] = json!([{ "targets": ["t"], "directions": ["request"] }]);
    world.put("gone", gone).await;
    world.answer(&[Some((200, renamed))]);
    let (said, facts) = world.judge("x").await;
    assert_eq!(facts, "rename replaced, guard refused x");
    assert_eq!(said, "refused: The filter \"guard\" refuses this: it holds x.");
    let unreadable = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{}}}"#;
    world.answer(&[Some((200, unreadable))]);
    assert_eq!(world.judge("x").await.1, "rename failed", "a call of nothing");

    // The answer is one of both.
    let cx = context("tools/call", Some("u"));
    let view = View {
        direction: Direction::Response,
        method: Some("tools/call".into()),
        target: Some("u".into()),
        body: Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{"a":"x"}}"#),
    };
    let event = View {
        direction: Direction::Event,
        method: Some("notifications/message".into()),
        body: Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"a":"x"}}"#),
        ..view.clone()
    };
    assert_eq!(world.filters.response(&cx, &view).await, Verdict::Pass);
    assert_eq!(world.filters.event(&cx, &event).await, Verdict::Pass);
    let events = Needs { events: true, ..Needs::NONE };
    cx.set_inspected([(world.filters.name().into(), events)].into_iter().collect()).unwrap();
    assert!(!world.filters.outgrow(&cx));
    cx.set_forwarded_target("delete_x".into()).unwrap();
    assert!(matches!(world.filters.response(&cx, &view).await, Verdict::Refuse { .. }));
    assert!(matches!(world.filters.event(&cx, &event).await, Verdict::Refuse { .. }));
    assert!(world.filters.outgrow(&cx), "by what is called now");
}

#[tokio::test]
async fn what_is_refused_is_shown_to_no_service() {
    let world = World::new().await;
    let mut first = regex(1, "refuse", "x", "x");
    first["short_circuit"] = false.into();
    world.put("first", first).await;
    world.put("hook", webhook(2, &json!({}))).await;
    world.put("later", regex(3, "flag", "x", "x")).await;
    assert_eq!(world.judge("x").await.1, "first refused x, later flagged x");
    assert!(world.service.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_filters_together_have_so_much_time() {
    let world = World::new().await;
    let slow = || json!({ "timeout_ms": 60_000, "fail_mode": "open" });
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        world.put(name, webhook(i32::try_from(number).unwrap(), &slow())).await;
    }
    world.put("d", regex(9, "flag", "x", "x")).await;
    world.answer(&[None, None, None]);
    let begun = Instant::now();
    let (said, facts) = world.judge("x").await;
    assert_eq!((&*said, &*facts), ("pass", "a failed_open, b failed_open, c failed_open, d flagged x"));
    assert_eq!(begun.elapsed().as_millis(), u128::from(FilterLimits::MESSAGE_MS));
}

#[tokio::test(start_paused = true)]
async fn a_service_is_asked_so_often_at_once() {
    let world = World::new().await;
    world.put("hook", webhook(1, &json!({}))).await;
    world.answer(&vec![None; FilterLimits::CALLS + 1]);
    let asking: Vec<_> = (0..=FilterLimits::CALLS)
        .map(|_| {
            let filters = world.filters.clone();
            tokio::spawn(async move { filters.request(&context("tools/call", Some("t")), &call("x")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.service.seen.lock().unwrap().len(), FilterLimits::CALLS);
    // The first ones give up, and the last one's turn comes, too late.
    for asked in asking {
        assert!(matches!(asked.await.unwrap(), Verdict::Failed { .. }));
    }
}

#[tokio::test]
async fn a_large_message_keeps_nobody_waiting() {
    let world = World::new().await;
    world.put("f", regex(1, "redact", "x", "secret")).await;
    let empty = call("secret").body.len() - "secret".len();
    for (length, at_once) in [(FilterLimits::AT_ONCE, true), (FilterLimits::AT_ONCE + 1, false)] {
        let text = format!("{}secret", "-".repeat(length - empty - "secret".len()));
        let verdict = world.filters.request(&context("tools/call", Some("t")), &call(&text));
        assert_eq!(matches!(verdict, MaybeReady::Ready(_)), at_once, "{length}");
        let Verdict::Replace(body) = verdict.await else { panic!("{length}") };
        assert!(String::from_utf8_lossy(&body).contains("-[redacted:x]"));
    }
}

#[tokio::test]
async fn a_trial_asks_once() {
    let world = World::new().await;
    let spec = webhook(1, &json!({ "name": "f", "retries": 5 }));
    let filter = Compiled::new("f", &serde_json::from_value(spec).unwrap()).unwrap();
    world.answer(&[Some((503, ""))]);
    let body = call("x").body;
    let tried = Tried { direction: Direction::Request, server: "a", method: None, target: None, body: &body };
    let trial = world.filters.try_out(&filter, tried).await;
    assert_eq!((trial.verdict, world.service.seen.lock().unwrap().len()), (FilterVerdict::Failed, 1));
}
