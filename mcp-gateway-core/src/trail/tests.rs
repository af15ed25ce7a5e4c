//! A trail that somebody has been at.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ulid::Ulid;

use super::super::{Fault, FaultKind, MARKS, Notary, Part, canonical, sign_beginning, sign_head, sign_retention};
use super::*;
use crate::MaybeReady;
use crate::contract::{AuditRow, KeyRingError};
use crate::memory::MemoryAuditStore;
use crate::record::{ActorFacts, ActorKind, AuditBodies, AuditEvent, Category, EventKind, Subject, TenantId};
use crate::trail::Link;

/// Signs with a word: enough to see what is signed and what is looked at.
struct Word(&'static str);

impl Notary for Word {
    fn sign(&self, typ: &'static str, claims: &[u8]) -> MaybeReady<Result<String, KeyRingError>> {
        Ok(format!("{typ}.{}.{}", URL_SAFE_NO_PAD.encode(claims), self.0)).into()
    }

    fn check(&self, typ: &'static str, signed: &str) -> Result<Vec<u8>, String> {
        let [found, claims, word] =
            <[&str; 3]>::try_from(signed.split('.').collect::<Vec<_>>()).map_err(|_| "parts")?;
        if (found, word) != (typ, self.0) {
            return Err("the word is wrong".to_owned());
        }
        URL_SAFE_NO_PAD.decode(claims).map_err(|error| error.to_string())
    }
}

const NOTARY: Word = Word("good");

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn stream() -> StreamId {
    StreamId(Ulid::from_parts(1_700_000_000_000, 1))
}

fn row(seq: u64) -> AuditRow {
    // Every third began long before it ended.
    let ts = at(if seq.is_multiple_of(3) { 0 } else { i64::try_from(seq).unwrap() });
    AuditRow { stream: stream(), seq, event: AuditEvent::new(ts, Ulid::nil(), Category::Mcp, EventKind::Exchange) }
}

/// Nine rows, checkpoints at 0, 4 and 8, signed at the second 100.
async fn trail() -> MemoryAuditStore {
    let store = MemoryAuditStore::new();
    let began = sign_beginning(&NOTARY, at(-1)).await.unwrap();
    store.put_chain(Vec::new(), vec![began]).await.unwrap();
    put(&store, stream(), Part::Open).await;
    store
}

/// Puts nine rows and their checkpoints into a store.
async fn put(store: &MemoryAuditStore, stream: StreamId, part: Part) -> Tail {
    let mut tail = Tail::start(stream);
    for seq in 0..=9 {
        if seq > 0 {
            let row = AuditRow { stream, ..row(seq) };
            tail.head.push(&Link::of(&row));
            store.append(vec![row]).await.unwrap();
        }
        if seq.is_multiple_of(4) || (seq == 9 && part == Part::End) {
            sign(store, &mut tail, if seq == 9 { part } else { Part::Open }).await;
        }
    }
    tail
}

async fn sign(store: &MemoryAuditStore, tail: &mut Tail, part: Part) {
    let (signed, next) = sign_head(&NOTARY, &tail.head, part, tail.signed, at(100)).await.unwrap();
    store.put_chain(Vec::new(), vec![signed]).await.unwrap();
    (tail.signed, tail.upto, tail.ended) = (next, tail.head.seq, part == Part::End);
}

async fn check_at(store: &MemoryAuditStore, alive: Timestamp, beginning: Option<String>) -> Report {
    let expected = Expected { alive, beginning };
    verify(store, &|typ, signed| NOTARY.check(typ, signed), &expected).await.unwrap()
}

/// While the streams may be alive.
async fn check(store: &MemoryAuditStore) -> Report {
    check_at(store, at(100), None).await
}

/// The trail's parts, changed and put into another store.
async fn changed(change: impl FnOnce(&mut Vec<AuditRow>, &mut Vec<Link>, &mut Vec<Checkpoint>)) -> Vec<Fault> {
    let from = trail().await;
    let chain = from.chain(None, 100).await.unwrap();
    let mut links: Vec<_> = chain.iter().map(|row| row.link.clone()).collect();
    let mut rows: Vec<_> = (1..=9).map(row).collect();
    let mut checkpoints = from.checkpoints(None, 100).await.unwrap();
    change(&mut rows, &mut links, &mut checkpoints);
    let store = MemoryAuditStore::new();
    store.put_chain(links.clone(), checkpoints).await.unwrap();
    store.forge(rows, &links);
    check(&store).await.faults
}

fn fault(seq: u64, kind: FaultKind) -> Vec<Fault> {
    let known = matches!(kind, FaultKind::Changed | FaultKind::Missing | FaultKind::Unlinked { .. });
    vec![Fault { stream: stream(), seq, ts: known.then(|| row(seq).event.ts), kind }]
}

#[tokio::test]
async fn a_trail_as_it_was_written_is_sound() {
    let report = check(&trail().await).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.streams, report.verified, report.unsigned, report.signatures), (1, 8, 1, 4));
    assert_eq!(report.began, Some(at(-1)));
    assert!(changed(|_, _, _| ()).await.is_empty(), "the way that the others are changed changes nothing by itself");
}

