//! The pages by which people sign in and out.
//!
//! | route | what |
//! |---|---|
//! | `GET /login?next=` | the form, or who is signed in |
//! | `POST /login` | name and password |
//! | `POST /login/password` | the first password replaced |
//! | `POST /logout` | ends the session |
//! | `POST /login/link`, `POST /login/link/confirm` | another way to sign in as the same person |
//! | `POST /login/unlink` | one less |
//! | `GET /login/with/{provider}?next=` | off to an identity provider |
//! | `GET /login/callback/{provider}` | back from it |
//! | `POST /login/back-channel/{provider}` | it has ended logins |
//!
//! Forms carry a token that belongs to a cookie of the browser, so no other site can sign somebody in or out. Every
//! attempt is in the audit trail, without name or password when it failed.

mod company;
pub(crate) mod form;
mod link;
mod trail;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp_gateway_auth::login::{
    Attempt, BegunSession, HashError, KnownDevice, LocalSignIn, LoginError, Session, SessionUser, csrf_token,
    is_csrf_token, read_cookie,
};
use mcp_gateway_auth::page::{ErrorPage, LoginPage, PasswordPage, Provider, SignedOutPage};
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::layer::context::ContextLayer;
use mcp_gateway_core::record::{Revoked, Stored};
use serde::Deserialize;

use self::form::{Fields, Form};
use crate::app::App;

/// Bytes of a form.
const FORM_LIMIT: usize = 16 << 10;
/// Bytes of the path where it goes on after a login.
const NEXT: usize = 2_048;
/// How long an answer waits until this process knows what it has just written.
const APPLY: Duration = Duration::from_secs(5);
/// Where it goes on when nobody says.
const HERE: &str = "/login";

/// The routes of login and logout.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let context = ContextLayer::with(Arc::clone(&app.clock), app.config.trusted_proxies.clone());
    Router::new()
        .route("/login", get(show).post(sign_in))
        .route("/login/password", post(change))
        .route("/logout", post(sign_out))
        .route("/login/link", post(link::begin))
        .route("/login/link/confirm", post(link::confirm))
        .route("/login/unlink", post(link::remove))
        .route("/login/with/{provider}", get(company::begin))
        .route("/login/callback/{provider}", get(company::callback))
        .route("/login/back-channel/{provider}", post(company::back_channel))
        .with_state(Arc::clone(app))
        .layer(DefaultBodyLimit::max(FORM_LIMIT))
        .layer(context)
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    next: String,
    /// Whether somebody who is signed in wants to do so again.
    #[serde(default)]
    again: Option<String>,
}

async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let (next, again) = query.map(|Query(query)| (query.next, query.again.is_some())).unwrap_or_default();
    match signed_in(&app, &headers).await {
        Ok(Some(who)) if !again => {
            let with = app.logins.providers.list().find(|provider| provider.name == who.session.via);
            let again = match with {
                Some(provider) => company_href(&provider.name, &local(&next), true),
                None => format!("/login?again=1&next={}", encoded(&local(&next))),
            };
            link::page(&app, &who, &again, None, StatusCode::OK).await
        }
        Ok(Some(_)) => form(&app, &headers, StatusCode::OK, &local(&next), "", None),
        Ok(None) => form(&app, &headers, StatusCode::OK, &local(&next), "", None),
        Err(response) => *response,
    }
}

async fn sign_in(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, Form(sent): Form) -> Response {
    if let Err(response) = checked(&app, &headers, &sent) {
        return *response;
    }
    let (login, next) = (sent.text("login"), local(sent.text("next")));
    let answer = app.logins.local.sign_in(login, &sent.secret("password"), attempt(&app, &cx.0, &headers)).await;
    match answer {
        Ok(LocalSignIn::Done(user)) => begin(&app, &cx.0, &headers, login, &user, &next).await,
        Ok(LocalSignIn::MustChange) => {
            trail::must_change(&app, &cx.0).await;
            new_password(&sent, StatusCode::OK, &next, None)
        }
        Err(error) => {
            trail::failed(&app, &cx.0, "login.password", &error).await;
            match refused(&cx.0, &error) {
                Ok((status, text, retry)) => {
                    let mut response = form(&app, &headers, status, &next, login, Some(text));
                    retry.map(|retry| response.headers_mut().insert(RETRY_AFTER, retry));
                    response
                }
                Err(response) => *response,
            }
        }
    }
}

async fn change(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, Form(sent): Form) -> Response {
    if let Err(response) = checked(&app, &headers, &sent) {
        return *response;
    }
    let (old, new) = (sent.secret("password"), sent.secret("new_password"));
    let next = local(sent.text("next"));
    let login = sent.text("login");
    match app.logins.local.change(login, &old, &new, attempt(&app, &cx.0, &headers)).await {
        Ok((user, revision)) => {
            // The session carries the new epoch, which this process must know before it is used.
            let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await;
            trail::done(&app, &cx.0, "login.change-password", &user.id).await;
            begin(&app, &cx.0, &headers, login, &user, &next).await
        }
        Err(error) => {
            trail::failed(&app, &cx.0, "login.change-password", &error).await;
            match refused(&cx.0, &error) {
                Ok((status, text, retry)) => {
                    let mut response = new_password(&sent, status, &next, Some(text));
                    retry.map(|retry| response.headers_mut().insert(RETRY_AFTER, retry));
                    response
                }
                Err(response) => *response,
            }
        }
    }
}

