#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_gateway_core::filter::check;

fuzz_target!(|data: &[u8]| check::filter(data));
