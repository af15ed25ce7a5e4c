//! `/api/v1/api-keys`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use mcp_gateway_auth::api_key::{KeyInfo, NewKey};
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{ApiKey, Principal, Rate, Roles, Scope, Subject};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, applied, cursor_of, demand, plain, tag, tagged};
use super::extract::{Document, Nothing, PageParameters, Parameters};
use super::guard::Target;
use super::people;
use super::servers::SubjectView;
use crate::app::App;

/// A key that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "name": "laptop", "servers": ["*"], "expires_at": "2027-01-01T00:00:00Z" }))]
pub(super) struct NewKeyDocument {
    /// Its name, for people; at most 128 bytes.
    name: String,
    /// Ids of the servers that it is good for, or `*` alone for all that the subject may use.
    servers: Vec<String>,
    /// What it is good for: `mcp` (the default), `api:read`, `api:write`, `registry`.
    #[serde(default = "data_plane")]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Vec<Scope>,
    /// The local subject for whom it speaks; the caller's own by default.
    #[serde(default)]
    subject: Option<String>,
    /// When it ends; never by default.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// How many calls may be made with it, beside `limits.rate.key`.
    #[serde(default)]
    rate: Option<RateView>,
}

/// How many calls in how much time.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "limit": 100, "seconds": 60 }))]
pub(super) struct RateView {
    /// At most so many; at least 1.
    limit: u32,
    /// In so many seconds; 1 to 86,400.
    seconds: u32,
}

fn data_plane() -> Vec<Scope> {
    vec![Scope::Mcp]
}

/// An API key. Its secret is not kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "7GQ2M4VX1C8N5T0K",
    "name": "laptop",
    "servers": ["*"],
    "scopes": ["mcp"],
    "subject": { "issuer": "local", "id": "owner" },
    "owner": true,
    "created_at": "2026-11-20T12:00:00Z",
    "expires_at": "2027-01-01T00:00:00Z",
    "last_used_at": null,
    "rate": { "limit": 100, "seconds": 60 }
}))]
pub(super) struct KeyView {
    /// Its id, the part of the key that is no secret.
    id: String,
    /// Its name, for people.
    name: String,
    /// Ids of the servers that it is good for, or `*` alone.
    servers: Vec<String>,
    /// What it is good for.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// For whom it speaks.
    subject: SubjectView,
    /// Whether it has an owner's rights now, as far as its scopes go.
    owner: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it ends; `null` for never.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// When it was used last, up to a minute behind.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    /// How many calls may be made with it, beside `limits.rate.key`; `null` for no more than that.
    rate: Option<RateView>,
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "key": "mcpgw_7GQ2M4VX1C8N5T0K_…",
    "id": "7GQ2M4VX1C8N5T0K",
    "name": "laptop",
    "servers": ["*"],
    "scopes": ["mcp"],
    "subject": { "issuer": "local", "id": "owner" },
    "owner": true,
    "created_at": "2026-11-20T12:00:00Z",
    "expires_at": null,
    "last_used_at": null,
    "rate": null
}))]
pub(super) struct CreatedKeyView {
    /// The key itself: shown once, kept nowhere.
    key: String,
    #[serde(flatten)]
    about: KeyView,
}

impl KeyView {
    fn of(app: &App, id: &str, record: ApiKey, last_used_at: Option<Timestamp>) -> Self {
        // What its subject may do changes without the record.
        let owner = app.snapshots.load().key(id).is_some_and(|key| key.principal.roles.contains(Roles::OWNER));
        Self {
            id: id.to_owned(),
            name: record.name,
            servers: record.servers,
            scopes: record.scopes,
            subject: SubjectView::of(&record.subject),
            owner,
            created_at: record.created_at,
            expires_at: record.expires_at,
            last_used_at,
            rate: record.rate.map(|Rate { limit, seconds }| RateView { limit, seconds }),
        }
    }

    fn from_info(app: &App, info: KeyInfo) -> Self {
        Self::of(app, &info.id, info.record, info.last_used_at)
    }
}

