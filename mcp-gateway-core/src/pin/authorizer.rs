//! Calls of tools that are held back.

use std::sync::{Arc, LazyLock};

use super::ToolPinning;
use super::record::is_unknown_hidden;
use crate::MaybeReady;
use crate::contract::{Action, Ask, Authorizer, Decision};
use crate::record::OnToolChange;

/// Denies calls of tools that are held back, as those of tools that do not exist; everything else another authorizer
/// decides. Answers from memory.
///
/// What is flagged is called all the same, and noted in the trail's row of the call.
pub struct PinnedTools {
    inner: Arc<dyn Authorizer>,
    pinning: ToolPinning,
}

static RULE: LazyLock<Arc<str>> = LazyLock::new(|| ToolPinning::NAME.into());

impl PinnedTools {
    /// Asks `inner` first.
    pub fn new(inner: Arc<dyn Authorizer>, pinning: ToolPinning) -> Self {
        Self { inner, pinning }
    }

    /// Whether a tool is held back.
    fn is_hidden(&self, ask: &Ask<'_>) -> bool {
        let (Action::Method("tools/call"), Some(tool)) = (ask.action, ask.target.name) else { return false };
        let policy = self.pinning.policy(ask.target.server);
        if !policy.is_on() {
            return false;
        }
        let now = self.pinning.0.clock.now();
        let Some(inventory) = self.pinning.known(ask.target.server) else { return is_unknown_hidden(policy, false) };
        if inventory.hides(tool, policy, now) {
            return true;
        }
        let odd = match inventory.tools.get(tool) {
            Some(known) => known.waits().then_some("changed"),
            None => inventory.is_settled(now).then_some("not-listed"),
        };
        // Lists ask, too.
        let called = ask.cx.message().is_some_and(|message| message.method.as_deref() == Some("tools/call"));
        if let Some(odd) = odd.filter(|_| called && policy.on_change == OnToolChange::Flag) {
            self.pinning.flag(ask.cx, odd);
        }
        false
    }
}

impl std::fmt::Debug for PinnedTools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PinnedTools(..)")
    }
}

fn unless(hidden: bool, decision: Decision) -> Decision {
    if hidden && decision.allow { Decision::deny(Arc::clone(&RULE)) } else { decision }
}

impl Authorizer for PinnedTools {
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
        let hidden = self.is_hidden(ask);
        match self.inner.decide(ask) {
            MaybeReady::Ready(decision) => unless(hidden, decision).into(),
            MaybeReady::Wait(wait) => MaybeReady::wait(async move { unless(hidden, wait.await) }),
        }
    }

    fn decide_many(&self, asks: &[Ask<'_>]) -> MaybeReady<Vec<Decision>> {
        let hidden: Vec<bool> = asks.iter().map(|ask| self.is_hidden(ask)).collect();
        let both = move |decisions: Vec<Decision>| {
            decisions.into_iter().zip(hidden).map(|(decision, hidden)| unless(hidden, decision)).collect::<Vec<_>>()
        };
        match self.inner.decide_many(asks) {
            MaybeReady::Ready(decisions) => both(decisions).into(),
            MaybeReady::Wait(wait) => MaybeReady::wait(async move { both(wait.await) }),
        }
    }
}
