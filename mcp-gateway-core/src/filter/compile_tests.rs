use serde_json::{Value, json};

use super::*;

fn compile(change: impl FnOnce(&mut Value)) -> Result<Compiled, String> {
    let mut spec = json!({ "name": "n", "check": { "kind": "secrets", "action": "redact" } });
    change(&mut spec);
    let spec: FilterSpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
    Compiled::new("f", &spec).map_err(|error| error.field)
}

#[test]
fn what_is_not_said_has_a_default() {
    let one = compile(|_| {}).unwrap();
    assert!(one.enabled && one.short_circuit && !one.open);
    assert_eq!((one.order, one.retries, one.timeout), (0, 0, Duration::from_secs(5)));
}

#[test]
fn limits_hold_at_their_edges() {
    let text = |length: usize| Value::from("x".repeat(length));
    let items = |count: usize| Value::from(vec!["x"; count]);
    let check = |value: Value| move |spec: &mut Value| spec["check"] = value;
    let regex = |count: usize, pattern: &str| {
        let one = json!({ "name": "p", "pattern": pattern });
        json!({ "kind": "regex", "action": "refuse", "patterns": vec![one; count] })
    };
    type Change = Box<dyn FnOnce(&mut Value)>;
    let cases: Vec<(Change, Option<&str>)> = vec![
        (Box::new(move |spec| spec["name"] = text(1_024)), None),
        (Box::new(move |spec| spec["name"] = text(1_025)), Some("name")),
        (Box::new(move |spec| spec["name"] = text(0)), Some("name")),
        (Box::new(move |spec| spec["message"] = text(1_025)), Some("message")),
        (Box::new(|spec| spec["selectors"] = vec![json!({}); 100].into()), None),
        (Box::new(|spec| spec["selectors"] = vec![json!({}); 101].into()), Some("selectors")),
        (Box::new(move |spec| spec["selectors"] = json!([{ "methods": items(100) }])), None),
        (Box::new(move |spec| spec["selectors"] = json!([{ "methods": items(101) }])), Some("selectors[0].methods")),
        (Box::new(|spec| spec["selectors"] = json!([{ "servers": [] }])), Some("selectors[0].servers")),
        (Box::new(|spec| spec["selectors"] = json!([{ "directions": [] }])), Some("selectors[0].directions")),
        (
            Box::new(move |spec| spec["selectors"] = json!([{ "targets": [text(1_025)] }])),
            Some("selectors[0].targets[0]"),
        ),
        (Box::new(|spec| spec["timeout_ms"] = 60_000.into()), None),
        (Box::new(|spec| spec["timeout_ms"] = 60_001.into()), Some("timeout_ms")),
        (Box::new(|spec| spec["timeout_ms"] = 0.into()), Some("timeout_ms")),
        (Box::new(|spec| spec["retries"] = 5.into()), None),
        (Box::new(|spec| spec["retries"] = 6.into()), Some("retries")),
        (Box::new(check(regex(100, "a"))), None),
        (Box::new(check(regex(101, "a"))), Some("check.patterns")),
        (Box::new(check(regex(0, "a"))), Some("check.patterns")),
        (Box::new(check(regex(1, "("))), Some("check.patterns[0].pattern")),
        (Box::new(check(regex(1, r"\w{100}"))), Some("check.patterns[0].pattern")),
        (Box::new(check(regex(1, "[a-z]{100}"))), None),
        (
            Box::new(check(
                json!({ "kind": "regex", "action": "flag", "patterns": [{ "name": "A", "pattern": "a" }] }),
            )),
            Some("check.patterns[0].name"),
        ),
        (Box::new(check(json!({ "kind": "pii", "action": "flag", "types": ["iban"] }))), None),
        (Box::new(check(json!({ "kind": "pii", "action": "flag", "types": ["iban", "x"] }))), Some("check.types[1]")),
        (Box::new(check(json!({ "kind": "secrets", "action": "flag", "types": [] }))), Some("check.types")),
        (Box::new(check(json!({ "kind": "size", "action": "flag", "bytes": 1 }))), None),
        (Box::new(check(json!({ "kind": "size", "action": "redact", "bytes": 1 }))), Some("check.action")),
        (Box::new(check(json!({ "kind": "elicitation_url", "action": "redact" }))), Some("check.action")),
        (
            Box::new(check(json!({ "kind": "elicitation_url", "action": "refuse", "hosts": ["a.example", "*.b"] }))),
            None,
        ),
        (
            Box::new(check(json!({ "kind": "elicitation_url", "action": "refuse", "hosts": ["A.example"] }))),
            Some("check.hosts[0]"),
        ),
        (
            Box::new(check(json!({ "kind": "elicitation_url", "action": "refuse", "hosts": ["10.0.0.1"] }))),
            Some("check.hosts[0]"),
        ),
        (Box::new(check(json!({ "kind": "webhook", "url": "https://a.example/x?y" }))), None),
        (Box::new(check(json!({ "kind": "webhook", "url": "ftp://a.example/" }))), Some("check.url")),
        (Box::new(check(json!({ "kind": "webhook", "url": "https://u:p@a.example/" }))), Some("check.url")),
        (Box::new(check(json!({ "kind": "webhook", "url": "/x" }))), Some("check.url")),
    ];
    for (number, (change, wrong)) in cases.into_iter().enumerate() {
        assert_eq!(compile(change).map(drop).err().as_deref(), wrong, "case {number}");
    }
}

#[test]
fn nothing_unknown_is_read() {
    let unknown: [fn(&mut Value); 6] = [
        |spec| spec["priority"] = 1.into(),
        |spec| spec["selectors"] = json!([{ "server": "a" }]),
        |spec| spec["check"]["pattern"] = "x".into(),
        |spec| spec["check"]["kind"] = "virus".into(),
        |spec| spec["check"]["action"] = "drop".into(),
        |spec| spec["fail_mode"] = "ajar".into(),
    ];
    for change in unknown {
        assert!(compile(change).is_err_and(|error| error.contains("unknown")));
    }
}
