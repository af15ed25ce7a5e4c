//! `/api/v1/me/identities` and `/api/v1/users/{id}/identities`: the ways in which people sign in.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use mcp_gateway_auth::user::{Identity, IdentityKey, UserError};
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{Principal, Stored, Subject};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Problem, ProblemDetails, applied, invalid, tagged};
use super::extract::{Document, Nothing};
use super::users;
use crate::app::App;

/// A way to sign in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "3d3f1c5e0ab95d6f4fd6c3ac2c3d9a40e8d35a3c9f0a0d6e9c1f6a3b2c1d0e9f",
    "issuer": "https://login.example.com",
    "subject": "248289",
    "linked_at": "2026-11-20T12:00:00Z"
}))]
pub(super) struct IdentityView {
    /// Its id.
    id: String,
    /// Who vouches for the person; `local` for a password of this gateway.
    issuer: String,
    /// What the issuer calls the person; of `local` the login.
    subject: String,
    /// When it was first used, or linked.
    #[schema(value_type = String, format = DateTime)]
    linked_at: Timestamp,
}

/// A way to sign in that is to be linked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "issuer": "https://login.example.com", "subject": "248289" }))]
pub(super) struct NewIdentity {
    /// The issuer of one of `login.providers`.
    issuer: String,
    /// What it calls the person in its tokens: `sub`, of Entra ID `oid`, of GitHub the numeric id.
    subject: String,
}

/// All of one person's.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({ "items": [] }))]
pub(super) struct Identities {
    /// In the order of ids; at most 20.
    items: Vec<IdentityView>,
}

impl IdentityView {
    fn of(Stored { id, value, .. }: Stored<Identity>) -> Self {
        Self { id: id.into(), issuer: value.key.issuer, subject: value.key.subject, linked_at: value.linked_at }
    }
}

/// Lists the ways in which the caller may sign in.
#[utoipa::path(get, path = "/api/v1/me/identities", tag = "users",
    responses((status = 200, description = "All of them.", body = Identities)))]
pub(super) async fn own(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap) -> Result<Response, Problem> {
    listed(&app, &headers, person(&caller.0)?).await
}

/// Takes one of them from the caller, but for the last, and ends all their sessions and tokens.
#[utoipa::path(delete, path = "/api/v1/me/identities/{id}", tag = "users", params(("id" = String, Path, description = "The id of the identity.")),
    responses((status = 204, description = "It is gone."), (status = 202, description = "It is gone from the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "It is the last one, its groups make the last owner, or its provider provisions the user.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn unlink_own(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let user = person(&caller.0)?.to_owned();
    unlinked(&app, &caller.0, &user, &id).await
}

/// Lists the ways in which a user may sign in.
#[utoipa::path(get, path = "/api/v1/users/{id}/identities", tag = "users", params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "All of them.", body = Identities), (status = 404, description = "There is no such user.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    app.logins.users.get(&id).await?.ok_or_else(absent)?;
    listed(&app, &headers, &id).await
}

/// Lets whoever a provider vouches for under this name sign in as the user, too. The caller answers for both being one
/// person: no address says so. The user's sessions and tokens end, and of one with a password every key.
#[utoipa::path(post, path = "/api/v1/users/{id}/identities", tag = "users", request_body = NewIdentity, params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "All of the user's.", body = Identities), (status = 404, description = "There is no such user.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "It is another user's, or the user has one of this issuer.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn link(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(new): Document<NewIdentity>,
) -> Result<Response, Problem> {
    if !app.logins.providers.list().any(|provider| provider.issuer == new.issuer) {
        return Err(invalid("issuer", "`issuer` must be that of one of login.providers.".to_owned()).into());
    }
    let revision = app.logins.users.link(&id, &IdentityKey::new(new.issuer, new.subject)).await?;
    users::end_all(&app, &id).await?;
    applied(&app, revision).await;
    let all = app.logins.users.identities(&id).await.map_err(UserError::halfway)?;
    shown(&headers, all)
}

/// Takes one of them from a user, but for the last, and ends all their sessions and tokens.
#[utoipa::path(delete, path = "/api/v1/users/{id}/identities/{identity}", tag = "users", params(("id" = String, Path, description = "The user's id."), ("identity" = String, Path, description = "The id of the identity.")),
    responses((status = 204, description = "It is gone."), (status = 202, description = "It is gone from the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "It is the last one, its groups make the last owner, or its provider provisions the user.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn unlink(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((id, identity)): Path<(String, String)>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    unlinked(&app, &caller.0, &id, &identity).await
}

async fn unlinked(app: &App, by: &Principal, user: &str, identity: &str) -> Result<Response, Problem> {
    let revision = app.logins.users.unlink(by, user, identity, |key| app.can_sign_in(key)).await?;
    users::end_all(app, user).await?;
    let status = if applied(app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

async fn listed(app: &App, headers: &HeaderMap, user: &str) -> Result<Response, Problem> {
    shown(headers, app.logins.users.identities(user).await?)
}

fn shown(headers: &HeaderMap, all: Vec<Stored<Identity>>) -> Result<Response, Problem> {
    let items = all.into_iter().map(IdentityView::of).collect();
    tagged(headers, None, &Identities { items })
}

/// The id of the user who calls: the first day's subject is none yet.
fn person(caller: &Principal) -> Result<&str, Problem> {
    match *caller.subject.issuer == *Subject::LOCAL {
        true => Ok(&caller.subject.id),
        false => Err(absent().into()),
    }
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is none of this id.")
}
