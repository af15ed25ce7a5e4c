//! From a 401 to a call, with the authorization of the Rust SDK.
//!
//! The argument is a JSON document `{"url", "tool", "expect", "port"?, "client"?, "document"?}`. A line `OPEN URL` asks for
//! a person at a browser; a line `{"ok", "detail"}` is the end.

#![expect(clippy::disallowed_types, reason = "a client that others wrote makes its calls as it does")]

use std::io::Write as _;

use anyhow::{Context as _, bail, ensure};
use rmcp::model::{CallToolRequestParams, ClientConfig, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, AuthorizationRequest, OAuthState};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::PATIENCE;

/// What the client is to do, and how it is known.
#[derive(Deserialize)]
struct Target {
    url: String,
    tool: String,
    expect: String,
    /// Where it waits on loopback; 0: anywhere.
    #[serde(default)]
    port: u16,
    client: Option<Known>,
    document: Option<String>,
}

/// A client that somebody has made beforehand.
#[derive(Deserialize)]
struct Known {
    client_id: String,
    client_secret: Option<String>,
}

/// Connects, and writes how it went.
pub(crate) async fn run(target: &str) -> anyhow::Result<()> {
    let target: Target = serde_json::from_str(target).context("the target is no JSON of a journey")?;
    let outcome = match tokio::time::timeout(PATIENCE, connect(&target)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("no end within {PATIENCE:?}")),
    };
    let line = match outcome {
        Ok(detail) => json!({ "ok": true, "detail": detail }),
        Err(error) => json!({ "ok": false, "detail": format!("{error:#}") }),
    };
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// The id by which the client is known.
async fn connect(target: &Target) -> anyhow::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", target.port)).await?;
    let callback = format!("http://{}/callback", listener.local_addr()?);
    let mut request = AuthorizationRequest::new(callback).with_client_name("rmcp");
    if let Some(known) = &target.client {
        request = request.with_preregistered_client(&known.client_id);
        if let Some(secret) = &known.client_secret {
            request = request.with_client_secret(secret);
        }
    }
    if let Some(document) = &target.document {
        request = request.with_client_metadata_url(document);
    }
    let mut state = OAuthState::new(&*target.url, None).await?;
    state.start_authorization(request).await.context("start")?;
    writeln!(std::io::stdout(), "OPEN {}", state.get_authorization_url().await?)?;
    let came = came(&listener).await?;
    state.handle_callback_url(&format!("http://{}{came}", listener.local_addr()?)).await.context("callback")?;
    let manager = state.into_authorization_manager().context("it is not authorized")?;
    let client = AuthClient::new(reqwest::Client::new(), manager);
    call(target, &client).await?;
    let manager = client.auth_manager.lock().await;
    let (id, before) = manager.get_credentials().await?;
    // As if an hour had passed: nobody is at a browser.
    let after = manager.refresh_token().await.context("refresh")?;
    drop(manager);
    let (before, after) = (serde_json::to_value(before)?, serde_json::to_value(after)?);
    for name in ["access_token", "refresh_token"] {
        ensure!(after[name].is_string() && before[name] != after[name], "the {name} was not renewed");
    }
    call(target, &client).await?;
    Ok(id)
}

/// Path and query that the browser comes with.
async fn came(listener: &TcpListener) -> anyhow::Result<String> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut header = String::new();
        while stream.read_line(&mut header).await? > 2 {
            header.clear();
        }
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\nconnection: close\r\n\r\nDone.";
        stream.write_all(answer.as_bytes()).await?;
        // A browser asks for an icon, too.
        if path.contains("code=") || path.contains("error=") {
            return Ok(path);
        }
    }
}

/// Calls the tool.
async fn call(target: &Target, client: &AuthClient<reqwest::Client>) -> anyhow::Result<()> {
    let config = StreamableHttpClientTransportConfig::with_uri(&*target.url);
    let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let lifecycle = ClientLifecycleMode::Auto { preferred_versions, legacy_version: None };
    let session = ClientConfig::default().serve_with_lifecycle(transport, lifecycle).await.context("connect")?;
    let result = session.call_tool(CallToolRequestParams::new(target.tool.clone())).await.context("tools/call")?;
    let text = serde_json::to_string(&result)?;
    session.cancel().await?;
    if !text.contains(&target.expect) {
        bail!("{:?} is not in {text}", target.expect);
    }
    Ok(())
}
