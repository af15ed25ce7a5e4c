//! The pages by which people connect accounts at servers.
//!
//! | route | what |
//! |---|---|
//! | `GET /connect/{server}` | what is asked for, and by whom |
//! | `POST /connect/{server}` | off to the server's authorization server |
//! | `GET /oauth/callback`, `GET /oauth/callback/{issuer}` | back from it |
//! | `GET /oauth/clients/{issuer}.json` | the gateway as a client of that authorization server |
//! | `GET /upstream/jwks.json` | the keys of tokens that the gateway makes for servers |

mod trail;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use mcp_gateway_auth::login::{csrf_token, is_csrf_token};
use mcp_gateway_auth::page::{ConnectAccountPage, ConnectedPage, GoOnPage};
use mcp_gateway_auth::upstream::{AccountError, Accounts, AtBrowser};
use mcp_gateway_core::contract::{Action, Budget, KeyRing as _, LimitKey, Target};
use mcp_gateway_core::layer::context::ContextLayer;
use mcp_gateway_core::record::{Principal, Route, Subject, TenantId, User};
use serde::Deserialize;

use crate::app::App;
use crate::login::form::Form;
use crate::login::{Cx, SignedInAs, forged, is_foreign, notice, see, signed_in, unavailable};

/// Bytes of a form.
const FORM_LIMIT: usize = 16 << 10;
/// How often a person may begin, in a minute: each time, others are called.
const BEGINS: u32 = 10;
/// How long an answer waits until this process knows what it has just written.
const APPLY: Duration = Duration::from_secs(5);

/// The routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let context = ContextLayer::with(Arc::clone(&app.clock), app.config.trusted_proxies.clone());
    Router::new()
        .route("/connect/{server}", get(show).post(go_on))
        .route("/oauth/callback", get(back))
        .route("/oauth/callback/{issuer}", get(back_from))
        .route("/oauth/clients/{document}", get(document))
        .route("/upstream/jwks.json", get(keys))
        .with_state(Arc::clone(app))
        .layer(DefaultBodyLimit::max(FORM_LIMIT))
        .layer(context)
}

#[derive(Debug, Deserialize)]
struct Parameters {
    /// Whom the link was made for.
    #[serde(default, rename = "for")]
    made_for: String,
}

async fn show(
    State(app): State<Arc<App>>,
    cx: Cx,
    Path(server): Path<String>,
    headers: HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let made_for = query.map(|Query(query)| query.made_for).unwrap_or_default();
    let who = match signed_in(&app, &headers).await {
        Ok(Some(who)) => who,
        Ok(None) => {
            let here = format!("/connect/{server}?for={made_for}");
            return see(&format!("/login?{}", query_of("next", &here)));
        }
        Err(response) => return *response,
    };
    let subject = subject_of(&who);
    if !made_for.is_empty() && made_for != Accounts::name_of(&subject) {
        let text = "This link was made for somebody else. What you connect here would not be theirs. Sign in as \
                    whoever asked for it, or open the page without the end of its address.";
        return *notice(StatusCode::FORBIDDEN, "Not for you", text, None);
    }
    let Some(route) = reachable(&app, &server, &subject) else { return absent() };
    let key = LimitKey { scope: "connect", id: Cow::Owned(who.session.user.clone()) };
    let budget = Budget { key, cost: 1, limit: BEGINS, period: Duration::from_secs(60) };
    if app.limiter.check(&[budget]).await.is_err() {
        let text = "You have begun this too often. Wait a minute.";
        return *notice(StatusCode::TOO_MANY_REQUESTS, "Not now", text, None);
    }
    let prepared = match app.accounts.prepare(at(&subject, &who), &route).await {
        Ok(prepared) => prepared,
        Err(error) => return failed(&cx, &error),
    };
    let (action, csrf) = (format!("/connect/{server}"), csrf_token(&who.cookie));
    let page = ConnectAccountPage {
        action: &action,
        csrf: &csrf,
        request: &prepared.request,
        user: &who.name,
        server: &route.name,
        origin: &prepared.server,
        issuer: &prepared.issuer,
        scopes: &prepared.scopes,
    };
    page.render().into_response(StatusCode::OK)
}

async fn go_on(
    State(app): State<Arc<App>>,
    cx: Cx,
    Path(server): Path<String>,
    headers: HeaderMap,
    Form(sent): Form,
) -> Response {
    let who = match signed_in(&app, &headers).await {
        Ok(Some(who)) => who,
        Ok(None) => return *forged(),
        Err(response) => return *response,
    };
    if is_foreign(&app, &headers) || !is_csrf_token(&who.cookie, sent.text("csrf")) {
        return *forged();
    }
    let subject = subject_of(&who);
    if reachable(&app, &server, &subject).is_none() {
        return absent();
    }
    match app.accounts.confirm(at(&subject, &who), sent.text("request")).await {
        Ok(going) if going.server == server => {
            GoOnPage { issuer: &going.issuer, href: &going.href }.render().into_response(StatusCode::OK)
        }
        Ok(_) => *forged(),
        Err(error) => failed(&cx, &error),
    }
}

