//! `/api/v1/policies`: who may use what.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp_gateway_core::contract::{Cursor, Query, Record, Revision, StoreError, StoreErrorKind, StoreLimits, When};
use mcp_gateway_core::policy::{AccessPolicy, AccessRule, AccessRules, PolicyError};
use mcp_gateway_core::record::{Resource as _, Resources, Stored, TenantId};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, applied, cursor_of, expected, invalid, plain, tag, tagged};
use super::entries::is_label;
use super::extract::{Document, Nothing, PageParameters, Parameters};
use super::guard::Target;
use crate::app::App;

/// Ids that are paths of their own below `/api/v1/policies`.
const RESERVED: [&str; 2] = ["evaluate", "replay"];

/// An access policy: rules that are changed together.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "support",
    "revision": 42,
    "name": "Support may read tickets",
    "enabled": true,
    "rules": [
        { "effect": "allow", "subjects": [{ "group": "3d3f…" }], "targets": [{ "server": "tickets" }] },
        { "effect": "deny", "subjects": ["everyone"], "targets": [{ "server": "tickets", "tools": ["delete_*"] }] }
    ]
}))]
pub(super) struct PolicyView {
    /// Its id; `{id}/0` is the name of its first rule in the audit trail.
    id: String,
    /// The revision that wrote it: its `ETag`.
    revision: u64,
    /// A name, for people.
    name: String,
    /// Whether its rules count.
    enabled: bool,
    /// Its rules: `effect` (`allow` or `deny`), `subjects` (`"everyone"`, or one of `user`, `group`, `role`, `apiKey`,
    /// `client` with an id or name) and `targets` (`server`, every one if absent; `tools`, `prompts`, `resources`: patterns with `*`).
    #[schema(value_type = Vec<Object>)]
    rules: Vec<AccessRule>,
}

impl PolicyView {
    fn of(stored: Stored<AccessPolicy>) -> Self {
        let Stored { id, revision, value: AccessPolicy { name, enabled, rules } } = stored;
        Self { id: id.into(), revision: revision.0, name, enabled, rules }
    }
}

/// A policy to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "support",
    "name": "Support may read tickets",
    "enabled": true,
    "rules": [{ "effect": "allow", "subjects": [{ "group": "3d3f…" }], "targets": [{ "server": "tickets" }] }]
}))]
pub(super) struct NewPolicyDocument {
    /// Its id: a-z, 0-9 and `-`, at most 63. Made up by default.
    id: Option<String>,
    /// A name, for people.
    name: String,
    /// Whether its rules count; they do by default.
    enabled: Option<bool>,
    /// Its rules, as they are read.
    #[schema(value_type = Vec<Object>)]
    rules: Vec<AccessRule>,
}

/// What a policy is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyDocument {
    /// A name, for people.
    name: String,
    /// Whether its rules count; they do by default.
    enabled: Option<bool>,
    /// Its rules, as they are read.
    #[schema(value_type = Vec<Object>)]
    rules: Vec<AccessRule>,
}

impl PolicyDocument {
    fn checked(self) -> Result<AccessPolicy, Problem> {
        self.checked_at("")
    }

    /// The policy; where in the body it stands begins the names of its fields.
    fn checked_at(self, at: &str) -> Result<AccessPolicy, Problem> {
        let policy = AccessPolicy { name: self.name, enabled: self.enabled.unwrap_or(true), rules: self.rules };
        policy.check().map_err(|PolicyError { field, problem }| {
            let field = format!("{at}{field}");
            invalid(&field, format!("`{field}` {problem}."))
        })?;
        Ok(policy)
    }
}

