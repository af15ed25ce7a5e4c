use std::sync::Arc;

use serde_json::{Value, json};

use super::index::{Caller, Thing};
use super::*;
use crate::MaybeReady;
use crate::context::{Completes, McpContext, MessageFacts};
use crate::contract::{Action, Ask, Authorizer as _, Decision, SystemClock, Target};
use crate::record::{Actor, ActorKind, Principal, Roles, ServerList};

#[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
fn policy(rules: Value) -> AccessPolicy {
    serde_json::from_value(json!({ "name": "p", "rules": rules })).unwrap()
}

fn rules(rules: Value) -> AccessRules {
    AccessRules::compile([("p", &policy(rules))]).unwrap()
}

const NOBODY: Caller<'_> = Caller { user: None, groups: &[], roles: Roles::NONE, key: None, client: None };

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
        { "effect": "allow", "subjects": [{ "client": "ada" }], "targets": [{ "server": "f" }] },
    ]));
    let group = [Arc::from("ada")];
    let callers = [
        (Caller { user: Some("ada"), ..NOBODY }, "a"),
        (Caller { groups: &group, ..NOBODY }, "b"),
        (Caller { key: Some("ada"), ..NOBODY }, "c"),
        (Caller { roles: Roles::POWER_USER, ..NOBODY }, "d"),
        (Caller { client: Some("ada"), ..NOBODY }, "f"),
    ];
    for (caller, own) in callers {
        for (number, server) in ["a", "b", "c", "d", "e", "f", "g"].into_iter().enumerate() {
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
        // Of what nobody knows whether it is a prompt or a resource, both must be let.
        (Thing::Either("file:///x"), ""),
        (Thing::Either("read_x"), ""),
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
        (rule(json!(["everyone"]), json!([{ "server": "x".repeat(1_025) }])), "rules[0].targets[0].server"),
        (rule(json!([{ "client": "" }]), json!([{}])), "rules[0].subjects[0]"),
        (rule(json!(["everyone"]), json!([{ "prompts": vec!["a"; 1_001] }])), "rules[0].targets[0].prompts"),
        (
            rule(json!(["everyone"]), json!([{ "resources": ["a:*", "memo:///\u{e9}*"] }])),
            "rules[0].targets[0].resources[1]",
        ),
        (rule(json!(["everyone"]), json!([{ "resources": ["HTTPS://h/*"] }])), "rules[0].targets[0].resources[0]"),
        (rule(json!(vec!["everyone"; 1_001]), json!([{}])), "rules[0].subjects"),
        (rule(json!(vec!["everyone"; 101]), json!(vec![json!({}); 100])), "rules[0]"),
    ] {
        assert_eq!(policy(rules).check().unwrap_err().field, field);
    }
    let edge = rule(json!(vec![json!({ "user": "x".repeat(1_024) }); 1_000]), json!([{ "tools": vec!["a"; 1_000] }]));
    policy(edge).check().unwrap();
    let pairs = rule(json!(vec!["everyone"; 100]), json!(vec![json!({}); 100]));
    policy(pairs.clone()).check().unwrap();
    // Of all rules together.
    let one = rule(json!(["everyone"]), json!([{}]));
    assert_eq!(policy(json!([pairs[0], one[0]])).check().unwrap_err().field, "rules[1]");
    policy(json!(vec![one[0].clone(); 1_000])).check().unwrap();
    assert_eq!(policy(json!(vec![one[0].clone(); 1_001])).check().unwrap_err().field, "rules");
    for (length, good) in [(0, false), (1, true), (1_024, true), (1_025, false)] {
        let named = AccessPolicy { name: "x".repeat(length), ..policy(json!([])) };
        assert_eq!(named.check().is_ok(), good, "{length}");
    }
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
        "subjects": ["everyone", { "user": "a" }, { "group": "b" }, { "role": "admin" }, { "apiKey": "c" }, { "client": "d" }],
        "targets": [{}, { "server": "s" }, { "server": "s", "tools": [], "prompts": ["p"], "resources": ["r:*"] }] }] });
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
        { "effect": "allow", "subjects": [{ "client": "k" }], "targets": [{ "server": "e" }] },
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
    // A key and a client of the same id are not each other.
    let client =
        Principal::new("client", "k").with_actor(Actor { kind: ActorKind::Client, id: "k".into(), name: None });
    assert!(decide(&client, "e", "ping", None).allow && !decide(&client, "b", "ping", None).allow);
    assert!(decide(&Principal::new("x", "y").with_roles(Roles::OWNER), "c", "ping", None).allow);
    // A subject of another issuer is not the person of that name here.
    assert!(decide(&Principal::new("local", "ada"), "d", "ping", None).allow);
    assert!(!decide(&Principal::new("https://login.example", "ada"), "d", "ping", None).allow);
    ruled.replace(Arc::default());
    assert!(!decide(&ada, "a", "ping", None).allow);
}

