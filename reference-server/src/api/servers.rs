//! `/api/v1/servers`: what runs.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::StreamExt as _;
use http::StatusCode;
use jiff::Timestamp;
use mcp_gateway_core::contract::{Observation, Runtime, WorkloadId, WorkloadState};
use mcp_gateway_core::record::{Placement, Route, RouteTarget, Subject};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Page, Problem, ProblemDetails, cursor_of, escaped, plain};
use super::extract::{Nothing, PageParameters, Parameters};
use crate::app::App;
use crate::config::ProcessRole;

/// Workloads of one server that are started again at once.
const STARTS: usize = 4;

/// A server.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "everything",
    "name": "Everything",
    "url": "https://gateway.example/mcp-connect/everything",
    "runtime": "npx",
    "placement": "shared",
    "state": "running",
    "children": 2,
    "restarts": 0,
    "last_error": null
}))]
pub(super) struct ServerView {
    /// Its id.
    id: String,
    /// Its name, for people.
    name: String,
    /// Where MCP clients reach it.
    url: String,
    /// How it is run: `npx`, `uvx`, `command` or `remote`.
    runtime: String,
    /// One workload for all callers, or one for each subject.
    placement: PlacementView,
    /// The best state of its workloads; `remote` for a server that is run elsewhere.
    state: StateView,
    /// Processes of all its workloads.
    children: u32,
    /// Starts after a crash, of the workloads that are known.
    restarts: u32,
    /// The last failure of a workload, control characters escaped.
    last_error: Option<String>,
}

/// A server with its workloads.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "memory",
    "name": "Memory",
    "url": "https://gateway.example/mcp-connect/memory",
    "runtime": "npx",
    "placement": "per_subject",
    "state": "running",
    "children": 1,
    "restarts": 0,
    "last_error": null,
    "workloads": [{
        "id": "memory:5feceb66ffc86f38d952786c6d696c79",
        "subject": { "issuer": "local", "id": "ada" },
        "state": "running",
        "since": "2026-11-20T12:00:00Z",
        "children": 1,
        "restarts": 0,
        "last_error": null
    }]
}))]
pub(super) struct ServerStatus {
    #[serde(flatten)]
    server: ServerView,
    /// Its workloads, those of every subject.
    workloads: Vec<WorkloadView>,
}

/// A workload of a server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkloadView {
    /// Its id.
    id: String,
    /// Whose own it is; `null` when it is shared.
    subject: Option<SubjectView>,
    /// Its state.
    state: StateView,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Processes.
    children: u32,
    /// Starts after a crash.
    restarts: u32,
    /// Its last failure, control characters escaped.
    last_error: Option<String>,
}

/// A person or service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubjectView {
    /// Who vouches for the id; `local` for this gateway itself.
    issuer: String,
    /// Unique within the issuer.
    id: String,
}

impl SubjectView {
    pub(super) fn of(subject: &Subject) -> Self {
        Self { issuer: subject.issuer.to_string(), id: subject.id.to_string() }
    }
}

/// How a server's workloads are divided.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PlacementView {
    /// One for all callers.
    Shared,
    /// One for each subject.
    PerSubject,
}

/// How a server or workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StateView {
    /// It takes calls.
    Running,
    /// A start is under way.
    Starting,
    /// Its last start failed, or it crashed.
    Failed,
    /// It was stopped; the next call starts it.
    Stopped,
    /// Nothing was started yet; the first call does it.
    Idle,
    /// It is run elsewhere.
    Remote,
    /// The runtime does not say.
    Unknown,
}

impl From<WorkloadState> for StateView {
    fn from(state: WorkloadState) -> Self {
        match state {
            WorkloadState::Running => Self::Running,
            WorkloadState::Starting => Self::Starting,
            WorkloadState::Stopped => Self::Stopped,
            WorkloadState::Failed => Self::Failed,
            _ => Self::Unknown,
        }
    }
}

