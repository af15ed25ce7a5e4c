//! Rules by whom and what they concern.

use std::sync::Arc;

use super::pattern::Pattern;
use super::record::{AccessPolicy, AccessRule, Effect, PolicyLimits, PolicySubject, PolicyTarget};
use super::uri;
use crate::Map;
use crate::record::Roles;

/// The rules of all policies, compiled.
///
/// A question looks up the rules of its server, and those of every server, for each thing that its caller is: what
/// concerns other servers or other people costs nothing, however much of it there is.
#[derive(Debug, Clone, Default)]
pub struct AccessRules {
    servers: Map<Box<str>, Concerns>,
    every: Concerns,
}

/// How far the rules of a server go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Whether there is a rule other than one that lets everyone use all of it: answers are not the same for all callers.
    pub some: bool,
    /// Whether a rule names tools, prompts or resources.
    pub parts: bool,
    /// Whether a rule may hide resources: it names some, or lets use nothing but tools or prompts.
    pub resources: bool,
    /// Whether a rule names resources, by URIs that must be read in one way.
    pub uris: bool,
}

impl Reach {
    /// Whether rules look into streams of a server that they left alone when they reached so far as `before`.
    #[must_use]
    pub fn outgrows(self, before: Self) -> bool {
        (self.parts && !before.parts) || (self.resources && !before.resources)
    }

    fn or(self, other: Self) -> Self {
        Self {
            some: self.some || other.some,
            parts: self.parts || other.parts,
            resources: self.resources || other.resources,
            uris: self.uris || other.uris,
        }
    }
}

/// Rules of one server, by subject.
#[derive(Debug, Clone, Default)]
struct Concerns {
    reach: Reach,
    everyone: Vec<Clause>,
    users: Map<Box<str>, Vec<Clause>>,
    groups: Map<Box<str>, Vec<Clause>>,
    keys: Map<Box<str>, Vec<Clause>>,
    clients: Map<Box<str>, Vec<Clause>>,
    /// At most one for each role.
    roles: Vec<(Roles, Vec<Clause>)>,
}

/// One rule about one server.
#[derive(Debug, Clone)]
struct Clause {
    effect: Effect,
    name: Arc<str>,
    /// Shared by the clauses of all subjects of a rule.
    part: Arc<Part>,
}

