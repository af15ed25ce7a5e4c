//! What a call through the whole stack costs in allocations. One test in a binary of its own, on one thread: the
//! counter is the process's.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use mcp_gateway_benches::memory::{MemoryGateway, local};
use mcp_gateway_benches::{legacy_call, modern_call};
use tower::ServiceExt as _;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Allocations of one call, from the request's head to the last byte of the answer, the request itself included.
const LEGACY_ALLOCATIONS: u64 = 40;
/// The same with the mirrored headers and `_meta` of revision 2026-07-28.
const MODERN_ALLOCATIONS: u64 = 46;
/// Most bytes that one call keeps at once beyond its request and answer, which are shared and not copied.
const PEAK_BYTES: usize = 8 << 10;

const WARM: usize = 100;
const CALLS: usize = 1_000;

#[tokio::test(flavor = "current_thread")]
async fn a_call_stays_within_its_allocation_budget() {
    let built = MemoryGateway::new("http://localhost:9101", local(1024)).unwrap();
    let legacy = (Bytes::from(legacy_call(1024)), &[("mcp-protocol-version", "2025-11-25")][..]);
    let modern = (
        Bytes::from(modern_call(1024)),
        &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "echo")][..],
    );
    let _profiler = dhat::Profiler::builder().testing().build();
    let eras = [("legacy", LEGACY_ALLOCATIONS, legacy), ("modern", MODERN_ALLOCATIONS, modern)];
    for (era, budget, (body, headers)) in eras {
        for _ in 0..WARM {
            call(&built, &body, headers).await.unwrap();
        }
        let mut blocks = Vec::with_capacity(CALLS);
        let at_rest = dhat::HeapStats::get().curr_bytes;
        for _ in 0..CALLS {
            let before = dhat::HeapStats::get().total_blocks;
            call(&built, &body, headers).await.unwrap();
            blocks.push(dhat::HeapStats::get().total_blocks - before);
        }
        let stats = dhat::HeapStats::get();
        blocks.sort_unstable();
        let median = blocks[CALLS / 2];
        println!(
            "{era}: {median} allocations a call, {} at most; {} bytes at rest, {} more at the peak",
            blocks[CALLS - 1],
            at_rest,
            stats.max_bytes.saturating_sub(at_rest)
        );
        assert!(median > 0, "the counter counts");
        assert!(median <= budget, "{era}: {median} allocations a call, the budget is {budget}");
        assert!(
            stats.max_bytes.saturating_sub(at_rest) <= PEAK_BYTES,
            "{era}: {} bytes at the peak over {at_rest}, the budget is {PEAK_BYTES}",
            stats.max_bytes
        );
        // A call leaves nothing behind.
        assert!(stats.curr_bytes <= at_rest + 1024, "{era}: {} bytes after {CALLS} calls", stats.curr_bytes);
    }
}

async fn call(built: &MemoryGateway, body: &Bytes, headers: &[(&'static str, &'static str)]) -> anyhow::Result<()> {
    let mut request = Request::post("/mcp-connect/bench")
        .header("host", "localhost:9101")
        .header("authorization", &built.authorization)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.clone()))?;
    let response = built.gateway.clone().oneshot(request).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = response.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
    assert_eq!(answer.to_bytes().len(), 1024);
    Ok(())
}
