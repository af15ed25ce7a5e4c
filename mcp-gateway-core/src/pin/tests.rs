use proptest::prelude::*;
use serde_json::{Value, json};

use super::observe::{Extent, What};
use super::read::{Observed, Unpinned};
use super::*;
use crate::conformance::FlakyStore;
use crate::context::{McpContext, MessageFacts, MessageKind};
use crate::contract::{
    Action, Ask, Authorizer, Decision, Direction, Filter, Head, Key, ResourceStore, StoreError, SystemClock, Target,
    Verdict, View,
};
use crate::memory::{MemoryAuditSink, MemoryStore};
use crate::record::{Entry, FieldSealer, Principal, Route, TenantId};
use crate::snapshot::SnapshotOptions;
use crate::wire::list::Lists;
use crate::wire::version::Era;

const T: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn tool(name: &str, description: &str) -> Value {
    json!({ "name": name, "description": description, "inputSchema": { "type": "object" } })
}

fn page(tools: &[Value], next: Option<&str>) -> String {
    let mut result = json!({ "tools": tools });
    if let Some(next) = next {
        result["nextCursor"] = next.into();
    }
    json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string()
}

fn observed(body: &str) -> Observed {
    Observed::read(body.as_bytes(), &Lists::of_response(body.as_bytes()).unwrap(), 500).unwrap()
}

/// Takes a whole list in, and says what was found.
fn see(inventory: &mut ToolInventory, tools: &[Value], first: FirstUse) -> Vec<(What, String)> {
    let seen = observed(&page(tools, None));
    let extent = Extent { last: true, whole: Some(seen.tools.keys().cloned().collect()) };
    let news = inventory.is_news(&seen, &extent);
    let before = inventory.clone();
    let findings = inventory.observe(&seen, &extent, first, 500, T).unwrap();
    assert_eq!(news, *inventory != before, "news are what changes the inventory");
    assert!(!inventory.is_news(&seen, &extent), "once is enough");
    findings.into_iter().map(|finding| (finding.what, finding.tool.into())).collect()
}

fn hidden(inventory: &ToolInventory, name: &str) -> [bool; 4] {
    let policy = |on_change, first_use| PinPolicy { on_change, first_use };
    [
        policy(OnToolChange::Flag, FirstUse::Trust),
        policy(OnToolChange::Block, FirstUse::Trust),
        policy(OnToolChange::Flag, FirstUse::Approve),
        policy(OnToolChange::Off, FirstUse::Approve),
    ]
    .map(|policy| inventory.hides(name, policy, T))
}

#[test]
fn what_changes_waits_until_it_is_approved() {
    let mut all = ToolInventory::new(T);
    assert_eq!(see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust).len(), 2);
    assert_eq!(hidden(&all, "a"), [false; 4]);
    assert_eq!(
        see(&mut all, &[tool("a", "2"), tool("b", "1"), tool("c", "1")], FirstUse::Trust),
        [(What::Changed, "a".into()), (What::New, "c".into())]
    );
    assert_eq!(hidden(&all, "a"), [false, true, false, false]);
    assert_eq!(hidden(&all, "b"), [false; 4]);
    assert_eq!(hidden(&all, "c"), [false, true, true, false]);
    assert_eq!(hidden(&all, "unheard-of"), [false, true, true, false]);
    // Whoever shows the old text again has changed it before.
    assert_eq!(see(&mut all, &[tool("a", "1"), tool("b", "1"), tool("c", "1")], FirstUse::Trust), []);
    assert!(hidden(&all, "a")[1]);
    all.approve("a", None).unwrap();
    all.approve("c", None).unwrap();
    assert_eq!((hidden(&all, "a"), hidden(&all, "c")), ([false; 4], [false; 4]));
    assert_eq!(
        see(&mut all, &[tool("a", "1"), tool("b", "1"), tool("c", "1")], FirstUse::Trust),
        [(What::Changed, "a".into())]
    );
    let digests: Vec<String> = all.tools["a"].versions().map(|version| version.digest.to_string()).collect();
    all.approve("a", Some(&digests)).unwrap();
    assert_eq!(all.tools["a"].pinned.len(), 2, "both texts are good");
    assert!(matches!(all.approve("a", Some(&["other".to_owned()])), Err(ApproveError::Digest)));
    assert!(matches!(all.approve("x", None), Err(ApproveError::Tool)));
}

