//! SCIM 2.0, `/scim/v2`: an identity provider makes, changes and removes users and groups by itself.
//!
//! Callers have the token of one provider, which is good for nothing else. What changes something is in the audit trail.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use http::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use mcp_gateway_auth::scim::{ScimError, ScimLimits, ScimQuery, ScimResource, version};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{AuthError, Authenticator, Effort, Resource, Revision};
use mcp_gateway_core::layer::authenticate::{AuthenticateLayer, Caller, Rendering};
use mcp_gateway_core::layer::context::ContextLayer;
use mcp_gateway_core::record::{ActorFacts, AuditEvent, Category, ChangeFact, EventKind, Outcome, Principal};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::api::witness;
use crate::app::App;

/// The media type (RFC 7644 §8.1).
const SCIM: &str = "application/scim+json";
/// How long an answer waits until this process knows what it has just written.
const APPLY: std::time::Duration = std::time::Duration::from_secs(5);

/// A provider's token.
#[derive(Clone)]
pub struct ScimToken {
    /// The issuer of the provider.
    pub issuer: Arc<str>,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
}

impl ScimToken {
    /// Characters of a token, at least.
    pub const SHORTEST: usize = 32;

    /// Keeps what a token is compared with.
    #[must_use]
    pub fn new(issuer: &str, token: &str) -> Self {
        Self { issuer: issuer.into(), sha256: Sha256::digest(token).into() }
    }
}

impl std::fmt::Debug for ScimToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScimToken").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The routes; none where no provider has a token.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let tokens = app.scim_tokens.clone();
    if tokens.is_empty() {
        return Router::new();
    }
    let resource = Resource { url: format!("{}/scim/v2", app.mount.origin()).into(), metadata: None, server: None };
    let authenticate = AuthenticateLayer::new(resource, vec![Arc::new(Clients(tokens))])
        .render_as(Rendering::Problem)
        .limit_failures(Arc::clone(&app.limiter), app.config.limits.auth_failures_per_minute);
    let context = ContextLayer::with(Arc::clone(&app.clock), app.config.trusted_proxies.clone());
    Router::new()
        .route("/scim/v2/Users", get(list_users).post(create_user))
        .route("/scim/v2/Users/{id}", get(read_user).put(replace_user).patch(patch_user).delete(delete_user))
        .route("/scim/v2/Groups", get(list_groups).post(create_group))
        .route("/scim/v2/Groups/{id}", get(read_group).put(replace_group).patch(patch_group).delete(delete_group))
        .route(
            "/scim/v2/ServiceProviderConfig",
            get(async |State(app): App_| answer(StatusCode::OK, &app.scim.service_provider_config())),
        )
        .route(
            "/scim/v2/ResourceTypes",
            get(async |State(app): App_| answer(StatusCode::OK, &app.scim.resource_types())),
        )
        .route("/scim/v2/Schemas", get(async |State(app): App_| answer(StatusCode::OK, &app.scim.schemas())))
        .with_state(Arc::clone(app))
        .layer(DefaultBodyLimit::max(ScimLimits::BODY))
        .layer(from_fn_with_state(Arc::clone(app), record))
        .layer(authenticate)
        .layer(context)
}

/// Who calls with a provider's token.
struct Clients(Vec<ScimToken>);

impl Authenticator for Clients {
    fn authenticate(&self, parts: &Parts, _: &Resource) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        let Some(sent) = parts.headers.get(AUTHORIZATION) else { return Ok(None).into() };
        let sent = sent.as_bytes().split_at_checked(b"bearer ".len());
        let sent =
            sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")).map(|(_, token)| token.trim_ascii());
        let sent: [u8; 32] = Sha256::digest(sent.unwrap_or_default()).into();
        let known = self.0.iter().find(|token| bool::from(token.sha256.ct_eq(&sent)));
        let known = known.ok_or(AuthError::Invalid("it is no token of a SCIM client"));
        known.map(|known| Some(Arc::new(Principal::new(Arc::clone(&known.issuer), "scim").with_scopes([])))).into()
    }

    fn effort(&self, _: &Parts, _: &Resource) -> Effort {
        Effort::Comparison
    }
}

