//! `stdio`: one server on standard input and output, over streamable HTTP.

use std::ffi::OsString;
use std::process::ExitCode;

use super::StdioArgs;

/// Becomes the sandboxed child when the arguments begin with `stdio --sandbox`; returns only if that failed, or if the
/// arguments are others.
#[cfg(feature = "process")]
pub(super) fn launcher(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    use mcp_gateway_deploy::process::launcher::Sandbox;

    if args.next()? != "stdio" || args.next()? != "--sandbox" {
        return None;
    }
    let error = match Sandbox::parse(args) {
        Ok(sandbox) => sandbox.exec(),
        Err(error) => error,
    };
    super::tell(&format!("mcp-gateway stdio --sandbox: {error}"));
    // What shells say of a command that cannot be started.
    Some(ExitCode::from(126))
}

#[cfg(not(feature = "process"))]
pub(super) fn launcher(_: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    None
}

#[cfg(feature = "process")]
pub(super) fn run(args: StdioArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bridge::serve(args))
}

#[cfg(not(feature = "process"))]
pub(super) fn run(_: StdioArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build runs no servers: it lacks the feature process")
}

#[cfg(feature = "process")]
mod bridge {
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::time::Duration;

    use axum::Router;
    use futures_util::StreamExt as _;
    use http::{Request, Response, StatusCode};
    use mcp_gateway_core::Body;
    use mcp_gateway_core::contract::{Upstream as _, UpstreamErrorKind};
    use mcp_gateway_core::layer::host::HostLayer;
    use mcp_gateway_core::record::Mount;
    use mcp_gateway_core::refusal::Refusal;
    use mcp_gateway_deploy::bridge::{Bridge, BridgeOptions};
    use mcp_gateway_deploy::process::{CommandSpawner, RingLog};
    use tokio::time::timeout;

    use crate::api::escaped_line;
    use crate::cli::signals::Signals;
    use crate::cli::{StdioArgs, print, tell};
    use crate::listen::{Dispatch, Drain, Listener, ListenerOptions};

    /// Lines of the child's standard error that may wait to be shown.
    const LOG_LINES: usize = 1_000;
    /// How long what is left after the calls may take to end in peace.
    const LAST_WORDS: Duration = Duration::from_secs(2);

    pub(super) async fn serve(args: StdioArgs) -> anyhow::Result<ExitCode> {
        if !args.listen.ip().to_canonical().is_loopback() && !args.insecure_http {
            anyhow::bail!(
                "--listen {}: other machines reach this address, and nobody is asked for a key. Listen on loopback, \
                 put the server into a gateway's catalog, or permit it with --insecure-http",
                args.listen
            );
        }
        let signals = Signals::new()?;
        let mut command = args.command.into_iter();
        let Some(program) = command.next() else { anyhow::bail!("no command after --") };
        let log = RingLog::new(LOG_LINES, Vec::new());
        let mut lines = Box::pin(log.follow(0));
        tokio::spawn(async move {
            while let Some(line) = lines.next().await {
                tell(&format!("[{}] {}", line.child.unwrap_or_default(), escaped_line(&line.text)));
            }
        });
        let spawner = CommandSpawner::new(program, command.collect::<Vec<_>>(), log);
        let bridge = Bridge::new(Arc::new(spawner.clone()), BridgeOptions::default());
        let listener = Listener::bind(args.listen)?;
        let address = listener.address();
        let mount = Mount::new(&format!("http://{address}"), "/mcp")?;
        let handle = bridge.clone();
        let router = Router::new()
            .fallback(move |request: axum::extract::Request| answer(handle.clone(), request))
            // A page on another site may reach this port through the user's browser (DNS rebinding).
            .layer(HostLayer::new(&mount, [], address.ip().is_loopback()));
        let drain = Drain::default();
        let dispatch = Dispatch::without_gateway(router, drain.clone());
        print(&format!("http://{address}/mcp\n"))?;
        let serving = tokio::spawn(listener.serve(dispatch, ListenerOptions::default(), None));
        let (first, second) = signals.split();
        first.await;
        drain.begun.cancel();
        serving.await?;
        drain.connections.close();
        tokio::select! {
            () = in_peace(&bridge, &spawner, &drain, Duration::from_secs(args.drain_seconds)) => {}
            () = second => tell("ending at once"),
        }
        drain.cut.cancel();
        drain.connections.wait().await;
        Ok(ExitCode::SUCCESS)
    }

    /// Calls first, then streams, then the child.
    async fn in_peace(bridge: &Bridge, spawner: &CommandSpawner, drain: &Drain, limit: Duration) {
        if timeout(limit, calls_ended(bridge)).await.is_err() {
            tell("calls are cut: --drain-seconds are over");
        }
        drain.streams.cancel();
        if timeout(LAST_WORDS, drain.connections.wait()).await.is_err() {
            drain.cut.cancel();
        }
        bridge.shutdown();
        // Its grace is its own.
        spawner.ended().await;
    }

    async fn calls_ended(bridge: &Bridge) {
        let mut quiet = 0;
        // Twice, because a request that has just been read is not counted yet.
        while quiet < 2 {
            quiet = if bridge.usage().calls == 0 { quiet + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn answer(bridge: Bridge, request: axum::extract::Request) -> Response<axum::body::Body> {
        if request.headers().get(http::header::ORIGIN).is_some_and(|origin| !is_local(origin)) {
            return Refusal::new(StatusCode::FORBIDDEN, "Only local pages may call.").into_mcp(None);
        }
        if request.uri().path() != "/mcp" {
            return Refusal::new(StatusCode::NOT_FOUND, "The server is at /mcp.").into_mcp(None);
        }
        let request: Request<Body> = request.map(Body::new);
        match bridge.call(request).await {
            Ok(response) => response.map(axum::body::Body::new),
            Err(error) => {
                let status = match error.kind {
                    UpstreamErrorKind::Unavailable | UpstreamErrorKind::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
                    UpstreamErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
                    _ => StatusCode::BAD_GATEWAY,
                };
                let refusal = Refusal::new(status, error.public.clone()).because(error);
                if status == StatusCode::SERVICE_UNAVAILABLE { refusal.retry_after(1) } else { refusal }.into_mcp(None)
            }
        }
    }

    fn is_local(origin: &http::HeaderValue) -> bool {
        let host = origin.to_str().ok().and_then(|origin| origin.parse::<http::Uri>().ok());
        host.as_ref().and_then(http::Uri::host).is_some_and(|host| matches!(host, "127.0.0.1" | "localhost" | "[::1]"))
    }
}
