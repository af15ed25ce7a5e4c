//! May this principal do this.

use std::sync::Arc;

use crate::MaybeReady;
use crate::context::McpContext;
use crate::record::Principal;

/// Decides whether a principal may do something.
///
/// Asked with [`Action::Connect`] by the gateway's resolve layer (a coarse deny only) and with [`Action::Method`] by
/// the shim's authorize layer, once a message; with [`Action::ServerRequest`] by its audit layer, which reads every
/// event of a stream, once a request that a server sends. Lists ask [`decide_many`](Self::decide_many). Answers from
/// memory.
///
/// Closures are authorizers:
///
/// ```
/// use mcp_gateway_core::contract::{Action, Ask, Authorizer, Decision};
///
/// fn assert_authorizer(_: impl Authorizer) {}
/// assert_authorizer(|ask: &Ask<'_>| match ask.target.name {
///     Some("delete_everything") => Decision::deny("no-deletes"),
///     _ => Decision::allow("default"),
/// });
/// ```
pub trait Authorizer: Send + Sync + 'static {
    /// Decides one question.
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision>;

    /// Decides several questions, in their order.
    fn decide_many(&self, asks: &[Ask<'_>]) -> MaybeReady<Vec<Decision>> {
        let mut decisions = Vec::with_capacity(asks.len());
        let mut waits = Vec::new();
        for (at, ask) in asks.iter().enumerate() {
            match self.decide(ask) {
                MaybeReady::Ready(decision) => decisions.push(decision),
                MaybeReady::Wait(wait) => {
                    waits.push((at, wait));
                    decisions.push(Decision::deny("undecided"));
                }
            }
        }
        if waits.is_empty() {
            return decisions.into();
        }
        MaybeReady::wait(async move {
            for (at, wait) in waits {
                decisions[at] = wait.await;
            }
            decisions
        })
    }
}

impl<F> Authorizer for F
where
    F: Fn(&Ask<'_>) -> Decision + Send + Sync + 'static,
{
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
        self(ask).into()
    }
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who.
    pub principal: &'a Principal,
    /// Wants to do what.
    pub action: Action<'a>,
    /// On what.
    pub target: Target<'a>,
    /// With which request: time, address, client and era are read from here.
    pub cx: &'a McpContext,
    /// The raw JSON of the call's arguments; absent in lists and for methods without arguments.
    pub arguments: Option<&'a [u8]>,
}

/// What the principal wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Reach the server at all.
    Connect,
    /// Call this MCP method, exact bytes after unescaping.
    Method(&'a str),
    /// Be sent this request by the server, on one of its streams: `sampling/createMessage`, `elicitation/create`,
    /// `roots/list`, `ping`, or whatever else it says. Only of revisions up to 2025-11-25; later ones have none.
    ServerRequest(&'a str),
}

/// What the principal wants to do it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The server's id.
    pub server: &'a str,
    /// The tool's or prompt's name or the resource's URI, if the method names one.
    pub name: Option<&'a str>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may.
    pub allow: bool,
    /// Of a denial: whether the target's very existence is hidden from this principal. A hidden server is a 404, a
    /// visible one a 403; a hidden tool is an unknown tool.
    pub hidden: bool,
    /// Which rule decided, for the audit trail and dry runs.
    pub rule: Arc<str>,
}

impl Decision {
    /// Yes, by this rule.
    pub fn allow(rule: impl Into<Arc<str>>) -> Self {
        Self { allow: true, hidden: false, rule: rule.into() }
    }

    /// No, by this rule, and the caller need not know that there is such a thing.
    pub fn deny(rule: impl Into<Arc<str>>) -> Self {
        Self { allow: false, hidden: true, rule: rule.into() }
    }

    /// No, by this rule, but the caller may know that it exists: another credential of theirs would do.
    pub fn narrow(rule: impl Into<Arc<str>>) -> Self {
        Self { allow: false, hidden: false, rule: rule.into() }
    }
}
