//! Connected accounts in the audit trail.

use mcp_gateway_auth::upstream::{AccountError, Finished};
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, Subject};

use crate::app::App;

/// Records that a person has connected an account.
pub(super) async fn connected(app: &App, cx: &McpContext, subject: &Subject, finished: &Finished) {
    let mut event = event(app, cx, subject);
    event.server = Some(finished.server.as_str().into());
    event.target = Some(finished.id.as_str().into());
    event.outcome = Outcome::Ok;
    event.status = 200;
    record(app, event).await;
}

/// Records that it came to nothing.
pub(super) async fn not_connected(app: &App, cx: &McpContext, subject: &Subject, error: &AccountError) {
    let mut event = event(app, cx, subject);
    event.outcome = Outcome::Denied;
    event.status = 403;
    event.error = Some(error.to_string().into());
    record(app, event).await;
}

fn event(app: &App, cx: &McpContext, subject: &Subject) -> AuditEvent {
    let mut event = AuditEvent::new(cx.began_at(), cx.request_id(), Category::Auth, EventKind::Act);
    let subject = subject.clone();
    event.actor = Some(ActorFacts { id: subject.id.clone(), subject, kind: ActorKind::Session, name: None });
    event.address = cx.address().copied();
    event.method = Some("account.connect".into());
    let elapsed = app.clock.monotonic().saturating_duration_since(cx.began());
    event.total_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    event
}

async fn record(app: &App, event: AuditEvent) {
    if let Err(error) = app.audit_sink.record(event).await {
        tracing::error!(%error, "a connected account is not in the audit trail");
    }
}
