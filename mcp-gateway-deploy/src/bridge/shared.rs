//! The shared child: started once, by whoever comes first.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcp_gateway_core::contract::{UpstreamError, UpstreamErrorKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::child::Child;
use super::modern::Hub;
use super::options::BridgeOptions;
use super::probe::{Found, Question, probe};
use super::spawn::{Purpose, Spawner};
use super::{STOPPED, stopped};

/// What a server turned out to be.
#[derive(Clone)]
pub(super) enum Ready {
    /// It answers without a handshake; this is its shared child.
    Modern(Arc<Hub>),
    /// It wants a handshake, so it has no shared child.
    Legacy,
}

/// The slot of the shared child.
pub(super) struct Shared(Arc<Inner>);

struct Inner {
    spawner: Arc<dyn Spawner>,
    options: Arc<BridgeOptions>,
    dropped: Arc<AtomicU64>,
    slot: Mutex<Slot>,
    /// For good. Set with the slot locked.
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct Slot {
    /// Which era the server speaks, once that is known.
    modern: Option<bool>,
    hub: Option<Arc<Hub>>,
    /// A child that was probed and has not been spoken to otherwise.
    unused: Option<Child>,
    start: Option<watch::Receiver<Outcome>>,
}

type Outcome = Option<Result<Ready, Failure>>;

/// An [`UpstreamError`] that many callers share.
#[derive(Clone)]
struct Failure {
    kind: UpstreamErrorKind,
    public: String,
    detail: Option<String>,
}

impl Shared {
    pub(super) fn new(spawner: Arc<dyn Spawner>, options: Arc<BridgeOptions>, dropped: Arc<AtomicU64>) -> Self {
        Self(Arc::new(Inner { spawner, options, dropped, slot: Mutex::default(), ended: watch::Sender::new(false) }))
    }

    /// The shared child, started if need be.
    pub(super) async fn ready(&self, purpose: Purpose) -> Result<Ready, UpstreamError> {
        let mut outcome = {
            let mut slot = self.0.lock();
            if self.0.has_ended() {
                return Err(stopped());
            }
            if slot.modern == Some(false) {
                return Ok(Ready::Legacy);
            }
            if let Some(hub) = slot.hub.as_ref().filter(|hub| hub.is_alive()) {
                return Ok(Ready::Modern(Arc::clone(hub)));
            }
            match &slot.start {
                Some(start) => start.clone(),
                None => {
                    let (sender, receiver) = watch::channel(None);
                    slot.start = Some(receiver.clone());
                    let inner = Arc::clone(&self.0);
                    tokio::spawn(async move {
                        // A start that is dropped leaves no child.
                        let outcome = tokio::select! {
                            biased;
                            () = inner.until_end() => Err(Failure::of(UpstreamErrorKind::Unavailable, STOPPED)),
                            outcome = inner.start(purpose) => outcome,
                        };
                        inner.lock().start = None;
                        sender.send_replace(Some(outcome));
                    });
                    receiver
                }
            }
        };
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(Failure::of(UpstreamErrorKind::Unavailable, STOPPED))).map_err(Into::into)
    }

    /// The probed child, for the first session.
    pub(super) fn take_unused(&self) -> Option<Child> {
        self.0.lock().unused.take()
    }

    pub(super) fn usage(&self) -> (usize, Option<Instant>) {
        let hub = self.0.lock().hub.clone();
        hub.map_or((0, None), |hub| {
            let (calls, last) = hub.usage();
            (calls, Some(last))
        })
    }

    /// Ends the shared child, and one that is being started.
    pub(super) fn end(&self) {
        let (hub, unused) = {
            let mut slot = self.0.lock();
            self.0.ended.send_replace(true);
            (slot.hub.take(), slot.unused.take())
        };
        drop(unused);
        if let Some(hub) = hub {
            hub.end();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for the end.
    async fn until_end(&self) {
        // The sender is here, so there is no other outcome.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    async fn start(self: &Arc<Self>, purpose: Purpose) -> Result<Ready, Failure> {
        let child = self.spawn(purpose.clone()).await?;
        if self.lock().modern == Some(true) {
            return self.keep(Some(child), true);
        }
        let mut found = probe(child, Question::Discover, &self.options).await;
        if let Found::Ended(detail) = found {
            // Some servers end when the first message is not the handshake.
            let Ok(child) = self.spawn(purpose).await else { return Err(Failure::not_started(detail)) };
            found = probe(child, Question::Handshake, &self.options).await;
        }
        match found {
            Found::Modern(child) => self.keep(Some(child), true),
            Found::Legacy(child) => self.keep(child, false),
            Found::Silent => Err(Failure::of(UpstreamErrorKind::Timeout, "The server did not start in time.")),
            Found::Ended(detail) => Err(Failure::not_started(detail)),
        }
    }

    async fn spawn(&self, purpose: Purpose) -> Result<Child, Failure> {
        let spawned = self.spawner.spawn(purpose).await.map_err(|error| {
            if let Some(source) = &error.source {
                tracing::warn!(%source, "a child could not be started");
            }
            Failure { kind: error.kind, public: error.public, detail: error.detail }
        })?;
        Ok(Child::new(spawned, self.options.write_queue, self.options.max_line))
    }

    fn keep(self: &Arc<Self>, child: Option<Child>, modern: bool) -> Result<Ready, Failure> {
        let mut slot = self.lock();
        if self.has_ended() {
            return Err(Failure::of(UpstreamErrorKind::Unavailable, STOPPED));
        }
        slot.modern = Some(modern);
        match child {
            Some(child) if modern => {
                let hub = Hub::start(child, Arc::clone(&self.options), Arc::clone(&self.dropped));
                slot.hub = Some(Arc::clone(&hub));
                Ok(Ready::Modern(hub))
            }
            child => {
                slot.unused = child;
                let weak = Arc::downgrade(self);
                tokio::spawn(async move {
                    tokio::time::sleep(UNUSED).await;
                    drop(weak.upgrade().and_then(|inner| inner.lock().unused.take()));
                });
                Ok(Ready::Legacy)
            }
        }
    }
}

/// How long a probed child waits for the first session.
const UNUSED: Duration = Duration::from_secs(60);
const NOT_STARTED: &str = "The server could not be started.";

impl Failure {
    fn of(kind: UpstreamErrorKind, public: &str) -> Self {
        Self { kind, public: public.to_owned(), detail: None }
    }

    fn not_started(detail: Option<String>) -> Self {
        Self { detail, ..Self::of(UpstreamErrorKind::Unavailable, NOT_STARTED) }
    }
}

impl From<Failure> for UpstreamError {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind, failure.public);
        match failure.detail {
            Some(detail) => error.with_detail(detail),
            None => error,
        }
    }
}