async fn sign_out(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, Form(sent): Form) -> Response {
    let cookies = app.logins.cookies;
    let Ok(Some(token)) = read_cookie(&headers, cookies.session()) else { return see(HERE) };
    if !is_csrf_token(token, sent.text("csrf")) {
        return *forged();
    }
    let session = match app.logins.sessions.find(token).await {
        Ok(session) => session,
        Err(error) => return *unavailable(&cx.0, &error),
    };
    // What was agreed to in this login ends with it, and first: when that fails, the person can sign out again.
    if let Some(session) = &session
        && let Err(error) = app.end_grants(Revoked::Session(&session.id)).await
    {
        return *unavailable(&cx.0, &error);
    }
    if let Err(error) = app.logins.sessions.end(token).await {
        return *unavailable(&cx.0, &error);
    }
    let mut response = see(HERE);
    if let Some(session) = session {
        trail::done(&app, &cx.0, "login.sign-out", &session.value.user).await;
        let elsewhere = app.logins.providers.sign_out(&session.id).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether a provider is to be told of a logout cannot be read");
            None
        });
        // A link and no redirect: the pages' policy sends forms to this gateway alone.
        if let Some(href) = elsewhere {
            let all = &app.logins.providers;
            let title = all.list().find(|one| one.name == session.value.via).map_or("", |one| &one.title);
            response = SignedOutPage { provider: title, href: &href }.render().into_response(StatusCode::OK);
        }
    }
    set(&mut response, cookies.remove(cookies.session()));
    response
}

/// Where an attempt comes from.
fn attempt<'a>(app: &App, cx: &McpContext, headers: &'a HeaderMap) -> Attempt<'a> {
    let device = read_cookie(headers, app.logins.cookies.device()).ok().flatten();
    Attempt { address: cx.address().copied(), device }
}

