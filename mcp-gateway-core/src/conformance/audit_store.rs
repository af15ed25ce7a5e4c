//! The suite of [`AuditStore`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use ulid::Ulid;

use crate::MaybeReady;
use crate::contract::{
    AuditFilter, AuditRow, AuditStore, ChainRow, KeyRingError, StoreErrorKind, StoreLimits, StreamId, Unlinked,
    UsageWindow,
};
use crate::record::{
    ActorFacts, ActorKind, AuditBodies, AuditEvent, Category, ChangeFact, EventKind, FilterFact, FilterVerdict,
    Outcome, Subject, TenantId,
};
use crate::trail::{
    Checkpoint, Expected, Head, Link, MARKS, Notary, Part, Report, Signed, sign_beginning, sign_head, sign_retention,
    verify,
};

/// Runs every rule, each on a store of its own.
///
/// # Panics
/// When a rule does not hold.
pub async fn suite<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn AuditStore>>,
{
    keeps_every_field(&*fresh().await).await;
    append_is_idempotent(&*fresh().await).await;
    pages_newest_first(&*fresh().await).await;
    pages_without_gap_while_appending(&*fresh().await).await;
    refuses_pages_out_of_bounds(&*fresh().await).await;
    filters_by_every_field(&*fresh().await).await;
    counts_usage(&*fresh().await).await;
    prunes(&*fresh().await).await;
    appends_from_many_writers(fresh().await).await;
    links_every_row(&*fresh().await).await;
    keeps_what_is_signed(&*fresh().await).await;
    prunes_the_chain_to_an_anchor(&*fresh().await).await;
    verifies_what_it_keeps(&*fresh().await).await;
}

/// Microseconds after a fixed day.
fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(1_700_000_000_000_000 + micros).expect("a time in 2023")
}

fn exchange(micros: i64) -> AuditEvent {
    AuditEvent::new(at(micros), Ulid::from_parts(1_700_000_000_000, micros as u128), Category::Mcp, EventKind::Exchange)
}

fn row(stream: u128, seq: u64, event: AuditEvent) -> AuditRow {
    AuditRow { stream: StreamId(Ulid::from_parts(1, stream)), seq, event }
}

fn actor(tenant: &str, subject: &str, id: &str) -> Option<ActorFacts> {
    Some(ActorFacts {
        subject: Subject {
            tenant: TenantId::new(tenant),
            issuer: Arc::from("https://issuer.test"),
            id: subject.into(),
        },
        kind: ActorKind::ApiKey,
        id: id.into(),
        name: Some(Arc::from("laptop")),
    })
}

/// An event with every field set.
fn full_event() -> AuditEvent {
    AuditEvent {
        actor: actor("acme", "ada", "key-1"),
        address: Some(std::net::IpAddr::from([192, 0, 2, 7])),
        user_agent: Some("agent/1".into()),
        client_name: Some("cli\u{202e}ent".into()),
        client_version: Some("1.2".into()),
        server: Some("everything".into()),
        era: Some("modern".into()),
        protocol_version: Some("2026-07-28".into()),
        http_method: Some("POST".into()),
        method: Some("tools/call".into()),
        target: Some("echo".into()),
        forwarded_target: Some("echo2".into()),
        request_mutated: true,
        response_mutated: true,
        filters: vec![FilterFact {
            filter: "no-secrets".into(),
            verdict: FilterVerdict::Replaced,
            messages: 2,
            found: vec!["jwt".into(), "it\0em".into()],
        }],
        changes: vec![ChangeFact {
            kind: "access-policy".into(),
            id: "default".into(),
            before: Some("00".repeat(32).into()),
            after: None,
        }],
        rpc_id: Some("\"a\"".into()),
        session: Some("5f".into()),
        outcome: Outcome::ToolError,
        status: 200,
        rpc_code: Some(-32_602),
        error: Some("it\0failed".into()),
        rule: Some("rule-9".into()),
        bytes_in: 11,
        bytes_out: u64::from(u32::MAX) + 5,
        messages: 3,
        upstream_us: Some(40),
        first_byte_us: Some(50),
        total_us: 60,
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ..exchange(1)
    }
}