#[tokio::test]
async fn what_was_done_to_it_is_named() {
    let found = changed(|rows, _, _| rows[4].event.status = 500).await;
    assert_eq!(found, fault(5, FaultKind::Changed), "a row");
    assert_eq!(
        found[0].to_string(),
        format!("stream {0} row 5 (id {0}-5-1700000005000000): the row was changed", stream().0)
    );
    let found = changed(|rows, links, _| {
        rows[4].event.status = 500;
        links[4] = Link::of(&rows[4]);
    });
    assert_eq!(found.await, fault(5, FaultKind::Rewritten { upto: 8 }), "a row and its link");
    let found = changed(|rows, _, _| drop(rows.remove(1))).await;
    assert_eq!(found, fault(2, FaultKind::Missing), "a row is gone");
    let found = changed(|rows, links, _| {
        rows.remove(1);
        links.remove(1);
    });
    assert_eq!(found.await, fault(2, FaultKind::Gap { upto: 2 }), "with its link");
    let found = changed(|rows, links, _| {
        rows.truncate(6);
        links.truncate(6);
    });
    assert_eq!(found.await, fault(7, FaultKind::Truncated { upto: 8 }), "the end is cut off");
    let found = changed(|rows, links, _| {
        rows.drain(..2);
        links.drain(..2);
    });
    assert_eq!(found.await, fault(1, FaultKind::Gap { upto: 2 }), "the beginning is cut off");
    let found = changed(|rows, links, _| {
        rows.clear();
        links.clear();
    });
    assert_eq!(found.await, fault(1, FaultKind::Truncated { upto: 8 }), "all of it");
    let found = changed(|rows, _, _| {
        let (one, other) = (rows[3].event.clone(), rows[4].event.clone());
        (rows[3].event, rows[4].event) =
            (AuditEvent { ts: one.ts, ..other.clone() }, AuditEvent { ts: other.ts, ..one });
    });
    // They differ in their times alone here, which stay where they were.
    assert_eq!(found.await, [], "rows that are the same can change places");
    let found = changed(|rows, links, _| {
        (rows[3].seq, rows[4].seq) = (5, 4);
        (links[3], links[4]) = (Link::of(&rows[4]), Link::of(&rows[3]));
    });
    assert_eq!(found.await, fault(1, FaultKind::Rewritten { upto: 4 }), "another order");
    let found = changed(|rows, _, _| rows[6].event.ts = at(99)).await;
    assert_eq!(found[0], fault(7, FaultKind::Missing)[0], "another time");
    assert!(matches!(found[1].kind, FaultKind::Unlinked { rows: 1 }), "{found:?}");
    let found = changed(|rows, _, _| rows.push(AuditRow { seq: 12, ..row(1) })).await;
    assert_eq!((found[0].seq, &found[0].kind), (12, &FaultKind::Unlinked { rows: 1 }), "a row that was put in");
    let found =
        changed(|_, _, checkpoints| checkpoints[2].signed = checkpoints[2].signed.replace("good", "evil")).await;
    assert_eq!(found[0], fault(4, FaultKind::Signature { reason: "the word is wrong".to_owned() })[0]);
    let found = changed(|_, _, checkpoints| checkpoints[2].signed = checkpoints[3].signed.clone()).await;
    let reason = "it was signed for another place".to_owned();
    assert_eq!(found[0], fault(4, FaultKind::Signature { reason })[0], "a checkpoint of other rows");
}

/// Changes a row, and computes all links anew.
fn relink(rows: &mut [AuditRow], links: &mut [Link]) {
    rows[4].event.status = 500;
    links[4] = Link::of(&rows[4]);
}

