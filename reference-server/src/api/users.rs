//! `/api/v1/users`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use mcp_gateway_auth::bootstrap::Bootstrap;
use mcp_gateway_auth::user::{NewUser, UserError};
use mcp_gateway_core::contract::{Revision, StoreError};
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{Revoked, Roles, Secret, Stored, Subject, TenantId, User, UserState};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, applied, cursor_of, expected, plain, tag, tagged};
use super::extract::{Document, Nothing, PageParameters, Parameters};
use super::guard::Target;
use super::people;
use crate::app::App;

/// A user that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "login": "ada@example.com", "password": "only for the first login", "name": "Ada", "roles": ["admin"] }))]
pub(super) struct NewUserDocument {
    /// The name to sign in with, in any case; at most 254 bytes.
    login: String,
    /// The first password, at least 12 characters: it must be changed at the first login.
    #[schema(value_type = String)]
    password: Secret,
    /// A name, for people; at most 256 bytes.
    name: String,
    /// An address, for people.
    #[serde(default)]
    email: Option<String>,
    /// `owner`, `admin`, `power_user_plus`, `power_user`, `basic`, `auditor`; those of `roles.default` by default.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    roles: Option<Roles>,
    /// The id; a random one by default. An owner may name one: keys that were made for this subject become the user's.
    #[serde(default)]
    id: Option<String>,
}

/// Roles that are to be given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "roles": ["power_user", "auditor"] }))]
pub(super) struct RolesDocument {
    /// Exactly these: `owner`, `admin`, `power_user_plus`, `power_user`, `basic`, `auditor`.
    #[schema(value_type = Vec<String>)]
    pub(super) roles: Roles,
}

/// A password that is to be set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "password": "only for the next login" }))]
pub(super) struct PasswordDocument {
    /// At least 12 characters: it must be changed at the next login.
    #[schema(value_type = String)]
    password: Secret,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "q3v7nq5xk2c4m6t2a5y7w3h4re",
    "name": "Ada",
    "email": "ada@example.com",
    "email_verified": false,
    "state": "active",
    "roles": ["admin"],
    "effective_roles": ["admin", "power_user_plus", "power_user", "basic"],
    "groups": [],
    "created_at": "2026-11-20T12:00:00Z"
}))]
pub(super) struct UserView {
    /// The id: that of the subject, whose issuer is `local`.
    id: String,
    /// A name, for people.
    name: String,
    /// An address, for people.
    email: Option<String>,
    /// Whether an identity provider that is authoritative for its domain says that it is theirs.
    email_verified: bool,
    /// `active` or `disabled`.
    state: String,
    /// The roles that were given to the user.
    roles: Vec<String>,
    /// What the user may do in the end: also by groups, and by roles that include others.
    effective_roles: Vec<String>,
    /// Ids of the groups that the identity provider named at the last login.
    groups: Vec<String>,
    /// When the user was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl UserView {
    pub(super) fn of(app: &App, id: &str, user: User) -> Self {
        let (email, email_verified) = user.email.map_or((None, false), |email| (Some(email.address), email.verified));
        Self {
            effective_roles: names(app.logins.users.effective_roles(id)),
            id: id.to_owned(),
            name: user.name,
            email,
            email_verified,
            state: user.state.as_str().to_owned(),
            roles: names(user.roles),
            groups: user.groups,
            created_at: user.created_at,
        }
    }
}

