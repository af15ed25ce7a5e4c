//! A runtime whose servers are values.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::contract::{
    Address, Deployment, Endpoint, Incarnation, LogLine, LogStream, Observation, Runtime, RuntimeError,
    RuntimeErrorKind, RuntimeEvent, RuntimeEventStream, Upstream, Workload, WorkloadId, WorkloadState,
};

/// Changes that a slow reader may be behind.
const CHANGES: usize = 256;

/// A [`Runtime`] that answers for every workload with one [`Upstream`] in this process: for tests, benchmarks, and
/// gateways with built-in servers.
///
/// What a runtime may meet can be scripted: a workload whose start [fails](Self::fail), a runtime that is
/// [away](Self::cut_off), a state that something else brought about ([`place`](Self::place)).
pub struct MemoryRuntime {
    upstream: Arc<dyn Upstream>,
    state: Mutex<State>,
    changes: broadcast::Sender<RuntimeEvent>,
}

#[derive(Default)]
struct State {
    workloads: BTreeMap<WorkloadId, Known>,
    failures: BTreeMap<WorkloadId, RuntimeError>,
    logs: BTreeMap<WorkloadId, Vec<LogLine>>,
    ensured: Vec<WorkloadId>,
    lives: u64,
    away: Option<RuntimeError>,
}

struct Known {
    observation: Observation,
    running: Option<Running>,
}

struct Running {
    digest: Arc<str>,
    endpoints: watch::Sender<Arc<[Endpoint]>>,
}

impl MemoryRuntime {
    /// Runs this.
    pub fn new(upstream: Arc<dyn Upstream>) -> Self {
        Self { upstream, state: Mutex::default(), changes: broadcast::Sender::new(CHANGES) }
    }

    /// From now on the start of this workload fails so; `None` ends it.
    pub fn fail(&self, id: WorkloadId, with: Option<RuntimeError>) {
        let failures = &mut self.lock().failures;
        match with {
            Some(error) => failures.insert(id, error),
            None => failures.remove(&id),
        };
    }

    /// From now on everything but reading changes fails so; `None` ends it.
    pub fn cut_off(&self, with: Option<RuntimeError>) {
        self.lock().away = with;
    }

    /// Puts a workload into this state, as if something had brought it about.
    pub fn place(&self, observation: Observation) {
        let mut state = self.lock();
        match state.workloads.get_mut(&observation.id) {
            Some(known) => known.observation = observation,
            None => {
                let id = observation.id.clone();
                state.workloads.insert(id, Known { observation, running: None });
            }
        }
    }

    /// Replaces a workload's log, whether it runs or not.
    pub fn set_log(&self, id: WorkloadId, lines: Vec<LogLine>) {
        self.lock().logs.insert(id, lines);
    }

    /// The workloads that were ensured, in order, each as often as it was.
    #[must_use]
    pub fn ensured(&self) -> Vec<WorkloadId> {
        self.lock().ensured.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reached(&self) -> Result<MutexGuard<'_, State>, RuntimeError> {
        let state = self.lock();
        if let Some(error) = &state.away {
            return Err(error.clone());
        }
        Ok(state)
    }

    fn start(&self, workload: &Workload) -> Result<Deployment, RuntimeError> {
        let mut state = self.reached()?;
        let state = &mut *state;
        state.ensured.push(workload.id.clone());
        let known = state.workloads.entry(workload.id.clone()).or_insert_with(|| Known {
            observation: Observation {
                id: workload.id.clone(),
                server: Arc::clone(&workload.server),
                subject: workload.subject.clone(),
                state: WorkloadState::Starting,
                since: Timestamp::now(),
                children: 0,
                restarts: 0,
                last_error: None,
            },
            running: None,
        });
        if let Some(error) = state.failures.get(&workload.id) {
            known.running = None;
            known.observation.last_error = Some(error.detail.clone().unwrap_or_else(|| error.public.clone()));
            self.tell(known, WorkloadState::Failed);
            return Err(error.clone());
        }
        if let Some(running) = known.running.as_ref().filter(|running| running.digest == workload.digest) {
            return Ok(Deployment { endpoints: running.endpoints.subscribe() });
        }
        state.lives += 1;
        let endpoint = Endpoint {
            incarnation: Incarnation(format!("{}~{}", workload.id, state.lives).into()),
            address: Address::Local(Arc::clone(&self.upstream)),
            ready: true,
            load: 0,
        };
        let (endpoints, deployed) = watch::channel(Arc::from([endpoint]));
        known.running = Some(Running { digest: Arc::clone(&workload.digest), endpoints });
        known.observation.last_error = None;
        self.tell(known, WorkloadState::Running);
        Ok(Deployment { endpoints: deployed })
    }

