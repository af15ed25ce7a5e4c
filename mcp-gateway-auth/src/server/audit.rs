//! What the trail says about clients, consents and tokens.

use std::sync::Arc;

use http::header::USER_AGENT;
use http::request::Parts;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::AuditFull;
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, Subject};

use super::Inner;

/// Bytes of a foreign text in the trail.
const TEXT: usize = 256;

/// Something that is recorded.
#[derive(Debug)]
pub(crate) struct Act<'a> {
    /// Its name, for example `oauth.consent`.
    pub(crate) name: &'static str,
    /// Whose rights, where somebody's are concerned.
    pub(crate) subject: Option<&'a Subject>,
    /// Which client.
    pub(crate) client: &'a str,
    /// At which server.
    pub(crate) server: Option<&'a str>,
    /// What it is about: the id of a grant or client.
    pub(crate) target: &'a str,
    /// Whether it was done or refused.
    pub(crate) outcome: Outcome,
    /// Why, for the person who reads it, where the name does not say it.
    pub(crate) why: Option<&'a str>,
}

impl Inner {
    /// Records an act. What gives access is not done when it cannot be recorded; what takes it away is.
    pub(crate) async fn record(&self, head: &Parts, act: Act<'_>) -> Result<(), AuditFull> {
        let Some(sink) = &self.audit else { return Ok(()) };
        let fresh;
        let cx = match McpContext::of(&head.extensions) {
            Some(cx) => cx,
            None => {
                fresh = McpContext::new(&*self.clock);
                &fresh
            }
        };
        let mut event = AuditEvent::new(self.clock.now(), cx.request_id(), Category::Auth, EventKind::Act);
        event.actor = act.subject.map(|subject| ActorFacts {
            subject: subject.clone(),
            kind: ActorKind::Client,
            id: cut(act.client).into(),
            name: None,
        });
        event.address = cx.address().copied();
        let agent = head.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
        event.user_agent = agent.map(|agent| cut(&agent).into());
        event.client_name = Some(cut(act.client).into());
        event.server = act.server.map(Arc::from);
        event.http_method = Some(head.method.as_str().to_owned().into());
        event.method = Some(act.name.into());
        event.target = Some(cut(act.target).into());
        event.outcome = act.outcome;
        event.error = act.why.map(|why| cut(why).into());
        let recorded = sink.record(event).await;
        if let Err(error) = &recorded {
            tracing::error!(act = act.name, %error, "an act of the authorization server is not in the audit trail");
        }
        recorded.map(drop)
    }
}

/// The beginning of a text, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