/// Lists the servers, in the order of ids.
#[utoipa::path(get, path = "/api/v1/servers", tag = "servers", params(PageParameters),
    responses((status = 200, description = "A page of servers.", body = Page<ServerView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Parameters(page): Parameters<PageParameters>,
) -> Result<Response, Problem> {
    let (after, limit) = (page.after()?, page.limit()?);
    let snapshot = Arc::clone(&app.snapshots.load());
    let mut ids: Vec<&Arc<str>> = snapshot.routes.keys().collect();
    ids.sort_unstable();
    let first = after.map_or(0, |after| ids.partition_point(|id| ***id <= *after));
    let more = ids.len() > first.saturating_add(limit);
    ids.truncate(first.saturating_add(limit));
    let observed = observed(&app).await;
    let items: Vec<ServerView> = ids[first..]
        .iter()
        .filter_map(|id| {
            let own = observed.as_ref().ok().map(|all| all.iter().filter(|one| one.server == **id).collect::<Vec<_>>());
            Some(view(&app, snapshot.routes.get(*id)?, own.as_deref()))
        })
        .collect();
    let next_cursor = items.last().filter(|_| more).map(|last| cursor_of(&last.id));
    plain(StatusCode::OK, &Page { items, next_cursor })
}

/// Reads one server's status, with its workloads.
#[utoipa::path(get, path = "/api/v1/servers/{id}", tag = "servers", params(("id" = String, Path, description = "The server's id.")),
    responses((status = 200, description = "The server.", body = ServerStatus), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let route = route(&app, &id)?;
    plain(StatusCode::OK, &status(&app, &route).await)
}

/// Which workloads of a server.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WorkloadParameters {
    /// The id of one workload; all of the server's by default.
    workload: Option<String>,
}

/// Stops a server's workloads. The next call starts them again.
#[utoipa::path(post, path = "/api/v1/servers/{id}/stop", tag = "servers", params(("id" = String, Path, description = "The server's id."), WorkloadParameters),
    responses((status = 200, description = "They are stopped.", body = ServerStatus), (status = 409, description = "The server is run elsewhere.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Parameters(which): Parameters<WorkloadParameters>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let route = route(&app, &id)?;
    stopped(&app, &route, which.workload.as_deref()).await?;
    plain(StatusCode::OK, &status(&app, &route).await)
}

/// Stops a server's workloads and starts them again. The start is not waited for: read the server's status.
#[utoipa::path(post, path = "/api/v1/servers/{id}/restart", tag = "servers", params(("id" = String, Path, description = "The server's id."), WorkloadParameters),
    responses((status = 202, description = "They are stopped, and the start is under way.", body = ServerStatus), (status = 409, description = "The server is run elsewhere.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn restart(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Parameters(which): Parameters<WorkloadParameters>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let route = route(&app, &id)?;
    let (runtime, stopped) = stopped(&app, &route, which.workload.as_deref()).await?;
    // The entry may have changed since: what is started is what it says now.
    let RouteTarget::Hosted { placement, template } = &route.target else { return Err(elsewhere()) };
    let wanted: Vec<_> = match placement {
        Placement::Shared => vec![Arc::clone(template)],
        Placement::PerSubject => stopped
            .iter()
            .filter_map(|one| one.subject.as_ref())
            .filter_map(|subject| route.workload(subject))
            .collect(),
    };
    tokio::spawn(futures_util::stream::iter(wanted).for_each_concurrent(STARTS, move |workload| {
        let runtime = Arc::clone(&runtime);
        async move {
            if let Err(error) = runtime.ensure(&workload).await {
                tracing::warn!(workload = %workload.id, %error, "a workload did not start again");
            }
        }
    }));
    plain(StatusCode::ACCEPTED, &status(&app, &route).await)
}

/// Stops the workloads that are asked for and says which there were.
async fn stopped(
    app: &App,
    route: &Route,
    only: Option<&str>,
) -> Result<(Arc<dyn Runtime>, Vec<Observation>), Problem> {
    let runtime = hosted(app, route)?;
    let mut own: Vec<Observation> = runtime.list().await?.into_iter().filter(|one| one.server == route.id).collect();
    if let Some(only) = only {
        own.retain(|one| &*one.id.0 == only);
        if own.is_empty() {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "The server has no such workload.").into());
        }
    }
    for one in &own {
        runtime.stop(&one.id).await?;
    }
    Ok((Arc::clone(runtime), own))
}

/// The route of a server, or 404.
pub(super) fn route(app: &App, id: &str) -> Result<Arc<Route>, Problem> {
    let found = app.snapshots.load().routes.get(id).cloned();
    found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "There is no server of this id.").into())
}

