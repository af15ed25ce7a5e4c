//! Logins in the audit trail.

use mcp_gateway_auth::login::LoginError;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, TenantId, User};

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

/// Records a refused attempt. The name is not in it: people type passwords there.
pub(super) async fn failed(app: &App, cx: &McpContext, action: &'static str, error: &LoginError) {
    let mut event = event(app, cx, action);
    (event.outcome, event.status) = match error {
        LoginError::Refused => (Outcome::Denied, 401),
        LoginError::Throttled { .. } => (Outcome::Denied, 429),
        LoginError::Unfit => (Outcome::Denied, 422),
        _ => (Outcome::UpstreamFailed, 503),
    };
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