async fn all(store: &dyn AuditStore, filter: &AuditFilter, limit: usize) -> Vec<AuditRow> {
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = store.query(filter, after, limit).await.expect("a page");
        assert!(page.rows.len() <= limit, "a page is not longer than its limit");
        rows.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => return rows,
        }
    }
}

async fn keeps_every_field(store: &dyn AuditStore) {
    let rows = vec![row(1, 1, full_event()), row(1, 2, exchange(0))];
    store.append(rows.clone()).await.expect("append");
    let found = all(store, &AuditFilter::default(), 10).await;
    assert_eq!(found.len(), 2, "both rows are there");
    for (found, put) in found.iter().zip(&rows) {
        assert_eq!((found.stream, found.seq), (put.stream, put.seq), "a row keeps its key");
        assert_eq!(found.event, put.event, "a row keeps every field");
    }
}

/// Bodies come back as they were put: for stores that are set up to keep them.
///
/// # Panics
/// When they do not.
pub async fn keeps_bodies(store: &dyn AuditStore) {
    let bodies = AuditBodies {
        salt: *b"sixteen bytes 16",
        request: Bytes::from_static(b"{\"jsonrpc\":\"2.0\"}"),
        response: Bytes::from_static(&[0, 159, 146, 150]),
        request_headers: vec![("accept".into(), "a, b".into())],
        response_headers: vec![("x".into(), "1".into()), ("x".into(), "2".into())],
    };
    let event = AuditEvent { bodies: Some(Box::new(bodies)), ..full_event() };
    store.append(vec![row(1, 1, event.clone()), row(1, 2, exchange(0))]).await.expect("append");
    let found = all(store, &AuditFilter::default(), 10).await;
    assert_eq!(found[0].event, event, "bodies come back");
    assert_eq!(found[1].event.bodies, None, "another row has none");
}

async fn append_is_idempotent(store: &dyn AuditStore) {
    store.append(Vec::new()).await.expect("nothing to append");
    let batch: Vec<_> = (1..=70).map(|seq| row(1, seq, exchange(5))).collect();
    store.append(batch.clone()).await.expect("append");
    let mut changed = batch.clone();
    for row in &mut changed {
        row.event.status = 500;
    }
    changed.push(row(1, 71, exchange(5)));
    changed.push(row(2, 1, exchange(5)));
    store.append(changed).await.expect("append again, with new rows among the old ones");
    let found = all(store, &AuditFilter::default(), 1_000).await;
    assert_eq!(found.len(), 72, "(ts, stream, seq) is there once");
    assert!(found.iter().all(|row| row.event.status == 0), "a row that is there is left as it is");
}

async fn pages_newest_first(store: &dyn AuditStore) {
    let mut batch: Vec<_> = (0..100).map(|i| row(u128::from(i % 3 == 0), i as u64 + 1, exchange(i / 7))).collect();
    batch.reverse();
    store.append(batch.clone()).await.expect("append");
    batch.sort_by_key(|row| std::cmp::Reverse((row.event.ts, row.stream, row.seq)));
    let expected: Vec<_> = batch.iter().map(|row| (row.event.ts, row.stream, row.seq)).collect();
    for limit in [1, 7, 99, 100, 101] {
        let found = all(store, &AuditFilter::default(), limit).await;
        let found: Vec<_> = found.iter().map(|row| (row.event.ts, row.stream, row.seq)).collect();
        assert_eq!(found, expected, "pages of {limit}: newest first, by (ts, stream, seq)");
    }
    let last = store.query(&AuditFilter::default(), None, 100).await.expect("a page");
    assert!(last.next.is_none(), "a page that ends with the last row has no next");
}

async fn pages_without_gap_while_appending(store: &dyn AuditStore) {
    let old: Vec<_> = (1..=50).map(|seq| row(1, seq, exchange(seq as i64))).collect();
    store.append(old).await.expect("append");
    let mut seen = Vec::new();
    let mut after = None;
    let mut newer = 50;
    loop {
        let page = store.query(&AuditFilter::default(), after, 4).await.expect("a page");
        seen.extend(page.rows.iter().map(|row| row.seq));
        let Some(next) = page.next else { break };
        after = Some(next);
        newer += 1;
        store.append(vec![row(1, newer, exchange(newer as i64))]).await.expect("append");
    }
    assert_eq!(seen, (1..=50).rev().collect::<Vec<_>>(), "no gap and no double while rows arrive");
}