/// The runtime that runs a server, or 409.
pub(super) fn hosted<'a>(app: &'a App, route: &Route) -> Result<&'a Arc<dyn Runtime>, Problem> {
    match (&route.target, &app.runtime) {
        (RouteTarget::Hosted { .. }, Some(runtime)) => Ok(runtime),
        (RouteTarget::Hosted { .. }, None) => {
            let why = match app.config.does(ProcessRole::Gateway) {
                true => "This gateway runs no servers: `runtime.process.enabled` is off.",
                false => {
                    "This process runs no servers: only one whose `process.roles` have gateway and api does this, for what it runs."
                }
            };
            Err(Refusal::new(StatusCode::CONFLICT, why).into())
        }
        _ => Err(elsewhere()),
    }
}

fn elsewhere() -> Problem {
    Refusal::new(StatusCode::CONFLICT, "The server is remote: there is nothing here to stop, start or read.").into()
}

/// The workload whose log is asked for: the named one, the shared one, or the only one there is.
pub(super) async fn workload(runtime: &dyn Runtime, route: &Route, named: Option<&str>) -> Result<WorkloadId, Problem> {
    let absent = || Problem::from(Refusal::new(StatusCode::NOT_FOUND, "The server has no such workload."));
    if let (None, RouteTarget::Hosted { placement: Placement::Shared, template }) = (named, &route.target) {
        return Ok(template.id.clone());
    }
    let mut own = runtime.list().await?.into_iter().filter(|one| one.server == route.id).map(|one| one.id);
    if let Some(named) = named {
        return own.find(|id| &*id.0 == named).ok_or_else(absent);
    }
    match (own.next(), own.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(absent()),
        (Some(_), Some(_)) => Err(Refusal::new(
            StatusCode::CONFLICT,
            "The server has several workloads: name one by `workload`; GET its status lists them.",
        )
        .into()),
    }
}

async fn observed(app: &App) -> Result<Vec<Observation>, ()> {
    match &app.runtime {
        None if app.config.does(ProcessRole::Gateway) => Ok(Vec::new()),
        // Others run them.
        None => Err(()),
        Some(runtime) => runtime.list().await.map_err(|error| {
            tracing::warn!(%error, "the runtime does not say what runs");
        }),
    }
}

async fn status(app: &App, route: &Route) -> ServerStatus {
    let observed = observed(app).await;
    let own = observed.as_ref().ok().map(|all| all.iter().filter(|one| one.server == route.id).collect::<Vec<_>>());
    let workloads = own.iter().flatten().map(|one| WorkloadView {
        id: one.id.to_string(),
        subject: one.subject.as_ref().map(SubjectView::of),
        state: one.state.into(),
        since: one.since,
        children: one.children,
        restarts: one.restarts,
        last_error: one.last_error.as_deref().map(escaped),
    });
    ServerStatus { workloads: workloads.collect(), server: view(app, route, own.as_deref()) }
}

/// `own` are the server's workloads; `None` when the runtime does not say.
fn view(app: &App, route: &Route, own: Option<&[&Observation]>) -> ServerView {
    let (placement, idle) = match &route.target {
        RouteTarget::Hosted { placement: Placement::PerSubject, .. } => (PlacementView::PerSubject, StateView::Idle),
        RouteTarget::Hosted { .. } => (PlacementView::Shared, StateView::Idle),
        _ => (PlacementView::Shared, StateView::Remote),
    };
    let entry = app.snapshots.load().entries.get(&route.id).cloned();
    let runtime = entry.and_then(|entry| Some(serde_json::to_value(entry.runtime).ok()?.as_str()?.to_owned()));
    let state = match (idle, own) {
        (StateView::Idle, None) => StateView::Unknown,
        (idle, own) => own.unwrap_or_default().iter().map(|one| one.state.into()).min().unwrap_or(idle),
    };
    let own = own.unwrap_or_default();
    ServerView {
        id: route.id.to_string(),
        name: route.name.to_string(),
        url: app.mount.resource(&route.id).url.to_string(),
        runtime: runtime.unwrap_or_else(|| "unknown".to_owned()),
        placement,
        state,
        children: own.iter().map(|one| one.children).fold(0, u32::saturating_add),
        restarts: own.iter().map(|one| one.restarts).fold(0, u32::saturating_add),
        last_error: own
            .iter()
            .max_by_key(|one| (one.last_error.is_some(), one.since))
            .and_then(|one| one.last_error.as_deref().map(escaped)),
    }
}
