//! `/api/v1/policies/evaluate`: what the rules say of a call that nobody made.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use mcp_gateway_auth::server::CLIENT_SUBJECT;
use mcp_gateway_core::context::Completes;
use mcp_gateway_core::contract::{Action, Decision, Target};
use mcp_gateway_core::record::{Actor, ActorKind, Principal, Subject};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Problem, ProblemDetails, invalid, plain};
use super::extract::Document;
use crate::app::App;

/// A call that nobody made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "subject": { "user": "ada" }, "server": "tickets", "method": "tools/call", "name": "list" }))]
pub(super) struct EvaluationDocument {
    /// Who calls: `{"user": ID}`, or `{"apiKey": ID}` with that key, or `{"client": ID}`, an OAuth client for itself.
    #[schema(value_type = Object)]
    subject: Caller,
    /// The server's id.
    server: String,
    /// The MCP method; by default, whether the server can be reached at all.
    method: Option<String>,
    /// The tool's or prompt's name, or the resource's URI.
    name: Option<String>,
    /// Of `completion/complete`: what `name` is.
    completes: Option<Completed>,
}

/// Who calls.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Caller {
    User(String),
    ApiKey(String),
    Client(String),
}

/// What a completion is for.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Completed {
    /// A prompt.
    Prompt,
    /// A resource or template.
    Resource,
}

/// What the rules say.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "allow": false, "rule": "support/1", "policy": "support", "index": 1, "because": "This rule forbids it."
}))]
pub(super) struct EvaluationView {
    /// Whether it would be allowed.
    allow: bool,
    /// What decided, as in the audit trail: a rule, or one of `no-rule`, `credential-servers`, `ambiguous-uri`,
    /// `unruled-method`, `user-disabled`.
    rule: String,
    /// The id of the rule's policy; `null` when no rule decided.
    policy: Option<String>,
    /// Which of the policy's rules, from 0; `null` when it was none of them.
    index: Option<u32>,
    /// The same in words.
    because: String,
}

impl EvaluationView {
    fn of(decision: &Decision) -> Self {
        let (policy, index) = decision
            .rule
            .split_once('/')
            .map_or((None, None), |(policy, index)| (Some(policy.to_owned()), index.parse().ok()));
        let because = match (&*decision.rule, decision.allow, index) {
            ("no-rule", ..) => "No rule allows it.",
            ("credential-servers", ..) => "The API key is not good for this server: `servers` does not list it.",
            ("ambiguous-uri", ..) => "Servers may read the URI in another way than rules do.",
            ("unruled-method", ..) => "No rule can name this method, and rules name parts of this server.",
            ("user-disabled", ..) => "The user is disabled.",
            (_, true, _) => "This rule allows it, and none forbids it.",
            (_, false, Some(_)) => "This rule forbids it.",
            (_, false, None) => "This policy cannot be read: replace or delete it.",
        };
        let rule = decision.rule.to_string();
        Self { allow: decision.allow, rule, policy, index, because: because.to_owned() }
    }
}

/// Says whether a call would be allowed, and by which rule. Nothing is called, and budgets are not looked at.
#[utoipa::path(post, path = "/api/v1/policies/evaluate", tag = "policies", request_body = EvaluationDocument,
    responses((status = 200, description = "What the rules say.", body = EvaluationView), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn evaluate(
    State(app): State<Arc<App>>,
    Document(asked): Document<EvaluationDocument>,
) -> Result<Response, Problem> {
    let EvaluationDocument { subject, server, method, name, completes } = asked;
    let principal = match subject {
        Caller::User(id) if app.snapshots.load().user(&Subject::local(&*id)).is_some() => {
            Arc::new(Principal::new(Subject::LOCAL, id))
        }
        Caller::User(_) => return Err(unknown("subject.user", "no user")),
        Caller::ApiKey(id) => match app.snapshots.load().key(&id) {
            Some(key) => Arc::clone(&key.principal),
            None => {
                let what = "no key that is good for anything: it was revoked, or its person may do nothing";
                return Err(unknown("subject.apiKey", what));
            }
        },
        Caller::Client(id) => {
            let known = match &app.oauth {
                Some(oauth) => oauth.server.client(&id).await?.is_some(),
                None => false,
            };
            if !known {
                return Err(unknown("subject.client", "no OAuth client"));
            }
            let actor = Actor { kind: ActorKind::Client, id: id.as_str().into(), name: None };
            Arc::new(Principal::new(CLIENT_SUBJECT, id).with_actor(actor))
        }
    };
    if !app.snapshots.load().routes.contains_key(&*server) {
        return Err(unknown("server", "no server"));
    }
    if name.is_some() && method.is_none() {
        return Err(invalid("method", "`method` is needed with a `name`: tools/call, for example.".to_owned()).into());
    }
    let action = method.as_deref().map_or(Action::Connect, Action::Method);
    let completes = completes.map(|completed| match completed {
        Completed::Prompt => Completes::Prompt,
        Completed::Resource => Completes::Resource,
    });
    let target = Target { server: &server, name: name.as_deref() };
    let decision = app.access.explain(&principal, action, target, completes);
    plain(StatusCode::OK, &EvaluationView::of(&decision))
}

/// What is not there has no rights, and none that a dry run could name.
fn unknown(field: &str, what: &str) -> Problem {
    invalid(field, format!("`{field}` names {what}.")).into()
}
