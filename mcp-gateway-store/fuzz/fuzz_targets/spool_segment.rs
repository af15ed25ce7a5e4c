//! `cargo fuzz run -s none spool_segment`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_gateway_store::spool::check(data));
