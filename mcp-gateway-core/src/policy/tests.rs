use std::sync::Arc;

use serde_json::{Value, json};

use super::index::{Caller, Thing};
use super::*;
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Action, Ask, Authorizer as _, Decision, SystemClock, Target};
use crate::record::{Actor, ActorKind, Principal, Roles, ServerList};

#[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
fn policy(rules: Value) -> AccessPolicy {
    serde_json::from_value(json!({ "name": "p", "rules": rules })).unwrap()
}

fn rules(rules: Value) -> AccessRules {
    AccessRules::compile([("p", &policy(rules))]).unwrap()
}

const NOBODY: Caller<'_> = Caller { user: None, groups: &[], roles: Roles::NONE, key: None };

fn says(rules: &AccessRules, caller: Caller<'_>, server: &str, thing: Thing<'_>) -> String {
    match rules.decide(caller, server, thing) {
        Verdict::Allowed(rule) => format!("+{rule}"),
        Verdict::Denied(rule) => format!("-{rule}"),
        Verdict::Unmentioned => String::new(),
    }
}

#[test]
fn each_kind_of_subject_is_found_and_no_other() {
    let rules = rules(json!([
        { "effect": "allow", "subjects": [{ "user": "ada" }], "targets": [{ "server": "a" }] },
        { "effect": "allow", "subjects": [{ "group": "ada" }], "targets": [{ "server": "b" }] },
        { "effect": "allow", "subjects": [{ "apiKey": "ada" }], "targets": [{ "server": "c" }] },
        { "effect": "allow", "subjects": [{ "role": "power_user" }], "targets": [{ "server": "d" }] },
        { "effect": "allow", "subjects": ["everyone"], "targets": [{ "server": "e" }] },
    ]));
    let group = [Arc::from("ada")];
    let callers = [
        (Caller { user: Some("ada"), ..NOBODY }, "a"),
        (Caller { groups: &group, ..NOBODY }, "b"),
        (Caller { key: Some("ada"), ..NOBODY }, "c"),
        (Caller { roles: Roles::POWER_USER, ..NOBODY }, "d"),
    ];
    for (caller, own) in callers {
        for (number, server) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            let expected = if server == own || server == "e" { format!("+p/{number}") } else { String::new() };
            assert_eq!(says(&rules, caller, server, Thing::Server), expected, "{caller:?} {server}");
        }
    }
}

#[test]
fn what_forbids_wins_wherever_it_stands() {
    let allow = json!({ "effect": "allow", "subjects": ["everyone"], "targets": [{}] });
    let deny = json!({ "effect": "deny", "subjects": [{ "user": "eve" }], "targets": [{ "server": "a" }] });
    for (number, order) in [json!([allow, deny]), json!([deny, allow])].into_iter().enumerate() {
        let rules = rules(order);
        let eve = Caller { user: Some("eve"), ..NOBODY };
        assert_eq!(says(&rules, eve, "a", Thing::Tool("x")), format!("-p/{}", 1 - number));
        assert_eq!(says(&rules, eve, "b", Thing::Tool("x")), format!("+p/{number}"));
        assert_eq!(says(&rules, NOBODY, "a", Thing::Server), format!("+p/{number}"));
    }
}

#[test]
fn parts_of_a_server_are_what_they_name() {
    let rules = rules(json!([
        { "effect": "allow", "subjects": ["everyone"],
          "targets": [{ "server": "a", "tools": ["read_*"], "resources": ["file:///*"] }] },
        { "effect": "deny", "subjects": ["everyone"], "targets": [{ "server": "a", "tools": ["*_secret"] }] },
    ]));
    for (thing, expected) in [
        (Thing::Server, "+p/0"),
        (Thing::Tool("read_x"), "+p/0"),
        (Thing::Tool("write_x"), ""),
        (Thing::Tool("read_secret"), "-p/1"),
        (Thing::Prompt("read_x"), ""),
        (Thing::Resource("file:///x"), "+p/0"),
        (Thing::Resource("http://x"), ""),
        (Thing::Reference("file:///x"), "+p/0"),
        (Thing::Reference("read_x"), ""),
    ] {
        assert_eq!(says(&rules, NOBODY, "a", thing), expected, "{thing:?}");
    }
}

#[test]
fn a_policy_that_is_off_does_nothing() {
    let mut off = policy(json!([{ "effect": "allow", "subjects": ["everyone"], "targets": [{}] }]));
    off.enabled = false;
    let rules = AccessRules::compile([("p", &off)]).unwrap();
    assert_eq!(says(&rules, NOBODY, "a", Thing::Server), "");
}

