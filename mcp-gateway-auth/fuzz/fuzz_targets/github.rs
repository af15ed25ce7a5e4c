#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mcp_gateway_auth::check::github(data));