async fn refuses_pages_out_of_bounds(store: &dyn AuditStore) {
    for (limit, kind) in [(0, StoreErrorKind::Invalid), (StoreLimits::PAGE + 1, StoreErrorKind::TooLarge)] {
        let error = store.query(&AuditFilter::default(), None, limit).await.expect_err("a limit out of bounds");
        assert_eq!(error.kind(), kind, "a page of {limit}");
    }
    store.query(&AuditFilter::default(), None, StoreLimits::PAGE).await.expect("the largest page");
}

async fn filters_by_every_field(store: &dyn AuditStore) {
    let wanted = full_event();
    // Each differs from the wanted event in one field.
    let others = [
        AuditEvent { ts: at(0), ..wanted.clone() },
        AuditEvent { ts: at(2), ..wanted.clone() },
        AuditEvent { actor: actor("other", "ada", "key-1"), ..wanted.clone() },
        AuditEvent { actor: actor("acme", "bob", "key-1"), ..wanted.clone() },
        AuditEvent { actor: actor("acme", "ada", "key-2"), ..wanted.clone() },
        AuditEvent { actor: None, ..wanted.clone() },
        AuditEvent { category: Category::Admin, ..wanted.clone() },
        AuditEvent { server: Some("time".into()), ..wanted.clone() },
        AuditEvent { server: None, ..wanted.clone() },
        AuditEvent { method: Some("tools/list".into()), ..wanted.clone() },
        AuditEvent { target: Some("Echo".into()), ..wanted.clone() },
        AuditEvent { outcome: Outcome::Ok, ..wanted.clone() },
        AuditEvent { request_id: Ulid::from_parts(7, 7), ..wanted.clone() },
        AuditEvent { trace_id: None, ..wanted.clone() },
    ];
    let events = std::iter::once(wanted.clone()).chain(others);
    let rows: Vec<_> = events.enumerate().map(|(i, event)| row(1, i as u64 + 1, event)).collect();
    let total = rows.len();
    store.append(rows).await.expect("append");
    let none = AuditFilter::default();
    // (what, the filter alone, how many of the rows do not match)
    let fields: [(&str, AuditFilter, usize); 12] = [
        ("tenant", AuditFilter { tenant: Some(TenantId::new("acme")), ..none.clone() }, 2),
        ("from", AuditFilter { from: Some(at(1)), ..none.clone() }, 1),
        ("to", AuditFilter { to: Some(at(2)), ..none.clone() }, 1),
        ("category", AuditFilter { category: Some(Category::Mcp), ..none.clone() }, 1),
        ("server", AuditFilter { server: Some("everything".into()), ..none.clone() }, 2),
        ("subject", AuditFilter { subject: Some("ada".into()), ..none.clone() }, 2),
        ("actor", AuditFilter { actor: Some("key-1".into()), ..none.clone() }, 2),
        ("method", AuditFilter { method: Some("tools/call".into()), ..none.clone() }, 1),
        ("target", AuditFilter { target: Some("echo".into()), ..none.clone() }, 1),
        ("outcome", AuditFilter { outcome: Some(Outcome::ToolError), ..none.clone() }, 1),
        ("request_id", AuditFilter { request_id: Some(wanted.request_id.to_string()), ..none.clone() }, 1),
        ("trace_id", AuditFilter { trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()), ..none.clone() }, 1),
    ];
    let mut every = none.clone();
    for (what, filter, excluded) in fields {
        for limit in [2, 1_000] {
            let found = all(store, &filter, limit).await;
            assert_eq!(found.len(), total - excluded, "filter by {what}, pages of {limit}");
            assert!(found.iter().any(|row| row.seq == 1), "filter by {what} keeps the row");
        }
        every = AuditFilter {
            tenant: every.tenant.or(filter.tenant),
            from: every.from.or(filter.from),
            to: every.to.or(filter.to),
            category: every.category.or(filter.category),
            server: every.server.or(filter.server),
            subject: every.subject.or(filter.subject),
            actor: every.actor.or(filter.actor),
            method: every.method.or(filter.method),
            target: every.target.or(filter.target),
            outcome: every.outcome.or(filter.outcome),
            request_id: every.request_id.or(filter.request_id),
            trace_id: every.trace_id.or(filter.trace_id),
        };
    }
    let found = all(store, &every, 10).await;
    assert_eq!(found.iter().map(|row| row.seq).collect::<Vec<_>>(), [1], "all fields together");
    let hostile = AuditFilter { server: Some("' OR 1=1 --".into()), ..none.clone() };
    assert!(all(store, &hostile, 10).await.is_empty(), "a filter's text is data");
    let odd = AuditFilter { request_id: Some("not an id".into()), ..none };
    assert!(all(store, &odd, 10).await.is_empty(), "a request id that is none matches nothing");
}

