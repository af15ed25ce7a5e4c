//! What the tests of the process runtime share.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{
    Address, Deployment, Program, ResourceLimits, Runtime as _, RuntimeError, Upstream, UpstreamError, Workload,
    WorkloadId,
};
use mcp_gateway_core::record::Secret;
use mcp_gateway_deploy::process::{Grace, Launcher, ProcessOptions, ProcessRuntime};
use serde_json::{Value, json};

/// The scripted server.
pub(crate) fn script(mode: &str) -> Program {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/server.py");
    Program::Command { command: "python3".into(), args: vec![script.into(), mode.into()] }
}

pub(crate) fn workload(id: &str, program: Program) -> Workload {
    Workload {
        id: WorkloadId(id.into()),
        server: id.into(),
        subject: None,
        digest: "1".into(),
        program,
        env: Vec::new(),
        limits: ResourceLimits::default(),
        startup_timeout: Duration::from_secs(20),
        idle_timeout: None,
    }
}

pub(crate) fn env(workload: &mut Workload, name: &str, value: impl Into<String>) {
    workload.env.push((name.to_owned(), Secret::new(value)));
}

pub(crate) fn options(data_dir: &Path) -> ProcessOptions {
    let mut options = ProcessOptions::new(data_dir);
    options.grace = Grace { close: Duration::from_millis(300), term: Duration::from_millis(300) };
    options
}

/// The example `launcher`, which `cargo test` builds beside the tests.
pub(crate) fn launcher() -> Launcher {
    let exe = std::env::current_exe().unwrap();
    let program: PathBuf = exe.parent().unwrap().parent().unwrap().join("examples/launcher");
    assert!(program.exists(), "build it first: cargo build -p mcp-gateway-deploy --features process --examples");
    Launcher { program, args: Vec::new() }
}

pub(crate) struct Server {
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) deployment: Deployment,
}

pub(crate) async fn ensure(runtime: &ProcessRuntime, workload: &Arc<Workload>) -> Result<Server, RuntimeError> {
    let deployment = runtime.ensure(workload).await?;
    let endpoints = deployment.endpoints.borrow().clone();
    let Address::Local(upstream) = &endpoints[0].address else { panic!("a local endpoint") };
    Ok(Server { upstream: Arc::clone(upstream), deployment })
}

/// One legacy session.
pub(crate) struct Session {
    upstream: Arc<dyn Upstream>,
    id: http::HeaderValue,
}

impl Session {
    pub(crate) async fn open(upstream: &Arc<dyn Upstream>) -> Result<Self, UpstreamError> {
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let response = post(upstream, None, &message).await?;
        assert_eq!(response.status(), 200);
        let id = response.headers()["mcp-session-id"].clone();
        let session = Self { upstream: Arc::clone(upstream), id };
        session.notify("notifications/initialized").await?;
        Ok(session)
    }

    pub(crate) async fn notify(&self, method: &str) -> Result<(), UpstreamError> {
        let response = post(&self.upstream, Some(&self.id), &json!({"jsonrpc": "2.0", "method": method})).await?;
        assert_eq!(response.status(), 202);
        Ok(())
    }

    /// Sends a request and returns the message that answers it.
    pub(crate) async fn request(&self, method: &str, params: Value) -> Result<Value, UpstreamError> {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let response = post(&self.upstream, Some(&self.id), &message).await?;
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap();
        Ok(serde_json::from_str(data).unwrap())
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Result<Value, UpstreamError> {
        Ok(self.request("tools/call", json!({"name": tool, "arguments": arguments})).await?["result"].clone())
    }

    pub(crate) async fn end(&self) {
        let request = Request::delete("/").header("mcp-session-id", &self.id).body(Body::empty()).unwrap();
        assert_eq!(self.upstream.call(request).await.unwrap().status(), 204);
    }
}

async fn post(
    upstream: &Arc<dyn Upstream>,
    session: Option<&http::HeaderValue>,
    message: &Value,
) -> Result<Response<Body>, UpstreamError> {
    let mut request = Request::post("/")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    upstream.call(request.body(Body::from(Bytes::from(message.to_string()))).unwrap()).await
}

/// Whether a process runs; one that only waits to be reaped does not.
pub(crate) fn is_alive(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}
