//! Reading the usual call allocates nothing. A test binary of its own, because it counts for the whole process.

use mcp_gateway_core::wire::{Limits, mirror, peek};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const CALL: &str = r#"{"jsonrpc":"2.0","id":"7f1c","method":"tools/call","params":{"name":"search","arguments":{"query":"a \"b\" c",
    "limit":10,"filter":{"tags":["x","y"],"since":null}},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
    "io.modelcontextprotocol/clientInfo":{"name":"client","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{},
    "progressToken":1,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","baggage":"k=v"}}}"#;

#[test]
fn the_usual_call_is_read_without_allocation() {
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "search")];
    let headers = headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let limits = Limits::default();

    let _profiler = dhat::Profiler::builder().testing().build();
    let before = dhat::HeapStats::get().total_blocks;
    let message = peek(CALL.as_bytes(), &limits).unwrap();
    mirror::check(&headers, &message).unwrap();
    let target = message.target() == Some("search");
    let after = dhat::HeapStats::get().total_blocks;

    drop(std::hint::black_box(Box::new(target)));
    let counted = dhat::HeapStats::get().total_blocks;

    assert!(target);
    assert_eq!(after - before, 0);
    assert!(counted > after, "the counter counts");
}
