//! Access rules as an authorizer.

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;

use super::index::{AccessRules, Caller, Reach, Thing, Verdict};
use super::uri;
use crate::MaybeReady;
use crate::context::{Completes, MessageFacts};
use crate::contract::{Action, Ask, Authorizer, Decision, Target};
use crate::record::{ActorKind, Principal, Roles, Subject};
use crate::snapshot::{Snapshot, Snapshots};
use crate::wire::method::Method;

/// Decides by access rules, and by what the caller's credential is good for: both must let.
///
/// What no rule lets is hidden, as is what a rule forbids. Answers from memory, always at once, and allocates nothing
/// but to read URIs. On a server of which a rule names parts, also denied are methods that no revision has, since no rule
/// can name them, and those of tasks: whoever knows its id could read what another's tool has found. Where a rule names
/// resources, so are those whose URI servers may read in another way than it is written.
pub struct Ruled {
    rules: ArcSwap<AccessRules>,
    groups: Groups,
}

/// [`Ruled`] by the rules, groups and roles of a snapshot, as they are when it is asked.
#[derive(Debug, Clone)]
pub struct SnapshotRules(Snapshots);

type Groups = Box<dyn Fn(&Subject) -> Arc<[Arc<str>]> + Send + Sync>;

/// Decisions that no rule made, by the names under which they are in the trail.
struct Names {
    credential: Arc<str>,
    none: Arc<str>,
    uri: Arc<str>,
    method: Arc<str>,
    disabled: Arc<str>,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    credential: Arc::from("credential-servers"),
    none: Arc::from("no-rule"),
    uri: Arc::from("ambiguous-uri"),
    method: Arc::from("unruled-method"),
    disabled: Arc::from("user-disabled"),
});

impl Ruled {
    /// Decides by these rules; nobody is in a group.
    #[must_use]
    pub fn new(rules: Arc<AccessRules>) -> Self {
        Self { rules: ArcSwap::new(rules), groups: Box::new(|_| Arc::default()) }
    }

    /// The same, where the ids of a subject's groups are these.
    #[must_use]
    pub fn with_groups(mut self, groups: impl Fn(&Subject) -> Arc<[Arc<str>]> + Send + Sync + 'static) -> Self {
        self.groups = Box::new(groups);
        self
    }

    /// Decides by other rules from here on.
    pub fn replace(&self, rules: Arc<AccessRules>) {
        self.rules.store(rules);
    }

    /// How far the rules go that concern a server.
    #[must_use]
    pub fn reach(&self, server: &str) -> Reach {
        self.rules.load().reach(server)
    }
}

impl std::fmt::Debug for Ruled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ruled(..)")
    }
}

impl Authorizer for Ruled {
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
        let groups = (self.groups)(&ask.principal.subject);
        let asked = Asked::of(ask);
        decide(&self.rules.load(), &groups, ask.principal.roles, asked).into()
    }
}

impl SnapshotRules {
    /// Decides by the rules of these snapshots.
    #[must_use]
    pub fn new(snapshots: Snapshots) -> Self {
        Self(snapshots)
    }

    /// How far the rules go that concern a server.
    #[must_use]
    pub fn reach(&self, server: &str) -> Reach {
        self.0.load().rules.reach(server)
    }

    /// What is decided about a call, without one: for dry runs, and for what is open when rules change.
    #[must_use]
    pub fn explain(
        &self,
        principal: &Principal,
        action: Action<'_>,
        target: Target<'_>,
        completes: Option<Completes>,
    ) -> Decision {
        self.decision(Asked { principal, action, target, completes })
    }

    /// The same by other rules, with the users, groups and roles of now: for drafts.
    #[must_use]
    pub fn explain_by(
        &self,
        rules: &AccessRules,
        principal: &Principal,
        action: Action<'_>,
        target: Target<'_>,
    ) -> Decision {
        decide_for(&self.0.load(), rules, Asked { principal, action, target, completes: None })
    }

    fn decision(&self, asked: Asked<'_>) -> Decision {
        let snapshot = self.0.load();
        decide_for(&snapshot, &snapshot.rules, asked)
    }
}

