use proptest::prelude::*;
use serde_json::{Value, json};

use super::observe::{Extent, What};
use super::read::{Observed, Unfit, Unpinned};
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
    let extent = Extent { whole: Some(seen.tools.keys().cloned().collect()) };
    let news = inventory.is_news(&seen, &extent);
    let before = inventory.clone();
    let (findings, fits) = inventory.observe(&seen, &extent, first, 500, T);
    fits.unwrap();
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
    assert_eq!(see(&mut all, &[tool("a", "1"), tool("b", "1"), tool("c", "1")], FirstUse::Trust), [], "both are good");
    assert_eq!(all.tools["a"].pinned.len(), 2);
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
    assert!(matches!(all.approve("a", None), Err(ApproveError::Several)), "which one?");
    all.approve_all().unwrap();
    assert_eq!(all.tools["a"].changed.len(), PinLimits::CHANGES, "not by approving of everything either");
}

#[test]
fn an_approval_moves_what_it_names_and_the_others_wait_on() {
    let mut all = ToolInventory::new(T);
    for n in 0..=3 {
        see(&mut all, &[tool("a", &n.to_string())], FirstUse::Trust);
    }
    let digest = |all: &ToolInventory, n: usize| all.tools["a"].changed[n].digest.to_string();
    let (good, other) = (digest(&all, 1), digest(&all, 0));
    assert!(matches!(all.approve("a", None), Err(ApproveError::Several)));
    let unknown = [good.clone(), "other".to_owned()];
    let before = all.clone();
    assert!(matches!(all.approve("a", Some(&unknown)), Err(ApproveError::Digest)));
    assert_eq!(all, before);
    all.approve("a", Some(std::slice::from_ref(&good))).unwrap();
    assert_eq!((all.tools["a"].pinned.len(), all.tools["a"].changed.len()), (2, 2));
    assert_eq!(*all.tools["a"].pinned[1].digest, *good, "the last approval is the last");
    assert_eq!(digest(&all, 0), other);
    assert!(hidden(&all, "a")[1], "some wait on");
    for n in 4..=9 {
        see(&mut all, &[tool("a", &n.to_string())], FirstUse::Trust);
        let last = digest(&all, all.tools["a"].changed.len() - 1);
        all.approve("a", Some(&[last])).unwrap();
    }
    assert_eq!(all.tools["a"].pinned.len(), PinLimits::PINNED, "the oldest one gives way");
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
    all.approve_all().unwrap();
    assert!(all.tools.contains_key("b"), "nobody has named it");
    all.approve("b", None).unwrap();
    assert!(!all.tools.contains_key("b"), "it is forgotten");
    assert_eq!(see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust), [(What::New, "b".into())]);
}

#[test]
fn further_pages_are_part_of_the_first_sight_for_a_while() {
    let first = observed(&page(&[tool("a", "1")], Some("2")));
    let mut all = ToolInventory::new(T);
    all.observe(&first, &Extent::default(), FirstUse::Trust, 500, T).1.unwrap();
    let later = T + jiff::SignedDuration::from_secs(PinLimits::FIRST_SIGHT_SECONDS);
    let (mut soon, mut late) = (all.clone(), all);
    let second = observed(&page(&[tool("b", "1")], None));
    let found =
        |all: &mut ToolInventory, now| all.observe(&second, &Extent::default(), FirstUse::Trust, 500, now).0[0].what;
    assert_eq!(found(&mut soon, later), What::First);
    assert_eq!(found(&mut late, later + jiff::SignedDuration::from_nanos(1)), What::New);
}

