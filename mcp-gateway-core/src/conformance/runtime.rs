//! The suite of [`Runtime`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::contract::{
    Deployment, Incarnation, Observation, Runtime, RuntimeErrorKind, Workload, WorkloadId, WorkloadState,
};

/// A runtime under test, and what it can run.
pub trait Bench: Send + Sync {
    /// The runtime. It runs nothing yet.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// A workload of this id that becomes ready.
    fn works(&self, id: &str) -> Workload;

    /// A workload of this id whose start fails.
    fn fails(&self, id: &str) -> Workload;
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs every rule. Waits in real time: do not pause tokio's.
///
/// # Panics
/// When a rule does not hold.
pub async fn suite(bench: &dyn Bench) {
    let runtime = bench.runtime();
    let runtime = &*runtime;
    a_workload_that_nobody_knows_is_no_error(runtime).await;
    ensure_is_idempotent_and_shares_one_start(runtime, &Arc::new(bench.works("shared"))).await;
    stopped_is_not_forgotten_and_starts_again(runtime, &Arc::new(bench.works("stops"))).await;
    another_digest_replaces(runtime, bench.works("changes")).await;
    an_update_stops_what_is_out_of_date(runtime, bench.works("updates")).await;
    a_failure_says_why(runtime, &Arc::new(bench.fails("fails"))).await;
    a_caller_that_leaves_does_not_end_the_start(runtime, &Arc::new(bench.works("left"))).await;
    changes_are_told(runtime, &Arc::new(bench.works("watched"))).await;
}

async fn ensure(runtime: &dyn Runtime, workload: &Arc<Workload>) -> Deployment {
    let answer = tokio::time::timeout(PATIENCE, runtime.ensure(workload)).await.expect("ensure returns in time");
    answer.unwrap_or_else(|error| panic!("{}: {error:?}", workload.id))
}

fn incarnation(deployment: &Deployment) -> Incarnation {
    let endpoints = deployment.endpoints.borrow();
    let ready = endpoints.iter().find(|endpoint| endpoint.ready).expect("ensure returns when an endpoint is ready");
    ready.incarnation.clone()
}

async fn observe(runtime: &dyn Runtime, id: &WorkloadId) -> Option<Observation> {
    runtime.observe(id).await.expect("a runtime that is there observes")
}

async fn state_becomes(runtime: &dyn Runtime, id: &WorkloadId, state: WorkloadState) {
    let become_so = async {
        while observe(runtime, id).await.map(|seen| seen.state) != Some(state) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, become_so).await.unwrap_or_else(|_| panic!("{id} never was {state:?}"));
}

async fn remove(runtime: &dyn Runtime, id: &WorkloadId) {
    runtime.stop(id).await.expect("it stops");
    state_becomes(runtime, id, WorkloadState::Stopped).await;
    assert!(runtime.remove(id).await.expect("it can be removed"), "{id}: what is stopped is removed");
}

async fn a_workload_that_nobody_knows_is_no_error(runtime: &dyn Runtime) {
    let nobody = WorkloadId("nobody".into());
    runtime.stop(&nobody).await.expect("stopping what does not run is fine");
    assert!(runtime.remove(&nobody).await.expect("so is removing it"), "nothing of it is left");
    assert!(!runtime.kept().await.expect("it says what it keeps").contains(&nobody), "nothing is kept of it");
    assert!(observe(runtime, &nobody).await.is_none(), "nothing is known of it");
    let log = runtime.logs(&nobody, 1, false).await;
    assert_eq!(log.err().map(|error| error.kind), Some(RuntimeErrorKind::Missing), "it has no log");
}

async fn ensure_is_idempotent_and_shares_one_start(runtime: &dyn Runtime, workload: &Arc<Workload>) {
    let together: HashSet<_> =
        join_all((0..10).map(|_| ensure(runtime, workload))).await.iter().map(incarnation).collect();
    assert_eq!(together.len(), 1, "callers at the same time share one start");
    let again = incarnation(&ensure(runtime, workload).await);
    assert!(together.contains(&again), "what runs is not started again");
    let seen = observe(runtime, &workload.id).await.expect("it is known");
    assert_eq!((&seen.id, &seen.server, &seen.subject), (&workload.id, &workload.server, &workload.subject));
    assert_eq!((seen.state, seen.last_error), (WorkloadState::Running, None));
    let listed = runtime.list().await.expect("a runtime that is there lists");
    assert_eq!(listed.iter().filter(|one| one.id == workload.id).count(), 1, "it is listed once");
    let log = runtime.logs(&workload.id, 10, false).await.expect("it has a log, be it empty");
    assert!(log.count().await <= 10, "the last lines, and the end without `follow`");
}

async fn stopped_is_not_forgotten_and_starts_again(runtime: &dyn Runtime, workload: &Arc<Workload>) {
    let mut first = ensure(runtime, workload).await;
    let before = incarnation(&first);
    runtime.stop(&workload.id).await.expect("it stops");
    state_becomes(runtime, &workload.id, WorkloadState::Stopped).await;
    let gone = async { while first.endpoints.changed().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the sender of its endpoints is dropped");
    let after = incarnation(&ensure(runtime, workload).await);
    assert_ne!(after, before, "another life is another incarnation: sessions of the first end");
    assert!(!runtime.remove(&workload.id).await.expect("that is no failure"), "what runs is not removed");
    assert_eq!(incarnation(&ensure(runtime, workload).await), after, "it runs on");
    remove(runtime, &workload.id).await;
    assert!(observe(runtime, &workload.id).await.is_none(), "nothing is known of what was removed");
    let third = incarnation(&ensure(runtime, workload).await);
    assert!(third != before && third != after, "no incarnation is used again, whatever was forgotten");
}

async fn another_digest_replaces(runtime: &dyn Runtime, workload: Workload) {
    let before = incarnation(&ensure(runtime, &Arc::new(workload.clone())).await);
    let changed = Arc::new(Workload { digest: "another".into(), ..workload });
    let after = incarnation(&ensure(runtime, &changed).await);
    assert_ne!(after, before, "what runs under another digest is replaced");
    assert_eq!(incarnation(&ensure(runtime, &changed).await), after);
}

async fn an_update_stops_what_is_out_of_date(runtime: &dyn Runtime, workload: Workload) {
    let workload = Arc::new(workload);
    runtime.update(&workload).await.expect("what does not run is as it should be");
    assert!(observe(runtime, &workload.id).await.is_none(), "an update starts nothing");
    let first = incarnation(&ensure(runtime, &workload).await);
    assert!(runtime.kept().await.expect("it says what it keeps").contains(&workload.id));
    runtime.update(&workload).await.expect("what runs as it should stays");
    assert_eq!(incarnation(&ensure(runtime, &workload).await), first);
    let changed = Arc::new(Workload { digest: "another".into(), ..(*workload).clone() });
    runtime.update(&changed).await.expect("what runs under another digest stops");
    state_becomes(runtime, &workload.id, WorkloadState::Stopped).await;
    assert_ne!(incarnation(&ensure(runtime, &changed).await), first);
    remove(runtime, &workload.id).await;
    assert!(!runtime.kept().await.expect("it says what it keeps").contains(&workload.id), "nothing is kept of it");
}

async fn a_failure_says_why(runtime: &dyn Runtime, workload: &Arc<Workload>) {
    let answer = tokio::time::timeout(PATIENCE, runtime.ensure(workload)).await.expect("a failure comes in time");
    let error = answer.expect_err("it does not start");
    assert!(!error.public.is_empty(), "every caller is told something");
    assert!(!error.public.contains('\n') && !error.public.contains('/'), "nothing of the inside: {:?}", error.public);
    let seen = observe(runtime, &workload.id).await.expect("what failed is known");
    assert_eq!(seen.state, WorkloadState::Failed);
    assert!(seen.last_error.is_some(), "an owner reads why");
}

async fn a_caller_that_leaves_does_not_end_the_start(runtime: &dyn Runtime, workload: &Arc<Workload>) {
    let mut start = Box::pin(runtime.ensure(workload));
    // A runtime that is ready at once has nothing to leave.
    let _ = start.as_mut().now_or_never();
    drop(start);
    state_becomes(runtime, &workload.id, WorkloadState::Running).await;
}

async fn changes_are_told(runtime: &dyn Runtime, workload: &Arc<Workload>) {
    let mut changes = runtime.watch();
    ensure(runtime, workload).await;
    runtime.stop(&workload.id).await.expect("it stops");
    let mut told = async |state: WorkloadState| {
        while let Some(event) = changes.next().await {
            if event.observation.id == workload.id && event.observation.state == state {
                return;
            }
        }
        panic!("the changes ended before {state:?}");
    };
    for state in [WorkloadState::Running, WorkloadState::Stopped] {
        let named = tokio::time::timeout(PATIENCE, told(state)).await;
        named.unwrap_or_else(|_| panic!("{state:?} was not told"));
    }
}
