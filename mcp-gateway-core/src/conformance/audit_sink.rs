//! The suite of [`AuditSink`].

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use crate::contract::{AuditFilter, AuditFull, AuditRow, AuditSink, AuditStore, Seq};
use crate::record::{AuditEvent, Category, ChangeFact, EventKind, FilterFact, FilterVerdict, Outcome};

/// A sink and the store that its events end in.
pub struct Fixture {
    /// What is tested.
    pub sink: Arc<dyn AuditSink>,
    /// Where its events go. It holds nothing else.
    pub store: Arc<dyn AuditStore>,
    /// Whatever must live as long as the sink (a directory, threads).
    pub guard: Box<dyn std::any::Any + Send>,
}

impl std::fmt::Debug for Fixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fixture").finish_non_exhaustive()
    }
}

impl Fixture {
    /// A sink that needs nothing else.
    pub fn new(sink: Arc<dyn AuditSink>, store: Arc<dyn AuditStore>) -> Self {
        Self { sink, store, guard: Box::new(()) }
    }

    async fn rows(&self) -> Vec<AuditRow> {
        self.sink.flush().await;
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.query(&AuditFilter::default(), after, 1_000).await.expect("a page");
            rows.extend(page.rows);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        rows.sort_by_key(|row| (row.stream, row.seq));
        rows
    }
}

/// Runs every rule but [`fills_up`], each on a sink of its own, which must hold 5,000 events.
///
/// # Panics
/// When a rule does not hold.
pub async fn suite<F, Fut>(fresh: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Fixture>,
{
    ready_is_in_the_store_after_flush(fresh().await).await;
    rows_have_the_order_of_their_appends(fresh().await).await;
    intents_merge_with_their_ends(fresh().await).await;
    an_open_intent_is_no_row(fresh().await).await;
    a_dropped_future_takes_nothing_back(fresh().await).await;
    concurrent_writers_lose_nothing(fresh().await).await;
}

fn event(n: i64, kind: EventKind) -> AuditEvent {
    let ts = Timestamp::from_microsecond(1_700_000_000_000_000 + n).expect("a time in 2023");
    AuditEvent::new(ts, Ulid::from_parts(1_700_000_000_000, n as u128), Category::Mcp, kind)
}

async fn ready_is_in_the_store_after_flush(fixture: Fixture) {
    fixture.sink.flush().await;
    let put: Vec<_> = (0..100).map(|n| event(n, EventKind::Exchange)).collect();
    for event in &put {
        fixture.sink.record(event.clone()).await.expect("room");
    }
    let rows = fixture.rows().await;
    let found: Vec<_> = rows.into_iter().map(|row| row.event).collect();
    assert_eq!(found, put, "what was ready is in the store after flush, unchanged");
}

async fn rows_have_the_order_of_their_appends(fixture: Fixture) {
    let mut seqs = Vec::new();
    for n in 0..200 {
        // Times run backwards: the order is that of the calls.
        seqs.push(fixture.sink.record(event(1_000 - n, EventKind::Notification)).await.expect("room"));
        if n % 3 == 0 {
            seqs.push(fixture.sink.record(event(5_000 + n, EventKind::Intent)).await.expect("room"));
        }
    }
    assert!(seqs.is_sorted_by(|a, b| a < b), "positions grow");
    let rows = fixture.rows().await;
    assert!(rows.iter().all(|row| row.stream == rows[0].stream), "one sink, one stream");
    assert_eq!(
        rows.iter().map(|row| row.seq).collect::<Vec<_>>(),
        (1..=200).collect::<Vec<_>>(),
        "without a gap, from 1"
    );
    assert!(rows.is_sorted_by_key(|row| std::cmp::Reverse(row.event.ts)), "in the order of the calls");
}

async fn intents_merge_with_their_ends(fixture: Fixture) {
    let intent = AuditEvent {
        server: Some("everything".into()),
        method: Some("tools/call".into()),
        target: Some("echo".into()),
        forwarded_target: Some("echo3".into()),
        request_mutated: true,
        filters: vec![FilterFact {
            filter: "no-secrets".into(),
            verdict: FilterVerdict::Passed,
            messages: 1,
            found: vec!["jwt".into()],
        }],
        changes: vec![ChangeFact {
            kind: "access-policy".into(),
            id: "default".into(),
            before: None,
            after: Some("00".repeat(32).into()),
        }],
        bytes_in: 12,
        ..event(1, EventKind::Intent)
    };
    let inside = AuditEvent { method: Some("sampling/createMessage".into()), ..event(1, EventKind::ServerRequest) };
    let end = AuditEvent {
        target: Some("echo2".into()),
        response_mutated: true,
        outcome: Outcome::Ok,
        status: 200,
        total_us: 9,
        ..event(1, EventKind::Exchange)
    };
    for event in [&intent, &inside, &end] {
        fixture.sink.record(event.clone()).await.expect("room");
    }
    let rows = fixture.rows().await;
    assert_eq!(rows.len(), 2, "an intent and its end are one row");
    assert_eq!(rows[0].event, inside, "what happens inside a call ends nothing");
    let merged = AuditEvent {
        server: intent.server.clone(),
        method: intent.method.clone(),
        forwarded_target: intent.forwarded_target.clone(),
        request_mutated: true,
        filters: intent.filters.clone(),
        changes: intent.changes.clone(),
        bytes_in: 12,
        ..end.clone()
    };
    assert_eq!(rows[1].event, merged, "the end wins, the intent fills in");
}

async fn an_open_intent_is_no_row(fixture: Fixture) {
    fixture.sink.record(event(1, EventKind::Intent)).await.expect("room");
    fixture.sink.record(event(2, EventKind::Exchange)).await.expect("room");
    assert_eq!(fixture.rows().await.len(), 1, "an intent alone is no row while its process lives");
    fixture.sink.record(event(1, EventKind::Exchange)).await.expect("room");
    let rows = fixture.rows().await;
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [1, 2], "its end is, also after a flush");
}

