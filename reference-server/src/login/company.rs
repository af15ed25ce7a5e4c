//! Login with a company's identity providers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp_gateway_auth::login::{SessionUser, Throttle, read_cookie};
use mcp_gateway_auth::oidc::{OidcError, Proven};
use mcp_gateway_auth::user::UserError;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Budget, LimitKey};
use mcp_gateway_core::layer::limit::network;
use mcp_gateway_core::record::Category;
use serde::Deserialize;

use super::{APPLY, Cx, enter, link, local, notice, see, set, trail, unavailable};
use crate::app::App;

/// The action of a login in the trail.
const LOGIN: &str = "login.provider";
/// A login has brought what the provider says of groups up to date, and nobody is an owner any more.
const OWNERLESS: &str = "login.last-owner-lost";
/// The action of a logout that a provider announces.
const LOGOUT: &str = "login.back-channel-logout";

#[derive(Debug, Deserialize)]
pub(super) struct Begin {
    #[serde(default)]
    next: String,
    /// Whether the provider must ask the person again.
    #[serde(default)]
    again: Option<String>,
}

/// `GET /login/with/{provider}?next=&again=`: sends the browser there.
pub(super) async fn begin(
    State(app): State<Arc<App>>,
    cx: Cx,
    Path(provider): Path<String>,
    headers: HeaderMap,
    query: Result<Query<Begin>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else { return see("/login") };
    if let Err(error) = start_allowed(&app, &cx.0).await {
        return told(&app, &cx.0, &error);
    }
    let cookies = app.logins.cookies;
    let known = read_cookie(&headers, cookies.browser()).ok().flatten().map(str::to_owned);
    let new = known.is_none().then(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let browser = known.or_else(|| new.clone()).unwrap_or_default();
    let max_age = query.again.map(|_| 0);
    match app.logins.providers.begin(&provider, &browser, &local(&query.next), max_age).await {
        Ok(url) => {
            let mut response = see(&url);
            if let Some(new) = new {
                set(&mut response, cookies.set(cookies.browser(), &new));
            }
            response
        }
        Err(error) => told(&app, &cx.0, &error),
    }
}

/// `GET /login/callback/{provider}`: the browser comes back.
pub(super) async fn callback(
    State(app): State<Arc<App>>,
    cx: Cx,
    Path(provider): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let Ok(Some(browser)) = read_cookie(&headers, app.logins.cookies.browser()) else {
        return told(&app, &cx.0, &OidcError::State);
    };
    match app.logins.providers.finish(&provider, browser, &query.unwrap_or_default()).await {
        Ok(proven) => sign_in(&app, &cx.0, &headers, proven).await,
        Err(error) => {
            if !is_strangers(&error) {
                trail::refused(&app, &cx.0, LOGIN, &provider, &error).await;
            }
            told(&app, &cx.0, &error)
        }
    }
}

async fn sign_in(app: &App, cx: &McpContext, headers: &HeaderMap, mut proven: Proven) -> Response {
    if let Some(session) = proven.link.take() {
        return link::finish(app, cx, headers, proven, &session).await;
    }
    let Proven { asserted, login, authenticated_at, next, .. } = proven;
    let signed_in = match app.logins.users.sign_in(&asserted).await {
        Ok(signed_in) => signed_in,
        Err(UserError::Store(error)) => return *unavailable(cx, &error),
        Err(error) => {
            let text = match error {
                UserError::Disabled => "Your account is disabled. Ask an administrator.",
                _ => "What the identity provider says about you cannot be kept. Ask an administrator.",
            };
            tracing::warn!(provider = login.provider, %error, "somebody whom a provider knows may not sign in");
            trail::not_let_in(app, cx, LOGIN, &login.provider, &error).await;
            return *notice(StatusCode::FORBIDDEN, "Not allowed", text, Some(&cx.request_id().to_string()));
        }
    };
    // Roles may have changed with the groups, and a new user must be known, before the session is used.
    let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(signed_in.revision)).await;
    let user = SessionUser { id: signed_in.id, epoch: signed_in.user.epoch };
    let sessions = &app.logins.sessions;
    let begun = match sessions.begin_for(&user, &login.provider, authenticated_at).await {
        Ok(begun) => begun,
        Err(error) => return *unavailable(cx, &error),
    };
    // What was agreed to in a session may outlive it, and is asked about as long.
    let grants = Duration::from_secs(app.config.oauth.grant_seconds);
    let lasts = if login.refresh_token.is_some() { sessions.longest().max(grants) } else { sessions.longest() };
    if let Err(error) = app.logins.providers.remember(&begun.id, &login, lasts).await {
        // A session that its provider could not end is none.
        let _ = sessions.end(begun.token.expose()).await;
        return *unavailable(cx, &error);
    }
    trail::done(app, cx, LOGIN, &user.id).await;
    if signed_in.ownerless {
        trail::done(app, cx, OWNERLESS, &user.id).await;
    }
    enter(app, headers, &begun, &next).await
}

