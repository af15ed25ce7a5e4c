//! Ending what runs and nobody wants any more: servers whose entries are gone or have changed, and servers of people who
//! may not call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::contract::{Observation, Revision, Runtime, RuntimeError, RuntimeEventStream, Workload, WorkloadId};
use crate::record::{Entry, Placement, Resources, Route, RouteTarget, Subject, TenantId};
use crate::snapshot::{Snapshot, Snapshots};

/// Keeps what a [`Runtime`] runs in step with the snapshot, from a task of its own.
///
/// - A server whose entry is gone, is remote now, or is divided otherwise among its callers is stopped at once. What was
///   kept for it is removed much later, so that what went by mistake can come back.
/// - A server whose entry has changed is stopped; the next call starts it as it should be.
/// - A person's own server is stopped when the person is disabled, and forgotten like that of an entry that is gone when
///   the person is deleted. Subjects that are no [users](crate::record::User), such as an embedder's own, may call.
///
/// An entry that cannot be read, or not be compiled, changes nothing: the snapshot serves it as it was. Each replica does
/// this for what it runs itself. Stops wait for no removal, and a failure of one workload delays no other.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use mcp_gateway_core::contract::Runtime;
/// # use mcp_gateway_core::record::{Entry, Resources};
/// # use mcp_gateway_core::retire::Retirement;
/// # use mcp_gateway_core::snapshot::Snapshots;
/// # fn start(snapshots: Snapshots, entries: Resources<Entry>, runtime: Arc<dyn Runtime>) {
/// tokio::spawn(Retirement::new(snapshots, entries, runtime).run());
/// # }
/// ```
pub struct Retirement {
    snapshots: Snapshots,
    entries: Resources<Entry>,
    runtime: Arc<dyn Runtime>,
    forget_after: Duration,
    left_overs: bool,
}

/// After a failure of the runtime or the store.
const RETRY: Duration = Duration::from_secs(30);

/// What is to be forgotten, and since when nobody has wanted it.
type Gone = HashMap<WorkloadId, Instant>;

impl Retirement {
    /// What was kept for a server that is gone is removed after seven days.
    #[must_use]
    pub fn new(snapshots: Snapshots, entries: Resources<Entry>, runtime: Arc<dyn Runtime>) -> Self {
        Self { snapshots, entries, runtime, forget_after: Duration::from_secs(7 * 24 * 3600), left_overs: true }
    }

    /// How long what was kept for a server that is gone stays; each run begins to count anew.
    #[must_use]
    pub fn forget_after(mut self, time: Duration) -> Self {
        self.forget_after = time;
        self
    }

    /// Leaves alone what an earlier run has left behind: for a store that has forgotten the entries with it.
    #[must_use]
    pub fn without_left_overs(mut self) -> Self {
        self.left_overs = false;
        self
    }

    /// Does so until the snapshots or the runtime end. Dropping the future is fine at any time.
    pub async fn run(self) {
        tokio::join!(self.ends(), self.forgets());
    }

    /// Ends what is not as it should be.
    async fn ends(&self) {
        let mut wakes = Wakes::of(self);
        loop {
            wakes.seen();
            let failed = !self.end_all().await;
            if !wakes.next(failed.then(|| Instant::now() + RETRY)).await {
                return;
            }
        }
    }

    /// Looks at everything once; whether all went well.
    async fn end_all(&self) -> bool {
        let known = match self.runtime.list().await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, detail = error.detail, "servers that nobody wants may still run");
                return false;
            }
        };
        let mut well = true;
        for seen in &known {
            if let Err(error) = self.end(seen).await {
                let (workload, detail) = (&seen.id, &error.detail);
                tracing::warn!(%workload, %error, detail, "a server that nobody wants may still run");
                well = false;
            }
        }
        well
    }

    async fn end(&self, seen: &Observation) -> Result<(), RuntimeError> {
        let fate = Fate::of(&self.snapshots.load(), seen);
        match fate {
            Fate::Updates(workload) => self.runtime.update(&workload).await,
            Fate::Rests | Fate::Goes if seen.is_active() => {
                tracing::info!(workload = %seen.id, "stopped: its entry is gone, or its person may not call");
                self.runtime.stop(&seen.id).await
            }
            Fate::Rests | Fate::Goes => Ok(()),
        }
    }

    /// Removes what was kept for workloads that have been gone for long enough.
    async fn forgets(&self) {
        let mut wakes = Wakes::of(self);
        let mut gone = Gone::new();
        let mut left = if self.left_overs { self.runtime.kept().await.unwrap_or_default() } else { Vec::new() };
        loop {
            wakes.seen();
            let due = self.forget_due(&mut left, &mut gone).await;
            if !wakes.next(due).await {
                return;
            }
        }
    }

    /// Looks at everything once; returns when something is to be forgotten next.
    async fn forget_due(&self, left: &mut Vec<WorkloadId>, gone: &mut Gone) -> Option<Instant> {
        // The other half says why.
        let Ok(known) = self.runtime.list().await else { return Some(Instant::now() + RETRY) };
        // What runs here is not left over.
        left.retain(|id| known.iter().all(|seen| seen.id != *id));
        let unwanted: Vec<WorkloadId> = {
            let snapshot = self.snapshots.load();
            let goes = known.iter().filter(|seen| matches!(Fate::of(&snapshot, seen), Fate::Goes));
            let left_over = (!left.is_empty()).then(|| LeftOver::new(&snapshot, self.tenant()));
            let left = left.iter().filter(|id| left_over.as_ref().is_some_and(|left_over| left_over.is(id)));
            goes.map(|seen| &seen.id).chain(left).cloned().collect()
        };

        gone.retain(|id, _| unwanted.contains(id));
        let mut due = None;
        for id in unwanted {
            let mut at = *gone.entry(id.clone()).or_insert_with(Instant::now) + self.forget_after;
            if at <= Instant::now() {
                left.retain(|one| *one != id);
                if self.forget(&id).await {
                    gone.remove(&id);
                    continue;
                }
                // What of it is still there is left over, whether or not the runtime still knows it.
                left.push(id);
                at = Instant::now() + RETRY;
            }
            due = Some(due.map_or(at, |due: Instant| due.min(at)));
        }
        due
    }

    async fn forget(&self, id: &WorkloadId) -> bool {
        if !self.may_be_forgotten(id).await {
            return false;
        }
        match self.runtime.remove(id).await {
            Ok(true) => tracing::info!(workload = %id, "forgotten, with its files"),
            Ok(false) => return false,
            Err(error) => {
                tracing::warn!(workload = %id, %error, detail = error.detail, "what is gone cannot be removed");
                return false;
            }
        }
        true
    }

    /// As things are now: others were removed before it, which takes its time.
    async fn may_be_forgotten(&self, id: &WorkloadId) -> bool {
        // Not while the store holds an entry that nobody here could read or compile: it is not gone.
        let server = server_of(id);
        if !self.snapshots.load().routes.contains_key(server) {
            match self.entries.store().get(&[self.entries.key(server)]).await {
                Ok(found) if found.iter().all(Option::is_none) => {}
                _ => return false,
            }
        }
        let Ok(seen) = self.runtime.observe(id).await else { return false };
        let snapshot = self.snapshots.load();
        match seen {
            Some(seen) => !seen.is_active() && matches!(Fate::of(&snapshot, &seen), Fate::Goes),
            None => LeftOver::new(&snapshot, self.tenant()).is(id),
        }
    }

    fn tenant(&self) -> TenantId {
        self.entries.key("").tenant
    }
}