async fn a_dropped_future_takes_nothing_back(fixture: Fixture) {
    let mut ready = 0;
    for n in 0..50 {
        // Dropped without being polled, unless it was ready at once.
        drop(fixture.sink.record(event(n, EventKind::Exchange)));
        ready += 1;
    }
    fixture.sink.record(event(99, EventKind::Exchange)).await.expect("room");
    let rows = fixture.rows().await;
    assert_eq!(rows.len(), ready + 1, "an event whose future was dropped is recorded");
}

async fn concurrent_writers_lose_nothing(fixture: Fixture) {
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let sink = Arc::clone(&fixture.sink);
            tokio::spawn(async move {
                let mut seqs = Vec::new();
                for n in 0..100 {
                    let id = writer * 1_000 + n;
                    seqs.push((id, EventKind::Intent, sink.record(event(id, EventKind::Intent)).await.expect("room")));
                    tokio::task::yield_now().await;
                    seqs.push((
                        id,
                        EventKind::Exchange,
                        sink.record(event(id, EventKind::Exchange)).await.expect("room"),
                    ));
                }
                seqs
            })
        })
        .collect();
    let mut by_seq: HashMap<Seq, (i64, EventKind)> = HashMap::new();
    for writer in writers {
        for (id, kind, seq) in writer.await.expect("a writer") {
            assert!(by_seq.insert(seq, (id, kind)).is_none(), "a position is given once");
        }
    }
    let mut expected: Vec<_> = by_seq.into_iter().filter(|(_, (_, kind))| *kind == EventKind::Exchange).collect();
    expected.sort_unstable_by_key(|(seq, _)| *seq);
    let rows = fixture.rows().await;
    let found: Vec<_> = rows.iter().map(|row| row.event.request_id).collect();
    let expected: Vec<_> = expected.into_iter().map(|(_, (id, _))| event(id, EventKind::Exchange).request_id).collect();
    assert_eq!(found, expected, "every end is a row, in the order of the positions");
}

/// Records until the sink says that it is full, then calls `release` (which lets the store take rows again, if it did
/// not) and looks whether exactly what was accepted arrives.
///
/// # Panics
/// When it takes more than a million events, or what was refused arrives, or what was accepted does not.
pub async fn fills_up(fixture: Fixture, release: impl FnOnce()) {
    let mut accepted = 0;
    let refused = loop {
        assert!(accepted < 1_000_000, "a sink is bounded");
        match fixture.sink.record(event(accepted, EventKind::Exchange)).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, AuditFull::Space, "a full sink says so");
    assert!(accepted > 0, "an empty sink has room");
    let again = fixture.sink.record(event(accepted, EventKind::Exchange)).await;
    assert_eq!(again, Err(AuditFull::Space), "and stays full");
    release();
    let rows = fixture.rows().await;
    assert_eq!(rows.len() as i64, accepted, "exactly what was accepted arrives");
    assert_eq!(rows.last().map(|row| row.seq as i64), Some(accepted), "refused events leave no gap");
}
