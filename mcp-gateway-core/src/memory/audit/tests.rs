use std::sync::atomic::{AtomicU8, Ordering};

use super::*;
use crate::conformance::{audit_sink, audit_store};
use crate::record::Category;

#[tokio::test]
async fn the_store_passes_the_suite() {
    audit_store::suite(|| async { Arc::new(MemoryAuditStore::new()) as Arc<dyn AuditStore> }).await;
}

#[tokio::test]
async fn the_sink_passes_the_suite() {
    audit_sink::suite(|| async {
        let store = Arc::new(MemoryAuditStore::new());
        audit_sink::Fixture::new(Arc::new(MemoryAuditSink::with_store(5_000, store.clone())), store)
    })
    .await;
    let store = Arc::new(MemoryAuditStore::new());
    let sink = Arc::new(MemoryAuditSink::with_store(100, store.clone()));
    audit_sink::fills_up(audit_sink::Fixture::new(sink, store), || ()).await;
}

fn event(kind: EventKind) -> AuditEvent {
    AuditEvent::new(Timestamp::UNIX_EPOCH, Ulid::generate(), Category::Mcp, kind)
}

#[tokio::test]
async fn the_store_forgets_the_oldest_over_its_limit() {
    let store = MemoryAuditStore::with_limit(2);
    let stream = StreamId(Ulid::generate());
    let rows = (1..=3).map(|seq| AuditRow { stream, seq, event: event(EventKind::Exchange) }).collect();
    store.append(rows).await.unwrap();
    let page = store.query(&AuditFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 2]);
}

#[tokio::test]
async fn refusing_and_stalling_are_switched_on_and_off() {
    let sink = Arc::new(MemoryAuditSink::new(10));
    sink.refuse(Some(AuditFull::Failed));
    assert_eq!(sink.record(event(EventKind::Exchange)).await, Err(AuditFull::Failed));
    sink.refuse(None);
    sink.stall(true);
    let answered = Arc::new(AtomicU8::new(0));
    let task = tokio::spawn({
        let (sink, answered) = (Arc::clone(&sink), Arc::clone(&answered));
        async move {
            let seq = sink.record(event(EventKind::Exchange)).await;
            answered.store(1, Ordering::SeqCst);
            seq
        }
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(answered.load(Ordering::SeqCst), 0);
    sink.stall(false);
    assert_eq!(task.await.unwrap(), Ok(Seq(1)));
    assert_eq!(sink.events().len(), 1);
}

#[tokio::test]
async fn taking_out_makes_room_and_does_not_disturb_a_flush() {
    let store = Arc::new(MemoryAuditStore::new());
    let sink = MemoryAuditSink::with_store(1, store.clone());
    for _ in 0..3 {
        sink.record(event(EventKind::Exchange)).await.unwrap();
        sink.flush().await;
        assert_eq!(sink.take().len(), 1);
    }
    let page = store.query(&AuditFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 2, 1]);
}
