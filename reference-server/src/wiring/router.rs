//! Everything but the data plane.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use http::{HeaderName, HeaderValue, StatusCode};
use mcp_gateway_auth::server::Issuers;
use mcp_gateway_core::gateway::ResourceMetadata;
use mcp_gateway_core::layer::host::HostLayer;
use mcp_gateway_core::refusal::Refusal;

use crate::api;
use crate::app::App;
use crate::config::ProcessRole;
use crate::connect;
use crate::listen::is_below;
use crate::login;
use crate::metrics;
use crate::oauth;
use crate::scim;

/// The routes of the public listener: those of this process's roles.
pub(super) fn public(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    if app.config.ops_listen.is_none() {
        router = router.merge(metrics::router(Arc::clone(app)));
    }
    if app.config.does(ProcessRole::Gateway) {
        let metadata = metadata(app);
        // Clients that put a slash behind a server's URL ask for a document with one.
        let slashed = format!("{}/", metadata.route());
        router = router.route_service(&slashed, metadata.clone()).route_service(&metadata.route(), metadata);
    }
    if app.config.does(ProcessRole::Api) {
        router = router.merge(api::router(Arc::clone(app)));
    }
    if app.config.does(ProcessRole::Auth) {
        router = router
            .merge(login::router(app))
            .merge(scim::router(app))
            .merge(oauth::router(app))
            .merge(connect::router(app));
    }
    let nothing = Nothing::of(app);
    let said = nothing.clone();
    router = router.fallback(move || std::future::ready(said.refusal(StatusCode::NOT_FOUND)));
    if !app.config.does(ProcessRole::Gateway) {
        router = router.layer(from_fn_with_state((app.mount.path().into(), nothing), misdirected));
    }
    router
        .layer(axum::middleware::map_response(harden))
        // Against DNS rebinding: the admin API of a gateway on loopback is within reach of every web page.
        .layer(HostLayer::new(&app.mount, app.config.allowed_hosts.clone(), app.config.is_loopback()))
}

/// What the data plane's challenges point to: the public URL, whichever process answers there.
fn metadata(app: &App) -> ResourceMetadata {
    let metadata = ResourceMetadata::new(app.mount.clone());
    let metadata = match (&app.oauth, app.config.oauth.issuer) {
        (Some(_), Issuers::PerServer) => metadata.with_own_issuers(),
        (None, _) | (Some(_), Issuers::Shared) => metadata,
    };
    // The gateway first: most clients look at no other.
    let shared = app.oauth.is_some() && app.config.oauth.issuer == Issuers::Shared;
    let own = shared.then(|| app.mount.origin().to_owned());
    let others = app.config.auth.issuers.iter().map(|settings| settings.issuer.clone());
    metadata.with_authorization_servers(own.into_iter().chain(others).collect())
}

/// What is said where there is nothing.
#[derive(Clone)]
struct Nothing(Arc<str>);

impl Nothing {
    fn of(app: &App) -> Self {
        let text = match app.config.left_to_others() {
            None => "There is nothing at this address.".to_owned(),
            Some(others) => {
                let others: Vec<_> = others.into_iter().map(ProcessRole::name).collect();
                format!("There is nothing at this address here. Other processes do: {}.", others.join(", "))
            }
        };
        Self(text.into())
    }

    fn refusal(&self, status: StatusCode) -> Response {
        Refusal::new(status, self.0.to_string()).into_problem(None)
    }
}

/// Refuses calls: a 404 would tell clients that their session is over, or that the server is of another era.
async fn misdirected(State((mount, nothing)): State<(Arc<str>, Nothing)>, request: Request, next: Next) -> Response {
    match is_below(request.uri().path(), &mount) {
        true => nothing.refusal(StatusCode::MISDIRECTED_REQUEST),
        false => next.run(request).await,
    }
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
