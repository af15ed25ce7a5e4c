//! Logins in the audit trail.

use mcp_gateway_auth::login::{HashError, LoginError};
use mcp_gateway_auth::oidc::OidcError;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, TenantId, User};

use super::company;
use crate::app::App;

/// Records what a person has done to their own login.
pub(super) async fn done(app: &App, cx: &McpContext, action: &'static str, user: &str) {
    let mut event = event(app, cx, action);
    let subject = User::subject(TenantId::default(), user);
    event.actor = Some(ActorFacts { id: subject.id.clone(), subject, kind: ActorKind::Session, name: None });
    event.target = Some(user.into());
    event.outcome = Outcome::Ok;
    event.status = 303;
    record(app, event).await;
}

/// Records that a password was right, but buys nothing but another one.
pub(super) async fn must_change(app: &App, cx: &McpContext) {
    let mut event = event(app, cx, "login.must-change");
    event.outcome = Outcome::Denied;
    event.status = 200;
    event.error = Some("the password must be replaced first".into());
    record(app, event).await;
}

/// Records a refused attempt. The name is not in it: people type passwords there. Of those that were never looked at,
/// anybody can make any number: they are counted.
pub(super) async fn failed(app: &App, cx: &McpContext, action: &'static str, error: &LoginError) {
    match error {
        LoginError::Throttled { .. } => return app.strangers.count(cx, Category::Auth, 429),
        LoginError::Hash(HashError::Busy) => return app.strangers.count(cx, Category::Auth, 503),
        _ => {}
    }
    let mut event = event(app, cx, action);
    (event.outcome, event.status) = match error {
        LoginError::Refused => (Outcome::Denied, 401),
        LoginError::Unfit => (Outcome::Denied, 422),
        _ => (Outcome::UpstreamFailed, 503),
    };
    event.error = Some(error.to_string().into());
    record(app, event).await;
}

/// Records a login with a provider that came to nothing.
pub(super) async fn refused(app: &App, cx: &McpContext, action: &'static str, provider: &str, error: &OidcError) {
    let mut event = event(app, cx, action);
    let status = company::status(error);
    event.status = status.as_u16();
    event.outcome = if status.is_server_error() { Outcome::UpstreamFailed } else { Outcome::Denied };
    event.target = Some(provider.into());
    event.error = Some(match error {
        // What is in it comes from elsewhere; the log has it.
        OidcError::Provider(_) => "the identity provider does not answer as it must".into(),
        error => error.to_string().into(),
    });
    record(app, event).await;
}

/// Records that somebody whom a provider vouches for may not sign in.
pub(super) async fn not_let_in(
    app: &App,
    cx: &McpContext,
    action: &'static str,
    provider: &str,
    error: &mcp_gateway_auth::user::UserError,
) {
    let mut event = event(app, cx, action);
    (event.outcome, event.status) = (Outcome::Denied, 403);
    event.target = Some(provider.into());
    event.error = Some(error.to_string().into());
    record(app, event).await;
}

fn event(app: &App, cx: &McpContext, action: &'static str) -> AuditEvent {
    let mut event = AuditEvent::new(cx.began_at(), cx.request_id(), Category::Auth, EventKind::Act);
    event.address = cx.address().copied();
    event.method = Some(action.into());
    let elapsed = app.clock.monotonic().saturating_duration_since(cx.began());
    event.total_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    event
}

async fn record(app: &App, event: AuditEvent) {
    if let Err(error) = app.audit_sink.record(event).await {
        tracing::error!(%error, "a login is not in the audit trail");
    }
}
