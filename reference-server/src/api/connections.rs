//! `/api/v1/connections`: accounts that people have connected at servers.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use mcp_gateway_auth::upstream::{Connection, ConnectionState};
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::Stored;
use mcp_gateway_core::refusal::Refusal;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{APPLY, Page, Problem, ProblemDetails, applied, cursor_of, tagged};
use super::extract::{Nothing, PageParameters, Parameters};
use super::oauth::{ends_all, sees_all};
use super::servers::SubjectView;
use crate::app::App;

/// An account at a server; its tokens are shown to nobody.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "github.q3v7nq5xk2c4m6t2a5y7wA",
    "server": "github",
    "subject": { "issuer": "local", "id": "q3v7nq5xk2c4m6t2a5y7w3h4re" },
    "issuer": "https://github.com/login/oauth",
    "scopes": ["repo"],
    "state": "connected",
    "connected_at": "2026-11-20T12:00:00Z",
    "refreshed_at": "2026-11-20T12:00:00Z"
}))]
pub(super) struct ConnectionView {
    /// Its id.
    id: String,
    /// The server.
    server: String,
    /// Whose it is.
    subject: SubjectView,
    /// Who gave the tokens.
    issuer: String,
    /// What was agreed to.
    scopes: Vec<String>,
    /// `connected`, or `reconnect` when the person has to connect it anew.
    state: String,
    /// When the person connected it.
    #[schema(value_type = String, format = DateTime)]
    connected_at: Timestamp,
    /// When its tokens were made.
    #[schema(value_type = String, format = DateTime)]
    refreshed_at: Timestamp,
}

impl ConnectionView {
    fn of(Stored { id, value, .. }: Stored<Connection>) -> Self {
        Self {
            id: id.into(),
            server: value.server,
            subject: SubjectView::of(&value.subject),
            issuer: value.issuer,
            scopes: value.scopes,
            state: match value.state {
                ConnectionState::Connected => "connected".to_owned(),
                _ => "reconnect".to_owned(),
            },
            connected_at: value.connected_at,
            refreshed_at: value.refreshed_at,
        }
    }
}

/// Lists the caller's accounts at servers; for an admin or auditor, everybody's.
#[utoipa::path(get, path = "/api/v1/connections", tag = "connections", params(PageParameters),
    responses((status = 200, description = "A page of accounts.", body = Page<ConnectionView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let of = (!sees_all(&caller.0)).then_some(&caller.0.subject);
    let (found, next) = app.accounts.list(of, page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(ConnectionView::of).collect();
    tagged(&headers, None, &Page::<ConnectionView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Forgets an account, one of the caller's own or, for an admin, anybody's, and gives its tokens back to whoever gave
/// them. When the answer is 204, no call that this gateway process gets later is made with it.
#[utoipa::path(delete, path = "/api/v1/connections/{id}", tag = "connections", params(("id" = String, Path, description = "The account's id.")),
    responses((status = 204, description = "It is forgotten."), (status = 202, description = "It is forgotten in the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn disconnect(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let absent = || Refusal::new(StatusCode::NOT_FOUND, "There is none of this id.");
    let found = app.accounts.find(&id).await?;
    // What is somebody else's is not there for who may not end it.
    let own = found.filter(|one| ends_all(&caller.0) || one.value.subject == caller.0.subject);
    own.ok_or_else(absent)?;
    let (revision, _) = app.accounts.disconnect(&id).await?.ok_or_else(absent)?;
    let heard = tokio::time::timeout(APPLY, app.accounts.wait_for(revision)).await.is_ok();
    let status = if heard && applied(&app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}
