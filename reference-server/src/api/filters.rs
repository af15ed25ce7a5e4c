//! `/api/v1/filters`: what messages are judged by.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp_gateway_core::contract::{Cursor, Query, Record, Revision, StoreError, StoreErrorKind, When};
use mcp_gateway_core::filter::{
    Check, Compiled, FailMode, FilterError, FilterLimits, FilterSpec, Selector, Trial, Tried, Way,
};
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{Principal, Resource as _, Resources, Roles, Stored, TenantId};
use mcp_gateway_core::refusal::Refusal;
use mcp_gateway_core::wire::{Limits, peek};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use ulid::Ulid;
use url::Url;
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, applied, cursor_of, expected, invalid, plain, tag, tagged};
use super::entries::is_label;
use super::extract::{Document, Nothing, PageParameters, Parameters};
use super::guard::Target;
use crate::app::App;

/// A filter.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "no-credentials",
    "revision": 42,
    "name": "No credentials leave",
    "enabled": true,
    "order": 10,
    "selectors": [{ "methods": ["tools/call"], "directions": ["request"] }],
    "check": { "kind": "secrets", "action": "redact" },
    "signed": false,
    "fail_mode": "closed",
    "timeout_ms": 5000,
    "retries": 0,
    "short_circuit": true,
    "message": null
}))]
pub(super) struct FilterView {
    /// Its id, by which it is in the audit trail.
    id: String,
    /// The revision that wrote it: its `ETag`.
    revision: u64,
    /// A name, for people.
    name: String,
    /// Whether it is asked.
    enabled: bool,
    /// Filters are asked from the lowest to the highest.
    order: i32,
    /// What it concerns: whatever one of these does; everything, if there is none.
    #[schema(value_type = Vec<Object>)]
    selectors: Vec<Selector>,
    /// What it does, without the secret of a webhook.
    #[schema(value_type = Object)]
    check: Value,
    /// Whether its requests are signed: there is a secret, which is never shown.
    signed: bool,
    /// What becomes of a message that it fails to judge: `closed` or `open`.
    #[schema(value_type = String)]
    fail_mode: FailMode,
    /// How long one attempt to ask may take.
    timeout_ms: u32,
    /// How often it is asked again after it failed.
    retries: u8,
    /// Whether the filters after it are left out when it refuses.
    short_circuit: bool,
    /// What the caller of a refused message reads.
    message: Option<String>,
}

impl FilterView {
    /// As this caller may see it: what follows the `?` of a URL may be a credential, and is for those who make filters.
    fn of(mut stored: Stored<FilterSpec>, caller: &Principal) -> Result<Self, Problem> {
        if let Check::Webhook { url, .. } = &mut stored.value.check
            && !caller.roles.with_included().contains(Roles::ADMIN)
        {
            url.truncate(url.find(['?', '#']).unwrap_or(url.len()));
        }
        let Stored { id, revision, value } = stored;
        let FilterSpec {
            name,
            enabled,
            order,
            selectors,
            mut check,
            fail_mode,
            timeout_ms,
            retries,
            short_circuit,
            message,
        } = value;
        let signed = secret_of(&mut check).is_some_and(|secret| secret.take().is_some());
        let check = serde_json::to_value(&check)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "It cannot be shown.").because(error))?;
        let (id, revision) = (id.into(), revision.0);
        Ok(Self {
            id,
            revision,
            name,
            enabled,
            order,
            selectors,
            check,
            signed,
            fail_mode,
            timeout_ms,
            retries,
            short_circuit,
            message,
        })
    }
}

/// A filter to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "id": "no-credentials",
    "name": "No credentials leave",
    "order": 10,
    "selectors": [{ "methods": ["tools/call"], "directions": ["request"] }],
    "check": { "kind": "secrets", "action": "redact" }
}))]
pub(super) struct NewFilterDocument {
    /// Its id: a-z, 0-9 and `-`, at most 63. Made up by default.
    id: Option<String>,
    /// A name, for people.
    name: String,
    /// Whether it is asked; it is by default.
    enabled: Option<bool>,
    /// Filters are asked from the lowest to the highest; 0 by default.
    order: Option<i32>,
    /// What it concerns: `servers`, `methods`, `targets` (patterns with `*`), `directions`; everything by default.
    #[schema(value_type = Option<Vec<Object>>)]
    selectors: Option<Vec<Selector>>,
    /// What it does: its `kind`, and what belongs to it.
    #[schema(value_type = Object)]
    check: Check,
    /// What becomes of a message that it fails to judge: `closed`, which is the default, or `open`.
    #[schema(value_type = Option<String>)]
    fail_mode: Option<FailMode>,
    /// How long one attempt to ask may take; 5000 by default.
    timeout_ms: Option<u32>,
    /// How often it is asked again after it failed; 0 by default.
    retries: Option<u8>,
    /// Whether the filters after it are left out when it refuses; they are by default.
    short_circuit: Option<bool>,
    /// What the caller of a refused message reads.
    message: Option<String>,
}

