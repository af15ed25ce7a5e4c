//! The admin API, `/api/v1`.
//!
//! JSON in and out, described by the OpenAPI document at `/api/v1/openapi.json`. Every error is a problem document
//! (RFC 9457), lists are paged by opaque cursors, and what can change carries an `ETag` (RFC 9110 §8.8.3).
//!
//! [`OPERATIONS`] is the one table of what there is: method, path, the rights that it needs, and the action under which
//! it is in the audit trail. The router is made from it, so nothing can be reached that is not in it.
//!
//! Callers authenticate by a bearer, or by the cookie of a browser's session. With a cookie, whatever is not a read must
//! come from a page of the gateway and carry the session's `X-CSRF-Token`, which `GET /api/v1/me` tells. A request of a
//! foreign `Origin` is refused in any case.

mod answer;
mod audit;
mod bodies;
mod connections;
mod document;
mod entries;
mod evaluate;
mod extract;
mod filters;
mod groups;
mod guard;
mod identities;
mod keys;
mod logs;
mod me;
mod oauth;
mod operation;
mod people;
mod policies;
mod replay;
mod servers;
mod session_keys;
mod tools;
mod users;
mod witness;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use mcp_gateway_auth::login::{csrf_token, read_cookie};
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::Resource;
use mcp_gateway_core::layer::authenticate::{AuthenticateLayer, Rendering};
use mcp_gateway_core::layer::context::ContextLayer;
use mcp_gateway_core::layer::cors::CorsLayer;
use mcp_gateway_core::layer::limit::{AtOnce, CallerLimitLayer};
use mcp_gateway_core::record::Category;
use mcp_gateway_core::refusal::Refusal;
use tokio::sync::Semaphore;

pub use self::operation::{Access, OPERATIONS, Operation, Recorded};

#[cfg(feature = "process")]
pub(crate) use self::answer::escaped_line;
pub(crate) use self::witness::{WitnessedStore, witness};

use self::answer::Problem;
use crate::app::App;

/// Bytes of a request's body.
pub const BODY_LIMIT: usize = 64 << 10;

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    app: Arc<App>,
    log_streams: Arc<Semaphore>,
}

impl FromRef<Shared> for Arc<App> {
    fn from_ref(shared: &Shared) -> Self {
        Arc::clone(&shared.app)
    }
}

/// The routes of the admin API, with its own authentication. Everything under `/api` is answered.
pub fn router(app: Arc<App>) -> Router {
    let shared = Shared { app: Arc::clone(&app), log_streams: Arc::new(Semaphore::new(logs::STREAMS)) };
    let mut routes = Router::new();
    // A key has one rate, wherever it is used.
    let rates =
        CallerLimitLayer::new(Arc::clone(&app.limiter), None, AtOnce { calls: usize::MAX, streams: usize::MAX })
            .with_keys(app.config.limits.rate.key.rate());
    for operation in OPERATIONS {
        let guard = guard::Guard { app: Arc::clone(&app), operation, rates: rates.clone() };
        let guarded = from_fn_with_state(guard, guard::guard);
        routes = routes.route(operation.path, (operation.handler)().layer(guarded));
    }
    let resource = Resource { url: format!("{}/api/v1", app.mount.origin()).into(), metadata: None, server: None };
    let authenticate = AuthenticateLayer::new(resource, app.admin_authenticators.clone())
        .render_as(Rendering::Problem)
        .limit_failures(Arc::clone(&app.limiter), app.config.limits.auth_failures_per_minute);
    let loopback = app.config.listen.ip().is_loopback();
    let context = ContextLayer::with(Arc::clone(&app.clock), app.config.trusted_proxies.clone());
    routes
        .route("/api", axum::routing::any(absent))
        .route("/api/", axum::routing::any(absent))
        .route("/api/{*rest}", axum::routing::any(absent))
        .method_not_allowed_fallback(async || {
            Problem::from(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "The method is not one of this path's."))
        })
        .with_state(shared)
        // Each layer wraps those above it: the context is begun first.
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(authenticate)
        .layer(CorsLayer::same_origin_only(&app.mount, loopback))
        .layer(from_fn_with_state(app, finish))
        .layer(context)
}

async fn absent() -> Problem {
    Refusal::new(StatusCode::NOT_FOUND, "There is no such path. GET /api/v1 lists what there is.").into()
}

/// Makes every error a problem document, whoever made it, keeps answers out of caches, and counts refusals of
/// strangers. Keeps a session's token against forgery for who asks for it: credentials go no further than to the layer
/// that checks them.
async fn finish(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if let Ok(Some(session)) = read_cookie(request.headers(), app.logins.cookies.session()) {
        let token = me::CsrfToken(csrf_token(session).into());
        request.extensions_mut().insert(token);
    }
    let cx = McpContext::of(request.extensions()).cloned();
    let response = next.run(request).await;
    let status = response.status();
    // Whoever is known is in the trail by name.
    if let Some(cx) = cx.as_ref().filter(|cx| cx.principal().is_none() && status.as_u16() >= 400) {
        app.strangers.count(cx, Category::Admin, status.as_u16());
    }
    let mut response = answer::as_problem(response, cx.as_ref());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
pub(crate) mod tests;