/// `POST /login/back-channel/{provider}`: the provider says that somebody has signed out (Back-Channel Logout 1.0 §2.5).
pub(super) async fn back_channel(
    State(app): State<Arc<App>>,
    cx: Cx,
    Path(provider): Path<String>,
    body: Bytes,
) -> Response {
    if logout_failures(&app, &cx.0, 0).await.is_err() {
        app.strangers.count(&cx.0, Category::Auth, 429);
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    match app.logins.providers.back_channel(&provider, &body).await {
        Ok(ended) => {
            if let Some(revision) = ended.revision {
                let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await;
            }
            for user in &ended.users {
                trail::done(&app, &cx.0, LOGOUT, user).await;
            }
            tracing::info!(provider, sessions = ended.sessions, "an identity provider has ended logins");
            StatusCode::OK.into_response()
        }
        Err(error) => {
            app.strangers.count(&cx.0, Category::Auth, status(&error).as_u16());
            if !status(&error).is_server_error() {
                let _ = logout_failures(&app, &cx.0, 1).await;
            }
            tracing::warn!(provider = %provider.escape_default(), %error, "a logout of an identity provider is not believed");
            // §2.8: 400 when it is wrong; what is our fault is to be tried again.
            match status(&error) {
                StatusCode::NOT_FOUND => StatusCode::NOT_FOUND.into_response(),
                status if status.is_server_error() => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                _ => {
                    let body = "{\"error\":\"invalid_request\"}";
                    (StatusCode::BAD_REQUEST, [("content-type", "application/json")], body).into_response()
                }
            }
        }
    }
}

/// `login.starts_per_address`: each login under way is a record.
pub(super) async fn start_allowed(app: &App, cx: &McpContext) -> Result<(), OidcError> {
    take(app, cx, "login-start", 1, app.config.login.starts_per_address, Throttle::PERIOD).await
}

/// `limits.auth_failures_per_minute`, of logout tokens that are not believed. With no cost, whether any are left.
async fn logout_failures(app: &App, cx: &McpContext, cost: u32) -> Result<(), OidcError> {
    let limit = app.config.limits.auth_failures_per_minute;
    take(app, cx, "logout-failure", cost, limit, Duration::from_secs(60)).await
}

/// Takes from a budget of the address.
async fn take(
    app: &App,
    cx: &McpContext,
    scope: &'static str,
    cost: u32,
    limit: u32,
    period: Duration,
) -> Result<(), OidcError> {
    let Some(address) = cx.address() else { return Ok(()) };
    let key = LimitKey { scope, id: network(*address).to_string().into() };
    let taken = match app.limiter.check(&[Budget { key, cost, limit, period }]) {
        MaybeReady::Ready(taken) => taken,
        MaybeReady::Wait(wait) => wait.await,
    };
    taken.map(drop).map_err(|limited| OidcError::Throttled { retry_after: limited.retry_after })
}

/// Whether anybody could have brought it about, without a login that had begun: such are counted, not told one by one in
/// the trail.
fn is_strangers(error: &OidcError) -> bool {
    matches!(error, OidcError::State | OidcError::NoProvider | OidcError::Throttled { .. } | OidcError::Store(_))
}

pub(super) fn status(error: &OidcError) -> StatusCode {
    match error {
        OidcError::NoProvider => StatusCode::NOT_FOUND,
        OidcError::State => StatusCode::BAD_REQUEST,
        OidcError::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
        OidcError::Provider(_) => StatusCode::BAD_GATEWAY,
        OidcError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    }
}

/// The page about it.
pub(super) fn told(app: &App, cx: &McpContext, error: &OidcError) -> Response {
    let status = status(error);
    if is_strangers(error) {
        app.strangers.count(cx, Category::Auth, status.as_u16());
    }
    if !is_strangers(error) || status.is_server_error() {
        tracing::warn!(%error, request_id = %cx.request_id(), "a login with an identity provider failed");
    }
    let (title, text) = match error {
        OidcError::NoProvider => ("Not found", "There is no such way to sign in."),
        OidcError::State => {
            ("Start again", "This login was not begun in this browser, or took too long. Open the login page again.")
        }
        OidcError::Denied(_) => ("Not signed in", "The identity provider did not let you in."),
        OidcError::NotAllowed(_) => {
            ("Not allowed", "Only people with a confirmed address of this company may sign in. Ask an administrator.")
        }
        OidcError::Throttled { .. } => ("Not now", "Too many logins were begun from here. Wait some minutes."),
        OidcError::Store(_) => ("Not now", "The gateway cannot do this now. Try again soon."),
        OidcError::Provider(_) => ("Not now", "The identity provider does not answer as it must. Try again soon."),
        _ => ("Not signed in", "What the identity provider says does not hold. Try again, or ask an administrator."),
    };
    let mut response = *notice(status, title, text, Some(&cx.request_id().to_string()));
    if let OidcError::Throttled { retry_after } = error {
        let seconds = retry_after.saturating_add(Duration::from_secs(1)).as_secs();
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
