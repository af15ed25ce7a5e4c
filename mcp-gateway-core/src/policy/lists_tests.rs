use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::context::Completes;
use crate::contract::{Direction, SystemClock};
use crate::layer::peek::{PeekOptions, inspect};
use crate::policy::{AccessPolicy, AccessRules, Ruled};
use crate::record::{Principal, Route, ServerRequests};

/// A filter by which everyone may use everything but these targets, and a context of ada on the server `a`.
fn filter(targets: &Value, subjects: &Value) -> (RuleFilter, McpContext) {
    filter_by(&json!([
        { "effect": "allow", "subjects": ["everyone"], "targets": [{}] },
        { "effect": "deny", "subjects": subjects, "targets": targets },
    ]))
}

fn filter_by(rules: &Value) -> (RuleFilter, McpContext) {
    let policy: AccessPolicy = serde_json::from_value(json!({ "name": "p", "rules": rules })).unwrap();
    let ruled = Arc::new(Ruled::new(Arc::new(AccessRules::compile([("p", &policy)]).unwrap())));
    let asked = Arc::clone(&ruled);
    let cx = McpContext::new(&SystemClock);
    cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
    cx.set_route(Arc::new(Route::remote("a"))).unwrap();
    (RuleFilter::new(ruled, move |server| asked.reach(server)), cx)
}

fn view(direction: Direction, method: Option<&str>, body: &str) -> View {
    View { direction, method: method.map(Into::into), target: None, body: Bytes::copy_from_slice(body.as_bytes()) }
}

async fn answered(filter: &RuleFilter, cx: &McpContext, body: &str) -> Verdict {
    filter.response(cx, &view(Direction::Response, None, body)).await
}