#[tokio::test]
async fn whoever_removes_checkpoints_is_found_out() {
    let found = changed(|rows, links, checkpoints| {
        relink(rows, links);
        checkpoints.truncate(1);
    });
    let gone = Fault { ts: Some(at(1)), ..fault(1, FaultKind::Checkpoints).remove(0) };
    assert_eq!(found.await, [gone], "all of a stream");
    let found = changed(|rows, links, checkpoints| {
        relink(rows, links);
        checkpoints.remove(2);
    });
    assert_eq!(found.await, fault(1, FaultKind::Checkpoints), "one of them");
    let found = changed(|_, _, checkpoints| drop(checkpoints.remove(1)));
    assert_eq!(found.await, fault(1, FaultKind::Checkpoints), "the first");
    let found = changed(|_, _, checkpoints| drop(checkpoints.remove(0)));
    let beginning = Fault { stream: MARKS, seq: 0, ts: None, kind: FaultKind::Beginning };
    assert_eq!(found.await, [beginning], "the chain's beginning");

    // The last one, as if no more had come: until the stream should have been signed again.
    let store = trail().await;
    let parts = (store.chain(None, 100).await.unwrap(), store.checkpoints(None, 100).await.unwrap());
    let cut = MemoryAuditStore::new();
    cut.append((1..=4).map(row).collect()).await.unwrap();
    cut.put_chain(Vec::new(), parts.1[..3].to_vec()).await.unwrap();
    assert!(check(&cut).await.is_sound(), "nobody can tell yet");
    let late = at(101);
    assert_eq!(check_at(&cut, late, None).await.faults, fault(5, FaultKind::Endless { unsigned: 0 }));
    cut.append(vec![row(5)]).await.unwrap();
    assert_eq!(check_at(&cut, late, None).await.faults, fault(6, FaultKind::Endless { unsigned: 1 }), "added to");
    // Everything: nothing is left but what is kept elsewhere.
    let bare = MemoryAuditStore::new();
    bare.forge((1..=9).map(row).collect(), &[]);
    assert!(check(&bare).await.is_sound());
    let known = Some(parts.1[0].signed.clone());
    let kinds: Vec<_> = check_at(&bare, at(0), known).await.faults.into_iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, [FaultKind::Beginning, FaultKind::Unlinked { rows: 9 }]);
    assert_eq!(parts.0.len(), 9);
}

#[tokio::test]
async fn nothing_comes_after_the_end_of_a_stream() {
    let store = trail().await;
    let other = StreamId(Ulid::from_parts(1_700_000_000_500, 7));
    put(&store, other, Part::End).await;
    let late = at(101);
    let faults = check_at(&store, late, None).await.faults;
    assert_eq!(faults, fault(10, FaultKind::Endless { unsigned: 1 }), "one has ended, the other has not");
    store.append(vec![AuditRow { stream: other, ..row(10) }]).await.unwrap();
    let faults = check(&store).await.faults;
    assert_eq!(faults, [Fault { stream: other, seq: 10, ts: Some(at(10)), kind: FaultKind::Appended }]);
    // A stream that nobody wrote.
    let store = trail().await;
    let mut tail = Tail::start(other);
    tail.head.push(&Link::of(&AuditRow { stream: other, ..row(1) }));
    store.append(vec![AuditRow { stream: other, ..row(1) }]).await.unwrap();
    let invented = Fault { stream: other, seq: 1, ts: Some(at(1)), kind: FaultKind::Checkpoints };
    assert_eq!(check(&store).await.faults, [invented]);
}

#[tokio::test]
async fn what_comes_after_the_last_checkpoint_can_be_cut_off_unseen() {
    let found = changed(|rows, links, _| {
        rows.truncate(8);
        links.truncate(8);
    });
    assert_eq!(found.await, []);
}

