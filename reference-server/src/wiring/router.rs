//! Everything but the data plane.

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use http::{HeaderName, HeaderValue, StatusCode};
use mcp_gateway_auth::server::Issuers;
use mcp_gateway_core::gateway::ResourceMetadata;
use mcp_gateway_core::layer::host::HostLayer;
use mcp_gateway_core::refusal::Refusal;

use crate::api;
use crate::app::App;
use crate::login;
use crate::metrics;
use crate::oauth;
use crate::scim;

/// The routes of the public listener.
pub(super) fn public(app: &Arc<App>) -> Router {
    let metadata = ResourceMetadata::new(app.mount.clone());
    let metadata = match (&app.oauth, app.config.oauth.issuer) {
        (Some(_), Issuers::PerServer) => metadata.with_own_issuers(),
        (None, _) | (Some(_), Issuers::Shared) => metadata,
    };
    // The gateway first: most clients look at no other.
    let shared = app.oauth.is_some() && app.config.oauth.issuer == Issuers::Shared;
    let own = shared.then(|| app.mount.origin().to_owned());
    let others = app.config.auth.issuers.iter().map(|settings| settings.issuer.clone());
    let metadata = metadata.with_authorization_servers(own.into_iter().chain(others).collect());
    // Clients that put a slash behind a server's URL ask for a document with one.
    let slashed = format!("{}/", metadata.route());
    let mut router = Router::new().route_service(&slashed, metadata.clone()).route_service(&metadata.route(), metadata);
    if app.config.ops_listen.is_none() {
        router = router.merge(metrics::router(Arc::clone(app)));
    }
    router
        .merge(api::router(Arc::clone(app)))
        .merge(login::router(app))
        .merge(scim::router(app))
        .merge(oauth::router(app))
        .fallback(absent)
        .layer(axum::middleware::map_response(harden))
        // Against DNS rebinding: the admin API of a gateway on loopback is within reach of every web page.
        .layer(HostLayer::new(&app.mount, app.config.allowed_hosts.clone(), app.config.is_loopback()))
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
