//! `/api/v1/policies/replay`: what a draft would change of what happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{Action, AuditFilter, Decision, StoreLimits, Target};
use mcp_gateway_core::policy::AccessRules;
use mcp_gateway_core::record::{Actor, ActorFacts, ActorKind, AuditEvent, Category, EventKind, Principal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, invalid, plain};
use super::audit::{cursor_in, cursor_of};
use super::extract::Document;
use super::policies::{self, NewPolicyDocument};
use super::servers::SubjectView;
use crate::app::App;

/// Rows that one request looks at, and changes that it lists.
const ROWS: usize = 10_000;
const CHANGES: usize = 1_000;
/// Bytes of a target in the trail that was not cut for sure: a longer one ends up to three bytes before 512, where a
/// character begins, and cannot be decided about.
const TARGET: usize = 512 - 4;

/// A draft, and what to try it on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "from": "2026-11-19T12:00:00Z",
    "policy": { "id": "default", "name": "Nobody but support", "rules": [] }
}))]
pub(super) struct ReplayDocument {
    /// At or after this time (RFC 3339); a day before `to` by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before this time; now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Only this server.
    server: Option<String>,
    /// The policy as it would be. With the `id` of one that is there, instead of it; else beside all that are.
    policy: NewPolicyDocument,
    /// The `next_cursor` of the answer before.
    cursor: Option<String>,
}

/// What a draft would change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "examined": 4711,
    "undecided": 0,
    "changes": {
        "items": [{
            "subject": { "issuer": "local", "id": "ada" },
            "actor": "7GQ2M4VX1C8N5T0K",
            "server": "tickets",
            "method": "tools/call",
            "target": "delete_ticket",
            "calls": 12,
            "last": "2026-11-20T11:59:00Z",
            "before": { "allow": true, "rule": "default/0" },
            "after": { "allow": false, "rule": "support/1" }
        }],
        "next_cursor": null
    }
}))]
pub(super) struct ReplayView {
    /// Calls that were looked at.
    examined: u64,
    /// Of these, how many could not be decided about: the trail does not have all that rules look at.
    undecided: u64,
    /// Those whose decision would be another, the same ones together. Where there is a `next_cursor`, not all of the time
    /// was looked at.
    changes: Page<ChangeView>,
}

/// Calls that would be decided otherwise.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangeView {
    /// Who called.
    subject: SubjectView,
    /// With which key or client.
    actor: String,
    /// The server's id.
    server: String,
    /// The method; `null` where the server itself was refused.
    method: Option<String>,
    /// The tool, prompt or resource.
    target: Option<String>,
    /// How many such calls.
    calls: u64,
    /// When the last of them was.
    #[schema(value_type = String, format = DateTime)]
    last: Timestamp,
    /// What the rules say of it now.
    before: DecisionView,
    /// What they would say.
    after: DecisionView,
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DecisionView {
    /// Whether it is allowed.
    allow: bool,
    /// What decides, as in the audit trail.
    rule: String,
}

impl DecisionView {
    fn of(decision: &Decision) -> Self {
        Self { allow: decision.allow, rule: decision.rule.to_string() }
    }
}

/// Tries a draft of a policy on the calls that the audit trail has of a time, with the users, groups, roles and other
/// policies of now, and lists those that it would let or refuse otherwise. Looks at 10,000 calls at a time.
#[utoipa::path(post, path = "/api/v1/policies/replay", tag = "policies", request_body = ReplayDocument,
    responses((status = 200, description = "What would change.", body = ReplayView), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn replay(
    State(app): State<Arc<App>>,
    Document(asked): Document<ReplayDocument>,
) -> Result<Response, Problem> {
    let to = asked.to.unwrap_or_else(|| app.clock.now());
    let from =
        asked.from.unwrap_or_else(|| to.saturating_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN));
    if from >= to {
        return Err(invalid("from", "`from` must be before `to`.".to_owned()).into());
    }
    let mut after = asked.cursor.as_deref().map(cursor_in).transpose()?;
    let (before, draft) = policies::with_draft(&app, asked.policy).await?;
    let filter = AuditFilter {
        from: Some(from),
        to: Some(to),
        category: Some(Category::Mcp),
        server: asked.server,
        ..AuditFilter::default()
    };
    let mut replay = Replay { app: &app, before, draft, examined: 0, undecided: 0, changes: BTreeMap::new() };
    let mut rows = 0;
    loop {
        let page = app.audit_store.query(&filter, after, StoreLimits::PAGE).await?;
        rows += page.rows.len();
        page.rows.iter().for_each(|row| replay.look(&row.event));
        after = page.next;
        if after.is_none() || rows >= ROWS || replay.changes.len() >= CHANGES {
            break;
        }
    }
    let items = replay.changes.into_values().collect();
    let changes = Page { items, next_cursor: after.map(|next| cursor_of(&next)) };
    plain(StatusCode::OK, &ReplayView { examined: replay.examined, undecided: replay.undecided, changes })
}

struct Replay<'a> {
    app: &'a App,
    before: AccessRules,
    draft: AccessRules,
    examined: u64,
    undecided: u64,
    /// By who, where and what.
    changes: BTreeMap<[String; 6], ChangeView>,
}

impl Replay<'_> {
    fn look(&mut self, event: &AuditEvent) {
        // Of a stream its opening; what a server asked its client is decided about by the server.
        let asked = matches!(
            event.kind,
            EventKind::Exchange | EventKind::Notification | EventKind::Opened | EventKind::Refused
        );
        let (Some(actor), Some(server)) = (&event.actor, &event.server) else { return };
        if !asked {
            return;
        }
        self.examined += 1;
        // Refused for what the key was good for then, whatever the rules say.
        if event.rule.as_deref() == Some("credential-servers") {
            return;
        }
        let method = event.method.as_deref();
        let target = event.target.as_deref();
        // Which of both a completion was for, the trail does not tell.
        if method == Some("completion/complete") || target.is_some_and(|target| target.len() > TARGET) {
            self.undecided += 1;
            return;
        }
        let principal = principal(self.app, actor);
        let decide = |rules: &AccessRules| {
            let action = method.map_or(Action::Connect, Action::Method);
            self.app.access.explain_by(rules, &principal, action, Target { server, name: target })
        };
        let (before, after) = (decide(&self.before), decide(&self.draft));
        if before.allow == after.allow {
            return;
        }
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let subject = &actor.subject;
        let key = [
            subject.issuer.to_string(),
            subject.id.to_string(),
            actor.id.to_string(),
            server.to_string(),
            text(method),
            text(target),
        ];
        let change = self.changes.entry(key).or_insert_with(|| ChangeView {
            subject: SubjectView::of(subject),
            actor: actor.id.to_string(),
            server: server.to_string(),
            method: method.map(str::to_owned),
            target: target.map(str::to_owned),
            calls: 0,
            last: event.ts,
            before: DecisionView::of(&before),
            after: DecisionView::of(&after),
        });
        change.calls += 1;
        change.last = change.last.max(event.ts);
    }
}

/// Whoever called, for all servers: what a key is good for, no policy changes.
fn principal(app: &App, actor: &ActorFacts) -> Principal {
    let ActorFacts { subject, kind, id, name } = actor;
    let roles = match kind {
        ActorKind::ApiKey => app.snapshots.load().key(id).map(|key| key.principal.roles),
        _ => None,
    };
    Principal::new(Arc::clone(&subject.issuer), Arc::clone(&subject.id))
        .with_tenant(subject.tenant.clone())
        .with_actor(Actor { kind: *kind, id: Arc::clone(id), name: name.clone() })
        .with_roles(roles.unwrap_or_default())
}