#[allow(non_camel_case_types, reason = "it is what an extractor takes")]
type App_ = State<Arc<App>>;

/// What a handler returns.
type Answer = Result<Response, Refused>;

/// An error, as SCIM has them.
struct Refused(ScimError);

impl From<ScimError> for Refused {
    fn from(error: ScimError) -> Self {
        Self(error)
    }
}

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> Response {
        if let ScimError::Store(error) = &self.0 {
            tracing::error!(%error, "a SCIM request failed at the store");
        }
        answer(self.0.status(), &self.0.body())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameters {
    filter: Option<String>,
    start_index: Option<i64>,
    count: Option<i64>,
    excluded_attributes: Option<String>,
}

impl Parameters {
    fn query(self) -> ScimQuery {
        let number =
            |value: Option<i64>, default: usize| value.map_or(default, |value| usize::try_from(value).unwrap_or(0));
        ScimQuery {
            start: number(self.start_index, 1).max(1),
            count: number(self.count, ScimLimits::PAGE),
            without_members: self
                .excluded_attributes
                .is_some_and(|names| names.split(',').any(|one| one.trim() == "members")),
            filter: self.filter,
        }
    }
}

async fn list_users(State(app): App_, caller: Caller, Query(query): Query<Parameters>) -> Answer {
    Ok(answer(StatusCode::OK, &app.scim.list_users(of(&caller), &query.query()).await?))
}

async fn create_user(State(app): App_, caller: Caller, body: Bytes) -> Answer {
    let made = app.scim.create_user(of(&caller), &json(&body)?).await?;
    Ok(shown(&app, StatusCode::CREATED, made).await)
}

async fn read_user(State(app): App_, caller: Caller, Path(id): Path<String>) -> Answer {
    Ok(shown(&app, StatusCode::OK, app.scim.user(of(&caller), &id).await?).await)
}

async fn replace_user(
    State(app): App_,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let changed = app.scim.replace_user(of(&caller), &id, expected(&headers)?, &json(&body)?).await?;
    Ok(shown(&app, StatusCode::OK, changed).await)
}

async fn patch_user(
    State(app): App_,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let changed = app.scim.patch_user(of(&caller), &id, expected(&headers)?, &json(&body)?).await?;
    Ok(shown(&app, StatusCode::OK, changed).await)
}

async fn delete_user(State(app): App_, caller: Caller, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let revision = app.scim.delete_user(of(&caller), &id, expected(&headers)?).await?;
    Ok(gone(&app, revision).await)
}

async fn list_groups(State(app): App_, caller: Caller, Query(query): Query<Parameters>) -> Answer {
    Ok(answer(StatusCode::OK, &app.scim.list_groups(of(&caller), &query.query()).await?))
}

async fn create_group(State(app): App_, caller: Caller, body: Bytes) -> Answer {
    let made = app.scim.create_group(of(&caller), &json(&body)?).await?;
    Ok(shown_group(&app, &caller, StatusCode::CREATED, made).await)
}

async fn read_group(
    State(app): App_,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<Parameters>,
) -> Answer {
    let group = app.scim.group(of(&caller), &id, query.query().without_members).await?;
    Ok(shown(&app, StatusCode::OK, group).await)
}

async fn replace_group(
    State(app): App_,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let changed = app.scim.replace_group(of(&caller), &id, expected(&headers)?, &json(&body)?).await?;
    Ok(shown_group(&app, &caller, StatusCode::OK, changed).await)
}

async fn patch_group(
    State(app): App_,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let changed = app.scim.patch_group(of(&caller), &id, expected(&headers)?, &json(&body)?).await?;
    Ok(shown_group(&app, &caller, StatusCode::OK, changed).await)
}

async fn delete_group(State(app): App_, caller: Caller, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let revision = app.scim.delete_group(of(&caller), &id, expected(&headers)?).await?;
    Ok(gone(&app, revision).await)
}

/// The provider whose client calls.
fn of(caller: &Caller) -> &str {
    &caller.0.subject.issuer
}

fn json(body: &[u8]) -> Result<Value, Refused> {
    serde_json::from_slice(body).map_err(|_| Refused(ScimError::Bad("invalidSyntax", "the body must be JSON")))
}

/// The version that the client means; `*` and nothing mean any.
fn expected(headers: &HeaderMap) -> Result<Option<Revision>, Refused> {
    let Some(sent) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = sent.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse().map(Revision);
    number.map(Some).map_err(|_| Refused(ScimError::Changed))
}

/// The resource, once this process refuses and permits what it says.
async fn shown(app: &App, status: StatusCode, resource: ScimResource) -> Response {
    if let Some(revision) = resource.applied {
        let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await;
    }
    let mut response = answer(status, &resource.body);
    if let Ok(tag) = HeaderValue::try_from(version(resource.revision)) {
        response.headers_mut().insert(ETAG, tag);
    }
    let location = resource.body["meta"]["location"].as_str().and_then(|url| HeaderValue::try_from(url).ok());
    if let Some(location) = location.filter(|_| status == StatusCode::CREATED) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.extensions_mut().insert(Target(resource.id.into()));
    response
}

/// The same for a group, whose members are read from what this process knows.
async fn shown_group(app: &App, caller: &Caller, status: StatusCode, group: ScimResource) -> Response {
    if let Some(revision) = group.applied {
        let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await;
    }
    match app.scim.group(of(caller), &group.id, false).await {
        Ok(now) => shown(app, status, now).await,
        Err(_) => shown(app, status, group).await,
    }
}

async fn gone(app: &App, revision: Option<Revision>) -> Response {
    if let Some(revision) = revision {
        let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(SCIM));
    response
}

/// What was made.
#[derive(Clone)]
struct Target(Box<str>);

/// Puts what changes something into the trail; carried to its end when the client hangs up.
async fn record(State(app): App_, request: Request<Body>, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let cx = McpContext::of(request.extensions()).cloned();
    if method == Method::GET || method == Method::HEAD {
        return next.run(request).await;
    }
    let acted = tokio::spawn(async move {
        let (response, changes) = witness(next.run(request)).await;
        if let Some(cx) = cx {
            let target = response.extensions().get::<Target>().map(|target| target.0.clone());
            let target = target.or_else(|| path.rsplit('/').next().map(Box::from));
            note(&app, &cx, action(&method, &path), target, response.status(), changes).await;
        }
        response
    });
    acted.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a SCIM request broke off");
        answer(StatusCode::INTERNAL_SERVER_ERROR, &Value::Null)
    })
}