#[test]
fn a_server_that_changes_for_ever_is_recorded_so_often_and_no_more() {
    let mut all = ToolInventory::new(T);
    see(&mut all, &[tool("a", "0")], FirstUse::Trust);
    for n in 1..=PinLimits::CHANGES {
        assert_eq!(see(&mut all, &[tool("a", &n.to_string())], FirstUse::Trust), [(What::Changed, "a".into())]);
    }
    assert_eq!(see(&mut all, &[tool("a", "x")], FirstUse::Trust), [(What::Unstable, "a".into())]);
    assert_eq!(see(&mut all, &[tool("a", "y")], FirstUse::Trust), []);
    assert_eq!(hidden(&all, "a"), [false, true, false, false]);
}

#[test]
fn what_is_gone_is_missed_once() {
    let mut all = ToolInventory::new(T);
    see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust);
    assert_eq!(see(&mut all, &[tool("a", "1")], FirstUse::Trust), [(What::Removed, "b".into())]);
    assert_eq!(see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust), [(What::Returned, "b".into())]);
    assert_eq!(see(&mut all, &[tool("a", "1")], FirstUse::Trust), [], "some callers see it and some do not");
    let mut all = ToolInventory::new(T);
    see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust);
    see(&mut all, &[tool("a", "1")], FirstUse::Trust);
    all.approve("b", None).unwrap();
    assert!(!all.tools.contains_key("b"), "it is forgotten");
    assert_eq!(see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust), [(What::New, "b".into())]);
}

#[test]
fn further_pages_are_part_of_the_first_sight_for_a_while() {
    let first = observed(&page(&[tool("a", "1")], Some("2")));
    let mut all = ToolInventory::new(T);
    all.observe(&first, &Extent::default(), FirstUse::Trust, 500, T).unwrap();
    let later = T + jiff::SignedDuration::from_secs(PinLimits::FIRST_SIGHT_SECONDS);
    let (mut soon, mut late) = (all.clone(), all);
    let second = observed(&page(&[tool("b", "1")], None));
    let found = |all: &mut ToolInventory, now| {
        all.observe(&second, &Extent::default(), FirstUse::Trust, 500, now).unwrap()[0].what
    };
    assert_eq!(found(&mut soon, later), What::First);
    assert_eq!(found(&mut late, later + jiff::SignedDuration::from_nanos(1)), What::New);
}

#[test]
fn lists_have_limits() {
    let tools: Vec<Value> = (0..4).map(|n| tool(&n.to_string(), "")).collect();
    let body = page(&tools, None);
    let lists = Lists::of_response(body.as_bytes()).unwrap();
    assert!(Observed::read(body.as_bytes(), &lists, 4).is_ok());
    assert!(matches!(Observed::read(body.as_bytes(), &lists, 3), Err(Unpinned::TooMany(3))));
    let mut all = ToolInventory::new(T);
    let (seen, more) = (observed(&body), observed(&page(&[tool("x", "")], None)));
    all.observe(&seen, &Extent::default(), FirstUse::Trust, 4, T).unwrap();
    let before = all.clone();
    assert!(all.observe(&more, &Extent::default(), FirstUse::Trust, 4, T).is_err());
    assert_eq!(all, before, "nothing of it is taken in");
    for (length, good) in [(PinLimits::NAME, true), (PinLimits::NAME + 1, false)] {
        let body = page(&[tool(&"n".repeat(length), "")], None);
        let lists = Lists::of_response(body.as_bytes()).unwrap();
        assert_eq!(Observed::read(body.as_bytes(), &lists, 4).is_ok(), good);
    }
    let text = keep::shown(&["é".repeat(50).into_bytes()], 99);
    assert_eq!((text.text.len(), text.whole), (98, false));
    assert!(keep::shown(&["é".repeat(50).into_bytes()], 100).whole);
    assert_eq!(keep::shown(&["\"a\u{202e}\u{e0041}\"".into()], 100).text, r#""a\u202e\udb40\udc41""#);
}

#[test]
fn names_that_deceive_are_flagged() {
    let mut all = ToolInventory::new(T);
    let names = ["send", "Send", "s\u{435}nd", "list_1", "list_l", "other", "twice", "twice"];
    let tools: Vec<Value> = names.iter().map(|name| tool(name, "")).collect();
    see(&mut all, &tools, FirstUse::Trust);
    let flags = |name: &str| all.tools[name].pinned[0].flags.clone();
    for name in ["send", "Send", "s\u{435}nd", "list_1", "list_l"] {
        assert_eq!(flags(name), [Flag::ConfusableName], "{name}");
    }
    assert_eq!((flags("other"), flags("twice")), (vec![], vec![Flag::RepeatedName]));
}

proptest! {
    #[test]
    fn a_digest_does_not_depend_on_order_or_space_but_on_every_text(
        name in "[a-z]{1,4}", one in ".{0,12}", other in ".{0,12}", most in any::<i64>()
    ) {
        let digest = |text: String| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{text}]}}}}"#);
            observed(&body).tools.into_iter().next().unwrap().1.digest
        };
        let text = |description: &str, most: i64| {
            let description = Value::from(description);
            [
                format!(r#"{{"name":"{name}","description":{description},"inputSchema":{{"a":{most},"b":[1]}}}}"#),
                format!("{{ \"inputSchema\" : {{\"b\":[ 1 ],\n\"\\u0061\":{most}}},\"description\":{description}, \"name\":\"{name}\"}}"),
            ]
        };
        let [a, b] = text(&one, most).map(digest);
        prop_assert_eq!(&a, &b);
        prop_assert_eq!(digest(text(&other, most)[0].clone()) == a, one == other);
        prop_assert_ne!(digest(text(&one, most.wrapping_add(1))[0].clone()), a);
    }
}

