//! How a bridge gets its children.

use std::sync::Arc;

use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::UpstreamError;
use mcp_gateway_core::record::Subject;
use tokio::io::{AsyncRead, AsyncWrite};

/// Starts children for a [`Bridge`](super::Bridge).
///
/// Called once a legacy session, and once for the shared child, again after that one has ended. Limits on children and
/// back-off after crashes are the spawner's: it answers with
/// [`Exhausted`](mcp_gateway_core::contract::UpstreamErrorKind::Exhausted) or
/// [`Unavailable`](mcp_gateway_core::contract::UpstreamErrorKind::Unavailable). Dropping the future must leave no child.
pub trait Spawner: Send + Sync + 'static {
    /// Starts one child.
    fn spawn(&self, purpose: Purpose) -> BoxFuture<Result<Spawned, UpstreamError>>;
}

/// What a child is for.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Purpose {
    /// Whether it serves one legacy session; otherwise it is the shared child.
    pub session: bool,
    /// Whose call started it, as far as known.
    pub subject: Option<Subject>,
}

/// A child that runs.
pub struct Spawned {
    /// Its standard input.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its standard output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// The rest of it.
    pub control: Arc<dyn ChildControl>,
}

impl std::fmt::Debug for Spawned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawned").finish_non_exhaustive()
    }
}

/// What a bridge does with a child beside talking to it.
pub trait ChildControl: Send + Sync + 'static {
    /// Keeps a line of standard output that is no message. The bytes are foreign text, and at most `max_line` of them.
    fn stray(&self, line: &[u8]);

    /// Ends the child: its standard input is closed already, so first in peace, then by force. Returns at once; called
    /// at least once in a child's life, also when it has ended by itself.
    fn stop(&self);

    /// Why it ended. Called after its standard output has ended; may wait a moment for the exit status.
    fn epitaph(&self) -> BoxFuture<Epitaph>;
}

/// Why a child ended.
#[derive(Debug, Clone, Default)]
pub struct Epitaph {
    /// For an owner: exit status and the last lines of standard error.
    pub detail: Option<String>,
}