    fn tell(&self, known: &mut Known, state: WorkloadState) {
        (known.observation.state, known.observation.since) = (state, Timestamp::now());
        // Nobody need be watching.
        let _ = self.changes.send(RuntimeEvent { observation: known.observation.clone() });
    }
}

fn error(kind: RuntimeErrorKind, public: &str) -> RuntimeError {
    RuntimeError { kind, public: public.to_owned(), detail: None }
}

#[async_trait]
impl Runtime for MemoryRuntime {
    async fn ensure(&self, workload: &Arc<Workload>) -> Result<Deployment, RuntimeError> {
        self.start(workload)
    }

    async fn stop(&self, id: &WorkloadId) -> Result<(), RuntimeError> {
        if let Some(known) = self.reached()?.workloads.get_mut(id) {
            known.running = None;
            self.tell(known, WorkloadState::Stopped);
        }
        Ok(())
    }

    async fn update(&self, workload: &Arc<Workload>) -> Result<(), RuntimeError> {
        if let Some(known) = self.reached()?.workloads.get_mut(&workload.id)
            && known.running.as_ref().is_some_and(|running| running.digest != workload.digest)
        {
            known.running = None;
            self.tell(known, WorkloadState::Stopped);
        }
        Ok(())
    }

    async fn kept(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        Ok(self.reached()?.workloads.keys().cloned().collect())
    }

    async fn remove(&self, id: &WorkloadId) -> Result<bool, RuntimeError> {
        let mut state = self.reached()?;
        if state.workloads.get(id).is_some_and(|known| known.observation.is_active()) {
            return Ok(false);
        }
        state.workloads.remove(id);
        state.logs.remove(id);
        Ok(true)
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, RuntimeError> {
        Ok(self.reached()?.workloads.get(id).map(|known| known.observation.clone()))
    }

    async fn list(&self) -> Result<Vec<Observation>, RuntimeError> {
        Ok(self.reached()?.workloads.values().map(|known| known.observation.clone()).collect())
    }

    async fn logs(&self, id: &WorkloadId, tail: usize, follow: bool) -> Result<LogStream, RuntimeError> {
        let state = self.reached()?;
        let log = match state.logs.get(id) {
            Some(log) => &log[log.len().saturating_sub(tail)..],
            None if state.workloads.contains_key(id) => &[],
            None => return Err(error(RuntimeErrorKind::Missing, "There is no such log.")),
        };
        let lines = stream::iter(log.to_vec());
        Ok(if follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    fn watch(&self) -> RuntimeEventStream {
        stream::unfold(self.changes.subscribe(), |mut changes| async move {
            loop {
                match changes.recv().await {
                    Ok(change) => return Some((change, changes)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }
}

impl std::fmt::Debug for MemoryRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        let states: BTreeMap<_, _> = state.workloads.iter().map(|(id, known)| (id, known.observation.state)).collect();
        f.debug_struct("MemoryRuntime")
            .field("workloads", &states)
            .field("away", &state.away.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::runtime;
    use crate::contract::{Program, UpstreamError, UpstreamErrorKind};
    use crate::record::Route;
    use crate::{Body, BoxFuture};

    struct Silent;

    impl Upstream for Silent {
        fn call(&self, _: http::Request<Body>) -> BoxFuture<Result<http::Response<Body>, UpstreamError>> {
            Box::pin(async { Err(UpstreamError::new(UpstreamErrorKind::Broken, "It says nothing.")) })
        }
    }

    struct Bench(Arc<MemoryRuntime>);

    impl runtime::Bench for Bench {
        fn runtime(&self) -> Arc<dyn Runtime> {
            self.0.clone()
        }

        fn works(&self, id: &str) -> Workload {
            let program = Program::Command { command: "none".to_owned(), args: Vec::new() };
            Route::template(id, program, Vec::new())
        }

        fn fails(&self, id: &str) -> Workload {
            self.0.fail(WorkloadId(id.into()), Some(error(RuntimeErrorKind::Failed, "It does not start.")));
            self.works(id)
        }
    }

    #[tokio::test]
    async fn it_is_a_runtime() {
        runtime::suite(&Bench(Arc::new(MemoryRuntime::new(Arc::new(Silent))))).await;
    }
}