/// What a filter is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterDocument {
    /// A name, for people.
    name: String,
    /// Whether it is asked; it is by default.
    enabled: Option<bool>,
    /// Filters are asked from the lowest to the highest; 0 by default.
    order: Option<i32>,
    /// What it concerns; everything by default.
    #[schema(value_type = Option<Vec<Object>>)]
    selectors: Option<Vec<Selector>>,
    /// What it does. A webhook without `secret` keeps the one that it has, if its URL has the same origin; `""` takes it
    /// away.
    #[schema(value_type = Object)]
    check: Check,
    /// What becomes of a message that it fails to judge: `closed`, which is the default, or `open`.
    #[schema(value_type = Option<String>)]
    fail_mode: Option<FailMode>,
    /// How long one attempt to ask may take; 5000 by default.
    timeout_ms: Option<u32>,
    /// How often it is asked again after it failed; 0 by default.
    retries: Option<u8>,
    /// Whether the filters after it are left out when it refuses; they are by default.
    short_circuit: Option<bool>,
    /// What the caller of a refused message reads.
    message: Option<String>,
}

impl FilterDocument {
    /// The filter; `before` is what it replaces.
    fn checked(self, app: &App, before: Option<FilterSpec>) -> Result<FilterSpec, Problem> {
        let mut check = self.check;
        if let Check::Webhook { url, .. } = &check
            && app.config.egress.filter.allow.is_empty()
            && Url::parse(url).is_ok_and(|url| url.scheme() == "http")
        {
            let problem = "`check.url` must be https: plain http is called only where `egress.filter.allow` says so.";
            return Err(invalid("check.url", problem.to_owned()).into());
        }
        let kept = before.and_then(|before| kept_secret(before.check, &check));
        if let Some(secret) = secret_of(&mut check) {
            *secret = match secret.take() {
                Some(secret) if secret.expose().is_empty() => None,
                Some(secret) => Some(secret),
                None => kept,
            };
        }
        let spec = FilterSpec {
            name: self.name,
            enabled: self.enabled.unwrap_or(true),
            order: self.order.unwrap_or_default(),
            selectors: self.selectors.unwrap_or_default(),
            check,
            fail_mode: self.fail_mode.unwrap_or_default(),
            timeout_ms: self.timeout_ms.unwrap_or(FilterLimits::USUAL_TIMEOUT_MS),
            retries: self.retries.unwrap_or_default(),
            short_circuit: self.short_circuit.unwrap_or(true),
            message: self.message,
        };
        compiled("new", &spec)?;
        Ok(spec)
    }
}

fn compiled(id: &str, spec: &FilterSpec) -> Result<Compiled, Problem> {
    Compiled::new(id, spec)
        .map_err(|FilterError { field, problem }| invalid(&field, format!("`{field}` {problem}.")).into())
}

fn secret_of(check: &mut Check) -> Option<&mut Option<mcp_gateway_core::record::Secret>> {
    match check {
        Check::Webhook { secret, .. } => Some(secret),
        _ => None,
    }
}

/// The secret stays with the origin that it was given for.
fn kept_secret(before: Check, after: &Check) -> Option<mcp_gateway_core::record::Secret> {
    match (before, after) {
        (Check::Webhook { url: before, secret, .. }, Check::Webhook { url: after, .. }) => {
            let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
            secret.filter(|_| origin(&before).is_some_and(|before| Some(before) == origin(after)))
        }
        _ => None,
    }
}

/// A message that nobody sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "direction": "request",
    "server": "tickets",
    "message": { "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "create", "arguments": {} } }
}))]
pub(super) struct TestDocument {
    /// Which way it goes: `request`, `response` or `event`.
    #[schema(value_type = String)]
    direction: Way,
    /// The server's id; one that no selector names by default.
    server: Option<String>,
    /// Its method, if the message does not tell: of a response, the one that it answers.
    method: Option<String>,
    /// The tool, prompt or resource, if the message does not tell.
    target: Option<String>,
    /// The JSON-RPC message.
    #[schema(value_type = Object)]
    message: Box<RawValue>,
}

