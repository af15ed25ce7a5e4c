//! What happens now and then, and once more before the end.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_auth::api_key::LastUsed;
use mcp_gateway_auth::oidc::{LoginChange, OnLoginChange};
use mcp_gateway_auth::token::SigningKeys;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{AuditSink, AuditStore, Clock, Write};
use mcp_gateway_core::layer::refusals::Strangers;
use mcp_gateway_core::lease::{Leases, Term};
use mcp_gateway_core::record::{AuditEvent, Category, EventKind, Outcome};
use mcp_gateway_core::seal::{Sealer, SessionKeyRing};
use mcp_gateway_core::trail::sign_retention;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use ulid::Ulid;

use super::storage::Sweep;
use super::unled::watch_leases;
use crate::app::Logins;

/// Tasks that end with their owner.
#[derive(Debug)]
pub(super) struct Background {
    end: CancellationToken,
    _guard: DropGuard,
    tasks: TaskTracker,
    panics: Arc<AtomicU64>,
}

impl Default for Background {
    fn default() -> Self {
        let end = CancellationToken::new();
        Self { _guard: end.clone().drop_guard(), end, tasks: TaskTracker::new(), panics: Arc::default() }
    }
}

impl Background {
    /// Starts one that begins anew when it has panicked.
    pub(super) fn spawn<F>(&self, name: &'static str, mut task: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let panics = Arc::clone(&self.panics);
        let again = async move {
            while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
                tell(name, &panics);
                tokio::time::sleep(AFTER_PANIC).await;
            }
        };
        self.tasks.spawn(self.end.clone().run_until_cancelled_owned(again));
    }

    /// Starts one that cannot begin anew: what it keeps current is seen to age.
    pub(super) fn spawn_once(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let panics = Arc::clone(&self.panics);
        let once = async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tell(name, &panics);
            }
        };
        self.tasks.spawn(self.end.clone().run_until_cancelled_owned(once));
    }

    /// How often a task has panicked.
    pub(super) fn panics(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.panics)
    }

    /// Ends them, and waits until none runs any more.
    pub(super) async fn end(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The panic itself is in the log already.
fn tell(task: &'static str, panics: &AtomicU64) {
    panics.fetch_add(1, Relaxed);
    tracing::error!(task, "a background task has panicked; please report it");
}

/// How long a task rests after a panic.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// How often counted refusals go to the trail.
const STRANGERS: Duration = Duration::from_secs(60);
/// How often old events are removed, and keys looked at for their age.
const HOUSEKEEPING: Duration = Duration::from_secs(3_600);
/// The leases of what one replica does for all: removing old events, removing expired records, renewing the keys that seal
/// and sign, asking identity providers about logins. That of the catalog is beside what it is for.
const RETENTION: &str = "audit-retention";
const EXPIRY: &str = "expiry";
const KEYS: &str = "keys";
const LOGINS: &str = "logins";
/// Those that every process with `worker` tries to have, whatever its other settings.
const WORK: &[&str] = &[super::catalog::LEASE, EXPIRY, KEYS];

/// Parts that have to be looked after.
#[derive(Clone)]
pub(super) struct Upkeep {
    pub(super) strangers: Arc<Strangers>,
    pub(super) last_used: Arc<LastUsed>,
    pub(super) ring: Arc<SessionKeyRing>,
    pub(super) data_keys: Arc<Sealer>,
    pub(super) logins: Logins,
    /// What signs access tokens, where any are given.
    pub(super) signing: Option<Arc<SigningKeys>>,
    /// What signs tokens for servers.
    pub(super) upstream: Arc<SigningKeys>,
    pub(super) audit_store: Arc<dyn AuditStore>,
    /// What signs that old events are removed.
    pub(super) audit_keys: Arc<SigningKeys>,
    pub(super) sink: Arc<dyn AuditSink>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) leases: Leases,
    pub(super) sweep: Option<Sweep>,
    pub(super) retention_days: u64,
    pub(super) unled: watch::Sender<Vec<&'static str>>,
}

