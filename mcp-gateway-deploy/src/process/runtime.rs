//! The runtime: which workloads run, and how they start and end.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use mcp_gateway_core::contract::{
    Address, Deployment, Endpoint, Incarnation, LogStream, Observation, Runtime, RuntimeError, RuntimeErrorKind,
    RuntimeEvent, RuntimeEventStream, UpstreamError, UpstreamErrorKind, Workload, WorkloadId, WorkloadState,
};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use ulid::Ulid;

use super::cgroup::{Cgroup, Cgroups};
use super::journal::Journal;
use super::limits::Children;
use super::log::RingLog;
use super::options::ProcessOptions;
use super::workload::{self, Dirs, History, WorkloadSpawner, last_lines, open_to};
use crate::bridge::{Bridge, BridgeOptions};

/// Runs workloads as child processes, each behind a [`Bridge`] in this process.
///
/// A cheap handle. When the last one is dropped every child is killed; [`ProcessRuntime::shutdown`] ends them in peace.
#[derive(Clone)]
pub struct ProcessRuntime(Arc<Handle>);

/// Kills the children when the last handle goes; tasks of the runtime hold the core alone.
struct Handle(Arc<Core>);

struct Core {
    options: ProcessOptions,
    children: Children,
    journal: Arc<Journal>,
    cgroups: Option<Cgroups>,
    table: Mutex<HashMap<WorkloadId, Entry>>,
    events: broadcast::Sender<RuntimeEvent>,
}

/// What is known of one workload.
struct Entry {
    workload: Arc<Workload>,
    log: RingLog,
    history: Arc<History>,
    state: WorkloadState,
    since: Timestamp,
    last_error: Option<String>,
    /// Each start and stop counts one up: a task of an older life changes nothing.
    life: u64,
    start: Option<watch::Receiver<Option<Result<(), RuntimeError>>>>,
    /// From the beginning of the start, so that a stop ends what starts, too.
    bridge: Option<Bridge>,
    /// While it runs.
    endpoints: Option<watch::Sender<Arc<[Endpoint]>>>,
}

/// Events that a slow reader may be behind.
const EVENTS: usize = 256;

impl ProcessRuntime {
    /// A runtime in this folder. Ends what an earlier one in it has left behind.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process runs children in it, or [`Cgroup::At`] a folder is not possible.
    pub fn new(mut options: ProcessOptions) -> io::Result<Self> {
        // Children start in folders of their own, so every path must hold from anywhere.
        options.data_dir = std::path::absolute(&options.data_dir)?;
        let journal = Arc::new(Journal::open(&options.data_dir)?);
        if let Some(user) = options.user {
            open_to(&options.data_dir, user)?;
        }
        workload::finish_removals(&options.data_dir)?;
        let cgroups = cgroups(&options.cgroup)?;
        let (events, _) = broadcast::channel(EVENTS);
        let children = Children::new(options.children);
        let core = Core { options, children, journal, cgroups, table: Mutex::default(), events };
        Ok(Self(Arc::new(Handle(Arc::new(core)))))
    }

    fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    /// Ends every workload, and waits until its children are gone.
    pub async fn shutdown(&self) {
        for entry in self.core().lock().values_mut() {
            self.core().end(entry, WorkloadState::Stopped);
        }
        // Those of workloads that were replaced or removed a moment ago, too.
        self.core().within_grace(|| self.core().journal.is_empty()).await;
    }
}

