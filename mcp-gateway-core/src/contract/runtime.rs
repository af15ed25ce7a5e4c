//! Where servers run.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::Stream;
use jiff::Timestamp;

use super::Endpoint;
use crate::record::{Secret, Subject};

/// Runs workloads, level-triggered: it is told what should be, not what to do.
///
/// `ensure` is called by the deploy layer when a POST finds no ready endpoint of its workload, not per call: the layer
/// keeps the [`Deployment`] and reads its endpoints from memory.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes sure that the workload runs, and returns when it is ready or says precisely why it is not.
    ///
    /// Idempotent and single-flight per workload: callers at the same time share one start. Dropping the future leaves
    /// the start running; a start whose callers have all left is not repeated when it fails. Waits at most
    /// [`Workload::startup_timeout`].
    async fn ensure(&self, workload: &Arc<Workload>) -> Result<Deployment, RuntimeError>;

    /// Stops a workload; it starts again with the next `ensure`. Fine when it does not run.
    async fn stop(&self, id: &WorkloadId) -> Result<(), RuntimeError>;

    /// Stops a workload that runs or starts under another digest; the next `ensure` starts it as it should be. Fine when
    /// it runs as it should, or not at all.
    async fn update(&self, workload: &Arc<Workload>) -> Result<(), RuntimeError>;

    /// Forgets everything kept for a workload, its files too, once its children have ended; fine when nothing is kept.
    /// `false`, with its files as they were, when it runs or starts, or is started meanwhile. After an error a further
    /// call removes what was left.
    async fn remove(&self, id: &WorkloadId) -> Result<bool, RuntimeError>;

    /// The workloads of which anything is kept: those that are known, and those whose files an earlier run has left.
    async fn kept(&self) -> Result<Vec<WorkloadId>, RuntimeError>;

    /// What is known of a workload; `None` when nothing is.
    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, RuntimeError>;

    /// What is known of every workload.
    async fn list(&self) -> Result<Vec<Observation>, RuntimeError>;

    /// The last `tail` lines of its log, then, with `follow`, new ones as they come.
    async fn logs(&self, id: &WorkloadId, tail: usize, follow: bool) -> Result<LogStream, RuntimeError>;

    /// Changes of state as they happen. A slow reader misses some; each event carries the whole observation.
    fn watch(&self) -> RuntimeEventStream;
}

/// Lines of a log.
pub type LogStream = Pin<Box<dyn Stream<Item = LogLine> + Send>>;
/// Changes of state.
pub type RuntimeEventStream = Pin<Box<dyn Stream<Item = RuntimeEvent> + Send>>;

/// A server to run: shared, or one subject's own.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its id.
    pub id: WorkloadId,
    /// The server's id.
    pub server: Arc<str>,
    /// Whose own it is; `None` when it is shared.
    pub subject: Option<Subject>,
    /// Changes with anything below: a workload that runs under another digest is replaced.
    pub digest: Arc<str>,
    /// What to run.
    pub program: Program,
    /// The environment it gets, beside what the runtime itself needs to set. Nothing else is passed on.
    pub env: Vec<(String, Secret)>,
    /// How much it may use.
    pub limits: ResourceLimits,
    /// How long a start may take.
    pub startup_timeout: Duration,
    /// Stopped after this long without use; `None` for never.
    pub idle_timeout: Option<Duration>,
}

/// What to run. Never through a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Program {
    /// An npm package over stdio.
    Npx {
        /// The package, with a version where given: `@modelcontextprotocol/server-everything@2026.8.31`.
        package: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A PyPI package over stdio.
    Uvx {
        /// The package, with a version where given: `mcp-server-time==2026.1.1`.
        package: String,
        /// The command, when it is not called like the package.
        command: Option<String>,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A local program over stdio.
    Command {
        /// Its path, or a name looked up in `PATH`.
        command: String,
        /// Its arguments.
        args: Vec<String>,
    },
}

/// How much a workload may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Bytes of memory a process.
    pub memory: Option<u64>,
    /// Thousandths of a core, where the runtime can enforce it.
    pub cpu_millis: Option<u32>,
}

/// A workload's id: `{server}` when shared, `{server}:{hash of the subject}` when one subject's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId(pub Arc<str>);

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A workload that runs: its endpoints, which change as replicas come and go.
///
/// The sender is dropped when the workload is stopped or gives up; the deploy layer then calls `ensure` again.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// All endpoints, ready or not.
    pub endpoints: tokio::sync::watch::Receiver<Arc<[Endpoint]>>,
}

/// The state of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkloadState {
    /// A start is under way.
    Starting,
    /// It takes calls.
    Running,
    /// It was stopped, by an operator or for being idle.
    Stopped,
    /// Its last start failed, or it crashed and waits for its back-off.
    Failed,
}

/// What is known of a workload.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Which.
    pub id: WorkloadId,
    /// The server's id.
    pub server: Arc<str>,
    /// Whose own it is.
    pub subject: Option<Subject>,
    /// Its state.
    pub state: WorkloadState,
    /// Since when.
    pub since: Timestamp,
    /// Processes or containers.
    pub children: u32,
    /// Starts after a crash.
    pub restarts: u32,
    /// Its last failure, for an owner.
    pub last_error: Option<String>,
}

impl Observation {
    /// Whether it runs or starts.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.state, WorkloadState::Starting | WorkloadState::Running)
    }
}

/// A line that a server wrote to stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// Which child, as far as known.
    pub child: Option<u32>,
    /// The text, at most 8 KiB, without its line end.
    pub text: String,
}

/// A change of state.
#[derive(Debug, Clone)]
pub struct RuntimeEvent {
    /// What is true now.
    pub observation: Observation,
}

/// Why a runtime could not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuntimeErrorKind {
    /// The program, package or image cannot be found or is not installed.
    Missing,
    /// It started and ended, or never became ready.
    Failed,
    /// It was not ready within its startup timeout.
    Timeout,
    /// A limit on children or starts is reached: retry later.
    Exhausted,
    /// The runtime itself (Docker, the API server) does not answer.
    Unavailable,
    /// The workload asks for what this runtime does not do.
    Unsupported,
}

/// A failure of a [`Runtime`].
#[derive(Debug, Clone)]
pub struct RuntimeError {
    /// What happened.
    pub kind: RuntimeErrorKind,
    /// For every caller: plain, nothing of the inside.
    pub public: String,
    /// For an owner: the last stderr lines, the missing program and how to get it.
    pub detail: Option<String>,
}

impl fmt::Display for RuntimeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)
    }
}

impl std::error::Error for RuntimeError {}
