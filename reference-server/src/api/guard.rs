//! Lets through who may, and records it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::USER_AGENT;
use http::request::Parts;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::AuditFull;
use mcp_gateway_core::layer::audit::OnFull;
use mcp_gateway_core::layer::limit::CallerLimitLayer;
use mcp_gateway_core::record::{ActorFacts, AuditEvent, Category, EventKind, Outcome, Principal};
use mcp_gateway_core::refusal::Refusal;

use super::answer::{Problem, as_problem};
use super::operation::{Operation, Recorded};
use super::witness::witness;
use crate::app::App;

/// Bytes of a target in the trail.
const TARGET: usize = 512;
/// Bytes of a `User-Agent` in the trail.
const AGENT: usize = 256;

/// Stands before one operation.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) app: Arc<App>,
    pub(super) operation: &'static Operation,
    /// `limits.rate.key`, and the rate that a key has of its own.
    pub(super) rates: CallerLimitLayer,
}

/// The object of an act, when the path does not name it: the id of what was made.
#[derive(Clone)]
pub(super) struct Target(pub(super) Box<str>);

/// Checks the caller's rights, runs the operation, and records both.
///
/// A write is announced in the trail before it begins, so that none happens unrecorded, and goes on to its end when the
/// caller hangs up.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(cx) = McpContext::of(&parts.extensions).cloned() else {
        return Problem::from(Refusal::layer_absent("context", "ContextLayer")).into_response();
    };
    let Some(principal) = cx.principal().cloned() else {
        return Problem::from(Refusal::layer_absent("principal", "AuthenticateLayer")).into_response();
    };
    if let Err(refusal) = guard.rates.check_key(&principal).await {
        return refusal.into_problem(Some(&cx));
    }
    let event = guard.event(&cx, &principal, &mut parts).await;
    let request = Request::from_parts(parts, body);
    let fresh = Duration::from_secs(guard.app.config.login.fresh_seconds);
    if let Err(refusal) = guard.operation.access.check(&principal, guard.app.clock.now(), fresh) {
        let response = refusal.into_problem(Some(&cx));
        // The answer is the same whether or not there was room to say so in the trail; the sink counts it.
        let _ = guard.record(guard.ended(event, &cx, &response)).await;
        return response;
    }
    match guard.operation.recorded_of(&principal, guard.app.config.audit.admin_reads) {
        Recorded::No => next.run(request).await,
        Recorded::Look => {
            let response = as_problem(next.run(request).await, Some(&cx));
            match guard.record(guard.ended(event, &cx, &response)).await {
                Err(_) if guard.must_record() => unrecorded().into_problem(Some(&cx)),
                _ => response,
            }
        }
        Recorded::Write => {
            let mut intent = event.clone();
            intent.kind = EventKind::Intent;
            if guard.record(intent).await.is_err() && guard.must_record() {
                return unrecorded().into_problem(Some(&cx));
            }
            let act = tokio::spawn({
                let cx = cx.clone();
                async move {
                    let (response, changes) = witness(next.run(request)).await;
                    let response = as_problem(response, Some(&cx));
                    let event = AuditEvent { changes, ..guard.ended(event, &cx, &response) };
                    if let Err(error) = guard.record(event).await {
                        let action = guard.operation.action;
                        tracing::error!(%error, action, request_id = %cx.request_id(), "the end of an act is not in the audit trail");
                    }
                    response
                }
            });
            act.await.unwrap_or_else(|error| {
                let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "The operation broke off.");
                refusal.because(error).into_problem(Some(&cx))
            })
        }
    }
}

impl Guard {
    async fn event(&self, cx: &McpContext, principal: &Principal, parts: &mut Parts) -> AuditEvent {
        let mut event = AuditEvent::new(cx.began_at(), cx.request_id(), Category::Admin, EventKind::Act);
        event.actor = Some(ActorFacts {
            subject: principal.subject.clone(),
            kind: principal.actor.kind,
            id: Arc::clone(&principal.actor.id),
            name: principal.actor.name.clone(),
        });
        event.address = cx.address().copied();
        event.trace_id = cx.trace().map(|trace| Arc::clone(trace.trace_id()));
        event.http_method = Some(self.operation.method.as_str().into());
        event.method = Some(self.operation.action.into());
        let agent = parts.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
        event.user_agent = agent.map(|agent| cut(&agent, AGENT));
        let path = RawPathParams::from_request_parts(parts, &()).await.ok();
        let id = path.as_ref().and_then(|path| path.iter().find(|(name, _)| *name == "id")).map(|(_, id)| id);
        let server = id.filter(|_| self.operation.path.starts_with("/api/v1/servers/"));
        event.server =
            server.and_then(|id| self.app.snapshots.load().routes.get_key_value(id).map(|(id, _)| Arc::clone(id)));
        event.target = id.or(parts.uri.query()).map(|target| cut(target, TARGET));
        event
    }

    fn ended(&self, mut event: AuditEvent, cx: &McpContext, response: &Response) -> AuditEvent {
        let status = response.status();
        event.status = status.as_u16();
        event.outcome = match status {
            status if status.is_client_error() => Outcome::Denied,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Outcome::UpstreamFailed
            }
            status if status.is_server_error() => Outcome::HttpError,
            _ => Outcome::Ok,
        };
        if let Some(refusal) = cx.refusal() {
            event.error = Some(cut(&refusal.message, TARGET));
        }
        if let Some(Target(target)) = response.extensions().get() {
            event.target = Some(cut(target, TARGET));
        }
        let elapsed = self.app.clock.monotonic().saturating_duration_since(cx.began());
        event.total_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        event
    }

    async fn record(&self, event: AuditEvent) -> Result<(), AuditFull> {
        self.app.audit_sink.record(event).await.map(|_| ())
    }

    fn must_record(&self) -> bool {
        self.app.config.audit.on_full == OnFull::Refuse
    }
}

fn unrecorded() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The audit trail cannot be written, so nothing was done.")
        .retry_after(5)
}

fn cut<'a, T: From<&'a str>>(text: &'a str, longest: usize) -> T {
    text[..text.floor_char_boundary(longest)].into()
}