/// What makes each half look again.
struct Wakes {
    swapped: watch::Receiver<Revision>,
    changes: RuntimeEventStream,
}

impl Wakes {
    fn of(retirement: &Retirement) -> Self {
        Self { swapped: retirement.snapshots.swapped(), changes: retirement.runtime.watch() }
    }

    /// What happens from here on wakes again.
    fn seen(&mut self) {
        self.swapped.mark_unchanged();
    }

    /// Waits for something to have happened, or until then; `false` at the end of the snapshots or the runtime.
    async fn next(&mut self, due: Option<Instant>) -> bool {
        tokio::select! {
            changed = self.swapped.changed() => changed.is_ok(),
            change = self.changes.next() => change.is_some(),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => true,
        }
    }
}

impl std::fmt::Debug for Retirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retirement").field("forget_after", &self.forget_after).finish_non_exhaustive()
    }
}

/// What becomes of a workload.
#[derive(Debug)]
enum Fate {
    /// It runs as this says, or is stopped.
    Updates(Arc<Workload>),
    /// It is stopped; what is kept for it stays.
    Rests,
    /// It is stopped and forgotten.
    Goes,
}

impl Fate {
    fn of(snapshot: &Snapshot, seen: &Observation) -> Self {
        let Some(route) = snapshot.routes.get(&seen.server) else { return Self::Goes };
        let RouteTarget::Hosted { placement, template } = &route.target else { return Self::Goes };
        match (placement, &seen.subject) {
            (Placement::Shared, None) => Self::Updates(Arc::clone(template)),
            (Placement::PerSubject, Some(subject)) => match (standing(snapshot, subject), route.workload(subject)) {
                (Standing::May, Some(workload)) => Self::Updates(workload),
                (Standing::MayNot, _) => Self::Rests,
                _ => Self::Goes,
            },
            _ => Self::Goes,
        }
    }
}

enum Standing {
    May,
    MayNot,
    Deleted,
}

fn standing(snapshot: &Snapshot, subject: &Subject) -> Standing {
    match snapshot.user(subject) {
        Some(user) if user.enabled => Standing::May,
        Some(user) if user.deleted => Standing::Deleted,
        Some(_) => Standing::MayNot,
        // Known to its issuer alone, or to whoever made its key, or to the embedding service.
        None => Standing::May,
    }
}

/// Tells what an earlier run has left behind of workloads that cannot be any more.
struct LeftOver<'a> {
    snapshot: &'a Snapshot,
    /// The ids of deleted people's own workloads, without the server's.
    deleted: HashSet<WorkloadId>,
}

impl<'a> LeftOver<'a> {
    fn new(snapshot: &'a Snapshot, tenant: TenantId) -> Self {
        let mut subject = Subject { tenant, ..Subject::local("") };
        let deleted = snapshot.users.values().filter(|user| user.deleted).map(|user| {
            subject.id = Arc::clone(&user.id);
            Route::workload_id("", &subject)
        });
        Self { snapshot, deleted: deleted.collect() }
    }

    fn is(&self, id: &WorkloadId) -> bool {
        let (server, own) = (server_of(id), &id.0[server_of(id).len()..]);
        match self.snapshot.routes.get(server).map(|route| &route.target) {
            Some(RouteTarget::Hosted { placement: Placement::Shared, .. }) => !own.is_empty(),
            Some(RouteTarget::Hosted { placement: Placement::PerSubject, .. }) => {
                own.is_empty() || self.deleted.contains(&WorkloadId(own.into()))
            }
            _ => true,
        }
    }
}

fn server_of(id: &WorkloadId) -> &str {
    id.0.split_once(':').map_or(&*id.0, |(server, _)| server)
}

#[cfg(test)]
mod tests;