/// Finds out what limits children, and says it.
fn cgroups(wanted: &Cgroup) -> io::Result<Option<Cgroups>> {
    match Cgroups::open(wanted) {
        Ok(Some(cgroups)) => {
            tracing::info!(dir = %cgroups.dir().display(), "children are limited by cgroups: memory, processor, processes");
            Ok(Some(cgroups))
        }
        Ok(None) => {
            tracing::info!("children are limited by rlimits: memory of each process, not processor time or processes");
            Ok(None)
        }
        Err(error) if matches!(wanted, Cgroup::At(_)) => Err(error),
        Err(error) => {
            tracing::warn!(
                %error,
                "children are limited by rlimits, because no cgroups can be made: memory of each process, not processor \
                 time or processes"
            );
            Ok(None)
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for entry in self.0.lock().values_mut() {
            self.0.end(entry, WorkloadState::Stopped);
        }
        self.0.journal.kill_all();
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    async fn ensure(&self, workload: &Arc<Workload>) -> Result<Deployment, RuntimeError> {
        loop {
            let mut start = match self.core().begin(workload) {
                Begun::Runs(deployment) => return Ok(deployment),
                Begun::Starts(start) => start,
            };
            let outcome = start.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            match outcome {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(stopped()),
            }
            if let Some(deployment) = self.core().deployment(&workload.id, &workload.digest) {
                return Ok(deployment);
            }
        }
    }

    async fn stop(&self, id: &WorkloadId) -> Result<(), RuntimeError> {
        if let Some(entry) = self.core().lock().get_mut(id) {
            self.core().end(entry, WorkloadState::Stopped);
        }
        Ok(())
    }

    async fn update(&self, workload: &Arc<Workload>) -> Result<(), RuntimeError> {
        let mut table = self.core().lock();
        if let Some(entry) = table.get_mut(&workload.id).filter(|entry| entry.workload.digest != workload.digest) {
            self.core().end(entry, WorkloadState::Stopped);
        }
        Ok(())
    }

    async fn remove(&self, id: &WorkloadId) -> Result<bool, RuntimeError> {
        let core = self.core();
        let dirs = Dirs::of(&core.options.data_dir, id)?;
        let ended = match core.lock().get(id) {
            Some(entry) if entry.bridge.is_some() || entry.start.is_some() => return Ok(false),
            entry => entry.map(|entry| (entry.life, Arc::clone(&entry.history.alive))),
        };
        // A child that still writes would bring its folder back.
        if let Some((_, alive)) = &ended {
            core.within_grace(|| alive.load(Ordering::Relaxed) == 0).await;
        }
        let failed = |error: io::Error| RuntimeError {
            kind: RuntimeErrorKind::Unavailable,
            public: "The server's files could not be removed.".to_owned(),
            detail: Some(format!("{}: {error}", dirs.own.display())),
        };
        {
            let mut table = core.lock();
            if table.get(id).map(|entry| entry.life) != ended.map(|(life, _)| life) {
                // It was started again meanwhile, in the same folder.
                return Ok(false);
            }
            // What starts from here on has a folder of its own.
            dirs.give_up().map_err(failed)?;
            table.remove(id);
        }
        // With what an earlier call could not remove.
        let own = dirs.own.clone();
        let removed = tokio::task::spawn_blocking(move || workload::remove_given_up(&own)).await;
        removed.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)?;
        Ok(true)
    }

    async fn kept(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        let mut all = workload::kept(&self.core().options.data_dir).map_err(|error| RuntimeError {
            kind: RuntimeErrorKind::Unavailable,
            public: "The servers' folders cannot be listed.".to_owned(),
            detail: Some(error.to_string()),
        })?;
        all.extend(self.core().lock().keys().cloned());
        all.sort();
        all.dedup();
        Ok(all)
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, RuntimeError> {
        Ok(self.core().lock().get(id).map(Entry::observation))
    }

    async fn list(&self) -> Result<Vec<Observation>, RuntimeError> {
        let mut all: Vec<_> = self.core().lock().values().map(Entry::observation).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    async fn logs(&self, id: &WorkloadId, tail: usize, follow: bool) -> Result<LogStream, RuntimeError> {
        let log = self.core().lock().get(id).map(|entry| entry.log.clone()).ok_or_else(|| RuntimeError {
            kind: RuntimeErrorKind::Missing,
            public: "The server has not been started yet, so there is no log.".to_owned(),
            detail: None,
        })?;
        Ok(if follow { Box::pin(log.follow(tail)) } else { Box::pin(futures_util::stream::iter(log.tail(tail))) })
    }

    fn watch(&self) -> RuntimeEventStream {
        let events = self.core().events.subscribe();
        Box::pin(
            futures_util::stream::unfold(events, |mut events| async move {
                loop {
                    match events.recv().await {
                        Ok(event) => return Some((event, events)),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            })
            .fuse(),
        )
    }
}

enum Begun {
    Runs(Deployment),
    Starts(watch::Receiver<Option<Result<(), RuntimeError>>>),
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkloadId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until children have ended, for as long as they are given for it.
    async fn within_grace(&self, ended: impl Fn() -> bool) {
        let grace = self.options.grace;
        let deadline = Instant::now() + grace.close + grace.term + Duration::from_secs(1);
        while !ended() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn deployment(&self, id: &WorkloadId, digest: &str) -> Option<Deployment> {
        let table = self.lock();
        let entry = table.get(id).filter(|entry| *entry.workload.digest == *digest)?;
        entry.endpoints.as_ref().map(|endpoints| Deployment { endpoints: endpoints.subscribe() })
    }

    /// Finds the workload running or starting, or starts it.
    fn begin(self: &Arc<Self>, workload: &Arc<Workload>) -> Begun {
        let mut table = self.lock();
        let entry = table.entry(workload.id.clone()).or_insert_with(|| Entry::new(workload, &self.options));
        if entry.workload.digest != workload.digest {
            self.end(entry, WorkloadState::Stopped);
            // Children of the one before may still be ending, in the same folder.
            let (life, history) = (entry.life, Arc::new(entry.history.replaced()));
            *entry = Entry { life, history, ..Entry::new(workload, &self.options) };
        }
        if let Some(endpoints) = &entry.endpoints {
            return Begun::Runs(Deployment { endpoints: endpoints.subscribe() });
        }
        if let Some(start) = &entry.start {
            return Begun::Starts(start.clone());
        }
        let (sender, receiver) = watch::channel(None);
        entry.life += 1;
        entry.start = Some(receiver.clone());
        self.tell(entry, WorkloadState::Starting);
        let (life, log, history) = (entry.life, entry.log.clone(), Arc::clone(&entry.history));
        let core = Arc::clone(self);
        let workload = Arc::clone(workload);
        tokio::spawn(async move {
            let outcome = core.start(&workload, life, log, history).await;
            let outcome = core.settle(&workload, life, outcome);
            sender.send_replace(Some(outcome));
        });
        Begun::Starts(receiver)
    }

    async fn start(
        &self,
        workload: &Arc<Workload>,
        life: u64,
        log: RingLog,
        history: Arc<History>,
    ) -> Result<Bridge, RuntimeError> {
        let children = self.children.clone();
        let spawner = WorkloadSpawner::prepare(
            workload,
            &self.options,
            log.clone(),
            children,
            Arc::clone(&self.journal),
            self.cgroups.clone(),
            history,
        )?;
        let bridge = &self.options.bridge;
        let options = BridgeOptions {
            start_timeout: workload.startup_timeout,
            session_idle: workload.idle_timeout.unwrap_or(bridge.session_idle),
            ..bridge.clone()
        };
        let bridge = Bridge::new(Arc::new(spawner), options);
        match self.lock().get_mut(&workload.id).filter(|entry| entry.life == life) {
            Some(entry) => entry.bridge = Some(bridge.clone()),
            None => return Err(stopped()),
        }
        match tokio::time::timeout(workload.startup_timeout, bridge.start()).await {
            Ok(Ok(_)) => Ok(bridge),
            Ok(Err(error)) => {
                bridge.shutdown();
                Err(failure(error, &log))
            }
            Err(_) => {
                bridge.shutdown();
                Err(failure(UpstreamError::new(UpstreamErrorKind::Timeout, "The server did not start in time."), &log))
            }
        }
    }

    /// Makes the outcome of a start known, unless the workload was stopped meanwhile.
    fn settle(
        self: &Arc<Self>,
        workload: &Arc<Workload>,
        life: u64,
        outcome: Result<Bridge, RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let mut table = self.lock();
        let Some(entry) = table.get_mut(&workload.id).filter(|entry| entry.life == life) else {
            if let Ok(bridge) = outcome {
                bridge.shutdown();
            }
            return Err(stopped());
        };
        entry.start = None;
        match outcome {
            Ok(bridge) => {
                let incarnation = Incarnation(format!("{}~{}", workload.id, Ulid::generate()).into());
                let address = Address::Local(Arc::new(bridge.clone()));
                let endpoints: Arc<[Endpoint]> = [Endpoint { incarnation, address, ready: true, load: 0 }].into();
                entry.endpoints = Some(watch::Sender::new(endpoints));
                entry.last_error = None;
                self.tell(entry, WorkloadState::Running);
                if let Some(idle) = workload.idle_timeout {
                    tokio::spawn(Arc::clone(self).stop_when_idle(workload.id.clone(), life, bridge, idle));
                }
                Ok(())
            }
            Err(error) => {
                entry.bridge = None;
                entry.last_error = Some(error.detail.clone().unwrap_or_else(|| error.public.clone()));
                self.tell(entry, WorkloadState::Failed);
                Err(error)
            }
        }
    }

    async fn stop_when_idle(self: Arc<Self>, id: WorkloadId, life: u64, bridge: Bridge, idle: Duration) {
        let started = Instant::now();
        loop {
            let usage = bridge.usage();
            let idle_at = usage.last_use.unwrap_or(started) + idle;
            let wait = if usage.calls > 0 { idle } else { idle_at.saturating_duration_since(Instant::now()) };
            if wait.is_zero() {
                break;
            }
            tokio::time::sleep(wait.min(idle)).await;
            if self.lock().get(&id).is_none_or(|entry| entry.life != life) {
                return;
            }
        }
        let mut table = self.lock();
        if let Some(entry) = table.get_mut(&id).filter(|entry| entry.life == life) {
            self.end(entry, WorkloadState::Stopped);
        }
    }

    /// Ends a life of a workload. New calls find no endpoint from here on; those in flight end with it.
    fn end(&self, entry: &mut Entry, state: WorkloadState) {
        entry.life += 1;
        entry.start = None;
        entry.endpoints = None;
        if let Some(bridge) = entry.bridge.take() {
            bridge.shutdown();
        }
        if entry.state != state {
            self.tell(entry, state);
        }
    }

    fn tell(&self, entry: &mut Entry, state: WorkloadState) {
        entry.state = state;
        entry.since = Timestamp::now();
        // Nobody may be watching.
        let _ = self.events.send(RuntimeEvent { observation: entry.observation() });
    }
}

impl Entry {
    fn new(workload: &Arc<Workload>, options: &ProcessOptions) -> Self {
        let secrets = workload.env.iter().map(|(_, value)| value.clone()).collect();
        Self {
            workload: Arc::clone(workload),
            log: RingLog::new(options.log_lines, secrets),
            history: Arc::default(),
            state: WorkloadState::Stopped,
            since: Timestamp::now(),
            last_error: None,
            life: 0,
            start: None,
            bridge: None,
            endpoints: None,
        }
    }

    fn observation(&self) -> Observation {
        Observation {
            id: self.workload.id.clone(),
            server: Arc::clone(&self.workload.server),
            subject: self.workload.subject.clone(),
            state: self.state,
            since: self.since,
            children: self.history.alive.load(Ordering::Relaxed),
            restarts: self.history.restarts.load(Ordering::Relaxed),
            last_error: self.last_error.clone(),
        }
    }
}

fn stopped() -> RuntimeError {
    RuntimeError { kind: RuntimeErrorKind::Failed, public: "The server was stopped.".to_owned(), detail: None }
}

fn failure(error: UpstreamError, log: &RingLog) -> RuntimeError {
    let kind = match error.kind {
        UpstreamErrorKind::Exhausted => RuntimeErrorKind::Exhausted,
        UpstreamErrorKind::Timeout => RuntimeErrorKind::Timeout,
        _ => RuntimeErrorKind::Failed,
    };
    let detail = error.detail.or_else(|| Some(last_lines(log)).filter(|lines| !lines.is_empty()));
    RuntimeError { kind, public: error.public, detail }
}

impl std::fmt::Debug for ProcessRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessRuntime").field("data_dir", &self.core().options.data_dir).finish_non_exhaustive()
    }
}
