//! Access rules as an authorizer.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;

use super::index::{AccessRules, Caller, Thing, Verdict};
use crate::MaybeReady;
use crate::contract::{Action, Ask, Authorizer, Decision};
use crate::record::{ActorKind, Subject};

/// Decides by access rules, and by what the caller's credential is good for: both must let.
///
/// What no rule lets is hidden, as is what a rule forbids. Answers from memory, always at once.
pub struct Ruled {
    rules: ArcSwap<AccessRules>,
    groups: Groups,
}

type Groups = Box<dyn Fn(&Subject) -> Vec<Arc<str>> + Send + Sync>;

static CREDENTIAL: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("credential-servers"));
static NONE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("no-rule"));

impl Ruled {
    /// Decides by these rules; nobody is in a group.
    #[must_use]
    pub fn new(rules: Arc<AccessRules>) -> Self {
        Self { rules: ArcSwap::new(rules), groups: Box::new(|_| Vec::new()) }
    }

    /// The same, where the ids of a subject's groups are these.
    #[must_use]
    pub fn with_groups(mut self, groups: impl Fn(&Subject) -> Vec<Arc<str>> + Send + Sync + 'static) -> Self {
        self.groups = Box::new(groups);
        self
    }

    /// Decides by other rules from here on.
    pub fn replace(&self, rules: Arc<AccessRules>) {
        self.rules.store(rules);
    }
}

impl std::fmt::Debug for Ruled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ruled(..)")
    }
}

impl Authorizer for Ruled {
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
        let principal = ask.principal;
        if !principal.servers.contains(ask.target.server) {
            return Decision::deny(Arc::clone(&CREDENTIAL)).into();
        }
        let subject = &principal.subject;
        let groups = (self.groups)(subject);
        let caller = Caller {
            user: (*subject.issuer == *Subject::LOCAL).then_some(&*subject.id),
            groups: &groups,
            roles: principal.roles.with_included(),
            key: (principal.actor.kind == ActorKind::ApiKey).then_some(&*principal.actor.id),
        };
        match self.rules.load().decide(caller, ask.target.server, thing(ask.action, ask.target.name)) {
            Verdict::Allowed(rule) => Decision::allow(rule),
            Verdict::Denied(rule) => Decision::deny(rule),
            Verdict::Unmentioned => Decision::deny(Arc::clone(&NONE)),
        }
        .into()
    }
}

/// What a question is about. A task belongs to a call that was decided about; its id is no name.
fn thing<'a>(action: Action<'a>, name: Option<&'a str>) -> Thing<'a> {
    let (Action::Method(method), Some(name)) = (action, name) else { return Thing::Server };
    match method {
        "tools/call" => Thing::Tool(name),
        "prompts/get" => Thing::Prompt(name),
        "completion/complete" => Thing::Reference(name),
        method if method.starts_with("resources/") => Thing::Resource(name),
        _ => Thing::Server,
    }
}
