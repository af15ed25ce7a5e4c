//! The index decides as reading every rule does.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::index::{Caller, Thing};
use super::pattern::Pattern;
use super::*;
use crate::record::Roles;
use std::sync::Arc;

fn id() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn patterns() -> impl Strategy<Value = Option<Vec<String>>> {
    option::of(vec(select(vec!["*", "a", "a*", "*b", "x*y"]).prop_map(str::to_owned), 0..3))
}

fn subject() -> impl Strategy<Value = PolicySubject> {
    prop_oneof![
        Just(PolicySubject::Everyone),
        id().prop_map(PolicySubject::User),
        id().prop_map(PolicySubject::Group),
        id().prop_map(PolicySubject::ApiKey),
        id().prop_map(PolicySubject::Client),
        select(Roles::NAMES.to_vec()).prop_map(|(role, _)| PolicySubject::Role(RoleName(role))),
    ]
}

fn target() -> impl Strategy<Value = PolicyTarget> {
    (option::of(id()), patterns(), patterns(), patterns())
        .prop_map(|(server, tools, prompts, resources)| PolicyTarget { server, tools, prompts, resources })
}

fn policy() -> impl Strategy<Value = AccessPolicy> {
    let effect = prop_oneof![3 => Just(Effect::Allow), 1 => Just(Effect::Deny)];
    let rule = (effect, vec(subject(), 1..3), vec(target(), 1..3));
    let rule = rule.prop_map(|(effect, subjects, targets)| AccessRule { effect, subjects, targets });
    (prop::bool::weighted(0.9), vec(rule, 0..4)).prop_map(|(enabled, rules)| AccessPolicy {
        name: "p".to_owned(),
        enabled,
        rules,
    })
}

fn is_one(subject: &PolicySubject, caller: &Caller<'_>) -> bool {
    match subject {
        PolicySubject::Everyone => true,
        PolicySubject::User(id) => caller.user == Some(id),
        PolicySubject::Group(id) => caller.groups.iter().any(|group| **group == **id),
        PolicySubject::Role(role) => caller.roles.contains(role.0),
        PolicySubject::ApiKey(id) => caller.key == Some(id),
        PolicySubject::Client(id) => caller.client == Some(id),
    }
}

/// Whether a target is, or holds, a thing.
fn covers(target: &PolicyTarget, server: &str, thing: Thing<'_>, effect: Effect) -> bool {
    if target.server.as_deref().is_some_and(|one| one != server) {
        return false;
    }
    let whole = target.tools.is_none() && target.prompts.is_none() && target.resources.is_none();
    let any = |patterns: &Option<Vec<String>>, name: &str| {
        patterns.iter().flatten().any(|pattern| Pattern::new(pattern).fits(name))
    };
    whole
        || match thing {
            Thing::Server => effect == Effect::Allow,
            Thing::Tool(name) => any(&target.tools, name),
            Thing::Prompt(name) => any(&target.prompts, name),
            Thing::Resource(uri) => any(&target.resources, uri),
            Thing::Either(name) if effect == Effect::Allow => {
                any(&target.prompts, name) && any(&target.resources, name)
            }
            Thing::Either(name) => any(&target.prompts, name) || any(&target.resources, name),
        }
}

/// The names of the rules that say something, and what.
fn naively(policies: &[AccessPolicy], caller: &Caller<'_>, server: &str, thing: Thing<'_>) -> Vec<(Effect, String)> {
    let mut say = Vec::new();
    for (number, policy) in policies.iter().enumerate().filter(|(_, policy)| policy.enabled) {
        for (at, rule) in policy.rules.iter().enumerate() {
            let concerned = rule.subjects.iter().any(|subject| is_one(subject, caller));
            if concerned && rule.targets.iter().any(|target| covers(target, server, thing, rule.effect)) {
                say.push((rule.effect, format!("{number}/{at}")));
            }
        }
    }
    say
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_048))]

    #[test]
    fn the_index_decides_as_reading_every_rule_does(
        policies in vec(policy(), 0..5),
        user in option::of(id()),
        groups in vec(id(), 0..3),
        key in option::of(id()),
        client in option::of(id()),
        role in select(Roles::NAMES.to_vec()),
        server in select(vec!["a", "b", "z"]),
        kind in 0..5_u8,
        name in select(vec!["a", "ab", "b", "xy", ""]),
    ) {
        let ids: Vec<String> = (0..policies.len()).map(|number| number.to_string()).collect();
        let named = ids.iter().map(String::as_str).zip(&policies);
        let rules = AccessRules::compile(named).unwrap();
        let groups: Vec<Arc<str>> = groups.iter().map(|group| Arc::from(&**group)).collect();
        let roles = role.0.with_included();
        let caller = Caller { user: user.as_deref(), groups: &groups, roles, key: key.as_deref(), client: client.as_deref() };
        let thing = match kind {
            0 => Thing::Server,
            1 => Thing::Tool(name),
            2 => Thing::Prompt(name),
            3 => Thing::Resource(name),
            _ => Thing::Either(name),
        };
        let say = naively(&policies, &caller, server, thing);
        let of = |effect| say.iter().filter(|(one, _)| *one == effect).map(|(_, rule)| &**rule).collect::<Vec<_>>();
        match rules.decide(caller, server, thing) {
            Verdict::Denied(rule) => prop_assert!(of(Effect::Deny).contains(&&*rule), "{rule} {say:?}"),
            Verdict::Allowed(rule) => {
                prop_assert!(of(Effect::Deny).is_empty() && of(Effect::Allow).contains(&&*rule), "{rule} {say:?}");
            }
            Verdict::Unmentioned => prop_assert!(say.is_empty(), "{say:?}"),
        }
    }
}
