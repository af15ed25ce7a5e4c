//! `/api/v1/me`: who is calling.

use std::sync::Arc;

use axum::Extension;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{ActorKind, Scope};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Problem, plain};
use super::servers::SubjectView;
use super::users::names;

/// The token against forgery that belongs to the request's session.
#[derive(Clone)]
pub(super) struct CsrfToken(pub(super) Arc<str>);

/// Who is calling, and with what.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "subject": { "issuer": "local", "id": "q3v7nq5xk2c4m6t2a5y7w3h4re" },
    "roles": ["basic"],
    "scopes": ["api:read", "api:write"],
    "authenticated_at": "2026-11-20T12:00:00Z",
    "csrf_token": "…"
}))]
pub(super) struct MeView {
    /// Whose rights the call has.
    subject: SubjectView,
    /// What the subject may do.
    roles: Vec<String>,
    /// What the credential is good for.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    /// When the person last signed in; `null` when it is no session.
    #[schema(value_type = Option<String>, format = DateTime)]
    authenticated_at: Option<Timestamp>,
    /// To be sent as `X-CSRF-Token` with every request of this session that is not a read; `null` when it is no session.
    csrf_token: Option<String>,
}

/// Says who is calling.
#[utoipa::path(get, path = "/api/v1/me", tag = "users",
    responses((status = 200, description = "Who is calling.", body = MeView)))]
pub(super) async fn read(caller: Caller, token: Option<Extension<CsrfToken>>) -> Result<Response, Problem> {
    let principal = &caller.0;
    let session = principal.actor.kind == ActorKind::Session;
    let view = MeView {
        subject: SubjectView::of(&principal.subject),
        roles: names(principal.roles.with_included()),
        scopes: principal.scopes.to_vec(),
        authenticated_at: principal.authenticated_at,
        csrf_token: token.filter(|_| session).map(|token| token.0.0.to_string()),
    };
    plain(StatusCode::OK, &view)
}