#[tokio::test]
async fn what_the_caller_may_not_use_is_left_out() {
    let targets = json!([{ "server": "a", "tools": ["x*"], "prompts": ["x*"], "resources": ["file:///x*"] }]);
    let (filter, cx) = filter(&targets, &json!([{ "user": "ada" }]));
    for (before, after) in [
        (r#"{"result":{"tools":[{"name":"xa"},{"name":"b"}],"y":1}}"#, r#"{"result":{"tools":[{"name":"b"}],"y":1}}"#),
        (r#"{"result":{"prompts":[{"name":"xa"}]}}"#, r#"{"result":{"prompts":[]}}"#),
        (
            r#"{"result":{"resources":[{"uri":"file:///x"},{"uri":"FILE:///x"},{"uri":"file:///b"}]}}"#,
            r#"{"result":{"resources":[{"uri":"file:///b"}]}}"#,
        ),
        (
            r#"{"result":{"resourceTemplates":[{"uriTemplate":"file:///x{y}"},{"uriTemplate":"file:///{+y}"}]}}"#,
            r#"{"result":{"resourceTemplates":[{"uriTemplate":"file:///{+y}"}]}}"#,
        ),
        (r#"{"result":{"tools":[{}],"cacheScope":"public"}}"#, r#"{"result":{"tools":[],"cacheScope":"private"}}"#),
    ] {
        let expected = Verdict::Replace(Bytes::copy_from_slice(after.as_bytes()));
        assert_eq!(answered(&filter, &cx, before).await, expected, "{before}");
    }
    for same in [r#"{"result":{"tools":[{"name":"b"}]}}"#, r#"{"error":{"code":-1,"message":"m"}}"#] {
        assert_eq!(answered(&filter, &cx, same).await, Verdict::Pass);
    }
    let twice = r#"{"result":{"tools":[{"name":"b","name":"xa"}]}}"#;
    assert!(matches!(answered(&filter, &cx, twice).await, Verdict::Failed { .. }));
    assert!(!filter.fail_open());
}

#[tokio::test]
async fn a_listener_hears_of_nothing_that_it_may_not_read() {
    let (filter, cx) = filter(&json!([{ "server": "a", "resources": ["file:///x*"] }]), &json!(["everyone"]));
    let listen = |uris: &str| {
        format!(
            r#"{{"id":1,"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":[{uris}]}}}}}}"#
        )
    };
    let asked = view(Direction::Request, None, &listen(r#""file:///b","file:///x""#));
    assert_eq!(filter.request(&cx, &asked).await, Verdict::Replace(listen(r#""file:///b""#).into()));
    let updated = Some("notifications/resources/updated");
    let event =
        |params: &str| format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{params}}}"#);
    let hears = async |params: &str| filter.event(&cx, &view(Direction::Event, updated, &event(params))).await;
    assert_eq!(hears(r#"{"uri":"file:///b"}"#).await, Verdict::Pass);
    assert!(matches!(hears(r#"{"uri":"file:///x"}"#).await, Verdict::Refuse { .. }));
    let twice = view(Direction::Request, None, &listen(r#""file:///b"],"resourceSubscriptions":["file:///x""#));
    assert!(matches!(filter.request(&cx, &twice).await, Verdict::Refuse { .. }), "the caller's fault");
    assert!(matches!(hears(r#"{"uri":7}"#).await, Verdict::Failed { .. }));
    assert!(matches!(hears(r#"{"uri":"file:///b","uri":"file:///x"}"#).await, Verdict::Failed { .. }));
    let other = view(Direction::Event, Some("notifications/message"), "{}");
    assert_eq!(filter.event(&cx, &other).await, Verdict::Pass);
}

#[tokio::test]
async fn who_may_read_no_resource_hears_of_none() {
    let rules = json!([{ "effect": "allow", "subjects": ["everyone"], "targets": [{ "tools": ["*"] }] }]);
    let (filter, cx) = filter_by(&rules);
    let needs = |method| {
        filter.needs(&Head {
            server: "a",
            method,
            target: None,
            era: Era::Modern,
            server_requests: ServerRequests::default(),
        })
    };
    assert_eq!(needs(Some("subscriptions/listen")), Needs { request: true, response: false, events: true });
    assert!(needs(None).events && needs(Some("tools/call")).events);
    let listen = |uris: &str| {
        format!(
            r#"{{"id":1,"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":[{uris}]}}}}}}"#
        )
    };
    let asked = filter.request(&cx, &view(Direction::Request, None, &listen(r#""test://x""#))).await;
    assert_eq!(asked, Verdict::Replace(listen("").into()));
    let event = |method: &'static str| {
        let body = r#"{"jsonrpc":"2.0","method":"m","params":{"uri":"test://x"}}"#;
        view(Direction::Event, Some(method), body)
    };
    // Nor of tasks, of which nobody knows by whom they were begun.
    for method in ["notifications/resources/updated", "notifications/tasks", "notifications/tasks/status"] {
        assert!(matches!(filter.event(&cx, &event(method)).await, Verdict::Refuse { .. }), "{method}");
    }
}

#[test]
fn nothing_is_read_of_what_no_rule_is_about() {
    let methods = [
        Some("tools/list"),
        Some("resources/templates/list"),
        Some("resources/read"),
        Some("server/discover"),
        Some("subscriptions/listen"),
        Some("tools/call"),
        None,
    ];
    let wants = |targets: &Value, server: &str, era| -> String {
        let (filter, _) = filter(targets, &json!([{ "user": "eve" }]));
        let mut wants: String = methods
            .iter()
            .map(|method| {
                match filter.needs(&Head {
                    server,
                    method: *method,
                    target: None,
                    era,
                    server_requests: ServerRequests::default(),
                }) {
                    Needs { request: false, response: false, events: false } => '-',
                    Needs { response: true, events: true, .. } => 'b',
                    Needs { response: true, .. } => 'r',
                    Needs { .. } => 'e',
                }
            })
            .collect();
        wants.push(if filter.resumed(server) { 'R' } else { '-' });
        wants
    };
    let (whole, tools) = (json!([{ "server": "a" }]), json!([{ "server": "a", "tools": ["x"] }]));
    let resources = json!([{ "server": "a", "resources": ["x"] }]);
    // `b` is both: the response, and events before it.
    for (targets, legacy, modern) in
        [(&whole, "--------", "rrrr----"), (&tools, "rr--e-eR", "rrrre-eR"), (&resources, "bbeeeeeR", "bbbbeeeR")]
    {
        assert_eq!(wants(targets, "a", Era::Legacy), legacy, "{targets}");
        assert_eq!(wants(targets, "a", Era::Modern), modern, "{targets}");
        assert_eq!(wants(targets, "b", Era::Modern), "--------", "{targets}");
    }
}

#[test]
fn what_is_completed_is_a_fact() {
    for (kind, member, completes) in
        [("prompt", "name", Some(Completes::Prompt)), ("resource", "uri", Some(Completes::Resource))]
    {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{{"type":"ref/{kind}","{member}":"x"}}}}}}"#
        );
        let headers =
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let facts = inspect(&headers, &Bytes::from(body), &PeekOptions::default()).unwrap();
        assert_eq!((facts.completes, facts.target.as_deref()), (completes, Some("x")));
    }
}