struct Plain;

impl FieldSealer for Plain {
    fn seal(&self, _: &Key, _: &str, plain: &str) -> Result<String, StoreError> {
        Ok(plain.to_owned())
    }

    fn open(&self, _: &Key, _: &str, sealed: &str) -> Result<String, StoreError> {
        Ok(sealed.to_owned())
    }
}

fn flagging() -> PinOptions {
    PinOptions { on_change: OnToolChange::Flag, ..PinOptions::default() }
}

/// Two replicas over one store.
struct World {
    store: Arc<FlakyStore>,
    sink: Arc<MemoryAuditSink>,
    replicas: [ToolPinning; 2],
}

impl World {
    async fn new(options: PinOptions) -> Self {
        let store = FlakyStore::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let resources: Arc<dyn ResourceStore> = store.clone();
        let sink = Arc::new(MemoryAuditSink::new(1_000));
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let mount = crate::record::Mount::new("https://gateway.example", "/mcp-connect").unwrap();
            let compile = Arc::new(move |entry: &Entry| crate::catalog::compile(entry, &mount));
            let options_of = SnapshotOptions::new(Arc::new(Plain), compile);
            let (snapshots, driver) = Snapshots::follow(Arc::clone(&resources), options_of).await.unwrap();
            tokio::spawn(driver);
            let kept = Resources::new(Arc::clone(&resources), Arc::new(Plain), TenantId::default());
            replicas.push(ToolPinning::new(snapshots, kept, sink.clone(), Arc::new(SystemClock), options));
        }
        Self { store, sink, replicas: replicas.try_into().unwrap_or_else(|_| unreachable!()) }
    }

    /// The names that are left of a list, or why there are none.
    async fn list(&self, replica: usize, cursor: Option<&str>, body: &str) -> Result<Vec<String>, String> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": cursor } });
        let cx = context("tools/list", None, &request.to_string());
        let view = View {
            direction: Direction::Response,
            method: Some("tools/list".into()),
            target: None,
            body: body.to_owned().into(),
        };
        let left = match self.replicas[replica].response(&cx, &view).await {
            Verdict::Pass => view.body,
            Verdict::Replace(body) => body,
            Verdict::Refuse { public } => return Err(public),
            Verdict::Failed { cause } => return Err(cause),
        };
        let left: Value = serde_json::from_slice(&left).unwrap();
        let names = left["result"]["tools"].as_array().unwrap().iter();
        Ok(names.map(|tool| tool["name"].as_str().unwrap_or("?").to_owned()).collect())
    }

    async fn see(&self, replica: usize, tools: &[Value]) -> Vec<String> {
        self.list(replica, None, &page(tools, None)).await.unwrap()
    }

    async fn call(&self, replica: usize, tool: &str) -> (Decision, Vec<String>) {
        let authorizer =
            PinnedTools::new(Arc::new(|_: &Ask<'_>| Decision::allow("any")), self.replicas[replica].clone());
        let cx = context("tools/call", Some(tool), "{}");
        let principal = Principal::new("local", "ada");
        let target = Target { server: "a", name: Some(tool) };
        let ask = Ask { principal: &principal, action: Action::Method("tools/call"), target, cx: &cx, arguments: None };
        let decision = authorizer.decide(&ask).await;
        assert_eq!(authorizer.decide_many(&[ask]).await[0].allow, decision.allow);
        let facts = cx.filters().into_iter().flat_map(|fact| fact.found).map(|found| found.to_string()).collect();
        (decision, facts)
    }

    fn rows(&self) -> Vec<String> {
        let row = |event: &crate::record::AuditEvent| {
            let target = event.target.as_deref().map(|target| format!(" {target}")).unwrap_or_default();
            format!("{}{target}", event.method.as_deref().unwrap_or_default())
        };
        self.sink.events().iter().map(row).collect()
    }
}

fn context(method: &'static str, target: Option<&str>, body: &str) -> McpContext {
    let cx = McpContext::new(&SystemClock);
    cx.set_route(Arc::new(Route::remote("a"))).unwrap();
    cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
    let facts = MessageFacts {
        kind: MessageKind::Request,
        method: Some(method.into()),
        target: target.map(Into::into),
        body: body.to_owned().into(),
        ..MessageFacts::none()
    };
    cx.set_message(facts).unwrap();
    cx
}

#[tokio::test]
async fn a_blocked_change_is_hidden_by_every_replica_until_it_is_approved() {
    let world = World::new(PinOptions { on_change: OnToolChange::Block, ..PinOptions::default() }).await;
    assert!(world.call(0, "a").await.0.allow, "nothing was seen yet");
    assert_eq!(world.see(0, &[tool("a", "1"), tool("b", "1")]).await, ["a", "b"]);
    assert_eq!(world.see(0, &[tool("a", "<SYSTEM>"), tool("b", "1")]).await, ["b"]);
    assert_eq!(world.rows(), ["tool.trust", "tool.change a"]);
    let revision = world.replicas[0].0.kept.get("a").await.unwrap().unwrap().revision;
    world.replicas[1].0.snapshots.wait_for(revision).await;
    for replica in 0..2 {
        let (decision, _) = world.call(replica, "a").await;
        assert_eq!((decision.allow, decision.hidden, &*decision.rule), (false, true, ToolPinning::NAME));
        assert!(world.call(replica, "b").await.0.allow);
    }
    let texts = {
        let inventory = world.replicas[0].0.kept.get("a").await.unwrap().unwrap().value;
        let digests: Vec<String> = inventory.tools["a"].versions().map(|version| version.digest.to_string()).collect();
        let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
        world.replicas[1].texts("a", &digests).await.unwrap()
    };
    assert!(texts.iter().all(|text| text.as_ref().is_some_and(|text| text.whole)));
    assert!(texts[1].as_ref().unwrap().text.contains("<SYSTEM>"));

    let approval = Approval::Tool { name: "a", digests: None };
    let outdated = world.replicas[1].approve("a", approval, Some(Revision(1))).await;
    assert!(matches!(outdated, Err(ApproveError::Changed)));
    let revision = world.replicas[1].approve("a", approval, Some(revision)).await.unwrap();
    world.replicas[0].0.snapshots.wait_for(revision).await;
    assert!(world.call(0, "a").await.0.allow);
    assert_eq!(world.see(0, &[tool("a", "<SYSTEM>"), tool("b", "1")]).await, ["a", "b"]);
    assert_eq!(world.rows().len(), 2, "nothing is new");
}

use crate::contract::Revision;

#[tokio::test]
async fn replicas_that_see_the_same_at_once_record_it_once() {
    let world = World::new(flagging()).await;
    let tools = [tool("a", "1"), tool("b", "\u{200b}")];
    let (one, other) = tokio::join!(world.see(0, &tools), world.see(1, &tools));
    assert_eq!(one, other);
    assert_eq!(world.rows(), ["tool.trust", "tool.flag b"]);
}

#[tokio::test]
async fn what_nobody_has_approved_waits_where_first_use_says_so() {
    let world = World::new(PinOptions { first_use: FirstUse::Approve, ..flagging() }).await;
    assert!(!world.call(0, "a").await.0.allow, "nothing is approved yet");
    assert!(world.see(0, &[tool("a", "1"), tool("b", "1")]).await.is_empty());
    let revision = world.replicas[0].approve("a", Approval::All, None).await.unwrap();
    world.replicas[0].0.snapshots.wait_for(revision).await;
    assert_eq!(world.see(0, &[tool("a", "1"), tool("b", "1")]).await, ["a", "b"]);
    assert!(world.call(0, "a").await.0.allow);
}

#[tokio::test]
async fn calls_of_what_is_flagged_are_marked() {
    let world = World::new(flagging()).await;
    world.see(0, &[tool("a", "1")]).await;
    assert_eq!(world.call(0, "a").await.1, Vec::<String>::new());
    assert_eq!(world.see(0, &[tool("a", "2")]).await, ["a"]);
    assert_eq!(world.call(0, "a").await.1, ["changed"]);
    assert_eq!(world.call(0, "unheard-of").await.1, ["not-listed"]);
}

#[tokio::test]
async fn who_reads_all_pages_knows_what_is_missing() {
    let world = World::new(flagging()).await;
    let pages = async |tools: [&[Value]; 2]| {
        world.list(0, None, &page(tools[0], Some("x\u{2f}y"))).await.unwrap();
        world.list(0, Some("x/y"), &page(tools[1], None)).await.unwrap();
    };
    pages([&[tool("a", "")], &[tool("b", ""), tool("c", "")]]).await;
    pages([&[tool("a", "")], &[tool("b", "")]]).await;
    assert_eq!(world.rows(), ["tool.trust", "tool.trust", "tool.remove c"]);
    world.list(0, Some("x/y"), &page(&[tool("b", "")], None)).await.unwrap();
    assert_eq!(world.rows().len(), 3, "of one page nobody can tell");
}

#[tokio::test]
async fn what_cannot_be_compared_is_refused_or_marked_but_never_silent() {
    let repeated = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":{"y":1,"y":2}}]}}"#;
    let strict = World::new(PinOptions { on_change: OnToolChange::Block, tools: 1, ..PinOptions::default() }).await;
    let lax = World::new(PinOptions { tools: 1, ..flagging() }).await;
    let many = page(&[tool("a", ""), tool("b", "")], None);
    for body in [repeated, &*many] {
        assert!(strict.list(0, None, body).await.is_err(), "{body}");
        assert!(lax.list(0, None, body).await.is_ok(), "{body}");
    }
    lax.store.cut();
    strict.store.cut();
    let body = page(&[tool("a", "")], None);
    assert!(lax.list(0, None, &body).await.is_ok() && strict.list(0, None, &body).await.is_err());
}

#[tokio::test]
async fn an_entry_says_otherwise_and_off_looks_at_nothing() {
    assert_eq!(PinOptions::default().on_change, OnToolChange::Off);
    let world = World::new(PinOptions::default()).await;
    // Another filter may have asked for the stream.
    let repeated = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":{"y":1,"y":2}}]}}"#;
    assert!(world.list(0, None, repeated).await.is_ok());
    assert_eq!(world.see(0, &[tool("a", "1")]).await, ["a"]);
    assert!(world.call(0, "unheard-of").await.0.allow);
    assert!(world.rows().is_empty() && world.replicas[0].0.kept.get("a").await.unwrap().is_none());
    let head = |server| Head {
        server,
        method: Some("tools/list"),
        target: None,
        era: Era::Legacy,
        server_requests: crate::record::ServerRequests::default(),
    };
    let pinning = &world.replicas[0];
    assert!(!pinning.needs(&head("a")).response && !pinning.resumed("a"));
    let entry = json!({
        "entryKey": "a", "name": "a", "runtime": "remote", "remoteConfig": { "fixedURL": "https://up.example/mcp" },
        "toolPinning": { "onChange": "block" },
    });
    let entry: Entry = serde_json::from_value(entry).unwrap();
    let revision = pinning.0.kept.of_kind::<Entry>().save("a", &entry, crate::contract::When::Any).await.unwrap();
    pinning.0.snapshots.wait_for(revision).await;
    assert!(pinning.needs(&head("a")).response && !pinning.needs(&head("b")).response);
    assert!(!pinning.needs(&Head { method: Some("tools/call"), ..head("a") }).response);
}
