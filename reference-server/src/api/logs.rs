//! `/api/v1/servers/{id}/logs`: what servers write to standard error, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use http::StatusCode;
use jiff::Timestamp;
use mcp_gateway_core::contract::LogLine;
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{ActorKind, Principal};
use mcp_gateway_core::refusal::Refusal;
use mcp_gateway_core::snapshot::UserFacts;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::answer::{Problem, ProblemDetails, escaped_line};
use super::extract::Parameters;
use super::servers::{hosted, route, workload};
use crate::app::App;

/// Log streams at once.
pub(super) const STREAMS: usize = 32;
/// Lines that are read from before the request, at most.
const TAIL: usize = 10_000;
/// A comment is sent after so long without a line, so that a caller who is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What to read of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParameters {
    /// The workload, when the server has several.
    workload: Option<String>,
    /// Lines from before, 0 to 10,000; 100 by default.
    #[param(minimum = 0, maximum = 10000)]
    tail: Option<usize>,
    /// Whether new lines follow as they come; otherwise the stream ends with the last line there is.
    follow: Option<bool>,
}

/// A line of a log: the data of an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({ "at": "2026-11-20T12:00:00Z", "child": 1, "text": "listening on stdio" }))]
pub(super) struct LogLineView {
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Which child wrote it, as far as known.
    child: Option<u32>,
    /// The text, control characters and backslashes escaped.
    text: String,
}

/// Reads a server's log as server-sent events: one event a line, its data a `LogLineView`.
///
/// The stream ends when the caller's key ends or is revoked, and when the gateway stops.
#[utoipa::path(get, path = "/api/v1/servers/{id}/logs", tag = "servers", params(("id" = String, Path, description = "The server's id."), LogParameters),
    responses((status = 200, description = "The lines.", body = LogLineView, content_type = "text/event-stream"), (status = 409, description = "The server is run elsewhere, or has several workloads.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn follow(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Parameters(what): Parameters<LogParameters>,
    caller: Caller,
) -> Result<Response, Problem> {
    let app = shared.app;
    let tail = what.tail.unwrap_or(100);
    if tail > TAIL {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("`tail` must be 0 to {TAIL}."))
            .with_data(serde_json::json!({ "field": "tail" }))
            .into());
    }
    let route = route(&app, &id)?;
    let runtime = hosted(&app, &route)?;
    let workload = workload(&**runtime, &route, what.workload.as_deref()).await?;
    let permit = shared
        .log_streams
        .try_acquire_owned()
        .map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Too many logs are read at once.").retry_after(5))?;
    let lines = runtime.logs(&workload, tail, what.follow.unwrap_or(false)).await?;
    let events = lines.take_until(ended(app, caller.0)).map(move |line| {
        // Held as long as the stream.
        let _ = &permit;
        Ok::<_, Infallible>(event(&line))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

fn event(line: &LogLine) -> Event {
    let line = LogLineView { at: line.at, child: line.child, text: escaped_line(&line.text) };
    // Text and numbers are always JSON.
    Event::default().json_data(line).unwrap_or_default()
}

/// Whether what the caller's rights came from is still there. A session that is signed out of stays until its end.
fn stands(app: &App, caller: &Principal, epoch: Option<u64>) -> bool {
    let snapshot = app.snapshots.load();
    match caller.actor.kind {
        ActorKind::ApiKey => {
            snapshot.key(&caller.actor.id).is_some_and(|key| key.principal.roles.contains(caller.roles))
        }
        ActorKind::Session => {
            let stands =
                |user: &UserFacts| user.enabled && user.roles.contains(caller.roles) && Some(user.epoch) == epoch;
            snapshot.user(&caller.subject).is_some_and(|user| stands(user))
        }
        _ => true,
    }
}

/// Waits until the caller may no longer read: the credential ends, is revoked, or the server drains.
async fn ended(app: Arc<App>, caller: Arc<Principal>) {
    let expired = async {
        match caller.expires_at {
            // Slept in pieces: the clock of the day may be set.
            Some(end) => {
                while app.clock.now() < end {
                    let left = end.duration_since(app.clock.now()).unsigned_abs();
                    tokio::time::sleep(left.clamp(Duration::from_millis(10), Duration::from_secs(60))).await;
                }
            }
            None => std::future::pending().await,
        }
    };
    let revoked = async {
        let mut swapped = app.snapshots.swapped();
        let epoch = app.snapshots.load().user(&caller.subject).map(|user| user.epoch);
        while stands(&app, &caller, epoch) {
            if swapped.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = expired => {}
        () = revoked => {}
        () = app.draining.cancelled() => {}
    }
}