#[test]
fn what_is_wrong_is_named() {
    let rule =
        |subjects: Value, targets: Value| json!([{ "effect": "deny", "subjects": subjects, "targets": targets }]);
    for (rules, field) in [
        (rule(json!([]), json!([{}])), "rules[0].subjects"),
        (rule(json!(["everyone"]), json!([])), "rules[0].targets"),
        (rule(json!([{ "user": "" }]), json!([{}])), "rules[0].subjects[0]"),
        (rule(json!([{ "group": "x".repeat(1_025) }]), json!([{}])), "rules[0].subjects[0]"),
        (rule(json!(["everyone"]), json!([{ "server": "" }])), "rules[0].targets[0].server"),
        (rule(json!(["everyone"]), json!([{ "tools": ["a", ""] }])), "rules[0].targets[0].tools[1]"),
        (rule(json!(["everyone"]), json!([{ "prompts": vec!["a"; 1_001] }])), "rules[0].targets[0].prompts"),
        (rule(json!(vec!["everyone"; 1_001]), json!([{}])), "rules[0].subjects"),
    ] {
        assert_eq!(policy(rules).check().unwrap_err().field, field);
    }
    let edge = rule(json!(vec![json!({ "user": "x".repeat(1_024) }); 1_000]), json!([{ "tools": vec!["a"; 1_000] }]));
    policy(edge).check().unwrap();
    for wrong in [
        json!([{ "effect": "allow", "subjects": [{ "role": "king" }], "targets": [{}] }]),
        json!([{ "effect": "allow", "subjects": ["nobody"], "targets": [{}] }]),
        json!([{ "effect": "allow", "subjects": ["everyone"], "targets": [{ "tool": ["a"] }] }]),
    ] {
        assert!(serde_json::from_value::<AccessPolicy>(json!({ "name": "p", "rules": wrong })).is_err());
    }
}

#[test]
fn a_policy_is_kept_as_it_was_written() {
    let text = json!({ "name": "p", "enabled": true, "rules": [{ "effect": "deny",
        "subjects": ["everyone", { "user": "a" }, { "group": "b" }, { "role": "admin" }, { "apiKey": "c" }],
        "targets": [{}, { "server": "s" }, { "server": "s", "tools": [], "prompts": ["p"], "resources": ["r"] }] }] });
    let policy: AccessPolicy = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(serde_json::to_value(policy).unwrap(), text);
}

#[test]
fn the_credential_and_the_rules_must_both_let() {
    let everyone = |target: Value| json!({ "effect": "allow", "subjects": ["everyone"], "targets": [target] });
    let ruled = Ruled::new(Arc::new(rules(json!([
        everyone(json!({ "server": "a" })),
        { "effect": "allow", "subjects": [{ "apiKey": "k" }], "targets": [{ "server": "b" }] },
        { "effect": "allow", "subjects": [{ "role": "basic" }], "targets": [{ "server": "c" }] },
        { "effect": "allow", "subjects": [{ "user": "ada" }], "targets": [{ "server": "d" }] },
    ]))));
    let cx = McpContext::new(&SystemClock);
    let decide = |principal: &Principal, server: &str, method: &str, name: Option<&str>| -> Decision {
        let (action, target) = (Action::Method(method), Target { server, name });
        match ruled.decide(&Ask { principal, action, target, cx: &cx, arguments: None }) {
            MaybeReady::Ready(decision) => decision,
            MaybeReady::Wait(_) => panic!("nothing to wait for"),
        }
    };
    let ada = Principal::new("local", "ada").with_servers(ServerList::Only([Box::from("a"), "z".into()].into()));
    assert_eq!(&*decide(&ada, "a", "tools/call", Some("x")).rule, "p/0");
    assert_eq!(&*decide(&ada, "z", "tools/list", None).rule, "no-rule");
    let beyond = decide(&ada, "b", "tools/list", None);
    assert_eq!((beyond.allow, beyond.hidden, &*beyond.rule), (false, true, "credential-servers"));
    let key = Actor { kind: ActorKind::ApiKey, id: "k".into(), name: None };
    assert!(decide(&Principal::new("x", "y").with_actor(key), "b", "ping", None).allow);
    assert!(!decide(&Principal::new("x", "k"), "b", "ping", None).allow);
    assert!(decide(&Principal::new("x", "y").with_roles(Roles::OWNER), "c", "ping", None).allow);
    // A subject of another issuer is not the person of that name here.
    assert!(decide(&Principal::new("local", "ada"), "d", "ping", None).allow);
    assert!(!decide(&Principal::new("https://login.example", "ada"), "d", "ping", None).allow);
    ruled.replace(Arc::default());
    assert!(!decide(&ada, "a", "ping", None).allow);
}
