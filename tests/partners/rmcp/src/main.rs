//! Calls servers with the client of the Rust SDK.
//!
//! With `initialize`, `auto` or `discover`, a lifecycle, it reads a list of `{"name", "url", "token", "tool", "arguments",
//! "expect"}` as one JSON document on stdin, and writes a line for each: `{"name", "ok", "detail"}`.
//!
//! With `journey TARGET` it gets its token itself ([`journey`]).

mod journey;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rmcp::model::{CallToolRequestParams, ClientConfig, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A server that has to be fetched and started takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Target {
    name: String,
    url: String,
    token: String,
    tool: String,
    arguments: Map<String, Value>,
    expect: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let lifecycle = arguments.next().context("the lifecycle is missing")?;
    if lifecycle == "journey" {
        return journey::run(&arguments.next().context("the target is missing")?).await;
    }
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let lifecycle = match &*lifecycle {
        "initialize" => ClientLifecycleMode::Initialize,
        "auto" => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
        "discover" => ClientLifecycleMode::Discover { preferred_versions },
        other => bail!("unknown lifecycle {other}"),
    };
    let targets: Vec<Target> = serde_json::from_reader(std::io::stdin())?;
    for target in targets {
        let outcome = match tokio::time::timeout(PATIENCE, call(&target, lifecycle.clone())).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer within {PATIENCE:?}")),
        };
        let line = match outcome {
            Ok(detail) => json!({ "name": target.name, "ok": true, "detail": detail }),
            Err(error) => json!({ "name": target.name, "ok": false, "detail": format!("{error:#}") }),
        };
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

/// Lists the tools and calls one; the version that was agreed on.
async fn call(target: &Target, lifecycle: ClientLifecycleMode) -> anyhow::Result<String> {
    let config = StreamableHttpClientTransportConfig::with_uri(&*target.url).auth_header(&target.token);
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = ClientConfig::default().serve_with_lifecycle(transport, lifecycle).await.context("connect")?;
    let tools = client.list_all_tools().await.context("tools/list")?;
    if !tools.iter().any(|tool| *tool.name == *target.tool) {
        bail!("{} is not among the {} tools", target.tool, tools.len());
    }
    let request = CallToolRequestParams::new(target.tool.clone()).with_arguments(target.arguments.clone());
    let result = client.call_tool(request).await.context("tools/call")?;
    let text = serde_json::to_string(&result)?;
    if !text.contains(&target.expect) {
        bail!("{:?} is not in {text}", target.expect);
    }
    let version = client.peer_info().map_or_else(String::new, |info| info.protocol_version.to_string());
    client.cancel().await?;
    Ok(version)
}