impl Upkeep {
    /// Starts what every process does for itself: only it knows what it has counted and sealed.
    pub(super) fn spawn(&self, tasks: &Background) {
        self.keep("last-used", tasks, |upkeep| async move { upkeep.last_used.run().await });
        self.keep("strangers", tasks, |upkeep| async move {
            loop {
                tokio::time::sleep(STRANGERS).await;
                upkeep.strangers.flush(&*upkeep.sink, upkeep.clock.now()).await;
            }
        });
        self.keep("leases", tasks, |upkeep| watch_leases(upkeep.leases, WORK, upkeep.unled));
        self.keep("data-keys", tasks, |upkeep| async move {
            loop {
                if let Err(error) = upkeep.data_keys.rotate_if_due().await {
                    tracing::warn!(%error, "the data keys cannot be renewed");
                }
                tokio::time::sleep(HOUSEKEEPING).await;
            }
        });
    }

    /// Starts what one process at a time does for all.
    pub(super) fn spawn_worker(&self, tasks: &Background) {
        self.keep(KEYS, tasks, |upkeep| async move {
            upkeep.leases.lead(KEYS, |term| upkeep.keep_keys_new(term)).await;
        });
        if self.retention_days > 0 {
            self.keep(RETENTION, tasks, |upkeep| async move {
                upkeep.leases.lead(RETENTION, |_| upkeep.keep_to_retention()).await;
            });
        }
        if let Some(every) = self.logins.providers.looks_every() {
            self.keep(LOGINS, tasks, move |upkeep| async move {
                upkeep.leases.lead(LOGINS, |term| upkeep.ask_providers(every, term)).await;
            });
        }
        if let Some(sweep) = self.sweep.clone() {
            self.keep(EXPIRY, tasks, move |upkeep| {
                let sweep = Arc::clone(&sweep);
                // A sweep is one transaction with a lock of its own, and harmless when it is done twice.
                async move { upkeep.leases.lead(EXPIRY, |_| sweep()).await }
            });
        }
    }

    fn keep<F>(&self, name: &'static str, tasks: &Background, work: impl Fn(Self) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let upkeep = self.clone();
        tasks.spawn(name, move || work(upkeep.clone()));
    }

    /// Puts what a provider has ended into the trail.
    fn tells(&self) -> OnLoginChange {
        let (sink, clock) = (Arc::clone(&self.sink), Arc::clone(&self.clock));
        Arc::new(move |change| {
            let (action, user) = match change {
                LoginChange::Ended(user) => ("login.ended-by-provider", user),
                LoginChange::Ownerless(user) => ("login.last-owner-lost", user),
            };
            let mut event = AuditEvent::new(clock.now(), Ulid::generate(), Category::Auth, EventKind::Act);
            event.method = Some(action.into());
            event.target = Some(user.into());
            event.outcome = Outcome::Ok;
            let sink = Arc::clone(&sink);
            Box::pin(async move {
                if let Err(error) = sink.record(event).await {
                    tracing::error!(%error, action, "what a provider has ended is not in the audit trail");
                }
            })
        })
    }

    async fn ask_providers(&self, every: Duration, term: Term) {
        let told = self.tells();
        loop {
            tokio::time::sleep(every).await;
            let Logins { providers, users, .. } = &self.logins;
            if let Err(error) = providers.refresh_due(users, &told, term.fence()).await {
                tracing::warn!(%error, "identity providers cannot be asked anew about logins");
            }
        }
    }

    async fn keep_keys_new(&self, term: Term) {
        loop {
            let signing = [self.signing.as_deref(), Some(&*self.upstream)];
            renew_keys((&self.ring, &signing), || term.fence(), &*self.sink, &*self.clock).await;
            tokio::time::sleep(HOUSEKEEPING).await;
        }
    }

    /// Removes old events, which is harmless when two replicas do it.
    async fn keep_to_retention(&self) {
        loop {
            self.remove_old().await;
            tokio::time::sleep(HOUSEKEEPING).await;
        }
    }

