//! Access rules of a large company.

use std::collections::HashMap;
use std::sync::Arc;

use mcp_gateway_core::policy::{AccessPolicy, AccessRule, AccessRules, Effect, PolicySubject, PolicyTarget, Ruled};
use mcp_gateway_core::record::Subject;

/// Rules in all.
pub const RULES: usize = 10_000;
/// People of a large one, each in five groups.
pub const PEOPLE: usize = 100_000;
/// Servers that the rules are about, beside the one of the benchmarks.
const SERVERS: usize = 100;
const GROUPS: usize = 1_000;
/// Rules of one policy.
const POLICY: usize = 100;

/// Decides by 10,000 rules about so many people: a hundred rules for each of a hundred servers, by person, by group and by
/// part, and one that lets everyone use the server of the benchmarks, [`SERVER`](crate::memory::SERVER).
///
/// # Errors
/// Never in practice: the rules are made here.
pub fn company(people: usize) -> anyhow::Result<Ruled> {
    let server = |number: usize| format!("server-{}", number % SERVERS);
    let mut rules: Vec<AccessRule> = (1..RULES)
        .map(|number| {
            let subject = match number % 3 {
                0 => PolicySubject::User(person(number * 7 % people)),
                _ => PolicySubject::Group(format!("group-{}", number % GROUPS)),
            };
            let parts = (number % 5 == 0).then(|| vec![format!("tool-{number}-*"), "read_*".to_owned()]);
            let target = PolicyTarget { server: Some(server(number)), tools: parts, ..PolicyTarget::default() };
            let effect = if number % 10 == 5 { Effect::Deny } else { Effect::Allow };
            AccessRule { effect, subjects: vec![subject], targets: vec![target] }
        })
        .collect();
    let target = PolicyTarget { server: Some(crate::memory::SERVER.to_owned()), ..PolicyTarget::default() };
    rules.push(AccessRule { effect: Effect::Allow, subjects: vec![PolicySubject::Everyone], targets: vec![target] });
    let policies: Vec<(String, AccessPolicy)> = rules
        .chunks(POLICY)
        .enumerate()
        .map(|(number, rules)| {
            let id = format!("policy-{number}");
            (id.clone(), AccessPolicy { name: id, enabled: true, rules: rules.to_vec() })
        })
        .collect();
    let compiled = AccessRules::compile(policies.iter().map(|(id, policy)| (id.as_str(), policy)))?;
    let groups: Vec<Arc<str>> = (0..GROUPS).map(|number| format!("group-{number}").into()).collect();
    let members: HashMap<String, Arc<[Arc<str>]>> = (0..people)
        .map(|number| (person(number), (0..5).map(|n| Arc::clone(&groups[(number + n * 131) % GROUPS])).collect()))
        .collect();
    let ruled = Ruled::new(Arc::new(compiled));
    Ok(ruled.with_groups(move |subject: &Subject| members.get(&*subject.id).map(Arc::clone).unwrap_or_default()))
}

/// The id of a person.
#[must_use]
pub fn person(number: usize) -> String {
    format!("person-{number}")
}