/// What a filter does with a message that nobody sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "selected": true,
    "verdict": "replaced",
    "found": ["jwt"],
    "because": null,
    "message": { "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "[redacted:jwt]" } }
}))]
pub(super) struct TestView {
    /// Whether its selectors choose the message. It was judged in any case.
    selected: bool,
    /// `passed`, `flagged`, `replaced`, `refused`, `failed` or `failed_open`.
    verdict: String,
    /// What it found.
    found: Vec<String>,
    /// What the caller of a refused message would read, or why the filter failed.
    because: Option<String>,
    /// The message as it would go on; `null` if it would not.
    #[schema(value_type = Option<Object>)]
    message: Option<Box<RawValue>>,
}

/// Lists the filters, in the order of ids.
#[utoipa::path(get, path = "/api/v1/filters", tag = "filters", params(PageParameters),
    responses((status = 200, description = "A page of filters.", body = Page<FilterView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = TenantId::default();
    let after = page.after()?.map(|id| Cursor { tenant: tenant.clone(), id: id.into() });
    let query = Query { tenant: Some(tenant), kind: FilterSpec::KIND, term: None, after, limit: page.limit()? };
    let found = app.resources.list(&query).await?;
    let items = found.records.iter().filter_map(|record| readable(&app, record));
    let items = items.map(|stored| FilterView::of(stored, &caller.0)).collect::<Result<_, _>>()?;
    let next_cursor = found.next.map(|cursor| cursor_of(&cursor.id));
    tagged(&headers, None, &Page::<FilterView> { items, next_cursor })
}

/// `None` for a record that cannot be read, which must not hide the others.
fn readable(app: &App, record: &Record) -> Option<Stored<FilterSpec>> {
    Stored::decode(record, &*app.sealer)
        .inspect_err(|error| tracing::error!(%error, id = %record.key.id, "a filter cannot be read; it is left out"))
        .ok()
}

/// Makes a filter. When the answer is 201, every later message through this gateway process is judged by it, too.
#[utoipa::path(post, path = "/api/v1/filters", tag = "filters", request_body = NewFilterDocument,
    responses((status = 201, description = "The filter.", body = FilterView, headers(("Location" = String, description = "Where it can be read."))), (status = 202, description = "It is in the store, which this process cannot hear at the moment.", body = FilterView), (status = 409, description = "There is one of this id, or there are 200 filters already.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Document(new): Document<NewFilterDocument>,
) -> Result<Response, Problem> {
    let NewFilterDocument {
        id,
        name,
        enabled,
        order,
        selectors,
        check,
        fail_mode,
        timeout_ms,
        retries,
        short_circuit,
        message,
    } = new;
    let id = id.unwrap_or_else(|| Ulid::generate().to_string().to_ascii_lowercase());
    if !is_label(&id) {
        return Err(invalid("id", "`id` must be 1 to 63 of a-z, 0-9 and `-`.".to_owned()).into());
    }
    let document = FilterDocument {
        name,
        enabled,
        order,
        selectors,
        check,
        fail_mode,
        timeout_ms,
        retries,
        short_circuit,
        message,
    };
    let spec = document.checked(&app, None)?;
    let query = Query {
        tenant: Some(TenantId::default()),
        kind: FilterSpec::KIND,
        term: None,
        after: None,
        limit: FilterLimits::FILTERS,
    };
    if app.resources.list(&query).await?.records.len() == FilterLimits::FILTERS {
        let public = format!("There are {} filters already: delete one first.", FilterLimits::FILTERS);
        return Err(Refusal::new(StatusCode::CONFLICT, public).into());
    }
    let saved = filters(&app).save(&id, &spec, When::Absent).await;
    let revision = saved.map_err(|error| match error.kind() {
        StoreErrorKind::Conflict => Refusal::new(StatusCode::CONFLICT, "There is a filter of this id.").into(),
        _ => Problem::from(error),
    })?;
    let location = HeaderValue::from_str(&format!("/api/v1/filters/{id}")).unwrap_or(HeaderValue::from_static("/"));
    let target = Target(id.as_str().into());
    let mut response = written(&app, &caller.0, StatusCode::CREATED, id, revision, spec).await?;
    response.headers_mut().insert(LOCATION, location);
    response.extensions_mut().insert(target);
    Ok(response)
}

/// Reads one filter.
#[utoipa::path(get, path = "/api/v1/filters/{id}", tag = "filters", params(("id" = String, Path, description = "The filter's id.")),
    responses((status = 200, description = "The filter.", body = FilterView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let stored = one(&app, &id).await?;
    tagged(&headers, Some(stored.revision), &FilterView::of(stored, &caller.0)?)
}

/// Replaces a filter. When the answer is 200, every later message through this gateway process is judged by it, and
/// streams that it looks further into have been told to end.
#[utoipa::path(put, path = "/api/v1/filters/{id}", tag = "filters", request_body = FilterDocument, params(("id" = String, Path, description = "The filter's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 200, description = "The filter.", body = FilterView), (status = 202, description = "It is in the store, which this process cannot hear at the moment.", body = FilterView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn replace(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(new): Document<FilterDocument>,
) -> Result<Response, Problem> {
    let record = existing(&app, &id, &headers).await?;
    // One that cannot be read has no secret that could be kept.
    let before = readable(&app, &record).map(|stored| stored.value);
    let spec = new.checked(&app, before)?;
    let revision = filters(&app).save(&id, &spec, When::At(record.revision)).await?;
    written(&app, &caller.0, StatusCode::OK, id, revision, spec).await
}

/// Deletes a filter. Nothing is judged by it any more.
#[utoipa::path(delete, path = "/api/v1/filters/{id}", tag = "filters", params(("id" = String, Path, description = "The filter's id."), ("If-Match" = Option<String>, Header, description = "The tag of the version that is meant.")),
    responses((status = 204, description = "It is deleted."), (status = 202, description = "It is deleted in the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let record = existing(&app, &id, &headers).await?;
    let revision = filters(&app).delete(&id, When::At(record.revision)).await?;
    let status = if applied(&app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

/// Asks a filter about a message that nobody sent, whether it is enabled or not. A service that it asks is called, once.
#[utoipa::path(post, path = "/api/v1/filters/{id}/test", tag = "filters", request_body = TestDocument, params(("id" = String, Path, description = "The filter's id.")),
    responses((status = 200, description = "What it does.", body = TestView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn test(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Document(asked): Document<TestDocument>,
) -> Result<Response, Problem> {
    let stored = one(&app, &id).await?;
    let filter = compiled(&id, &stored.value)?;
    let TestDocument { direction, server, method, target, message } = asked;
    let body = Bytes::from(String::from(Box::<str>::from(message)));
    let read = peek(&body, &Limits::default());
    let read = read.map_err(|error| invalid("message", format!("`message` is no JSON-RPC message: {error}.")))?;
    let method = method.or_else(|| read.method.as_deref().map(str::to_owned));
    let target = target.or_else(|| read.target().map(str::to_owned));
    let tried = Tried {
        direction: direction.into(),
        server: server.as_deref().unwrap_or_default(),
        method: method.as_deref(),
        target: target.as_deref(),
        body: &body,
    };
    let Trial { selected, verdict, found, because, message } = app.filters.try_out(&filter, tried).await;
    let message = message.and_then(|message| RawValue::from_string(String::from_utf8(message.into()).ok()?).ok());
    let found = found.into_iter().map(Into::into).collect();
    plain(StatusCode::OK, &TestView { selected, verdict: verdict.as_str().to_owned(), found, because, message })
}

async fn one(app: &App, id: &str) -> Result<Stored<FilterSpec>, Problem> {
    let found = if is_label(id) { filters(app).get(id).await? } else { None };
    found.ok_or_else(|| absent().into())
}

/// The version that a write is about: the one that the caller demands, or the one that is there. One that cannot be read
/// can be replaced and deleted all the same.
async fn existing(app: &App, id: &str, headers: &HeaderMap) -> Result<Record, Problem> {
    let demanded = expected(headers)?;
    let found = if is_label(id) { app.resources.get(&[filters(app).key(id)]).await?.pop().flatten() } else { None };
    let record = found.ok_or_else(absent)?;
    match demanded {
        Some(revision) if revision != record.revision => Err(StoreError::new(StoreErrorKind::Conflict, "put").into()),
        _ => Ok(record),
    }
}

async fn written(
    app: &App,
    caller: &Principal,
    done: StatusCode,
    id: String,
    revision: Revision,
    value: FilterSpec,
) -> Result<Response, Problem> {
    let status = if applied(app, revision).await { done } else { StatusCode::ACCEPTED };
    let mut response = plain(status, &FilterView::of(Stored { id: id.into(), revision, value }, caller)?)?;
    response.headers_mut().insert(ETAG, tag(revision));
    Ok(response)
}

fn filters(app: &App) -> Resources<FilterSpec> {
    Resources::new(Arc::clone(&app.resources), Arc::clone(&app.sealer), TenantId::default())
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no filter of this id.")
}
