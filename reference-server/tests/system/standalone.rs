//! `mcp-gateway stdio` and who reaches it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::process::{Fixture, Process};
use crate::support::{Call, until};

fn stdio(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    command.arg("stdio").args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn beyond_loopback_it_serves_only_when_told_that_nobody_is_asked_who_they_are() {
    let refused = stdio(&["--listen", "0.0.0.0:0", "--"]).arg(Fixture::program()).arg("stdio").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("--insecure-http"), "{said}");
    assert!(refused.stdout.is_empty(), "no address was announced");

    let mut command = stdio(&["--listen", "0.0.0.0:0", "--insecure-http", "--"]);
    let mut process = Process::start(command.arg(Fixture::program()).arg("stdio").stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("http://0.0.0.0:"), "{line}");
}

#[tokio::test]
async fn what_the_server_writes_to_standard_error_forges_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let script = r"printf 'a\033[2Jb\rmcp-gateway: all is well\n' >&2; exec cat >/dev/null";
    let mut command = stdio(&["--", "sh", "-c", script]);
    let mut process = Process::start(command.stdout(Stdio::piped()).stderr(log));
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().trim_start_matches("http://").trim_end_matches("/mcp").parse().unwrap();
    let call = Call::post("/mcp", crate::support::mcp::initialize().to_string())
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    let call = tokio::spawn(async move { call.try_open(address).await.map(drop).ok() });
    let written = until("the line", async || {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        log.contains("all is well").then_some(log)
    })
    .await;
    call.abort();
    assert!(written.contains(r"a\u{1b}[2Jb\rmcp-gateway: all is well"), "{written:?}");
    assert!(!written.contains('\u{1b}') && !written.contains('\r'), "{written:?}");
}
