//! The process runtime over servers that nobody here wrote. They need npm and PyPI, so they run only with
//! `MCP_GATEWAY_TEST_PARTNERS=1`. What is installed is kept under `MCP_GATEWAY_TEST_CACHE`, by default
//! `${XDG_CACHE_HOME:-$HOME/.cache}/mcp-gateway-test`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, and it says that it skips")]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_gateway_core::contract::{Program, Runtime as _, RuntimeErrorKind};
use mcp_gateway_deploy::process::{ProcessOptions, ProcessRuntime};
use serde_json::json;
use support::{Session, ensure, launcher, options, workload};

/// Whether partners are asked for.
fn enabled() -> bool {
    let enabled = std::env::var_os("MCP_GATEWAY_TEST_PARTNERS").is_some_and(|value| value == "1");
    if !enabled {
        println!("SKIPPED: set MCP_GATEWAY_TEST_PARTNERS=1 to run servers from npm and PyPI");
    }
    enabled
}

fn cache() -> PathBuf {
    let base = || {
        let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        xdg.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache")).join("mcp-gateway-test")
    };
    std::env::var_os("MCP_GATEWAY_TEST_CACHE").map_or_else(base, PathBuf::from)
}

/// A runtime whose package caches outlive the test.
fn runtime(name: &str) -> ProcessRuntime {
    let mut options: ProcessOptions = options(&cache().join(format!("deploy-{name}")));
    options.launcher = Some(launcher());
    ProcessRuntime::new(options).unwrap()
}

async fn tools(program: Program, name: &str) -> (Session, Vec<String>, ProcessRuntime) {
    let runtime = runtime(name);
    let mut spec = workload(name, program);
    spec.startup_timeout = Duration::from_secs(180);
    let server = ensure(&runtime, &Arc::new(spec)).await.unwrap_or_else(|error| panic!("{error:?}"));
    let session = Session::open(&server.upstream).await.unwrap();
    let listed = session.request("tools/list", json!({})).await.unwrap();
    let tools = listed["result"]["tools"].as_array().unwrap();
    let names = tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
    (session, names, runtime)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npx_runs_server_everything() {
    if !enabled() {
        return;
    }
    let program =
        Program::Npx { package: "@modelcontextprotocol/server-everything".into(), args: vec!["stdio".into()] };
    let (session, tools, _runtime) = tools(program, "everything").await;
    assert!(tools.iter().any(|tool| tool == "echo"), "{tools:?}");
    let echoed = session.call("echo", json!({"message": "hi"})).await.unwrap();
    assert_eq!(echoed["content"][0]["text"], "Echo: hi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npx_runs_server_memory() {
    if !enabled() {
        return;
    }
    let program = Program::Npx { package: "@modelcontextprotocol/server-memory".into(), args: Vec::new() };
    let (session, _, _runtime) = tools(program, "memory").await;
    let graph = session.call("read_graph", json!({})).await.unwrap();
    assert!(graph["content"][0]["text"].as_str().unwrap().contains("entities"), "{graph}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_that_does_not_exist_fails_fast() {
    if !enabled() {
        return;
    }
    let runtime = runtime("absent");
    let package = "@modelcontextprotocol/no-such-server-anywhere".to_owned();
    let mut spec = workload("absent", Program::Npx { package, args: Vec::new() });
    spec.startup_timeout = Duration::from_secs(120);
    let begun = Instant::now();
    let error = ensure(&runtime, &Arc::new(spec)).await.err().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "it waited for its timeout");
    assert_eq!(error.kind, RuntimeErrorKind::Failed);
    assert!(error.detail.unwrap().contains("404"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uvx_runs_server_time() {
    if !enabled() {
        return;
    }
    // uv itself comes from PyPI where it is not installed.
    let venv = cache().join("uv");
    if !venv.join("bin/uvx").exists() {
        assert!(Command::new("python3").args(["-m", "venv"]).arg(&venv).status().unwrap().success());
        assert!(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "uv"]).status().unwrap().success());
    }
    let mut options = options(&cache().join("deploy-time"));
    options.launcher = Some(launcher());
    let own = std::env::split_paths(&options.path).collect::<Vec<_>>();
    options.path = std::env::join_paths([venv.join("bin")].into_iter().chain(own)).unwrap();
    let runtime = ProcessRuntime::new(options).unwrap();
    let program = Program::Uvx { package: "mcp-server-time".into(), command: None, args: Vec::new() };
    let mut spec = workload("time", program);
    spec.startup_timeout = Duration::from_secs(180);
    let spec = Arc::new(spec);
    let server = ensure(&runtime, &spec).await.unwrap_or_else(|error| panic!("{error:?}"));
    let session = Session::open(&server.upstream).await.unwrap();
    let now = session.call("get_current_time", json!({"timezone": "UTC"})).await.unwrap();
    assert!(now["content"][0]["text"].as_str().unwrap().contains("UTC"), "{now}");
    runtime.shutdown().await;
    assert_eq!(runtime.observe(&spec.id).await.unwrap().unwrap().children, 0);
}
