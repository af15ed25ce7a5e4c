//! `/api/v1/groups`: groups of identity providers, and the roles of their members.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::header::ETAG;
use http::{HeaderMap, StatusCode};
use mcp_gateway_auth::user::UserError;
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{Group, Stored};
use mcp_gateway_core::refusal::Refusal;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, applied, cursor_of, expected, plain, tag, tagged};
use super::extract::{Document, PageParameters, Parameters};
use super::users::{RolesDocument, names};
use crate::app::App;

/// A group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "3d3f1c5e0ab95d6f4fd6c3ac2c3d9a40e8d35a3c9f0a0d6e9c1f6a3b2c1d0e9f",
    "provider": "https://login.example.com",
    "external_id": "ops",
    "name": "Operations",
    "roles": ["admin"]
}))]
pub(super) struct GroupView {
    /// Its id here.
    id: String,
    /// The issuer of the identity provider.
    provider: String,
    /// The provider's own id of it.
    external_id: String,
    /// A name, for people.
    name: String,
    /// The roles of every member.
    roles: Vec<String>,
}

impl GroupView {
    fn of(stored: Stored<Group>) -> Self {
        let Stored { id, value, .. } = stored;
        Self {
            id: id.into(),
            provider: value.provider,
            external_id: value.external_id,
            name: value.name,
            roles: names(value.roles),
        }
    }
}

/// Lists the groups that identity providers have named, in the order of ids.
#[utoipa::path(get, path = "/api/v1/groups", tag = "users", params(PageParameters),
    responses((status = 200, description = "A page of groups.", body = Page<GroupView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (found, next) = app.logins.users.list_groups(page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(GroupView::of).collect();
    tagged(&headers, None, &Page::<GroupView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Reads one group.
#[utoipa::path(get, path = "/api/v1/groups/{id}", tag = "users", params(("id" = String, Path, description = "The group's id.")),
    responses((status = 200, description = "The group.", body = GroupView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stored = app.logins.users.group(&id).await?.ok_or_else(absent)?;
    let revision = stored.revision;
    tagged(&headers, Some(revision), &GroupView::of(stored))
}

/// Gives every member of a group exactly these roles, beside their own. Only an owner gives or takes `owner` and
/// `auditor`.
#[utoipa::path(put, path = "/api/v1/groups/{id}/roles", tag = "users", request_body = RolesDocument, params(("id" = String, Path, description = "The group's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 200, description = "The group.", body = GroupView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn set_roles(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(new): Document<RolesDocument>,
) -> Result<Response, Problem> {
    let when = expected(&headers)?;
    let revision = app.logins.users.set_group_roles(&caller.0, &id, new.roles, when).await?;
    applied(&app, revision).await;
    let stored = app.logins.users.group(&id).await.map_err(UserError::halfway)?.ok_or_else(absent)?;
    let tag = tag(stored.revision);
    let mut response = plain(StatusCode::OK, &GroupView::of(stored))?;
    response.headers_mut().insert(ETAG, tag);
    Ok(response)
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no group of this id.")
}