#[test]
fn lists_have_limits() {
    let tools: Vec<Value> = (0..4).map(|n| tool(&n.to_string(), "")).collect();
    let body = page(&tools, None);
    let lists = Lists::of_response(body.as_bytes()).unwrap();
    assert!(Observed::read(body.as_bytes(), &lists, 4).is_ok());
    assert!(matches!(Observed::read(body.as_bytes(), &lists, 3), Err(Unpinned::Unfit(Unfit::TooMany(3)))));
    let mut all = ToolInventory::new(T);
    let (seen, more) = (observed(&body), observed(&page(&[tool("x", "")], None)));
    all.observe(&seen, &Extent::default(), FirstUse::Trust, 4, T).1.unwrap();
    let before = all.clone();
    assert_eq!(all.observe(&more, &Extent::default(), FirstUse::Trust, 4, T).1, Err(Unfit::TooMany(4)));
    assert_eq!(all, before, "nothing of it is taken in");
    let quoted = |quotes: usize, length: usize| "\"".repeat(quotes) + &"n".repeat(length - 2 * quotes);
    for (name, good) in [
        (quoted(0, PinLimits::NAME), true),
        (quoted(0, PinLimits::NAME + 1), false),
        (quoted(1, PinLimits::NAME), true),
        (quoted(1, PinLimits::NAME + 1), false),
    ] {
        let body = page(&[tool(&name, "")], None);
        let lists = Lists::of_response(body.as_bytes()).unwrap();
        assert_eq!(Observed::read(body.as_bytes(), &lists, 4).is_ok(), good);
    }
    let text = keep::shown(&["é".repeat(50).into_bytes()], 99);
    assert_eq!((text.text.len(), text.whole), (98, false));
    assert!(keep::shown(&["é".repeat(50).into_bytes()], 100).whole);
    assert_eq!(keep::shown(&["\"a\u{202e}\u{e0041}\"".into()], 100).text, r#""a\u202e\udb40\udc41""#);
}

#[test]
fn what_a_model_reads_is_shown_first_and_members_are_compared_each_by_itself() {
    let padded = br#"{"a":"xxxxxxxx","description":"d","inputSchema":{},"name":"n"}"#.to_vec();
    let text = keep::shown(std::slice::from_ref(&padded), 1_000);
    assert_eq!(text.text, r#"{"name":"n","description":"d","inputSchema":{},"a":"xxxxxxxx"}"#);
    let (short, other) = (keep::shown(&[padded], 10), keep::shown(&[br#"{"name":"n","z":1}"#.to_vec()], 10));
    assert!(!short.whole && short.members == text.members, "whatever is cut off");
    assert_eq!(other.members.unwrap()["name"], text.members.unwrap()["name"]);
    assert!(keep::shown(&[b"{}".to_vec(), b"{}".to_vec()], 10).members.is_none());
}

#[test]
fn an_inventory_is_one_record_whatever_a_server_shows() {
    let flags = || {
        use Flag::*;
        vec![
            RepeatedName,
            ConfusableName,
            InvisibleCharacters,
            ControlCharacters,
            PromptMarkup,
            InstructionOverride,
            EncodedText,
        ]
    };
    let now: jiff::Timestamp = "2026-11-22T02:12:20.123456789Z".parse().unwrap();
    let version = |n: usize| ToolVersion { digest: format!("{n:043}").into(), since: now, flags: flags() };
    let mut all = ToolInventory { origin: Some("\"".repeat(1_024).into()), complete: true, ..ToolInventory::new(now) };
    for n in 0..PinLimits::TOOLS {
        let tool = PinnedTool {
            pinned: vec![version(n)],
            missing_since: Some(now),
            unstable: true,
            comes_and_goes: true,
            ..PinnedTool::default()
        };
        all.tools.insert(format!("{n:0length$}", length = PinLimits::NAME).into(), tool);
    }
    let bytes = serde_json::to_vec(&all).unwrap().len();
    assert!(bytes <= all.weight() && all.weight() <= crate::contract::StoreLimits::RECORD, "{bytes} {}", all.weight());

    // Changes beyond are not kept, and say so.
    let mut all = ToolInventory::new(T);
    let list = |n: usize| {
        let tools = (0..PinLimits::TOOLS)
            .map(|name| tool(&format!("{name:0length$}", length = PinLimits::NAME), &n.to_string()));
        tools.collect::<Vec<_>>()
    };
    for n in 0..=PinLimits::CHANGES {
        see(&mut all, &list(n), FirstUse::Trust);
    }
    assert!(serde_json::to_vec(&all).unwrap().len() <= crate::contract::StoreLimits::RECORD);
    assert!(all.tools.values().all(PinnedTool::waits), "none is taken for what was approved");
    assert!(all.tools.values().any(|tool| tool.unstable));
}

#[test]
fn what_is_known_is_looked_at_though_what_is_new_has_no_room() {
    let mut all = ToolInventory::new(T);
    see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust);
    let seen = observed(&page(&[tool("a", "2"), tool("c", "1"), tool("d", "1")], None));
    let extent = Extent { whole: Some(seen.tools.keys().cloned().collect()) };
    let (found, fits) = all.observe(&seen, &extent, FirstUse::Trust, 2, T);
    let found: Vec<What> = found.iter().map(|finding| finding.what).collect();
    assert_eq!((found, fits), (vec![What::Changed, What::Removed], Err(Unfit::TooMany(2))));
    // What is missing makes room.
    let seen = observed(&page(&[tool("a", "2"), tool("c", "1")], None));
    assert_eq!(all.observe(&seen, &Extent::default(), FirstUse::Trust, 2, T).1, Ok(()));
    assert_eq!(all.tools.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn only_who_has_seen_all_of_something_has_seen_everything() {
    let mut all = ToolInventory::new(T);
    see(&mut all, &[], FirstUse::Trust);
    assert!(!all.complete, "it has shown nothing");
    let last = observed(&page(&[tool("b", "1")], None));
    all.observe(&last, &Extent::default(), FirstUse::Trust, 500, T).1.unwrap();
    assert!(!all.complete, "of a last page alone nobody can tell");
    see(&mut all, &[tool("a", "1"), tool("b", "1")], FirstUse::Trust);
    assert!(all.complete && all.tools["a"].changed.is_empty(), "it was first sight still");
}

#[test]
fn lists_that_are_not_read_to_the_end_are_forgotten() {
    let walks = walk::Walks::default();
    let step = |subject: usize, cursor: Option<&str>, next: &str, now| {
        let request = json!({ "params": { "cursor": cursor } }).to_string();
        let cx = McpContext::new(&SystemClock);
        cx.set_route(Arc::new(Route::remote("a"))).unwrap();
        cx.set_principal(Arc::new(Principal::new("local", format!("user-{subject}")))).unwrap();
        cx.set_message(MessageFacts { body: request.into(), ..MessageFacts::none() }).unwrap();
        let body = page(&[tool("a", ""), tool("b", "")], (!next.is_empty()).then_some(next));
        let lists = Lists::of_response(body.as_bytes()).unwrap();
        walks.step(&cx, true, &lists, &observed(&body), (2, now)).whole.map(|names| names.len())
    };
    for n in 0..2 * walk::Walks::OF_SUBJECT {
        step(0, None, &n.to_string(), T);
    }
    assert_eq!(walks.len(), walk::Walks::OF_SUBJECT);
    for n in 1..2 * walk::Walks::OF_SERVER {
        step(n, None, "x", T);
    }
    assert_eq!(walks.len(), walk::Walks::OF_SERVER);
    let late = T + jiff::SignedDuration::from_secs(walk::Walks::SECONDS);
    let last = 2 * walk::Walks::OF_SERVER - 1;
    assert_eq!(step(last, Some("x"), "", late), Some(2));
    assert_eq!(step(last - 1, Some("x"), "", late + jiff::SignedDuration::from_nanos(1)), None, "it took too long");
    assert_eq!(walks.len(), 0);
    for (length, kept) in [(walk::Walks::CURSOR - 2, 1), (walk::Walks::CURSOR - 1, 0)] {
        let cursor = "c".repeat(length);
        step(0, None, &cursor, T);
        assert_eq!(walks.len(), kept, "{length}");
        assert_eq!(step(0, Some(&cursor), "", T).is_some(), kept == 1);
    }
}

#[test]
fn names_that_deceive_are_flagged() {
    let mut all = ToolInventory::new(T);
    let names = ["read", "Read", "r\u{435}ad", "list_1", "list_l", "other", "twice", "twice"];
    let tools: Vec<Value> = names.iter().map(|name| tool(name, "")).collect();
    see(&mut all, &tools, FirstUse::Trust);
    let flags = |name: &str| all.tools[name].pinned[0].flags.clone();
    for name in ["read", "Read", "r\u{435}ad", "list_1", "list_l"] {
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
        self.list_on(replica, Some("tools/list"), cursor, body).await
    }

    /// The same, for an answer to a request of this method, or to nobody knows which.
    async fn list_on(
        &self,
        replica: usize,
        method: Option<&str>,
        cursor: Option<&str>,
        body: &str,
    ) -> Result<Vec<String>, String> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "cursor": cursor } });
        let cx = context("tools/list", None, &request.to_string());
        let view = View {
            direction: Direction::Response,
            method: method.map(Into::into),
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
async fn a_list_is_compared_wherever_it_comes() {
    let world = World::new(PinOptions { on_change: OnToolChange::Block, ..PinOptions::default() }).await;
    world.see(0, &[tool("a", "1"), tool("b", "1")]).await;
    let changed = page(&[tool("a", "2"), tool("b", "1")], None);
    assert_eq!(world.list_on(0, None, None, &changed).await.unwrap(), ["b"]);
    let (twin, escaped) = (changed.replace("tools", "Tools"), changed.replace("tools", "\\u0074ools"));
    assert!(world.list_on(0, None, None, &twin).await.is_err(), "some readers fold case");
    assert_eq!(world.list_on(0, None, None, &escaped).await.unwrap(), ["b"]);
    let other = r#"{"jsonrpc":"2.0","id":1,"result":{"x":{"y":1,"y":2},"tools":[]}}"#;
    assert!(world.list_on(0, Some("tools/call"), None, other).await.unwrap().is_empty(), "it is no list");
    assert!(!read::may_list(br#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#));
}

#[tokio::test]
async fn what_does_not_fit_is_tried_once() {
    let world = World::new(PinOptions { tools: 2, ..flagging() }).await;
    world.see(0, &[tool("a", "1"), tool("b", "1")]).await;
    world.see(0, &[tool("c", "1")]).await;
    let rows = world.rows();
    assert_eq!(rows, ["tool.trust", "tool.remove a", "tool.remove b", "tool.new c"]);
    let page_of = |name: &str| page(&[tool(name, "1"), tool("d", "1")], Some("x"));
    assert!(world.list(0, None, &page_of("e")).await.is_ok());
    world.store.cut();
    let strict = PinPolicy { on_change: OnToolChange::Block, first_use: FirstUse::Trust };
    let seen = observed(&page_of("e"));
    let known = world.replicas[0].known("a");
    let failed = world.replicas[0].0.recorders.failed("a", &seen.fingerprint(), known.as_ref());
    assert_eq!(failed, Some(Unfit::TooMany(2)), "without the store");
    assert!(strict.holds_back());
    let other = observed(&page_of("f"));
    assert_eq!(world.replicas[0].0.recorders.failed("a", &other.fingerprint(), known.as_ref()), None);
    assert_eq!(world.rows(), rows);
}

#[tokio::test]
async fn one_at_a_time_records_what_a_server_shows() {
    let recorders = recorder::Recorders::default();
    let (slot, other) = (recorders.slot("a"), recorders.slot("b"));
    let turn = recorders.turn(&slot).await;
    assert!(futures_util::FutureExt::now_or_never(recorders.turn(&slot)).is_none());
    assert!(futures_util::FutureExt::now_or_never(recorders.turn(&other)).is_some());
    drop(turn);
    let mut turns = Vec::new();
    for n in 0.. {
        let slot = recorders.slot(&n.to_string());
        let Some(turn) = futures_util::FutureExt::now_or_never(recorders.turn(&slot)) else { break };
        turns.push(turn);
    }
    assert_eq!(turns.len(), recorder::Recorders::MOST);
}

#[tokio::test]
async fn what_is_forgotten_is_seen_for_the_first_time_and_another_server_is_another_one() {
    let world = World::new(PinOptions { on_change: OnToolChange::Block, ..PinOptions::default() }).await;
    let put = async |url: &str| {
        let entry = json!({ "entryKey": "a", "name": "a", "runtime": "remote", "remoteConfig": { "fixedURL": url } });
        let entry: Entry = serde_json::from_value(entry).unwrap();
        let kept = world.replicas[0].0.kept.of_kind::<Entry>();
        let revision = kept.save("a", &entry, crate::contract::When::Any).await.unwrap();
        world.replicas[0].0.snapshots.wait_for(revision).await;
    };
    put("https://one.example/mcp").await;
    world.see(0, &[tool("a", "1")]).await;
    let old = observed(&page(&[tool("a", "1")], None)).tools["a"].digest.clone();
    assert!(world.see(0, &[tool("a", "2")]).await.is_empty());
    put("https://other.example/mcp").await;
    assert!(world.call(0, "a").await.0.allow, "nothing of that one was seen yet");
    assert_eq!(world.see(0, &[tool("a", "3")]).await, ["a"]);
    assert_eq!(world.rows(), ["tool.trust", "tool.change a", "tool.reset", "tool.trust"]);
    assert!(world.replicas[0].texts("a", &[&old]).await.unwrap()[0].is_some(), "for a while");

    let pinning = &world.replicas[0];
    assert!(matches!(pinning.reset("a", Some(Revision(1))).await, Err(ApproveError::Changed)));
    let revision = pinning.reset("a", None).await.unwrap();
    pinning.0.snapshots.wait_for(revision).await;
    assert!(matches!(pinning.reset("a", None).await, Err(ApproveError::Tool)));
    assert_eq!(world.see(0, &[tool("a", "4")]).await, ["a"]);
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
    // A list may come on any stream.
    assert!(pinning.needs(&Head { method: Some("tools/call"), ..head("a") }).response);
    let opened = |needs| {
        let cx = context("subscriptions/listen", None, "{}");
        cx.set_inspected([(ToolPinning::NAME.into(), needs)].into_iter().collect()).unwrap();
        cx
    };
    let all = pinning.needs(&head("a"));
    assert!(pinning.may_outgrow() && pinning.outgrow(&opened(crate::contract::Needs::NONE)));
    assert!(!pinning.outgrow(&opened(all)), "it was looked at from its beginning");
}