impl Authorizer for SnapshotRules {
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
        let snapshot = self.0.load();
        if ask.action == Action::Connect {
            // Before anybody looks at the rules for what of the answer is to be read.
            let _ = ask.cx.set_reach(snapshot.rules.reach(ask.target.server));
        }
        decide_for(&snapshot, &snapshot.rules, Asked::of(ask)).into()
    }

    fn decide_many(&self, asks: &[Ask<'_>]) -> MaybeReady<Vec<Decision>> {
        let snapshot = self.0.load();
        let decide = |ask| decide_for(&snapshot, &snapshot.rules, Asked::of(ask));
        asks.iter().map(decide).collect::<Vec<_>>().into()
    }
}

/// A question, as far as rules go.
#[derive(Clone, Copy)]
struct Asked<'a> {
    principal: &'a Principal,
    action: Action<'a>,
    target: Target<'a>,
    completes: Option<Completes>,
}

impl<'a> Asked<'a> {
    fn of(ask: &Ask<'a>) -> Self {
        let completes = ask.cx.message().and_then(|message: &MessageFacts| message.completes);
        Self { principal: ask.principal, action: ask.action, target: ask.target, completes }
    }

    /// What it is about. A task belongs to a call that was decided about; its id is no name.
    fn thing(&self) -> Thing<'a> {
        let (Action::Method(method), Some(name)) = (self.action, self.target.name) else { return Thing::Server };
        match method {
            "tools/call" => Thing::Tool(name),
            "prompts/get" => Thing::Prompt(name),
            "completion/complete" => match self.completes {
                Some(Completes::Prompt) => Thing::Prompt(name),
                Some(Completes::Resource) => Thing::Resource(name),
                None => Thing::Either(name),
            },
            method if method.starts_with("resources/") => Thing::Resource(name),
            _ => Thing::Server,
        }
    }

    /// Whether its name is a resource's that servers may take for another's. Templates are no URIs yet.
    fn is_ambiguous(&self, thing: Thing<'_>) -> bool {
        let Thing::Resource(name) = thing else { return false };
        let templates = matches!(self.action, Action::Method("resources/templates/list" | "completion/complete"));
        if templates && name.contains('{') { uri::is_misspelled(name) } else { uri::is_ambiguous(name) }
    }
}

/// Whether rules that name parts of a server can say something of a method.
fn is_ruled(method: &str) -> bool {
    use Method::{TasksCancel, TasksGet, TasksList, TasksResult, TasksUpdate};

    Method::parse(method)
        .is_some_and(|method| !matches!(method, TasksCancel | TasksGet | TasksList | TasksResult | TasksUpdate))
}

fn decide_for(snapshot: &Snapshot, rules: &AccessRules, asked: Asked<'_>) -> Decision {
    match snapshot.user(&asked.principal.subject) {
        Some(user) if !user.enabled => Decision::deny(Arc::clone(&NAMES.disabled)),
        // Roles of now, also for what began under others.
        Some(user) => decide(rules, &user.groups, user.roles, asked),
        None => decide(rules, &[], asked.principal.roles, asked),
    }
}

fn decide(rules: &AccessRules, groups: &[Arc<str>], roles: Roles, asked: Asked<'_>) -> Decision {
    let Asked { principal, action, target, .. } = asked;
    let subject = &principal.subject;
    let local = *subject.issuer == *Subject::LOCAL;
    let caller = Caller {
        user: local.then_some(&*subject.id),
        groups,
        roles: roles.with_included(),
        key: (principal.actor.kind == ActorKind::ApiKey).then_some(&*principal.actor.id),
        client: (principal.actor.kind == ActorKind::Client).then_some(&*principal.actor.id),
    };
    if !principal.servers.contains(target.server) {
        // Owners see every server in the catalog: another credential of theirs would do.
        let owner = local && caller.roles.contains(Roles::OWNER);
        let decided = if owner { Decision::narrow } else { Decision::deny };
        return decided(Arc::clone(&NAMES.credential));
    }
    let thing = asked.thing();
    let reach = rules.reach(target.server);
    if reach.parts {
        let ruled = match action {
            Action::Method(method) => is_ruled(method),
            Action::Connect | Action::ServerRequest(_) => true,
        };
        if !ruled {
            return Decision::deny(Arc::clone(&NAMES.method));
        }
        if reach.uris && asked.is_ambiguous(thing) {
            return Decision::deny(Arc::clone(&NAMES.uri));
        }
    }
    match rules.decide(caller, target.server, thing) {
        Verdict::Allowed(rule) => Decision::allow(rule),
        Verdict::Denied(rule) => Decision::deny(rule),
        Verdict::Unmentioned => Decision::deny(Arc::clone(&NAMES.none)),
    }
}
