//! Everything but the data plane.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use mcp_gateway_core::layer::host::HostLayer;
use mcp_gateway_core::record::Scope;
use mcp_gateway_core::refusal::Refusal;
use serde_json::{Value, json};

use crate::api;
use crate::app::App;

/// The routes of the public listener.
pub(super) fn public(app: &Arc<App>) -> Router {
    let well_known = format!("/.well-known/oauth-protected-resource{}/{{id}}", app.mount.path());
    let mut router = Router::new().route(&well_known, get(protected_resource)).with_state(Arc::clone(app));
    if app.config.ops_listen.is_none() {
        router = router.merge(operations(app));
    }
    router
        .merge(api::router(Arc::clone(app)))
        .fallback(absent)
        .layer(axum::middleware::map_response(harden))
        // Against DNS rebinding: the admin API of a gateway on loopback is within reach of every web page.
        .layer(HostLayer::new(&app.mount, app.config.allowed_hosts.clone(), app.config.is_loopback()))
}

/// The routes of probes and scrapers, who call by address: on their own listener there is no check of `Host`.
pub(super) fn operations(app: &Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(app))
}

/// Why a request cannot be taken now, by part; 200 when nothing is in its way.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let mut checks = serde_json::Map::new();
    let mut is_ready = true;
    let mut check = |name: &str, state: Result<&str, &str>| {
        is_ready &= state.is_ok();
        checks.insert(name.to_owned(), state.unwrap_or_else(|problem| problem).into());
    };
    check("server", if app.draining.is_cancelled() { Err("draining") } else { Ok("ok") });
    check(
        "store",
        match (app.snapshots.refuses(), app.snapshots.is_stale()) {
            (true, _) => Err("not heard from for longer than auth.max_staleness_seconds"),
            // Calls go on from memory.
            (false, true) => Ok("degraded: not heard from"),
            (false, false) => Ok("ok"),
        },
    );
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let state = if is_ready { "ready" } else { "not ready" };
    (status, Json(json!({ "status": state, "checks": Value::Object(checks) }))).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], app.metrics.render(&app))
}

/// Protected resource metadata (RFC 9728 §2) of one server.
///
/// `authorization_servers` is optional there and absent here: this server has none, so keys are made by an
/// administrator and sent as bearer tokens. A client that finds the member asks the named server for its metadata and
/// begins a login that cannot succeed; without it, clients say that they need a token. The document is the same for
/// servers that exist and those that do not: it must not tell which ones there are.
async fn protected_resource(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let is_id = (1..=63).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_id {
        return absent().await;
    }
    let document = json!({
        "resource": app.mount.resource(&id).url,
        "resource_name": format!("{id} (MCP server)"),
        "bearer_methods_supported": ["header"],
        "scopes_supported": [Scope::Mcp],
    });
    // Public, and read by clients in browsers.
    let headers = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (CACHE_CONTROL, HeaderValue::from_static("max-age=300")),
    ];
    (headers, Json(document)).into_response()
}

async fn absent() -> Response {
    Refusal::new(StatusCode::NOT_FOUND, "There is nothing at this address.").into_problem(None)
}

/// The headers that keep browsers from doing anything with an answer but read it.
async fn harden(mut response: Response) -> Response {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let headers = response.headers_mut();
        let name = HeaderName::from_static(name);
        // A public document says for itself how long it may be kept, and who may read it.
        let public = headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) && name == "cross-origin-resource-policy";
        if !public {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
    }
    response
}