async fn counts_usage(store: &dyn AuditStore) {
    let call = |micros, server: &str, target: Option<&str>, subject, outcome, total_us| AuditEvent {
        actor: actor("acme", subject, "key-1"),
        server: Some(server.into()),
        method: Some("tools/call".into()),
        target: target.map(Into::into),
        outcome,
        total_us,
        ..exchange(micros)
    };
    let mut other_tenant = call(13, "a", Some("echo"), "ada", Outcome::Ok, 10);
    other_tenant.actor = actor("other", "ada", "key-1");
    let refused = AuditEvent { kind: EventKind::Refused, ..call(14, "a", Some("echo"), "ada", Outcome::Denied, 10) };
    let events = vec![
        call(9, "a", Some("echo"), "ada", Outcome::Ok, 10),
        call(10, "a", Some("echo"), "ada", Outcome::Ok, 10),
        call(11, "a", Some("echo"), "ada", Outcome::ToolError, 20),
        call(12, "a", Some("echo"), "bob", Outcome::Ok, 30),
        other_tenant,
        refused,
        call(15, "a", None, "ada", Outcome::Ok, 1_000),
        call(16, "b", Some("echo"), "ada", Outcome::Unknown, 7),
        call(20, "a", Some("echo"), "ada", Outcome::Ok, 10),
    ];
    let rows = events.into_iter().enumerate().map(|(i, event)| row(1, i as u64 + 1, event)).collect();
    store.append(rows).await.expect("append");
    let mut window = UsageWindow { tenant: Some(TenantId::new("acme")), from: at(10), to: at(20), server: None };
    let usage = store.usage(&window).await.expect("usage");
    let counted: Vec<_> = usage
        .rows
        .iter()
        .map(|row| (&*row.server, &*row.method, row.target.as_deref(), row.calls, row.errors, row.subjects, row.mean))
        .collect();
    let micros = Duration::from_micros;
    assert_eq!(
        counted,
        [
            ("a", "tools/call", None, 1, 0, 1, micros(1_000)),
            ("a", "tools/call", Some("echo"), 3, 1, 2, micros(20)),
            ("b", "tools/call", Some("echo"), 1, 1, 1, micros(7)),
        ],
        "exchanges in [from, to) of the tenant, in the order of server, method, target"
    );
    window.server = Some("b".into());
    let usage = store.usage(&window).await.expect("usage");
    assert_eq!(usage.rows.len(), 1, "usage of one server");
    window.tenant = None;
    window.server = Some("a".into());
    let usage = store.usage(&window).await.expect("usage");
    assert_eq!(
        (usage.rows[1].calls, usage.rows[1].subjects),
        (4, 3),
        "all tenants; equal names in two are two subjects"
    );
}

async fn prunes(store: &dyn AuditStore) {
    // Three rows in the last microseconds of a day, UTC.
    let midnight = 6_400_000_000;
    let rows = (1..=10).map(|seq| row(1, seq, exchange(midnight + seq as i64 - 4))).collect();
    store.append(rows).await.expect("append");
    assert_eq!(store.prune(at(midnight - 4)).await.expect("prune"), 0, "nothing is that old");
    assert_eq!(store.prune(at(midnight)).await.expect("prune"), 3, "what is before the time goes");
    assert_eq!(store.prune(at(midnight)).await.expect("prune"), 0, "once");
    let found = all(store, &AuditFilter::default(), 100).await;
    assert_eq!(found.last().map(|row| row.seq), Some(4), "a row of the time itself stays");
    assert_eq!(found.len(), 7, "the others stay");
}

/// Signs by putting a name under the claims: enough to see what is signed.
#[derive(Debug)]
pub struct Ada;

