//! `mcp-gateway stdio`: one server without a gateway around it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::process::Process;
use crate::support::{Answer, Call, Fixture, PATIENCE, mcp, until};

/// Serves the fixture on a port of its own.
fn start(arguments: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    command.arg("stdio").args(arguments).arg("--").arg(Fixture::program()).arg("stdio");
    let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let stdout = process.child().stdout.take().expect("it is piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").and_then(|line| line.strip_suffix("/mcp"));
    (process, address.unwrap_or_else(|| panic!("it said {line:?}")).parse().unwrap())
}

/// Calls a tool that takes so long, and waits until its server runs.
async fn sleeping(process: &Process, address: SocketAddr, ms: u64) -> tokio::task::JoinHandle<Option<Answer>> {
    let message =
        mcp::modern_request(1, "tools/call", json!({ "name": "sleep_ms", "arguments": { "ms": ms } })).to_string();
    let call = Call::post("/mcp", message)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", mcp::MODERN)
        .header("mcp-method", "tools/call")
        .header("mcp-name", "sleep_ms");
    let call = tokio::spawn(async move {
        let open = call.try_open(address).await.ok()?;
        Some(open.finish().await)
    });
    until("the server's start", async || children(process.id()).first().copied()).await;
    call
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let all: Vec<String> = tasks.filter_map(Result::ok).map(of).collect();
    all.iter().flat_map(|line| line.split_whitespace()).map(|pid| pid.parse().unwrap()).collect()
}

fn terminate(process: &Process) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

async fn ended(process: &mut Process) -> std::process::ExitStatus {
    until("the end", || std::future::ready(process.child().try_wait().unwrap())).await
}

#[tokio::test]
async fn a_call_in_flight_is_answered_before_the_end() {
    let (mut process, address) = start(&[]);
    let call = sleeping(&process, address, 2_000).await;
    let server = children(process.id())[0];
    // The server runs; the call is on its way to it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    terminate(&process);
    let answer = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap().expect("an answer").expect(200);
    assert_eq!(answer.json()["id"], 1, "{}", answer.text());
    assert!(answer.json().get("result").is_some(), "{}", answer.text());
    assert!(ended(&mut process).await.success());
    assert!(!std::path::Path::new(&format!("/proc/{server}")).exists(), "the server still runs");
    assert!(Call::get("/mcp").try_open(address).await.is_err());
}

#[tokio::test]
async fn calls_are_cut_when_the_time_to_drain_is_over() {
    let (mut process, address) = start(&["--drain-seconds", "1"]);
    let call = sleeping(&process, address, 120_000).await;
    let begun = Instant::now();
    terminate(&process);
    assert!(ended(&mut process).await.success());
    let took = begun.elapsed();
    // The limit, and what the last words and the server's own end may take.
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(20), "{took:?}");
    assert!(call.await.unwrap().is_none_or(|answer| answer.json().get("result").is_none()));
}