async fn back(State(app): State<Arc<App>>, cx: Cx, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    finish(&app, &cx, &headers, None, query).await
}

async fn back_from(
    State(app): State<Arc<App>>,
    cx: Cx,
    Path(issuer): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    finish(&app, &cx, &headers, Some(&issuer), query).await
}

async fn finish(app: &App, cx: &Cx, headers: &HeaderMap, issuer: Option<&str>, query: Option<String>) -> Response {
    let who = match signed_in(app, headers).await {
        Ok(Some(who)) => who,
        // Nobody's attempt: what the browser brings is not looked at.
        Ok(None) => return failed(cx, &AccountError::NotYours),
        Err(response) => return *response,
    };
    let subject = subject_of(&who);
    match app.accounts.finish(at(&subject, &who), issuer, &query.unwrap_or_default()).await {
        Ok(finished) => {
            trail::connected(app, &cx.0, &subject, &finished).await;
            let _ = tokio::time::timeout(APPLY, app.snapshots.wait_for(finished.revision)).await;
            let route = reachable(app, &finished.server, &subject);
            let name = route.map_or(finished.server.clone(), |route| route.name.to_string());
            ConnectedPage { server: &name, to: None }.render().into_response(StatusCode::OK)
        }
        Err(error) => {
            if !matches!(error, AccountError::NotYours) {
                trail::not_connected(app, &cx.0, &subject, &error).await;
            }
            failed(cx, &error)
        }
    }
}

/// The gateway as a client (Client ID Metadata Document).
async fn document(State(app): State<Arc<App>>, Path(document): Path<String>) -> Response {
    let found = document.strip_suffix(".json").and_then(|issuer| app.accounts.client_document(issuer));
    match found {
        Some(found) => public(&found.to_string()),
        None => absent(),
    }
}

async fn keys(State(app): State<Arc<App>>) -> Response {
    public(&app.upstream_keys.document())
}

fn public(json: &str) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "public, max-age=300"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (headers, json.to_owned()).into_response()
}

/// A server that the person may reach.
fn reachable(app: &App, server: &str, subject: &Subject) -> Option<Arc<Route>> {
    let route = app.snapshots.load().routes.get(server).cloned()?;
    let person = Principal::new(Arc::clone(&subject.issuer), Arc::clone(&subject.id));
    let target = Target { server: &route.id, name: None };
    app.access.explain(&person, Action::Connect, target, None).allow.then_some(route)
}

fn subject_of(who: &SignedInAs) -> Subject {
    User::subject(TenantId::default(), &who.session.user)
}

fn at<'a>(subject: &'a Subject, who: &'a SignedInAs) -> AtBrowser<'a> {
    AtBrowser { subject, session: &who.id }
}

fn absent() -> Response {
    *notice(StatusCode::NOT_FOUND, "Nothing here", "There is no such server, or you may not use it.", None)
}

fn failed(cx: &Cx, error: &AccountError) -> Response {
    let id = cx.0.request_id().to_string();
    let said = |status, title, text: &str| *notice(status, title, text, Some(&id));
    tracing::warn!(error = error as &dyn std::error::Error, request_id = id, "an account is not connected");
    match error {
        AccountError::NotYours => {
            let text = "This was begun in another browser, by somebody else, or too long ago. Begin again.";
            said(StatusCode::FORBIDDEN, "Start again", text)
        }
        AccountError::NoAccounts => {
            let text = "At this server nobody connects an account: calls work without.";
            said(StatusCode::NOT_FOUND, "Nothing to connect", text)
        }
        AccountError::Refused(word) => {
            let text = format!("The authorization server says: {word}. Begin again, or ask an administrator.");
            said(StatusCode::FORBIDDEN, "Not connected", &text)
        }
        AccountError::Unfit(why) => {
            let text = format!("This server cannot be connected: {why}. Ask an administrator.");
            said(StatusCode::BAD_GATEWAY, "Not connected", &text)
        }
        AccountError::Store(error) => *unavailable(&cx.0, error),
        _ => {
            let text = "The server or its authorization server does not answer as it must. Try again soon.";
            said(StatusCode::BAD_GATEWAY, "Not connected", text)
        }
    }
}

fn query_of(name: &str, value: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
}
