//! `/livez`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use mcp_gateway_core::layer::audit::OnFull;
use mcp_gateway_store::spool::SpoolStats;
use serde::Serialize;

use super::gauges::observations;
use super::{Metrics, render};
use crate::app::App;

/// `/livez`, `/readyz` and `/metrics`, for the public listener or one of their own. Nobody is authenticated: they say
/// how the server is, not what it does for whom.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// The process answers: nothing more is asked, so that a database that is away does not restart every replica.
async fn livez() -> Response {
    ([(CACHE_CONTROL, "no-store")], "ok\n").into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, Metrics::CONTENT_TYPE), (CACHE_CONTROL, "no-store")], render(&app).await).into_response()
}

async fn readyz(State(app): State<Arc<App>>) -> Response {
    let readiness = Readiness::of(&app).await;
    let status = match readiness.status {
        Condition::Ok | Condition::Degraded => StatusCode::OK,
        Condition::Refusing | Condition::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(CACHE_CONTROL, "no-store")], Json(readiness)).into_response()
}

/// How a part is, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    /// As it should be.
    Ok,
    /// Calls are answered, but something is wrong.
    Degraded,
    /// Calls are refused.
    Refusing,
    /// The server is about to end.
    Draining,
}

/// What `/readyz` says. Neither paths nor messages of errors: strangers may read it.
///
/// What all replicas share may make no more than [`Condition::Degraded`] of them while calls are answered: a load balancer
/// would take out every one of them.
#[derive(Debug, Serialize)]
struct Readiness {
    status: Condition,
    store: Part,
    audit_store: Part,
    snapshot: SnapshotPart,
    spool: SpoolPart,
    runtime: Part,
    worker: Part,
}

#[derive(Debug, Serialize)]
struct Part {
    status: Condition,
}

#[derive(Debug, Serialize)]
struct SnapshotPart {
    status: Condition,
    revision: u64,
    staleness_ms: u64,
}

#[derive(Debug, Serialize)]
struct SpoolPart {
    status: Condition,
    rows: u64,
    bytes: u64,
    lag_ms: u64,
}

/// An audit store that is behind for longer than this is worth a look.
const LAG: std::time::Duration = std::time::Duration::from_secs(10);

impl Readiness {
    async fn of(app: &App) -> Self {
        // The store sends a bookmark four times a second, so its silence is noticed without asking it.
        let store = if app.snapshots.is_stale() { Condition::Degraded } else { Condition::Ok };
        let snapshot = if app.snapshots.refuses() { Condition::Refusing } else { store };
        let stats = app.spool_stats.as_ref().map(|read| read()).unwrap_or_default();
        let audit_store = if stats.store_failing { Condition::Degraded } else { Condition::Ok };
        let spool = SpoolPart::of(app.config.audit.on_full, &stats);
        let runtime = match observations(app).await {
            None | Some(Ok(_)) => Condition::Ok,
            Some(Err(())) => Condition::Degraded,
        };
        let worker = if app.unled.borrow().is_empty() { Condition::Ok } else { Condition::Degraded };
        let draining = if app.draining.is_cancelled() { Condition::Draining } else { Condition::Ok };
        Self {
            status: draining.max(snapshot).max(audit_store).max(spool.status).max(runtime).max(worker),
            store: Part { status: store },
            audit_store: Part { status: audit_store },
            snapshot: SnapshotPart {
                status: snapshot,
                revision: app.snapshots.load().revision.0,
                staleness_ms: millis(app.snapshots.staleness()),
            },
            spool,
            runtime: Part { status: runtime },
            worker: Part { status: worker },
        }
    }
}

impl SpoolPart {
    fn of(on_full: OnFull, stats: &SpoolStats) -> Self {
        let full = stats.full || stats.failing;
        let status = if full && on_full == OnFull::Refuse {
            Condition::Refusing
        } else if full || stats.slow_disk || stats.store_lag > LAG {
            Condition::Degraded
        } else {
            Condition::Ok
        };
        Self { status, rows: stats.backlog, bytes: stats.bytes, lag_ms: millis(stats.store_lag) }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_that_takes_nothing_refuses_calls_or_is_degraded() {
        let (mut full, mut failing) = (SpoolStats::default(), SpoolStats::default());
        full.full = true;
        failing.failing = true;
        let status = |on_full, stats: &SpoolStats| SpoolPart::of(on_full, stats).status;
        for stats in [full, failing] {
            assert_eq!(status(OnFull::Refuse, &stats), Condition::Refusing);
            assert_eq!(status(OnFull::Count, &stats), Condition::Degraded);
        }
        assert_eq!(status(OnFull::Refuse, &SpoolStats::default()), Condition::Ok);
    }
}
