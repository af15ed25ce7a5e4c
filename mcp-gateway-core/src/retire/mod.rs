//! Ending what runs and nobody wants any more: servers whose entries are gone or have changed, and servers of people who
//! may not call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep_until};

use crate::contract::{Observation, Runtime, RuntimeError, Workload, WorkloadId, WorkloadState};
use crate::record::{Entry, Placement, Resources, RouteTarget, Subject};
use crate::snapshot::{Snapshot, Snapshots};

/// Keeps what a [`Runtime`] runs in step with the snapshot, from a task of its own.
///
/// - A server whose entry is gone, is remote now, or is divided otherwise among its callers is stopped at once. What was
///   kept for it is removed a while later, for a file that is moved or written anew is gone for a moment, too.
/// - A server whose entry has changed is stopped; the next call starts it as it should be.
/// - A person's own server is stopped when the person is disabled, and forgotten when the person is deleted.
///
/// An entry that cannot be read, or not be compiled, changes nothing: the snapshot serves it as it was. Each replica does
/// this for what it runs itself.
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
    /// What was kept for a server that is gone is removed after a minute.
    #[must_use]
    pub fn new(snapshots: Snapshots, entries: Resources<Entry>, runtime: Arc<dyn Runtime>) -> Self {
        Self { snapshots, entries, runtime, forget_after: Duration::from_secs(60), left_overs: true }
    }

    /// How long what was kept for a server that is gone stays.
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
        let mut swapped = self.snapshots.swapped();
        let mut changes = self.runtime.watch();
        let mut gone = Gone::new();
        let mut left = if self.left_overs { self.runtime.kept().await.unwrap_or_default() } else { Vec::new() };
        loop {
            swapped.mark_unchanged();
            let due = match self.pass(&mut left, &mut gone).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, detail = error.detail, "servers that nobody wants may still run");
                    Some(Instant::now() + RETRY)
                }
            };
            tokio::select! {
                changed = swapped.changed() => if changed.is_err() { return },
                change = changes.next() => if change.is_none() { return },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Looks at everything once; returns when something is to be forgotten next.
    async fn pass(&self, left: &mut Vec<WorkloadId>, gone: &mut Gone) -> Result<Option<Instant>, RuntimeError> {
        let known = self.runtime.list().await?;
        let mut unwanted = Vec::new();
        for seen in &known {
            let fate = Fate::of(&self.snapshots.load(), seen);
            if let Fate::Updates(workload) = fate {
                self.runtime.update(&workload).await?;
                continue;
            }
            if matches!(seen.state, WorkloadState::Starting | WorkloadState::Running) {
                tracing::info!(workload = %seen.id, "stopped: its entry is gone, or its person may not call");
                self.runtime.stop(&seen.id).await?;
            }
            if matches!(fate, Fate::Goes) {
                unwanted.push(seen.id.clone());
            }
        }
        // What runs here is not left over.
        left.retain(|id| known.iter().all(|seen| seen.id != *id));
        unwanted.extend(left.iter().filter(|id| is_left_over(&self.snapshots.load(), id)).cloned());

        gone.retain(|id, _| unwanted.contains(id));
        let mut due = None;
        for id in unwanted {
            let mut at = *gone.entry(id.clone()).or_insert_with(Instant::now) + self.forget_after;
            if at <= Instant::now() {
                if self.forget(&id).await {
                    gone.remove(&id);
                    left.retain(|one| *one != id);
                    continue;
                }
                at = Instant::now() + RETRY;
            }
            due = Some(due.map_or(at, |due: Instant| due.min(at)));
        }
        Ok(due)
    }

    async fn forget(&self, id: &WorkloadId) -> bool {
        if !self.may_be_forgotten(id).await {
            return false;
        }
        match self.runtime.remove(id).await {
            Ok(()) => tracing::info!(workload = %id, "forgotten, with its files"),
            Err(error) => {
                tracing::warn!(workload = %id, %error, detail = error.detail, "what is gone cannot be removed");
                return false;
            }
        }
        true
    }

    /// Not while the store holds an entry that nobody here could read or compile: it is not gone.
    async fn may_be_forgotten(&self, id: &WorkloadId) -> bool {
        let server = server_of(id);
        if self.snapshots.load().routes.contains_key(server) {
            return true;
        }
        match self.entries.store().get(&[self.entries.key(server)]).await {
            Ok(found) => found.iter().all(Option::is_none),
            Err(_) => false,
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
    if *subject.issuer != *Subject::LOCAL {
        // Known to its issuer alone.
        return Standing::May;
    }
    match snapshot.user(subject) {
        Some(user) if user.enabled => Standing::May,
        Some(_) => Standing::MayNot,
        None if snapshot.keys.values().any(|key| key.principal.subject == *subject) => Standing::May,
        // Before there are users, keys alone make somebody: the next one may be for the same.
        None if snapshot.owned => Standing::Deleted,
        None => Standing::MayNot,
    }
}

/// Whether an earlier run has left files of a workload that cannot be any more. Of a person's own nothing tells whose
/// it was.
fn is_left_over(snapshot: &Snapshot, id: &WorkloadId) -> bool {
    let own = id.0.contains(':');
    match snapshot.routes.get(server_of(id)).map(|route| &route.target) {
        Some(RouteTarget::Hosted { placement: Placement::Shared, .. }) => own,
        Some(RouteTarget::Hosted { placement: Placement::PerSubject, .. }) => !own,
        _ => true,
    }
}

fn server_of(id: &WorkloadId) -> &str {
    id.0.split_once(':').map_or(&*id.0, |(server, _)| server)
}

#[cfg(test)]
mod tests;
