//! Everything but the data plane.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL};
use http::{HeaderName, HeaderValue, StatusCode};
use mcp_gateway_core::layer::host::HostLayer;
use mcp_gateway_core::record::Scope;
use mcp_gateway_core::refusal::Refusal;
use serde_json::json;

use crate::api;
use crate::app::App;
use crate::metrics;

/// The routes of the public listener.
pub(super) fn public(app: &Arc<App>) -> Router {
    let well_known = format!("/.well-known/oauth-protected-resource{}/{{id}}", app.mount.path());
    let mut router = Router::new().route(&well_known, get(protected_resource)).with_state(Arc::clone(app));
    if app.config.ops_listen.is_none() {
        router = router.merge(metrics::router(Arc::clone(app)));
    }
    router
        .merge(api::router(app))
        .fallback(absent)
        .layer(axum::middleware::map_response(harden))
        // Against DNS rebinding: the admin API of a gateway on loopback is within reach of every web page.
        .layer(HostLayer::new(&app.mount, app.config.allowed_hosts.clone(), app.config.is_loopback()))
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
