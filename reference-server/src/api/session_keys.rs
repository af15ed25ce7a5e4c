//! `/api/v1/session-keys`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use mcp_gateway_core::refusal::Refusal;
use mcp_gateway_core::seal::RotateError;

use super::answer::Problem;
use super::extract::Nothing;
use crate::app::App;

/// Replaces every session key at once, for when one may have leaked. Each legacy session ends with 404, upon which
/// clients initialize again; nobody's API key changes.
#[utoipa::path(post, path = "/api/v1/session-keys/replace", tag = "session-keys",
    responses((status = 204, description = "They are replaced: here at once, on other replicas when their feed says so.")))]
pub(super) async fn replace(State(app): State<Arc<App>>, Nothing: Nothing) -> Result<Response, Problem> {
    app.session_keys.rotate_now().await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn problem(error: RotateError) -> Problem {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The session keys cannot be replaced: the store does not take them.")
        .retry_after(5)
        .because(error)
        .into()
}