#[test]
fn how_far_rules_go_is_told_for_each_server() {
    let allow =
        |subject: Value, target: Value| json!({ "effect": "allow", "subjects": [subject], "targets": [target] });
    let open = allow(json!("everyone"), json!({}));
    let of = |rule: Value| rules(json!([open, rule]));
    let deny = |target: Value| json!({ "effect": "deny", "subjects": ["everyone"], "targets": [target] });
    for (rule, some, parts, resources, uris) in [
        (allow(json!("everyone"), json!({ "server": "a" })), false, false, false, false),
        (allow(json!({ "group": "g" }), json!({ "server": "a" })), true, false, false, false),
        // Who may use no more than a tool may read no resource.
        (allow(json!("everyone"), json!({ "server": "a", "tools": ["x"] })), true, true, true, false),
        (deny(json!({ "server": "a", "tools": ["x"] })), true, true, false, false),
        (deny(json!({ "server": "a", "resources": ["x"] })), true, true, true, true),
        (allow(json!("everyone"), json!({ "server": "a", "resources": [] })), true, true, true, true),
    ] {
        let reach = Reach { some, parts, resources, uris };
        assert_eq!(of(rule.clone()).reach("a"), reach, "{rule}");
        assert_eq!(of(rule).reach("b"), Reach::default());
    }
    let everywhere = deny(json!({ "prompts": ["x"] }));
    let parts = Reach { some: true, parts: true, ..Reach::default() };
    assert_eq!(of(everywhere).reach("b"), parts);
    // Streams that were opened before are to be opened again when rules look further into them.
    let resources = Reach { resources: true, uris: true, ..parts };
    let some = Reach { some: true, ..Reach::default() };
    for (now, before, outgrows) in [
        (parts, some, true),
        (resources, parts, true),
        (resources, resources, false),
        (some, Reach::default(), false),
        (Reach::default(), resources, false),
    ] {
        assert_eq!(now.outgrows(before), outgrows, "{now:?} {before:?}");
    }
}

#[test]
fn a_kept_policy_that_is_no_good_forbids_everything() {
    let good = policy(json!([{ "effect": "allow", "subjects": ["everyone"], "targets": [{}] }]));
    let wrong = policy(json!([{ "effect": "allow", "subjects": [], "targets": [{}] }]));
    for (bad, kept) in [("bad", None), ("wrong", Some(&wrong))] {
        let rules = AccessRules::of_kept([("good", Some(&good)), (bad, kept)]);
        assert_eq!(says(&rules, NOBODY, "a", Thing::Tool("x")), format!("-{bad}/unreadable"));
    }
    let rules = AccessRules::of_kept([("good", Some(&good))]);
    assert_eq!(says(&rules, NOBODY, "a", Thing::Tool("x")), "+good/0");
}

fn asked(ruled: &Ruled, cx: &McpContext, method: &str, name: Option<&str>) -> String {
    let ada = Principal::new("local", "ada");
    let (action, target) = (Action::Method(method), Target { server: "a", name });
    match ruled.decide(&Ask { principal: &ada, action, target, cx, arguments: None }) {
        MaybeReady::Ready(decision) => format!("{}{}", if decision.allow { '+' } else { '-' }, decision.rule),
        MaybeReady::Wait(_) => panic!("nothing to wait for"),
    }
}

#[test]
fn where_rules_name_parts_what_they_cannot_name_is_denied() {
    let rule = |target: Value| json!({ "effect": "allow", "subjects": ["everyone"], "targets": [target] });
    let whole = Ruled::new(Arc::new(rules(json!([rule(json!({ "server": "a" }))]))));
    let parts = json!({ "server": "a", "resources": ["file:///a/*"] });
    let parts = Ruled::new(Arc::new(rules(json!([rule(parts)]))));
    let cx = McpContext::new(&SystemClock);
    for (method, name, of_whole, of_parts) in [
        ("ping", None, "+p/0", "+p/0"),
        ("tools/list", None, "+p/0", "+p/0"),
        // Whose task it is, nobody knows.
        ("tasks/list", None, "+p/0", "-unruled-method"),
        ("tasks/get", Some("t"), "+p/0", "-unruled-method"),
        ("tasks/result", Some("t"), "+p/0", "-unruled-method"),
        ("tasks/update", Some("t"), "+p/0", "-unruled-method"),
        ("tasks/cancel", Some("t"), "+p/0", "-unruled-method"),
        ("tools/call ", Some("x"), "+p/0", "-unruled-method"),
        ("x/invoke", None, "+p/0", "-unruled-method"),
        ("tools/call", Some("x"), "+p/0", "-no-rule"),
        ("resources/read", Some("file:///a/b"), "+p/0", "+p/0"),
        ("resources/read", Some("file:///b"), "+p/0", "-no-rule"),
        ("resources/read", Some("file:///a/../b"), "+p/0", "-ambiguous-uri"),
        ("resources/read", Some("file://localhost/a/b"), "+p/0", "-ambiguous-uri"),
        ("resources/read", Some("file:///a/{b}"), "+p/0", "-ambiguous-uri"),
        ("resources/templates/list", Some("file:///a/{b}"), "+p/0", "+p/0"),
        ("resources/templates/list", Some("file:///a//{b}"), "+p/0", "-ambiguous-uri"),
        ("resources/subscribe", Some("file:///a/%2e%2e/b"), "+p/0", "-ambiguous-uri"),
    ] {
        assert_eq!(asked(&whole, &cx, method, name), of_whole, "{method} {name:?}");
        assert_eq!(asked(&parts, &cx, method, name), of_parts, "{method} {name:?}");
    }
}

#[test]
fn a_completion_is_of_what_it_says_and_of_nothing_else() {
    let rule =
        json!([{ "effect": "allow", "subjects": ["everyone"], "targets": [{ "server": "a", "prompts": ["*"] }] }]);
    let ruled = Ruled::new(Arc::new(rules(rule)));
    for (completes, expected) in
        [(Some(Completes::Prompt), "+p/0"), (Some(Completes::Resource), "-no-rule"), (None, "-no-rule")]
    {
        let cx = McpContext::new(&SystemClock);
        cx.set_message(MessageFacts { completes, ..MessageFacts::none() }).unwrap();
        assert_eq!(asked(&ruled, &cx, "completion/complete", Some("a:b")), expected, "{completes:?}");
    }
}