/// Lists the users, in the order of ids.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", params(PageParameters),
    responses((status = 200, description = "A page of users.", body = Page<UserView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (found, next) = app.logins.users.list(page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(|Stored { id, value, .. }| UserView::of(&app, &id, value)).collect();
    tagged(&headers, None, &Page::<UserView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Makes a user who signs in with a password of this gateway.
#[utoipa::path(post, path = "/api/v1/users", tag = "users", request_body = NewUserDocument,
    responses((status = 201, description = "The user.", body = UserView, headers(("Location" = String, description = "Where it can be read."))), (status = 403, description = "Only an owner makes owners and auditors, and names ids.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "The login or id is taken, or there is another person and child processes serve one.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Document(new): Document<NewUserDocument>,
) -> Result<Response, Problem> {
    // The first owner takes over what the gateway's own first subject has.
    let first = new.roles.is_some_and(|roles| roles.contains(Roles::OWNER)) && !app.snapshots.load().owned;
    let subject = match (&new.id, first) {
        (Some(id), _) => Subject::local(id.as_str()),
        (None, true) => Subject::local(Bootstrap::OWNER),
        (None, false) => Subject::local(""),
    };
    people::check(&app, &subject)?;
    let user = NewUser { id: new.id, name: new.name, email: new.email, roles: new.roles };
    let (id, revision) = app.logins.local.create(&caller.0, user, &new.login, &new.password).await?;
    applied(&app, revision).await;
    let stored = app.logins.users.get(&id).await.map_err(UserError::halfway)?.ok_or_else(absent)?;
    let location = HeaderValue::from_str(&format!("/api/v1/users/{id}")).unwrap_or(HeaderValue::from_static("/"));
    let mut response = plain(StatusCode::CREATED, &UserView::of(&app, &id, stored.value))?;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(ETAG, tag(stored.revision));
    response.extensions_mut().insert(Target(id.into()));
    Ok(response)
}

/// Reads one user.
#[utoipa::path(get, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = UserView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stored = app.logins.users.get(&id).await?.ok_or_else(absent)?;
    // What the user may do in the end changes without the record: the tag is that of what is shown.
    let mut response = tagged(&headers, None, &UserView::of(&app, &id, stored.value))?;
    if response.status() == StatusCode::OK {
        response.headers_mut().insert(ETAG, tag(stored.revision));
    }
    Ok(response)
}

/// Gives a user exactly these roles. Only an owner gives or takes `owner` and `auditor`.
#[utoipa::path(put, path = "/api/v1/users/{id}/roles", tag = "users", request_body = RolesDocument, params(("id" = String, Path, description = "The user's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 200, description = "The user.", body = UserView), (status = 202, description = "It is done in the store, which this process cannot hear at the moment.", body = UserView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "It is the last owner.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn set_roles(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(new): Document<RolesDocument>,
) -> Result<Response, Problem> {
    let when = expected(&headers)?;
    let revision = app.logins.users.set_roles(&caller.0, &id, new.roles, when).await?;
    changed(&app, &id, revision).await
}

/// Disables a user: their sessions end for good, their keys until they are enabled again.
#[utoipa::path(post, path = "/api/v1/users/{id}/disable", tag = "users", params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = UserView), (status = 202, description = "It is done in the store, which this process cannot hear at the moment.", body = UserView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "It is the last owner.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn disable(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let when = expected(&headers)?;
    let revision = app.logins.users.set_state(&caller.0, &id, UserState::Disabled, when).await?;
    end_all(&app, &id).await?;
    changed(&app, &id, revision).await
}

/// Enables a user again.
#[utoipa::path(post, path = "/api/v1/users/{id}/enable", tag = "users", params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = UserView), (status = 202, description = "It is done in the store, which this process cannot hear at the moment.", body = UserView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "There is another person, and servers run as child processes for one.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn enable(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let when = expected(&headers)?;
    // A user who is disabled does not count among those who share the processes.
    people::check(&app, &Subject::local(id.as_str()))?;
    let revision = app.logins.users.set_state(&caller.0, &id, UserState::Active, when).await?;
    changed(&app, &id, revision).await
}

/// Ends every session of a user.
#[utoipa::path(post, path = "/api/v1/users/{id}/end-sessions", tag = "users", params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = UserView), (status = 202, description = "It is done in the store, which this process cannot hear at the moment.", body = UserView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn end_sessions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let revision = app.logins.users.end_sessions(&caller.0, &id).await?;
    end_all(&app, &id).await?;
    changed(&app, &id, revision).await
}

/// Sets a password that the user must change at the next login, and ends their sessions.
#[utoipa::path(put, path = "/api/v1/users/{id}/password", tag = "users", request_body = PasswordDocument, params(("id" = String, Path, description = "The user's id.")),
    responses((status = 200, description = "The user.", body = UserView), (status = 202, description = "It is done in the store, which this process cannot hear at the moment.", body = UserView), (status = 404, description = "There is none, or none with a password of this gateway.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "The password is too short or too long.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn set_password(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Document(new): Document<PasswordDocument>,
) -> Result<Response, Problem> {
    let revision = app.logins.local.reset(&caller.0, &id, &new.password).await?;
    end_all(&app, &id).await?;
    changed(&app, &id, revision).await
}

/// Deletes a user, their identities, sessions and keys.
#[utoipa::path(delete, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path, description = "The user's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 204, description = "The user is gone."), (status = 202, description = "The user is gone from the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "It is the last owner.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let when = expected(&headers)?;
    let revision = app.logins.users.delete(&caller.0, &id, when).await?;
    end_all(&app, &id).await?;
    let subject = User::subject(TenantId::default(), &id);
    app.accounts.forget(&subject).await.map_err(StoreError::halfway)?;
    let status = if applied(&app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

/// Removes sessions and grants, which are good for nothing any more since the commit before.
pub(super) async fn end_all(app: &App, id: &str) -> Result<(), Problem> {
    app.logins.sessions.end_all(id).await.map_err(StoreError::halfway)?;
    let grants = app.end_grants(Revoked::Subject(&User::subject(TenantId::default(), id))).await;
    grants.map_err(StoreError::halfway)?;
    Ok(())
}

async fn changed(app: &App, id: &str, revision: Revision) -> Result<Response, Problem> {
    // What this process cannot hear of yet, it does not refuse yet.
    let status = if applied(app, revision).await { StatusCode::OK } else { StatusCode::ACCEPTED };
    let stored = app.logins.users.get(id).await.map_err(UserError::halfway)?.ok_or_else(absent)?;
    let mut response = plain(status, &UserView::of(app, id, stored.value))?;
    response.headers_mut().insert(ETAG, tag(stored.revision));
    Ok(response)
}

pub(super) fn names(roles: Roles) -> Vec<String> {
    roles.names().map(str::to_owned).collect()
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no user of this id.")
}