/// Lists the policies, in the order of ids.
#[utoipa::path(get, path = "/api/v1/policies", tag = "policies", params(PageParameters),
    responses((status = 200, description = "A page of policies.", body = Page<PolicyView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = TenantId::default();
    let after = page.after()?.map(|id| Cursor { tenant: tenant.clone(), id: id.into() });
    let query = Query { tenant: Some(tenant), kind: AccessPolicy::KIND, term: None, after, limit: page.limit()? };
    let found = app.resources.list(&query).await?;
    let items = found.records.iter().filter_map(|record| readable(&app, record)).map(PolicyView::of).collect();
    let next_cursor = found.next.map(|cursor| cursor_of(&cursor.id));
    tagged(&headers, None, &Page::<PolicyView> { items, next_cursor })
}

/// `None` for a record that cannot be read, which must not hide the others.
fn readable(app: &App, record: &Record) -> Option<Stored<AccessPolicy>> {
    Stored::decode(record, &*app.sealer)
        .inspect_err(|error| tracing::error!(%error, id = %record.key.id, "a policy cannot be read; it is left out"))
        .ok()
}

/// Makes a policy. When the answer is 201, every later call of this gateway process is decided by it, too.
#[utoipa::path(post, path = "/api/v1/policies", tag = "policies", request_body = NewPolicyDocument,
    responses((status = 201, description = "The policy.", body = PolicyView, headers(("Location" = String, description = "Where it can be read."))), (status = 202, description = "It is in the store, which this process cannot hear at the moment.", body = PolicyView), (status = 409, description = "There is one of this id.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Document(new): Document<NewPolicyDocument>,
) -> Result<Response, Problem> {
    let NewPolicyDocument { id, name, enabled, rules } = new;
    let id = id.unwrap_or_else(|| Ulid::generate().to_string().to_ascii_lowercase());
    check_id(&id, "id")?;
    let policy = PolicyDocument { name, enabled, rules }.checked()?;
    let saved = policies(&app).save(&id, &policy, When::Absent).await;
    let revision = saved.map_err(|error| match error.kind() {
        StoreErrorKind::Conflict => Refusal::new(StatusCode::CONFLICT, "There is a policy of this id.").into(),
        _ => Problem::from(error),
    })?;
    let location = HeaderValue::from_str(&format!("/api/v1/policies/{id}")).unwrap_or(HeaderValue::from_static("/"));
    let target = Target(id.as_str().into());
    let mut response = written(&app, StatusCode::CREATED, id, revision, policy).await?;
    response.headers_mut().insert(LOCATION, location);
    response.extensions_mut().insert(target);
    Ok(response)
}

/// Reads one policy.
#[utoipa::path(get, path = "/api/v1/policies/{id}", tag = "policies", params(("id" = String, Path, description = "The policy's id.")),
    responses((status = 200, description = "The policy.", body = PolicyView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = if is_label(&id) { policies(&app).get(&id).await? } else { None };
    let stored = found.ok_or_else(absent)?;
    tagged(&headers, Some(stored.revision), &PolicyView::of(stored))
}

/// Replaces a policy. When the answer is 200, every later call of this gateway process is decided by it, and what was
/// open and is not allowed any more has been told to end.
#[utoipa::path(put, path = "/api/v1/policies/{id}", tag = "policies", request_body = PolicyDocument, params(("id" = String, Path, description = "The policy's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 200, description = "The policy.", body = PolicyView), (status = 202, description = "It is in the store, which this process cannot hear at the moment.", body = PolicyView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn replace(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(new): Document<PolicyDocument>,
) -> Result<Response, Problem> {
    let policy = new.checked()?;
    let when = existing(&app, &id, &headers).await?;
    let revision = policies(&app).save(&id, &policy, when).await?;
    written(&app, StatusCode::OK, id, revision, policy).await
}

/// Deletes a policy. Without any, nobody may use anything.
#[utoipa::path(delete, path = "/api/v1/policies/{id}", tag = "policies", params(("id" = String, Path, description = "The policy's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 204, description = "It is deleted."), (status = 202, description = "It is deleted in the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let when = existing(&app, &id, &headers).await?;
    let revision = policies(&app).delete(&id, when).await?;
    let status = if applied(&app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

/// The rules as they are, and as they would be with a draft.
pub(super) async fn with_draft(app: &App, draft: NewPolicyDocument) -> Result<(AccessRules, AccessRules), Problem> {
    let NewPolicyDocument { id, name, enabled, rules } = draft;
    let id = id.unwrap_or_else(|| "draft".to_owned());
    check_id(&id, "policy.id")?;
    let draft = PolicyDocument { name, enabled, rules }.checked_at("policy.")?;
    let unusable = || Refusal::new(StatusCode::CONFLICT, "A policy that is kept cannot be used: replace or delete it.");
    let (mut kept, mut after) = (BTreeMap::new(), None::<Box<str>>);
    loop {
        let found = policies(app).list(None, after.as_deref(), StoreLimits::PAGE).await;
        let (page, next) = found.map_err(|error| match error.kind() {
            StoreErrorKind::Corrupt => unusable().because(error).into(),
            _ => Problem::from(error),
        })?;
        kept.extend(page.into_iter().map(|stored| (stored.id, stored.value)));
        after = next;
        if after.is_none() {
            break;
        }
    }
    let compile = |policies: &BTreeMap<Box<str>, AccessPolicy>| {
        AccessRules::compile(policies.iter().map(|(id, policy)| (&**id, policy)))
            .map_err(|error| unusable().because(error))
    };
    let before = compile(&kept)?;
    kept.insert(id.into(), draft);
    Ok((before, compile(&kept)?))
}

fn check_id(id: &str, field: &str) -> Result<(), Problem> {
    if is_label(id) && !RESERVED.contains(&id) {
        return Ok(());
    }
    let text = format!("`{field}` must be 1 to 63 of a-z, 0-9 and `-`, and neither `evaluate` nor `replay`.");
    Err(invalid(field, text).into())
}

/// The version that a write is about: the one that the caller demands, or the one that is there.
async fn existing(app: &App, id: &str, headers: &HeaderMap) -> Result<When, Problem> {
    let demanded = expected(headers)?;
    let policies = policies(app);
    // One that cannot be read can be replaced and deleted all the same.
    let found = if is_label(id) { app.resources.get(&[policies.key(id)]).await?.pop().flatten() } else { None };
    let record = found.ok_or_else(absent)?;
    match demanded {
        Some(revision) if revision != record.revision => Err(StoreError::new(StoreErrorKind::Conflict, "put").into()),
        _ => Ok(When::At(record.revision)),
    }
}

async fn written(
    app: &App,
    done: StatusCode,
    id: String,
    revision: Revision,
    value: AccessPolicy,
) -> Result<Response, Problem> {
    let status = if applied(app, revision).await { done } else { StatusCode::ACCEPTED };
    let mut response = plain(status, &PolicyView::of(Stored { id: id.into(), revision, value }))?;
    response.headers_mut().insert(ETAG, tag(revision));
    Ok(response)
}

fn policies(app: &App) -> Resources<AccessPolicy> {
    Resources::new(Arc::clone(&app.resources), Arc::clone(&app.sealer), TenantId::default())
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no policy of this id.")
}