impl Notary for Ada {
    fn sign(&self, typ: &'static str, claims: &[u8]) -> MaybeReady<Result<String, KeyRingError>> {
        Ok(format!("{typ} {} Ada", String::from_utf8_lossy(claims))).into()
    }

    fn check(&self, typ: &'static str, signed: &str) -> Result<Vec<u8>, String> {
        let claims = signed.strip_prefix(typ).and_then(|signed| signed.strip_suffix("Ada"));
        claims.map(|claims| claims.as_bytes().to_vec()).ok_or_else(|| "it is not Ada's".to_owned())
    }
}

/// Puts a chain into an empty store: its beginning, nine rows of one stream, a second apart, and checkpoints of none, four
/// and eight of them. For tests that do something to a store's tables, and then ask [`verified`].
///
/// # Panics
/// When the store does not take it.
pub async fn signed(store: &dyn AuditStore) -> StreamId {
    let stream = StreamId(Ulid::from_parts(1_700_000_000_000, 1));
    let beginning = sign_beginning(&Ada, at(-1)).await.expect("Ada signs");
    store.put_chain(Vec::new(), vec![beginning]).await.expect("put");
    let (mut head, mut last) = (Head::start(stream), Signed::default());
    for seq in 0..=9 {
        if seq > 0 {
            let row = AuditRow { stream, seq, event: exchange(seq as i64 * 1_000_000) };
            head.push(&Link::of(&row));
            store.append(vec![row]).await.expect("append");
        }
        if seq % 4 == 0 {
            let (signed, next) = sign_head(&Ada, &head, Part::Open, last, at(0)).await.expect("Ada signs");
            store.put_chain(Vec::new(), vec![signed]).await.expect("put");
            last = next;
        }
    }
    stream
}

/// What a verification with the key of [`Ada`] finds, for which streams live for ever.
///
/// # Panics
/// When the store cannot be read.
pub async fn verified(store: &dyn AuditStore) -> Report {
    let expected = Expected { alive: Timestamp::MIN, beginning: None };
    verify(store, &|typ, signed| Ada.check(typ, signed), &expected).await.expect("a store that can be read")
}

async fn verifies_what_it_keeps(store: &dyn AuditStore) {
    signed(store).await;
    let report = verified(store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned, report.removed, report.unchained), (8, 1, 0, 0));
    let before = at(86_400_000_000 * 2);
    let mark = sign_retention(&Ada, before, at(0)).await.expect("Ada signs");
    store.put_chain(Vec::new(), vec![mark]).await.expect("put");
    assert_eq!(store.prune(before).await.expect("prune"), 9);
    let report = verified(store).await;
    assert!(report.is_sound(), "what is left is the last checkpoint, and the link behind it: {:?}", report.faults);
    assert_eq!((report.verified, report.removed), (0, 1));
}

/// Every link, a few at a time.
async fn links(store: &dyn AuditStore) -> Vec<ChainRow> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store.chain(after, 7).await.expect("a page of links");
        assert!(page.len() <= 7, "a page is not longer than its limit");
        let Some(last) = page.last() else { return rows };
        after = Some((last.link.stream, last.link.seq));
        rows.extend(page);
    }
}

async fn links_every_row(store: &dyn AuditStore) {
    // Numbers and times have different orders: a call that takes long is written late.
    let mut batch: Vec<_> = (1..=20).map(|seq| row(seq as u128 % 2, seq / 2 + 1, exchange(100 - seq as i64))).collect();
    batch.push(row(5, 1, full_event()));
    store.append(batch.clone()).await.expect("append");
    let mut again = batch.clone();
    again[0].event.status = 500;
    store.append(again).await.expect("append again");
    batch.sort_by_key(|row| (row.stream, row.seq));
    let found = links(store).await;
    let expected: Vec<_> = batch.iter().map(Link::of).collect();
    assert_eq!(
        found.iter().map(|row| row.link.clone()).collect::<Vec<_>>(),
        expected,
        "a link each, by stream and number; one that is there stays"
    );
    for (found, put) in found.iter().zip(&batch) {
        assert_eq!(found.event.as_ref(), Some(&put.event), "with its event");
        assert!(found.link.matches(&put.event), "which it matches");
    }
    assert_eq!(store.unlinked().await.expect("unlinked"), [], "no row is without");
    let lost = Link { seq: 2, ..Link::of(&row(5, 2, exchange(3))) };
    store.put_chain(vec![lost.clone(), lost.clone(), expected[0].clone()], Vec::new()).await.expect("put");
    let found = links(store).await;
    assert_eq!(found.len(), expected.len() + 1, "links are added once");
    let last = found.last().expect("the added link");
    assert_eq!((&last.link, &last.event), (&lost, &None), "a link without its row");
    // Two times under one number: only one of them can be in the chain.
    store.append(vec![row(5, 1, exchange(50))]).await.expect("append");
    let stray = Unlinked { stream: StreamId(Ulid::from_parts(1, 5)), rows: 1, seq: 1, ts: at(50), newest: at(50) };
    assert_eq!(store.unlinked().await.expect("unlinked"), [stray], "a row that its stream has another link for");
}

