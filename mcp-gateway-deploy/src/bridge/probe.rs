//! Which era a child speaks.

use std::time::Duration;

use bytes::Bytes;
use mcp_gateway_core::wire::{Kind, peek, rpc};
use tokio::time::Instant;

use super::calls::child_limits;
use super::child::Child;
use super::options::BridgeOptions;

/// What a child turned out to speak.
pub(super) enum Found {
    /// The stateless revision, perhaps beside the handshake. The child is ready for calls.
    Modern(Child),
    /// The handshake only. The child is still before it, unless the probe itself had to try it.
    Legacy(Option<Child>),
    /// It ended without an answer; for an owner: why.
    Ended(Option<String>),
    /// It did not answer in time.
    Silent,
}

const DISCOVER: &str = r#"{"jsonrpc":"2.0","id":"probe-discover","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"mcp-gateway","version":"0.1.0"}}}}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":"probe-ping","method":"ping"}"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":"probe-initialize","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"mcp-gateway","version":"0.1.0"}}}"#;

/// How a child is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// `server/discover`, and a ping.
    Discover,
    /// The handshake, because the child before this one ended when it was asked anything else.
    Handshake,
}

/// Asks a child for `server/discover`, and pings it so that a silent refusal is told from a slow start.
///
/// A result, or an error that only the stateless revision has, means modern; any other error means legacy, whatever
/// its code. When nothing comes at all, the handshake is tried as well, since some servers hear nothing before it.
pub(super) async fn probe(mut child: Child, question: Question, options: &BridgeOptions) -> Found {
    let start = Instant::now();
    let deadline = start + options.start_timeout;
    let mut handshake = question == Question::Handshake;
    for message in if handshake { &[INITIALIZE][..] } else { &[DISCOVER, PING] } {
        if child.writer.send(Bytes::from_static(message.as_bytes())).await.is_err() {
            return Found::Ended(child.life.epitaph().await);
        }
    }
    let limits = child_limits(options);
    let mut alive = false;
    let mut due = if handshake { deadline } else { deadline.min(start + options.probe_silence) };
    loop {
        let line = tokio::select! {
            line = child.reader.next() => line,
            () = tokio::time::sleep_until(due) => {
                if alive {
                    return Found::Legacy((!handshake).then_some(child));
                }
                if due >= deadline {
                    return Found::Silent;
                }
                handshake = true;
                due = deadline;
                let _ = child.writer.send(Bytes::from_static(INITIALIZE.as_bytes())).await;
                continue;
            }
        };
        let Ok(Some(line)) = line else { return Found::Ended(child.life.epitaph().await) };
        let Ok(message) = peek(&line, &limits) else {
            child.reader.stray(&line);
            continue;
        };
        if message.kind != Kind::Response {
            continue;
        }
        match message.id.map(mcp_gateway_core::wire::Id::raw) {
            Some(br#""probe-discover""#) => {
                let modern = !message.is_error || message.error_code.is_some_and(is_modern);
                return if modern { Found::Modern(child) } else { Found::Legacy((!handshake).then_some(child)) };
            }
            Some(br#""probe-initialize""#) => return Found::Legacy(None),
            _ => {
                // It answers, so the answer to the first question is due.
                alive = true;
                due = due.min(Instant::now() + GRACE);
            }
        }
    }
}

/// Whether a response answers the probe: it may come when the child has been handed on.
pub(super) fn asked(id: &[u8]) -> bool {
    id.starts_with(b"\"probe-")
}

/// How long the answer to `server/discover` may come after that to the ping.
const GRACE: Duration = Duration::from_secs(1);

/// Errors that no revision with a handshake has.
fn is_modern(code: i64) -> bool {
    matches!(
        code,
        rpc::code::HEADER_MISMATCH | rpc::code::MISSING_CLIENT_CAPABILITY | rpc::code::UNSUPPORTED_PROTOCOL_VERSION
    )
}
