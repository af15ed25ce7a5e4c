//! The program exists and says what it wants; that it is built for this test is what the matrix of partners needs.

use std::process::Command;

#[test]
fn what_is_missing_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_mcp-gateway-rmcp-client")).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the lifecycle is missing"));
}