#[derive(Debug)]
enum Part {
    Whole,
    Named { tools: Box<[Pattern]>, prompts: Box<[Pattern]>, resources: Box<[Pattern]> },
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The id of a person whom this gateway knows.
    pub(super) user: Option<&'a str>,
    pub(super) groups: &'a [Arc<str>],
    pub(super) roles: Roles,
    pub(super) key: Option<&'a str>,
    pub(super) client: Option<&'a str>,
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thing<'a> {
    /// The server itself, and what has no name in it.
    Server,
    Tool(&'a str),
    Prompt(&'a str),
    Resource(&'a str),
    /// A prompt or a resource, nobody knows which.
    Either(&'a str),
}

/// What the rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This rule lets.
    Allowed(Arc<str>),
    /// This rule forbids.
    Denied(Arc<str>),
    /// No rule lets; nothing is let without one.
    Unmentioned,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// Which field: `rules[2].subjects[0]`.
    pub field: String,
    /// What to do.
    pub problem: String,
}

impl AccessRules {
    /// Compiles policies, each with its id, by which [`Verdict`]s name their rules: `id/0` is the first of a policy.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn compile<'a>(policies: impl IntoIterator<Item = (&'a str, &'a AccessPolicy)>) -> Result<Self, PolicyError> {
        let mut rules = Self::default();
        for (id, policy) in policies {
            policy.check()?;
            rules.add_policy(id, policy);
        }
        Ok(rules)
    }

    /// The same of policies that were kept. One that cannot be read, `None`, or is wrong forbids everything: nobody knows
    /// what it was to forbid.
    pub(crate) fn of_kept<'a>(policies: impl IntoIterator<Item = (&'a str, Option<&'a AccessPolicy>)>) -> Self {
        let mut rules = Self::default();
        for (id, policy) in policies {
            let problem = match policy.map(|policy| (policy, policy.check())) {
                Some((policy, Ok(()))) => {
                    rules.add_policy(id, policy);
                    continue;
                }
                Some((_, Err(error))) => error.to_string(),
                None => "it cannot be read".to_owned(),
            };
            tracing::error!(
                policy = id,
                problem,
                "an access policy cannot be used: every call is refused until it is replaced or deleted"
            );
            let whole = PolicyTarget::default();
            let (subjects, targets) = (vec![PolicySubject::Everyone], vec![whole]);
            let closed = AccessRule { effect: Effect::Deny, subjects, targets };
            rules.add(&Arc::from(format!("{id}/unreadable")), &closed);
        }
        rules
    }

    fn add_policy(&mut self, id: &str, policy: &AccessPolicy) {
        if policy.enabled {
            for (number, rule) in policy.rules.iter().enumerate() {
                self.add(&Arc::from(format!("{id}/{number}")), rule);
            }
        }
    }

    fn add(&mut self, name: &Arc<str>, rule: &AccessRule) {
        for target in &rule.targets {
            let part = Arc::new(Part::of(target));
            let concerns = match &target.server {
                Some(server) => self.servers.entry(server.as_str().into()).or_default(),
                None => &mut self.every,
            };
            concerns.reach.parts |= !target.is_whole();
            concerns.reach.uris |= target.resources.is_some();
            let fewer = rule.effect == Effect::Allow && !target.is_whole();
            concerns.reach.resources |= fewer || target.resources.is_some();
            for subject in &rule.subjects {
                let usual = rule.effect == Effect::Allow && *subject == PolicySubject::Everyone && target.is_whole();
                concerns.reach.some |= !usual;
                let clause = Clause { effect: rule.effect, name: Arc::clone(name), part: Arc::clone(&part) };
                concerns.of(subject).push(clause);
            }
        }
    }

    /// How far the rules go that concern a server.
    #[must_use]
    pub fn reach(&self, server: &str) -> Reach {
        self.servers.get(server).map_or(self.every.reach, |own| own.reach.or(self.every.reach))
    }

    /// What the rules say of a caller and a thing. A rule that forbids wins.
    ///
    /// The server itself is let to whoever is let to anything in it, and forbidden only as a whole.
    pub(super) fn decide(&self, caller: Caller<'_>, server: &str, thing: Thing<'_>) -> Verdict {
        let mut allowed = None;
        for concerns in self.servers.get(server).into_iter().chain([&self.every]) {
            for clause in concerns.about(caller) {
                match clause.effect {
                    Effect::Deny if clause.part.forbids(thing) => return Verdict::Denied(Arc::clone(&clause.name)),
                    Effect::Allow if allowed.is_none() && clause.part.lets(thing) => allowed = Some(&clause.name),
                    _ => {}
                }
            }
        }
        allowed.map_or(Verdict::Unmentioned, |name| Verdict::Allowed(Arc::clone(name)))
    }
}

impl Concerns {
    fn of(&mut self, subject: &PolicySubject) -> &mut Vec<Clause> {
        match subject {
            PolicySubject::Everyone => &mut self.everyone,
            PolicySubject::User(id) => self.users.entry(id.as_str().into()).or_default(),
            PolicySubject::Group(id) => self.groups.entry(id.as_str().into()).or_default(),
            PolicySubject::ApiKey(id) => self.keys.entry(id.as_str().into()).or_default(),
            PolicySubject::Client(id) => self.clients.entry(id.as_str().into()).or_default(),
            PolicySubject::Role(role) => {
                let at = self.roles.iter().position(|(known, _)| *known == role.0).unwrap_or_else(|| {
                    self.roles.push((role.0, Vec::new()));
                    self.roles.len() - 1
                });
                &mut self.roles[at].1
            }
        }
    }

    fn about<'a>(&'a self, caller: Caller<'a>) -> impl Iterator<Item = &'a Clause> {
        let user = caller.user.and_then(|id| self.users.get(id));
        let key = caller.key.and_then(|id| self.keys.get(id));
        let client = caller.client.and_then(|id| self.clients.get(id));
        let groups = caller.groups.iter().filter_map(|id| self.groups.get(&**id));
        let roles = self.roles.iter().filter(move |(role, _)| caller.roles.contains(*role)).map(|(_, clauses)| clauses);
        self.everyone.iter().chain(user.into_iter().chain(key).chain(client).chain(groups).chain(roles).flatten())
    }
}

impl Part {
    fn of(target: &PolicyTarget) -> Self {
        if target.is_whole() {
            return Self::Whole;
        }
        let patterns = |texts: &Option<Vec<String>>| texts.iter().flatten().map(|text| Pattern::new(text)).collect();
        Self::Named {
            tools: patterns(&target.tools),
            prompts: patterns(&target.prompts),
            resources: patterns(&target.resources),
        }
    }

