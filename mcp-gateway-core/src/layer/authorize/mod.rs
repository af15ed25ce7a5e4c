//! May this caller do this.

mod default;

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;

pub use self::default::KeyServers;
use super::gate::{Gate, gate_layer};
use crate::MaybeReady;
use crate::context::{McpContext, MessageFacts, MessageKind};
use crate::contract::{Action, Ask, Authorizer, Decision, Target};
use crate::layer::peek::method_not_found;
use crate::refusal::Refusal;
use crate::wire::method::is_known;
use crate::wire::rpc::code;
use crate::wire::version::Era;

/// Asks an [`Authorizer`] about each message that has a method.
///
/// Required facts: `principal`, `route`, `message`. What is hidden is answered as if it were unknown, with HTTP
/// 200: a 400 or 404 would make clients think of another era, a 403 of another token. A visible tool that is refused
/// is a tool result with `isError`.
#[derive(Clone)]
pub struct AuthorizeLayer(Arc<dyn Authorizer>);

impl AuthorizeLayer {
    /// Asks this authorizer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self(authorizer)
    }
}

impl std::fmt::Debug for AuthorizeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorizeLayer(..)")
    }
}

impl Gate for AuthorizeLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let (Some(principal), Some(route)) = (cx.principal(), cx.route()) else {
            return Err(Refusal::layer_absent("principal or route", "AuthenticateLayer or ResolveLayer")).into();
        };
        let Some(message) = cx.message() else {
            return Err(Refusal::layer_absent("message", "PeekLayer")).into();
        };
        // GET, DELETE and answers to the server's own requests have no method: reaching the server was granted before.
        let Some(method) = message.method.as_deref() else { return Ok(()).into() };
        let ask = Ask {
            principal,
            action: Action::Method(method),
            target: Target { server: &route.id, name: message.target.as_deref() },
            cx,
            arguments: message.arguments(),
        };
        match self.0.decide(&ask) {
            MaybeReady::Ready(decision) => conclude(&decision, cx, message).into(),
            MaybeReady::Wait(wait) => {
                let cx = cx.clone();
                MaybeReady::wait(async move {
                    let decision = wait.await;
                    let message = cx.message().ok_or_else(|| Refusal::layer_absent("message", "PeekLayer"))?;
                    conclude(&decision, &cx, message)
                })
            }
        }
    }
}

gate_layer!(AuthorizeLayer);

fn conclude(decision: &Decision, cx: &McpContext, message: &MessageFacts) -> Result<(), Refusal> {
    cx.set_rule(Arc::clone(&decision.rule)).map_err(Refusal::fact_set)?;
    if decision.allow { Ok(()) } else { Err(refuse(decision, message)) }
}

/// What the caller of a message reads when it is denied.
pub(crate) fn refuse(decision: &Decision, message: &MessageFacts) -> Refusal {
    if message.kind == MessageKind::Notification {
        // Nobody reads an error of a notification; it is taken and not forwarded.
        return Refusal::new(StatusCode::ACCEPTED, "The notification was not forwarded.");
    }
    let target = message.target.as_deref().unwrap_or_default();
    match (message.method.as_deref(), decision.hidden) {
        (Some("tools/call"), true) => {
            Refusal::new(StatusCode::OK, format!("Unknown tool: {target}")).with_code(code::INVALID_PARAMS)
        }
        (Some("prompts/get"), true) => {
            Refusal::new(StatusCode::OK, format!("Unknown prompt: {target}")).with_code(code::INVALID_PARAMS)
        }
        (Some("resources/read" | "resources/subscribe" | "resources/unsubscribe"), true) => {
            let code = match message.era {
                Era::Legacy => code::RESOURCE_NOT_FOUND,
                Era::Modern => code::INVALID_PARAMS,
            };
            Refusal::new(StatusCode::OK, format!("Resource not found: {target}")).with_code(code)
        }
        // A prompt or a resource: both are unknown alike.
        (Some("completion/complete"), true) => {
            Refusal::new(StatusCode::OK, format!("Unknown reference: {target}")).with_code(code::INVALID_PARAMS)
        }
        (Some("tasks/get" | "tasks/result" | "tasks/update" | "tasks/cancel"), true) => {
            Refusal::new(StatusCode::OK, format!("Task not found: {target}")).with_code(code::INVALID_PARAMS)
        }
        // A method that no rule can name is denied where rules name parts of a server.
        (Some(method), true) if !is_known(message.era, method) => method_not_found(message.era),
        (Some("tools/call"), false) => Refusal::tool_result("This call is not allowed."),
        _ => Refusal::new(StatusCode::OK, "This is not allowed.").with_code(code::REFUSED_BY_POLICY),
    }
}

#[cfg(test)]
mod tests;
