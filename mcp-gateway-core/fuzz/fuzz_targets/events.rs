#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_gateway_core::layer::session;

fuzz_target!(|data: &[u8]| session::check(data));