fn checkpoint(stream: StreamId, seq: u64, newest: i64) -> Checkpoint {
    Checkpoint { stream, seq, newest: at(newest), signed: format!("{seq}.signed") }
}

async fn keeps_what_is_signed(store: &dyn AuditStore) {
    let stream = StreamId(Ulid::from_parts(1, 1));
    let mut all =
        [checkpoint(MARKS, 0, 0), checkpoint(stream, 1, 1), checkpoint(stream, 9, 1), checkpoint(stream, 10, 2)];
    store.put_chain(Vec::new(), all[1..].to_vec()).await.expect("put");
    all[1].signed = "again".to_owned();
    store.put_chain(Vec::new(), vec![all[1].clone(), all[0].clone()]).await.expect("put again");
    let other = Checkpoint { signed: "other".to_owned(), ..all[0].clone() };
    store.put_chain(Vec::new(), vec![other]).await.expect("put again");
    assert_eq!(
        store.checkpoints(None, 1_000).await.expect("checkpoints"),
        all,
        "by stream and number, as last put, marks as first"
    );
    assert_eq!(store.checkpoints(None, 2).await.expect("checkpoints"), all[..2], "at most so many");
    assert_eq!(store.checkpoints(Some((stream, 1)), 9).await.expect("checkpoints"), all[2..], "after one");
}

async fn prunes_the_chain_to_an_anchor(store: &dyn AuditStore) {
    let stream = |stream| StreamId(Ulid::from_parts(1, stream));
    // Two days; the fourth row of the first stream began on the first day.
    let midnight = 6_400_000_000;
    let times = [-9, -8, 1, -7, 2, 3];
    let mut rows: Vec<_> = (1..).zip(times).map(|(seq, time)| row(1, seq, exchange(midnight + time))).collect();
    rows.push(row(2, 1, exchange(midnight - 1)));
    store.append(rows).await.expect("append");
    let signed = [(1, 1, -9), (1, 2, -8), (1, 5, 2), (2, 1, -1)];
    let mut signed: Vec<_> = signed.map(|(of, seq, newest)| checkpoint(stream(of), seq, midnight + newest)).into();
    signed.extend([0, 5, 6].map(|seq| checkpoint(MARKS, seq, midnight)));
    store.put_chain(Vec::new(), signed).await.expect("put");
    assert_eq!(store.prune(at(midnight)).await.expect("prune"), 4);
    let left: Vec<_> = links(store).await.iter().map(|row| (row.link.seq, row.event.is_some())).collect();
    assert_eq!(
        left,
        [(3, true), (4, false), (5, true), (6, true)],
        "links after the last checkpoint of rows that are gone"
    );
    let left = store.checkpoints(None, 1_000).await.expect("checkpoints");
    let left: Vec<_> = left.iter().map(|left| (left.stream, left.seq)).collect();
    let kept = [(MARKS, 0), (MARKS, 6), (stream(1), 2), (stream(1), 5), (stream(2), 1)];
    assert_eq!(left, kept, "that checkpoint and later ones, and the first and the last mark");
}

async fn appends_from_many_writers(store: Arc<dyn AuditStore>) {
    let writers: Vec<_> = (0..4_u128)
        .map(|stream| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for batch in 0..10 {
                    let rows = (1..=20).map(|i| row(stream, batch * 20 + i, exchange(i as i64))).collect();
                    store.append(rows).await.expect("append");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    assert_eq!(all(&*store, &AuditFilter::default(), 1_000).await.len(), 800, "every writer's rows are there");
}
