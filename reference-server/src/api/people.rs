//! How many people a gateway serves.

use http::StatusCode;
use mcp_gateway_core::record::Subject;
use mcp_gateway_core::refusal::Refusal;

use super::answer::Problem;
use crate::app::App;
use crate::people::People;

/// Child processes share one user with each other, so they serve one person unless the operator says otherwise. What
/// would stop the next start is not made.
///
/// # Errors
/// 409.
pub(super) fn check(app: &App, subject: &Subject) -> Result<(), Problem> {
    let trusts_all = app.config.runtime.process.i_trust_all_servers;
    if app.runtime.is_none() || trusts_all || !People::of(&app.snapshots.load()).has_others(subject) {
        return Ok(());
    }
    let public = "There is another person already, and servers that run as child processes are shared by whoever calls. \
                  Set runtime.process.i_trust_all_servers: true, or runtime.process.enabled: false, to serve several.";
    Err(Refusal::new(StatusCode::CONFLICT, public).into())
}
