//! Where the endpoints are.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::Method;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::layer::context::ContextLayer;
use mcp_gateway_core::record::Category;

use crate::app::App;

/// The routes of the authorization server; none when it is off.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let Some(oauth) = &app.oauth else { return Router::new() };
    let context = ContextLayer::with(Arc::clone(&app.clock), app.config.trusted_proxies.clone());
    let mut routes = Router::new();
    for path in [
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/{*issuer}",
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/{*issuer}",
        "/jwks.json",
        "/authorize",
        "/authorize/continue",
        "/authorize/decide",
        "/token",
        "/revoke",
        "/introspect",
        "/register",
        "/register/{client}",
        "/device_authorization",
        "/device",
        "/device/decide",
        "/issuers/{*endpoint}",
    ] {
        routes = routes.route_service(path, oauth.server.clone());
    }
    // Only what the dispatch keeps from the data plane: documents of servers that are their own issuers.
    routes = routes.route_service(&format!("{}/{{*document}}", app.mount.path()), oauth.server.clone());
    routes.layer(from_fn_with_state(Arc::clone(app), count)).layer(context)
}

/// Counts refusals for the trail, what clients do with their own registrations, and codes for devices: of whom nobody
/// knows, there is one row for each address, status and minute.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let cx = McpContext::of(request.extensions()).cloned();
    let acts = matches!(*request.method(), Method::POST | Method::PUT | Method::DELETE);
    let registers =
        acts && request.uri().path().split('/').any(|part| matches!(part, "register" | "device_authorization"));
    let response = next.run(request).await;
    let status = response.status().as_u16();
    if let Some(cx) = cx.filter(|_| status >= 400 || registers) {
        app.strangers.count(&cx, Category::Auth, status);
    }
    response
}