#[tokio::test]
async fn retention_leaves_a_trail_that_verifies_and_nobody_else_removes_anything() {
    let store = trail().await;
    // A day's end after row 5: rows 1 to 5 and those that began early go.
    let before = at(6);
    store.prune(before).await.unwrap();
    let report = check(&store).await;
    assert_eq!(report.faults.first().map(|fault| fault.seq), Some(1), "nobody signed that: {:?}", report.faults);
    let mark = sign_retention(&NOTARY, before, at(200)).await.unwrap();
    store.put_chain(Vec::new(), vec![mark]).await.unwrap();
    let report = check(&store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    // Of 5 to 9: 5, 6 and 9 are gone, 7 and 8 are there.
    assert_eq!((report.verified, report.removed, report.unsigned), (2, 3, 0));
    assert_eq!(report.removed_before, Some(before));
    let more = AuditRow { seq: 10, ..row(10) };
    store.append(vec![more]).await.unwrap();
    assert!(check(&store).await.is_sound());
    store.forge(vec![row(8)], &[]);
    assert_eq!(check(&store).await.faults[0].seq, 7, "a row that was not old is missing");
}

#[tokio::test]
async fn rows_from_before_the_chain_are_neither_good_nor_bad() {
    let store = trail().await;
    let old = StreamId(Ulid::from_parts(1_600_000_000_000, 1));
    let mut rows: Vec<_> = (1..=3).map(|seq| AuditRow { stream: old, ..row(seq) }).collect();
    store.forge((1..=9).map(row).chain(rows.clone()).collect(), &[]);
    let report = check(&store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unchained), (8, 3));
    // Its end was written by a program that chains.
    rows[0].seq = 4;
    store.append(vec![rows[0].clone()]).await.unwrap();
    let report = check(&store).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unchained), (8, 4));
    // Whoever puts rows there whose time is later than the chain's beginning, with a link or without.
    for linked in [false, true] {
        let store = trail().await;
        let mut put = AuditRow { stream: old, ..row(1) };
        put.event.ts = at(1_000);
        match linked {
            true => store.append(vec![put]).await.unwrap(),
            false => store.forge((1..=9).map(row).chain([put]).collect(), &[]),
        }
        let late = Fault { stream: old, seq: 1, ts: Some(at(1_000)), kind: FaultKind::Late };
        assert_eq!(check(&store).await.faults, [late], "linked: {linked}");
    }
}

#[tokio::test]
async fn a_stream_is_taken_up_where_its_writer_was() {
    let store = trail().await;
    let mut tail = Tail::start(stream());
    let (_, begun) = sign_head(&NOTARY, &tail.head, Part::Open, tail.signed, at(7)).await.unwrap();
    tail.signed = begun;
    let check = |typ: &'static str, signed: &str| NOTARY.check(typ, signed);
    tail.follow(&store, &check).await.unwrap();
    assert_eq!((tail.signed.count, tail.upto, tail.head.seq), (3, 8, 0), "signed as often, whenever that was");
    tail.take_lost(&store).await.unwrap();
    assert_eq!(tail.head.seq, 9);
    sign(&store, &mut tail, Part::End).await;
    let report = check_at(&store, at(101), None).await;
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.verified, report.unsigned), (9, 0));
    // Checkpoints of somebody else are not followed.
    let mut other = Tail { signed: Signed { count: 1, hash: [1; 32] }, ..Tail::start(stream()) };
    other.follow(&store, &check).await.unwrap();
    assert_eq!((other.signed.count, other.upto), (1, 0));
}

#[test]
fn the_canonical_form_is_as_it_was() {
    let mut event = row(1).event;
    event.actor = Some(ActorFacts {
        subject: Subject { tenant: TenantId::new("acme"), issuer: Arc::from("local"), id: "ada".into() },
        kind: ActorKind::ApiKey,
        id: "k".into(),
        name: None,
    });
    event.target = Some("e\u{0}\"".into());
    event.rpc_code = Some(-1);
    let text = String::from_utf8(canonical(&event, Some(&[0xab; 32]))).unwrap();
    let expected = format!(
        "{}{}{}{}",
        r#"{"ts":1700000001000000,"request_id":"00000000000000000000000000","category":"mcp","kind":"exchange","#,
        r#""actor":{"subject":{"tenant":"acme","issuer":"local","id":"ada"},"kind":"api_key","id":"k","name":null},"#,
        r#""target":"e\u0000\"","outcome":"unknown","status":0,"rpc_code":-1,"bytes_in":0,"bytes_out":0,"messages":0,"total_us":0,"bodies":""#,
        "ab".repeat(32)
    );
    assert_eq!(text, format!("{expected}\"}}"), "links that were made before no longer match");
}

#[test]
fn bodies_are_bound_and_can_go() {
    let bodies = AuditBodies { salt: [1; 16], request: "question".into(), ..AuditBodies::default() };
    let mut whole = row(1);
    whole.event.bodies = Some(Box::new(bodies.clone()));
    let link = Link::of(&whole);
    assert!(link.matches(&whole.event));
    assert!(link.matches(&row(1).event), "erased");
    whole.event.bodies = Some(Box::new(AuditBodies { request: "answer".into(), ..bodies.clone() }));
    assert!(!link.matches(&whole.event), "changed");
    whole.event.bodies = Some(Box::new(AuditBodies { salt: [2; 16], ..bodies }));
    assert!(!link.matches(&whole.event), "what was asked cannot be tried out without the salt");
    assert!(!Link::of(&row(1)).matches(&whole.event), "put in");
    assert_eq!(MARKS.0, Ulid::nil());
}