/// Lists the caller's keys, in the order of ids; for an admin, everybody's.
#[utoipa::path(get, path = "/api/v1/api-keys", tag = "keys", params(PageParameters),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let of = (!sees_all(&caller.0)).then_some(&caller.0.subject);
    let (found, next) = app.keys.list(of, page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(|info| KeyView::from_info(&app, info)).collect();
    tagged(&headers, None, &Page::<KeyView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Makes a key. The answer is the only time that it is shown.
///
/// Only a person may: a key cannot make keys. Only an owner makes keys for others.
#[utoipa::path(post, path = "/api/v1/api-keys", tag = "keys", request_body = NewKeyDocument,
    responses((status = 201, description = "The key.", body = CreatedKeyView, headers(("Location" = String, description = "Where it can be read."))), (status = 409, description = "Keys of another person exist, and child processes serve one.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Document(new): Document<NewKeyDocument>,
) -> Result<Response, Problem> {
    let tenant = caller.0.subject.tenant.clone();
    let subject = new.subject.map(|id| Subject { tenant, issuer: Subject::LOCAL.into(), id: id.into() });
    people::check(&app, subject.as_ref().unwrap_or(&caller.0.subject))?;
    let rate = new.rate.map(|RateView { limit, seconds }| Rate { limit, seconds });
    let new =
        NewKey { name: new.name, servers: new.servers, scopes: new.scopes, subject, expires_at: new.expires_at, rate };
    let created = app.keys.create(&caller.0, new).await?;
    // So that the first call with it succeeds; a replica that is cut off says so elsewhere.
    applied(&app, created.revision).await;
    let location = HeaderValue::from_str(&format!("/api/v1/api-keys/{}", created.id))
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "The key's id is no path.").because(error))?;
    let view = CreatedKeyView {
        key: created.key.expose().to_owned(),
        about: KeyView::of(&app, &created.id, created.record, None),
    };
    let mut response = plain(StatusCode::CREATED, &view)?;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(ETAG, tag(created.revision));
    response.extensions_mut().insert(Target(created.id));
    Ok(response)
}

/// Reads one key.
#[utoipa::path(get, path = "/api/v1/api-keys/{id}", tag = "keys", params(("id" = String, Path, description = "The key's id.")),
    responses((status = 200, description = "The key.", body = KeyView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let info = visible(&app, &caller.0, &id).await?;
    let revision = info.revision;
    // The owner's roles change without the record: the tag is that of what is shown.
    let mut response = tagged(&headers, None, &KeyView::from_info(&app, info))?;
    if response.status() == StatusCode::OK {
        response.headers_mut().insert(ETAG, tag(revision));
    }
    Ok(response)
}

/// Revokes a key. When the answer is 204, no call that this gateway process gets later is accepted with it.
#[utoipa::path(delete, path = "/api/v1/api-keys/{id}", tag = "keys", params(("id" = String, Path, description = "The key's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 204, description = "It is revoked."), (status = 403, description = "It is an owner's or auditor's, and the caller is no owner.", body = ProblemDetails, content_type = "application/problem+json"), (status = 202, description = "It is revoked in the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    // A key's record never changes, and its id is never used again: what is compared here is what is deleted.
    let info = visible(&app, &caller.0, &id).await?;
    demand(&headers, info.revision)?;
    may_revoke(&app, &caller.0, &info.record.subject)?;
    let revision = app.keys.revoke(&id).await?.ok_or_else(absent)?;
    let status = if applied(&app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

/// Like everything else that is theirs, keys of owners and auditors are for owners to take.
fn may_revoke(app: &App, caller: &Principal, subject: &Subject) -> Result<(), Problem> {
    let snapshot = app.snapshots.load();
    let roles = snapshot.user(subject).map_or(Roles::NONE, |user| user.roles);
    let reserved = roles.intersects(Roles::OWNER.union(Roles::AUDITOR));
    if reserved && *subject != caller.subject && !caller.roles.contains(Roles::OWNER) {
        return Err(
            Refusal::new(StatusCode::FORBIDDEN, "Only an owner may revoke a key of an owner or auditor.").into()
        );
    }
    Ok(())
}

fn sees_all(caller: &Principal) -> bool {
    caller.roles.with_included().contains(Roles::ADMIN)
}

/// A key of somebody else is not there for who is no admin.
async fn visible(app: &App, caller: &Principal, id: &str) -> Result<KeyInfo, Problem> {
    let info = app.keys.get(id).await?.filter(|info| sees_all(caller) || info.record.subject == caller.subject);
    Ok(info.ok_or_else(absent)?)
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no API key of this id.")
}
