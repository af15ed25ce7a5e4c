//! What is read at the time of asking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::contract::{Observation, WorkloadState};
use mcp_gateway_store::spool::SpoolStats;
use tokio::runtime::Handle;

use crate::app::App;

/// How long the runtime may take to say what runs.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(1);

/// The state of the server's parts at one moment.
pub(super) struct Gauges {
    pub(super) calls: usize,
    pub(super) streams: usize,
    pub(super) tasks: usize,
    /// Connections to servers: of HTTP/1.1, of HTTP/2, and those of HTTP/1.1 that wait.
    pub(super) connections: [usize; 3],
    pub(super) spool: Option<SpoolStats>,
    pub(super) snapshot_revision: u64,
    pub(super) applied_revision: u64,
    pub(super) staleness: Duration,
    pub(super) stale: bool,
    /// Names of the leases that this process has.
    pub(super) leases: Vec<Box<str>>,
    pub(super) routes: usize,
    pub(super) keys: usize,
    /// `None` when there is no runtime or it does not answer.
    pub(super) workloads: Option<Workloads>,
    pub(super) started_at_ms: i64,
    pub(super) uptime: Duration,
}

/// What the runtime runs.
#[derive(Default)]
pub(super) struct Workloads {
    /// Children and starts after a crash, by server.
    pub(super) servers: BTreeMap<Arc<str>, (u64, u64)>,
    /// Workloads by state.
    pub(super) states: [(&'static str, u64); 4],
}

impl Gauges {
    pub(super) async fn read(app: &App) -> Self {
        let workloads = observations(app).await.and_then(Result::ok).map(|all| Workloads::of(&all));
        let snapshot = app.snapshots.load();
        let connections = &app.load.connections;
        Self {
            calls: app.load.calls.current(),
            streams: app.load.streams.current(),
            tasks: Handle::current().metrics().num_alive_tasks(),
            connections: [connections.http1(), connections.http2(), connections.idle()],
            spool: app.spool_stats.as_ref().map(|read| read()),
            snapshot_revision: snapshot.revision.0,
            applied_revision: app.snapshots.applied().borrow().0,
            staleness: app.snapshots.staleness(),
            stale: app.snapshots.is_stale(),
            leases: app.leases.held(),
            routes: snapshot.routes.len(),
            keys: snapshot.keys.len(),
            workloads,
            started_at_ms: app.started_at.as_millisecond(),
            uptime: app.clock.monotonic().saturating_duration_since(app.started),
        }
    }
}

/// What the runtime says; `None` without a runtime, `Some(Err(()))` when it fails or takes too long.
pub(super) async fn observations(app: &App) -> Option<Result<Vec<Observation>, ()>> {
    let runtime = app.runtime.as_ref()?;
    let answer = tokio::time::timeout(RUNTIME_TIMEOUT, runtime.list()).await;
    Some(match answer {
        Ok(Ok(all)) => Ok(all),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the runtime does not say what runs");
            Err(())
        }
        Err(_) => {
            tracing::warn!("the runtime did not say in time what runs");
            Err(())
        }
    })
}

impl Workloads {
    fn of(all: &[Observation]) -> Self {
        let mut workloads =
            Self { states: [("starting", 0), ("running", 0), ("stopped", 0), ("failed", 0)], ..Self::default() };
        for one in all {
            let server = workloads.servers.entry(Arc::clone(&one.server)).or_default();
            server.0 += u64::from(one.children);
            server.1 += u64::from(one.restarts);
            let at = match one.state {
                WorkloadState::Starting => 0,
                WorkloadState::Running => 1,
                WorkloadState::Stopped => 2,
                _ => 3,
            };
            workloads.states[at].1 += 1;
        }
        workloads
    }
}
