//! What counting a call costs in allocations. One test, one thread: the counter is the process's.

use jiff::Timestamp;
use mcp_gateway_core::record::{AuditEvent, Category, EventKind, Outcome};
use mcp_gateway_server::metrics::Metrics;
use ulid::Ulid;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

#[test]
fn counting_a_known_call_allocates_nothing() {
    let metrics = Metrics::new();
    let mut event = AuditEvent::new(Timestamp::UNIX_EPOCH, Ulid::nil(), Category::Mcp, EventKind::Exchange);
    event.server = Some("everything".into());
    event.method = Some("tools/call".into());
    event.outcome = Outcome::Ok;
    event.upstream_us = Some(100);
    let mut refused = event.clone();
    (refused.kind, refused.outcome, refused.status) = (EventKind::Refused, Outcome::Denied, 429);
    metrics.observe(&event);

    let profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get().total_blocks;
    for _ in 0..1_000 {
        metrics.observe(&event);
        metrics.observe(&refused);
    }
    let counted = dhat::HeapStats::get().total_blocks - before;
    drop(profiler);
    assert_eq!(counted, 0);
}
