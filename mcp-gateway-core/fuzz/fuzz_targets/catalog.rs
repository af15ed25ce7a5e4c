#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_gateway_core::catalog;

fuzz_target!(|data: &[u8]| catalog::check(data));