    async fn remove_old(&self) {
        let hours = i64::try_from(self.retention_days.saturating_mul(24)).unwrap_or(i64::MAX / 3_600);
        let Ok(before) = self.clock.now().checked_sub(SignedDuration::from_secs(hours.saturating_mul(3_600))) else {
            // Longer than there has been time.
            return;
        };
        // First: without it they would be missing.
        if let Err(error) = self.mark_retention(before).await {
            tracing::warn!(%error, "old events stay in the audit trail: that they are removed cannot be signed");
            return;
        }
        match self.audit_store.prune(before).await {
            Ok(0) => {}
            Ok(events) => tracing::info!(events, "events older than audit.retention_days are removed"),
            Err(error) => tracing::warn!(%error, "old events cannot be removed from the audit trail"),
        }
    }

    async fn mark_retention(&self, before: Timestamp) -> Result<(), BoxError> {
        let mark = sign_retention(&*self.audit_keys, before, self.clock.now()).await?;
        Ok(self.audit_store.put_chain(Vec::new(), vec![mark]).await?)
    }

    /// Gives back what leads, once nothing that does runs any more, and writes what is still in memory.
    pub(super) async fn finish(&self) {
        // First: a store that is slow to take the rest must not keep others waiting.
        self.leases.give_back().await;
        self.strangers.flush(&*self.sink, self.clock.now()).await;
        if let Err(error) = self.last_used.flush().await {
            tracing::warn!(%error, "when API keys were used last cannot be written");
        }
        self.sink.flush().await;
    }
}

/// Turns the rings that are due.
async fn renew_keys(
    (ring, signing): (&SessionKeyRing, &[Option<&SigningKeys>]),
    fence: impl Fn() -> Option<Write>,
    sink: &dyn AuditSink,
    clock: &dyn Clock,
) {
    match ring.rotate_if_due(fence()).await {
        Ok(true) => turned(sink, clock, "session-key.rotate").await,
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "the session keys cannot be renewed"),
    }
    for signing in signing.iter().flatten() {
        match signing.rotate_if_due(fence()).await {
            Ok(true) => {
                tracing::info!("a new key will sign tokens in 10 minutes");
                turned(sink, clock, "signing-key.rotate").await;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the signing keys cannot be renewed"),
        }
    }
}

/// Puts a key that has turned on schedule into the trail, under the name that the act of a person has there.
async fn turned(sink: &dyn AuditSink, clock: &dyn Clock, action: &'static str) {
    let mut event = AuditEvent::new(clock.now(), Ulid::generate(), Category::System, EventKind::Act);
    event.method = Some(action.into());
    event.outcome = Outcome::Ok;
    if let Err(error) = sink.record(event).await {
        tracing::error!(%error, action, "a key that has turned is not in the audit trail");
    }
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upkeep").field("retention_days", &self.retention_days).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::world::World;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_begins_anew_and_ends_with_its_owner() {
        let tasks = Background::default();
        let begun = Arc::new(AtomicU64::new(0));
        let counts = Arc::clone(&begun);
        tasks.spawn("test", move || {
            let first = counts.fetch_add(1, Relaxed) == 0;
            async move {
                assert!(!first, "a panic that a test asks for");
                std::future::pending::<()>().await;
            }
        });
        tasks.spawn_once("test", async { panic!("a panic that a test asks for") });
        tokio::time::sleep(2 * AFTER_PANIC).await;
        assert_eq!((begun.load(Relaxed), tasks.panics().load(Relaxed)), (2, 2));
        tasks.end().await;
        assert_eq!(Arc::strong_count(&begun), 1, "nothing of it is left");
    }

    #[tokio::test]
    async fn a_key_that_turns_on_schedule_is_in_the_trail() {
        let world = World::new().await;
        let (ring, signing) = (&world.app.session_keys, &world.app.oauth.as_ref().unwrap().keys);
        let renew = async || {
            renew_keys(
                (ring, &[Some(&**signing), Some(&*world.app.upstream_keys)]),
                || None,
                &*world.sink,
                &*world.clock,
            )
            .await;
            world.recorded().iter().map(|event| event.method.as_deref().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert!(renew().await.is_empty(), "nothing is due");
        world.clock.advance(Duration::from_secs(400 * 24 * 3_600));
        assert_eq!(renew().await, ["session-key.rotate", "signing-key.rotate", "signing-key.rotate"]);
    }
}
