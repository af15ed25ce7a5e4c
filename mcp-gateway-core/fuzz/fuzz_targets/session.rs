#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_gateway_core::seal;

fuzz_target!(|data: &[u8]| seal::check(data));