/// Begins a session and goes on.
async fn begin(
    app: &App,
    cx: &McpContext,
    headers: &HeaderMap,
    login: &str,
    user: &SessionUser,
    next: &str,
) -> Response {
    let begun = match app.logins.sessions.begin(user, "local").await {
        Ok(begun) => begun,
        Err(error) => return *unavailable(cx, &error),
    };
    trail::done(app, cx, "login.password", &user.id).await;
    let mut response = enter(app, headers, &begun, next).await;
    let cookies = app.logins.cookies;
    let known = read_cookie(headers, cookies.device()).ok().flatten().map(str::to_owned);
    let device = known.unwrap_or_else(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    match app.logins.local.remember(login, &device).await {
        Ok(()) => {
            let seconds = KnownDevice::LASTS.as_secs();
            set(&mut response, cookies.keep(cookies.device(), &device, seconds));
        }
        Err(error) => tracing::warn!(%error, "a browser is not remembered"),
    }
    response
}

/// Goes on with a session that has just begun; the browser's one of before ends.
async fn enter(app: &App, headers: &HeaderMap, begun: &BegunSession, next: &str) -> Response {
    let cookies = app.logins.cookies;
    if let Ok(Some(old)) = read_cookie(headers, cookies.session())
        && let Err(error) = app.logins.sessions.end(old).await
    {
        tracing::warn!(%error, "the browser's session of before cannot be ended");
    }
    let mut response = see(next);
    set(&mut response, cookies.set(cookies.session(), begun.token.expose()));
    // What was bound to the browser before the login is not after it.
    set(&mut response, cookies.remove(cookies.browser()));
    response
}

/// Where a login with a provider begins.
fn company_href(provider: &str, next: &str, again: bool) -> String {
    format!("/login/with/{provider}?next={}{}", encoded(next), if again { "&again=1" } else { "" })
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// The login form, with a cookie for a browser that has none.
fn form(
    app: &App,
    headers: &HeaderMap,
    status: StatusCode,
    next: &str,
    login: &str,
    problem: Option<&str>,
) -> Response {
    let cookies = app.logins.cookies;
    let known = read_cookie(headers, cookies.browser()).ok().flatten().map(str::to_owned);
    let new = known.is_none().then(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let browser = known.or_else(|| new.clone()).unwrap_or_default();
    let csrf = csrf_token(&browser);
    let all: Vec<_> = app.logins.providers.list().collect();
    let hrefs: Vec<_> = all.iter().map(|provider| company_href(&provider.name, next, false)).collect();
    let providers: Vec<_> =
        all.iter().zip(&hrefs).map(|(provider, href)| Provider { name: &provider.title, href }).collect();
    let password = app.config.login.passwords;
    let page = LoginPage { csrf: &csrf, next, password, providers: &providers, login, problem };
    let mut response: Response<Body> = page.render().into_response(status);
    if let Some(new) = new {
        set(&mut response, cookies.set(cookies.browser(), &new));
    }
    response
}

fn new_password(sent: &Fields, status: StatusCode, next: &str, problem: Option<&str>) -> Response {
    let page = PasswordPage { csrf: sent.text("csrf"), next, login: sent.text("login"), problem };
    page.render().into_response(status)
}

/// The form came from a page of this gateway, in this browser.
fn checked(app: &App, headers: &HeaderMap, sent: &Fields) -> Result<(), Box<Response>> {
    if is_foreign(app, headers) || !app.config.login.passwords {
        return Err(forged());
    }
    match read_cookie(headers, app.logins.cookies.browser()) {
        Ok(Some(browser)) if is_csrf_token(browser, sent.text("csrf")) => Ok(()),
        _ => Err(forged()),
    }
}

/// Whether a form came from a page of another site.
pub(crate) fn is_foreign(app: &App, headers: &HeaderMap) -> bool {
    // On loopback the gateway has several names; the browser knows whether the form came from the one in use.
    // Over plain http beyond it the browser says nothing of that, and a page without referrers has the origin `null`:
    // there the token decides alone.
    match headers.get("sec-fetch-site") {
        Some(site) => site != "same-origin",
        None => {
            headers.get(http::header::ORIGIN).is_some_and(|origin| origin != "null" && origin != app.mount.origin())
        }
    }
}

/// Whoever is signed in at a browser.
pub(crate) struct SignedInAs {
    pub(crate) cookie: String,
    /// The id of the session's record.
    pub(crate) id: Box<str>,
    pub(crate) session: Session,
    pub(crate) name: String,
}

pub(crate) async fn signed_in(app: &App, headers: &HeaderMap) -> Result<Option<SignedInAs>, Box<Response>> {
    let Ok(Some(token)) = read_cookie(headers, app.logins.cookies.session()) else { return Ok(None) };
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "sessions cannot be read");
        notice(StatusCode::SERVICE_UNAVAILABLE, "Not now", "The gateway cannot reach its store. Try again soon.", None)
    };
    let found = app.logins.sessions.find(token).await.map_err(|error| failed(&error))?;
    let Some(Stored { id, value: session, .. }) = found else { return Ok(None) };
    let stands =
        app.snapshots.load().users.get(&*session.user).is_some_and(|user| user.enabled && user.epoch == session.epoch);
    if !stands {
        return Ok(None);
    }
    let user = app.logins.users.get(&session.user).await.map_err(|error| failed(&error))?;
    Ok(user.map(|user| SignedInAs { cookie: token.to_owned(), id, session, name: user.value.name }))
}

type Said = (StatusCode, &'static str, Option<HeaderValue>);

/// What is said about a failed login; a page of its own when it is the gateway's fault.
fn refused(cx: &McpContext, error: &LoginError) -> Result<Said, Box<Response>> {
    match error {
        LoginError::Refused => Ok((StatusCode::UNAUTHORIZED, "The name or the password is wrong.", None)),
        LoginError::Throttled { retry_after } => {
            let seconds = HeaderValue::from(retry_after.as_secs().saturating_add(1));
            Ok((StatusCode::TOO_MANY_REQUESTS, "Too many attempts. Wait some minutes, then try again.", Some(seconds)))
        }
        LoginError::Hash(HashError::Busy) => {
            let text = "Too many people are signing in at this moment. Try again in a few seconds.";
            Ok((StatusCode::SERVICE_UNAVAILABLE, text, Some(HeaderValue::from_static("5"))))
        }
        LoginError::Unfit => {
            let text = "The new password must be another one, of at least 12 characters.";
            Ok((StatusCode::UNPROCESSABLE_ENTITY, text, None))
        }
        error => Err(unavailable(cx, error)),
    }
}

pub(crate) fn unavailable(cx: &McpContext, error: &dyn std::fmt::Display) -> Box<Response> {
    tracing::error!(%error, request_id = %cx.request_id(), "a login failed at the gateway");
    let text = "The gateway cannot do this now. Try again soon.";
    notice(StatusCode::SERVICE_UNAVAILABLE, "Not now", text, Some(&cx.request_id().to_string()))
}

pub(crate) fn forged() -> Box<Response> {
    let text = "This form is too old, or was not made by this gateway for this browser. Open the login page again; \
                cookies must be allowed.";
    notice(StatusCode::FORBIDDEN, "Start again", text, None)
}

pub(crate) fn notice(status: StatusCode, title: &str, text: &str, request_id: Option<&str>) -> Box<Response> {
    Box::new(ErrorPage { title, text, request_id }.render().into_response(status))
}

pub(crate) fn see(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static(HERE));
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

fn set(response: &mut Response, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// A path of this gateway, or the login page: never another site (open redirect, RFC 9700 §4.11).
fn local(next: &str) -> String {
    let is_path = next.starts_with('/') && !next.starts_with("//") && next.len() <= NEXT;
    let is_plain = next.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'\\');
    if is_path && is_plain { next.to_owned() } else { HERE.to_owned() }
}

/// The request's context.
pub(crate) struct Cx(pub(crate) McpContext);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Cx {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, StatusCode> {
        McpContext::of(&parts.extensions).cloned().map(Self).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

#[cfg(test)]
mod tests;