    fn names(&self, thing: Thing<'_>) -> bool {
        let Self::Named { tools, prompts, resources } = self else { return true };
        let any = |patterns: &[Pattern], name| patterns.iter().any(|pattern| pattern.fits(name));
        match thing {
            Thing::Server => false,
            Thing::Tool(name) => any(tools, name),
            Thing::Prompt(name) => any(prompts, name),
            Thing::Resource(uri) => any(resources, uri),
            Thing::Either(name) => any(prompts, name) || any(resources, name),
        }
    }

    fn lets(&self, thing: Thing<'_>) -> bool {
        match thing {
            Thing::Server => true,
            Thing::Either(name) => self.names(Thing::Prompt(name)) && self.names(Thing::Resource(name)),
            thing => self.names(thing),
        }
    }

    fn forbids(&self, thing: Thing<'_>) -> bool {
        self.names(thing)
    }
}

impl AccessPolicy {
    /// Checks sizes, and that no list is empty that would make a rule mean nothing.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PolicyError> {
        text("name", &self.name)?;
        length("rules", self.rules.len(), PolicyLimits::RULES)?;
        let mut pairs = 0_usize;
        for (number, rule) in self.rules.iter().enumerate() {
            let at = format!("rules[{number}]");
            some(&format!("{at}.subjects"), rule.subjects.len())?;
            some(&format!("{at}.targets"), rule.targets.len())?;
            pairs = pairs.saturating_add(rule.subjects.len().saturating_mul(rule.targets.len()));
            if pairs > PolicyLimits::PAIRS {
                let most = PolicyLimits::PAIRS;
                let problem =
                    format!("makes more than {most} pairs of a subject and a target; use groups or roles, or split it");
                return wrong(&at, problem);
            }
            for (index, subject) in rule.subjects.iter().enumerate() {
                match subject {
                    PolicySubject::User(id)
                    | PolicySubject::Group(id)
                    | PolicySubject::ApiKey(id)
                    | PolicySubject::Client(id) => text(&format!("{at}.subjects[{index}]"), id)?,
                    PolicySubject::Everyone | PolicySubject::Role(_) => {}
                }
            }
            for (index, target) in rule.targets.iter().enumerate() {
                let at = format!("{at}.targets[{index}]");
                if let Some(server) = &target.server {
                    text(&format!("{at}.server"), server)?;
                }
                for (field, patterns) in
                    [("tools", &target.tools), ("prompts", &target.prompts), ("resources", &target.resources)]
                {
                    let Some(patterns) = patterns else { continue };
                    length(&format!("{at}.{field}"), patterns.len(), PolicyLimits::ITEMS)?;
                    for (index, pattern) in patterns.iter().enumerate() {
                        let at = format!("{at}.{field}[{index}]");
                        text(&at, pattern)?;
                        if field == "resources" && uri::is_misspelled(pattern) {
                            let problem = "fits no URI that is let through; write it in the usual way: scheme and host \
                                           in small letters, no dot segments, %C3%A9 for what must be encoded and \
                                           nothing else encoded";
                            return wrong(&at, problem.to_owned());
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn wrong<T>(field: &str, problem: String) -> Result<T, PolicyError> {
    Err(PolicyError { field: field.to_owned(), problem })
}

fn length(field: &str, length: usize, most: usize) -> Result<(), PolicyError> {
    if length > most { wrong(field, format!("has {length} items; at most {most} are allowed")) } else { Ok(()) }
}

fn some(field: &str, count: usize) -> Result<(), PolicyError> {
    if count == 0 {
        return wrong(field, "is empty: the rule would concern nobody and nothing".to_owned());
    }
    length(field, count, PolicyLimits::ITEMS)
}

fn text(field: &str, text: &str) -> Result<(), PolicyError> {
    if text.is_empty() || text.len() > PolicyLimits::TEXT {
        return wrong(field, format!("must be 1 to {} bytes of text", PolicyLimits::TEXT));
    }
    Ok(())
}