fn action(method: &Method, path: &str) -> &'static str {
    match (path.starts_with("/scim/v2/Groups"), method.as_str()) {
        (false, "POST") => "scim.user.create",
        (false, "PUT") => "scim.user.replace",
        (false, "PATCH") => "scim.user.change",
        (false, _) => "scim.user.delete",
        (true, "POST") => "scim.group.create",
        (true, "PUT") => "scim.group.replace",
        (true, "PATCH") => "scim.group.change",
        (true, _) => "scim.group.delete",
    }
}

async fn note(
    app: &App,
    cx: &McpContext,
    action: &'static str,
    target: Option<Box<str>>,
    status: StatusCode,
    changes: Vec<ChangeFact>,
) {
    let mut event = AuditEvent::new(cx.began_at(), cx.request_id(), Category::Admin, EventKind::Act);
    event.actor = cx.principal().map(|principal| ActorFacts {
        subject: principal.subject.clone(),
        kind: principal.actor.kind,
        id: Arc::clone(&principal.actor.id),
        name: None,
    });
    event.address = cx.address().copied();
    event.method = Some(action.into());
    event.changes = changes;
    event.target = target.map(Arc::from);
    event.status = status.as_u16();
    event.outcome = match status {
        status if status.is_success() => Outcome::Ok,
        status if status.is_client_error() => Outcome::Denied,
        _ => Outcome::UpstreamFailed,
    };
    if let Err(error) = app.audit_sink.record(event).await {
        tracing::error!(%error, action, "what a SCIM client did is not in the audit trail");
    }
}
