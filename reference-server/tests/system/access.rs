//! Who may use what, as clients and servers see it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::{Browser, parameters};
use crate::support::client::Client;
use crate::support::gateway::remote;
use crate::support::mcp::{self, LEGACY, Session};
use crate::support::{Answer, Call, Fixture, Gateway, Key, Upstream, until, upstream};

/// Puts a policy beside the first one, or instead of it.
async fn rules(gateway: &Gateway, id: &str, rules: Value) {
    gateway.admin(Call::delete(&format!("/api/v1/policies/{id}"))).await;
    let policy = json!({ "id": id, "name": id, "rules": rules });
    gateway.admin(Call::post("/api/v1/policies", policy.to_string())).await.expect(201);
}

#[allow(clippy::needless_pass_by_value, reason = "json! makes values")]
fn rule(effect: &str, target: Value) -> Value {
    json!({ "effect": effect, "subjects": ["everyone"], "targets": [target] })
}

fn names(answer: &Answer, list: &str, member: &str) -> Vec<String> {
    let json = answer.json();
    let items = json["result"][list].as_array().unwrap_or_else(|| panic!("no {list} in {json}"));
    items.iter().map(|item| item[member].as_str().unwrap().to_owned()).collect()
}

fn modern(key: &Key, method: &str, params: Value) -> Call {
    mcp::modern("fixture", key, &mcp::modern_request(1, method, params))
}

#[tokio::test]
async fn on_the_first_day_everyone_may_and_without_a_rule_nobody() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    let mut stream = session.get().open(gateway.address).await;
    let call = mcp::modern_tool("fixture", &key, 1, "test_simple_text", &json!({}));
    call.clone().send(gateway.address).await.expect(200);

    gateway.admin(Call::delete("/api/v1/policies/default")).await.expect(204);
    // The answer above is the last moment at which it was allowed. It is as if there were no such server.
    let hidden = call.clone().send(gateway.address).await.expect(404);
    let absent = mcp::modern_tool("absent", &key, 1, "test_simple_text", &json!({}));
    assert_eq!(hidden.body, absent.send(gateway.address).await.expect(404).body);
    session.call(1, "test_simple_text", &json!({})).send(gateway.address).await.expect(404);
    // What was open is cut.
    while stream.chunk().await.is_some() {}
    let rows = gateway.audit_of(2, |row| row["rule"] == "no-rule").await;
    assert!(rows.iter().all(|row| row["outcome"] == "denied" && row["server"] == "fixture"), "{rows:?}");

    rules(&gateway, "one", json!([{ "effect": "allow", "subjects": [{ "apiKey": key.id }], "targets": [{}] }])).await;
    call.clone().send(gateway.address).await.expect(200);
    let other = gateway.key().await;
    mcp::modern_tool("fixture", &other, 1, "test_simple_text", &json!({})).send(gateway.address).await.expect(404);
}

#[tokio::test]
async fn a_deleted_first_policy_does_not_come_back() {
    let fixture = Fixture::start();
    let mut gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    gateway.admin(Call::delete("/api/v1/policies/default")).await.expect(204);
    gateway.kill_and_restart().await;
    let page = gateway.admin(Call::get("/api/v1/policies")).await.expect(200).json();
    assert_eq!(page["items"], json!([]));
    mcp::modern_tool("fixture", &key, 1, "test_simple_text", &json!({})).send(gateway.address).await.expect(404);
}

#[tokio::test]
async fn what_is_denied_is_in_no_list_and_unknown_when_called() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    let list = async |method: &str, legacy: bool| {
        let call = match legacy {
            true => session.post(&mcp::request(1, method, &json!({}))),
            false => modern(&key, method, json!({})),
        };
        call.send(gateway.address).await.expect(200)
    };
    let lists = [
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ];
    let mut before = Vec::new();
    for (method, member, name) in lists {
        before.push(names(&list(method, true).await, member, name));
    }
    let denied = json!({
        "server": "fixture", "tools": ["test_simple_*"], "prompts": ["test_simple_*"],
        "resources": ["test://static-*", "test://template/*"],
    });
    rules(&gateway, "less", json!([rule("deny", denied)])).await;
    let hidden =
        |name: &str| ["test_simple_", "test://static-", "test://template/"].iter().any(|start| name.starts_with(start));
    for legacy in [true, false] {
        for ((method, member, name), before) in lists.iter().zip(&before) {
            let left = names(&list(method, legacy).await, member, name);
            let expected: Vec<_> = before.iter().filter(|name| !hidden(name)).cloned().collect();
            assert!(before.len() > expected.len(), "{method} has something to hide");
            assert_eq!(left, expected, "{method}, legacy: {legacy}");
        }
    }
    fixture.forget().await;
    for (method, params, legacy, code) in [
        ("tools/call", json!({ "name": "test_simple_text", "arguments": {} }), true, -32602),
        ("tools/call", json!({ "name": "test_simple_text", "arguments": {} }), false, -32602),
        ("prompts/get", json!({ "name": "test_simple_prompt" }), true, -32602),
        ("prompts/get", json!({ "name": "test_simple_prompt" }), false, -32602),
        ("resources/read", json!({ "uri": "test://static-text" }), true, -32002),
        ("resources/read", json!({ "uri": "test://static-text" }), false, -32602),
        ("resources/read", json!({ "uri": "TEST://static-text" }), true, -32002),
        ("resources/read", json!({ "uri": "test://st%61tic-text" }), true, -32002),
        ("resources/read", json!({ "uri": "test://static-text#x" }), true, -32002),
        ("tasks/result", json!({ "taskId": "of somebody" }), true, -32602),
        ("tasks/get", json!({ "taskId": "of somebody" }), false, -32602),
        ("resources/subscribe", json!({ "uri": "test://static-text" }), true, -32002),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "test_simple_prompt" }, "argument": { "name": "a", "value": "b" } }),
            true,
            -32602,
        ),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/resource", "uri": "test://template/{id}/data" }, "argument": { "name": "a", "value": "b" } }),
            false,
            -32602,
        ),
        (
            "tools/call",
            json!({ "name": "test_simple_text", "arguments": {}, "requestState": "x", "inputResponses": {} }),
            false,
            -32602,
        ),
        ("tasks/list", json!({}), true, 40301),
    ] {
        let call = match legacy {
            true => session.post(&mcp::request(7, method, &params)),
            false => modern(&key, method, params.clone()),
        };
        let answer = call.send(gateway.address).await;
        answer.expect_error(200, code);
    }
    let unknown = session.post(&mcp::request(7, "x/invoke", &json!({ "name": "test_simple_text" })));
    unknown.send(gateway.address).await.expect_error(200, -32601);
    modern(&key, "x/invoke", json!({})).send(gateway.address).await.expect_error(404, -32601);
    assert_eq!(fixture.seen().await.len(), 0, "the server has seen some of it");
    let rows = gateway.audit_of(10, |row| row["outcome"] == "denied").await;
    assert!(rows.iter().any(|row| row["rule"] == "less/0" && row["target"] == "test_simple_text"), "{rows:?}");
    session.call(8, "test_image_content", &json!({})).send(gateway.address).await.expect(200);
}

/// What readers could understand in two ways, with a denied name in one of them.
#[tokio::test]
async fn no_second_reading_of_a_message_reaches_a_denied_tool() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let denied = json!({ "server": "fixture", "tools": ["test_simple_text"], "resources": ["test://static-text"] });
    rules(&gateway, "less", json!([rule("deny", denied)])).await;
    let session = Session::open(&gateway, "fixture", &key).await;
    fixture.forget().await;
    let head = r#""jsonrpc":"2.0","id":1"#;
    let call = format!(r#"{head},"method":"tools/call""#);
    let (good, bad) = (r#""name":"test_image_content""#, r#""name":"test_simple_text""#);
    let other = r#""params":{"name":"test_image_content"}"#;
    for body in [
        format!(r#"{{{call},"params":{{{bad}}}}}"#),
        format!(r#"{{{call},"params":{{{good},{bad}}}}}"#),
        format!(r#"{{{call},"params":{{{bad},{good}}}}}"#),
        format!(r#"{{{call},"params":{{{good},"Name":"test_simple_text"}}}}"#),
        format!(r#"{{{call},"params":{{{good},"n\u0061me":"test_simple_text"}}}}"#),
        format!(r#"{{{call},"params":{{"name":"test_simple_te\u0078t"}}}}"#),
        format!(r#"{{{call},"params":{{{good}}},"params":{{{bad}}}}}"#),
        format!(r#"{{{call},"params":{{{good}}},"PARAMS":{{{bad}}}}}"#),
        format!(r#"{{{call},"params":["test_simple_text",{{}}]}}"#),
        format!(r#"{{{call},"params":{{"name":["test_simple_text"]}}}}"#),
        format!(r#"{{{head},"method":"ping","method":"tools/call","params":{{{bad}}}}}"#),
        format!(r#"{{{head},"method":"ping","Method":"tools/call","params":{{{bad}}}}}"#),
        format!(r#"{{{head},"method":"tools\u002fcall","params":{{{bad}}}}}"#),
        format!(r#"{{{head},"method":"tools/call ","params":{{{bad}}}}}"#),
        format!(r#"{{{head},"method":"Tools/Call","params":{{{bad}}}}}"#),
        format!(r#"{{{head},"method":"tools/call\u0000","params":{{{bad}}}}}"#),
        format!(r#"{{{call},"params":{{{bad}}},"result":{{}}}}"#),
        format!(r#"[{{{call},{other}}},{{{call},"params":{{{bad}}}}}]"#),
        format!(r#"["2.0",1,"tools/call",{{{bad}}}]"#),
        format!(r#"{{{call},{other}}}{{{call},"params":{{{bad}}}}}"#),
        format!("\u{feff}{{{call},\"params\":{{{bad}}}}}"),
        format!(r#"{{"jsonrpc":"2.0","method":"tools/call","params":{{{bad}}}}}"#),
        format!(r#"{{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{{{bad}}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":"test://x","uri":"test://static-text"}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":"test://x/../static-text"}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":"test:\u002f/static-text"}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":" test://static-text"}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":"test://static-text?"}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":"test://u@static-text"}}}}"#),
        format!(r#"{{{head},"method":"resources/read","params":{{"uri":"test:\u002f/static%2Dtext"}}}}"#),
    ] {
        let post = mcp::post("fixture", &key, body.clone()).header("mcp-session-id", &session.id);
        let answer = post.header("mcp-protocol-version", LEGACY).send(gateway.address).await;
        let taken = answer.status == 202 && !body.contains("\"id\"");
        assert!(taken || answer.json().get("error").is_some(), "{body}: {} {}", answer.status, answer.text());
    }
    // The headers of a modern call say one thing, its body another.
    for (header, name) in [("test_image_content", "test_simple_text"), ("test_simple_text", "test_image_content")] {
        let call = mcp::modern_tool("fixture", &key, 1, name, &json!({})).without("mcp-name");
        call.header("mcp-name", header).send(gateway.address).await.expect_error(400, -32020);
    }
    let call = mcp::modern_tool("fixture", &key, 1, "test_simple_text", &json!({})).without("mcp-name");
    let coded = call.header("mcp-name", "=?base64?dGVzdF9zaW1wbGVfdGV4dA==?=").send(gateway.address).await;
    coded.expect_error(200, -32602);
    assert_eq!(fixture.seen().await.len(), 0, "the server has seen some of it");
}

#[tokio::test]
async fn answers_of_every_form_are_filtered_and_others_keep_their_bytes() {
    const LIST: &str = r#"{"jsonrpc":"2.0", "id":1,"result":{"resultType":"complete","tools":[{"name":"a","x":1.0},{"name":"b"}],"nextCursor":"c","cacheScope":"public"}}"#;
    const LEFT: &str = r#"{"jsonrpc":"2.0", "id":1,"result":{"resultType":"complete","tools":[{"name":"a","x":1.0}],"nextCursor":"c","cacheScope":"private"}}"#;
    const SCOPED: &str = r#"{"jsonrpc":"2.0", "id":1,"result":{"resultType":"complete","tools":[{"name":"a","x":1.0},{"name":"b"}],"nextCursor":"c","cacheScope":"private"}}"#;
    let server = Upstream::start(|arrived| {
        if arrived.path == "/mcp/events"
            || arrived.headers.get("mcp-method").is_some_and(|method| method == "prompts/list")
        {
            return upstream::events(format!(": hi\n\nid: 7\ndata: {LIST}\n\n"));
        }
        match arrived.headers.get("mcp-method").and_then(|method| method.to_str().ok()) {
            Some("resources/list") => {
                upstream::json(LIST.replace("{\"name\":\"b\"}", "{\"name\":\"a\",\"name\":\"b\"}"))
            }
            Some("resources/templates/list") => upstream::json(format!("[{LIST}]")),
            _ => upstream::json(LIST),
        }
    })
    .await;
    let gateway = Gateway::start(&[server.entry("toy")]).await;
    let key = gateway.key().await;
    let ask = async |method: &str| {
        let call = mcp::modern("toy", &key, &mcp::modern_request(1, method, json!({})));
        call.send(gateway.address).await
    };
    assert_eq!(ask("tools/list").await.expect(200).text(), LIST, "nobody reads what no rule is about");
    rules(
        &gateway,
        "ops",
        json!([{ "effect": "allow", "subjects": [{ "group": "ops" }], "targets": [{ "server": "toy" }] }]),
    )
    .await;
    assert_eq!(ask("tools/list").await.expect(200).text(), SCOPED, "rules tell callers apart");
    assert_eq!(ask("server/discover").await.expect(200).text(), SCOPED);
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "toy", "tools": ["b"] }))])).await;
    assert_eq!(ask("tools/list").await.expect(200).text(), LEFT);
    assert_eq!(ask("prompts/list").await.expect(200).text(), format!(": hi\n\nid: 7\ndata: {LEFT}\n\n"));
    assert_eq!(ask("resources/list").await.status, 502, "a name that can be read in two ways");
    assert_eq!(ask("resources/templates/list").await.status, 502, "a batch");
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "other", "tools": ["b"] }))])).await;
    gateway.admin(Call::delete("/api/v1/policies/ops")).await.expect(204);
    assert_eq!(ask("tools/list").await.expect(200).text(), LIST);
}

#[tokio::test]
async fn a_listener_hears_of_what_it_may_read_until_it_may_not() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "fixture", "resources": ["test://static-*"] }))]))
        .await;
    let uris =
        json!({ "notifications": { "resourceSubscriptions": ["test://static-text", "test://watched-resource"] } });
    let mut stream = modern(&key, "subscriptions/listen", uris).open(gateway.address).await;
    assert_eq!(stream.status, 200);
    let first = stream.message().await.expect("an acknowledgement");
    let kept = &first["params"]["notifications"]["resourceSubscriptions"];
    assert_eq!(*kept, json!(["test://watched-resource"]), "{first}");
    let session = Session::open(&gateway, "fixture", &key).await;
    let trigger = session.call(2, "trigger_resource_update", &json!({ "uri": "test://watched-resource" }));
    trigger.clone().send(gateway.address).await.expect(200);
    assert_eq!(stream.message().await.expect("news")["method"], "notifications/resources/updated");
    // Rules that come later hold for what is open: nothing is heard of the resource any more, and then nothing at all.
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "fixture", "resources": ["test://*"] }))])).await;
    trigger.send(gateway.address).await.expect(200);
    let heard = tokio::time::timeout(Duration::from_secs(2), stream.message()).await;
    assert!(heard.is_err(), "{heard:?}");
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "fixture" }))])).await;
    while stream.chunk().await.is_some() {}
    let rows = gateway.audit_of(1, |row| row["outcome"] == "denied" && row["method"] == "subscriptions/listen").await;
    assert!(rows.iter().any(|row| row["rule"] == "less/0" && row["server"] == "fixture"), "{rows:?}");
}

#[tokio::test]
async fn streams_that_were_opened_before_a_rule_are_opened_again_and_filtered() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let uris = json!({ "notifications": { "resourceSubscriptions": ["test://static-text"] } });
    let listen = modern(&key, "subscriptions/listen", uris);
    let mut listener = listen.clone().open(gateway.address).await;
    let first = listener.message().await.expect("an acknowledgement");
    assert_eq!(first["params"]["notifications"]["resourceSubscriptions"], json!(["test://static-text"]), "{first}");
    let session = Session::open(&gateway, "fixture", &key).await;
    let mut get = session.get().open(gateway.address).await;
    assert_eq!(get.status, 200);
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "fixture", "resources": ["test://static-*"] }))]))
        .await;
    while listener.chunk().await.is_some() {}
    while get.chunk().await.is_some() {}
    let mut listener = listen.open(gateway.address).await;
    let first = listener.message().await.expect("an acknowledgement");
    let kept = &first["params"]["notifications"]["resourceSubscriptions"];
    assert!(kept.as_array().is_none_or(Vec::is_empty), "{first}");
    // What was opened since goes on when rules of the same reach change.
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "fixture", "resources": ["test://template/*"] }))]))
        .await;
    let end = tokio::time::timeout(Duration::from_secs(1), listener.chunk()).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_call_under_way_is_cut_when_it_is_not_allowed_any_more() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    let address = gateway.address;
    let sleep = mcp::modern_tool("fixture", &key, 2, "sleep_ms", &json!({ "ms": 120_000 }));
    let waiting = tokio::spawn(async move { sleep.open(address).await.finish().await });
    until("the call is at the server", async || (!fixture.seen().await.is_empty()).then_some(())).await;
    rules(&gateway, "less", json!([rule("deny", json!({ "server": "fixture", "tools": ["sleep_ms"] }))])).await;
    // Its head may be out already; then the body breaks off. Else it is as a call of an unknown tool, to its caller.
    let answer = waiting.await.unwrap();
    if answer.text().contains("\"error\"") {
        answer.expect_error(200, -32602);
        assert_eq!(answer.json()["id"], 2);
    } else {
        assert!(answer.status == 200 && !answer.text().contains("\"result\""), "{} {}", answer.status, answer.text());
    }
    let rows = gateway.audit_of(1, |row| row["target"] == "sleep_ms").await;
    assert!(rows.iter().any(|row| row["outcome"] == "denied" && row["rule"] == "less/0"), "{rows:?}");
}

#[tokio::test]
async fn no_page_and_no_token_names_a_server_that_the_person_may_not_use() {
    let fixture = Fixture::start();
    let other = remote("other", &fixture.url());
    let gateway = Gateway::start_with(&[fixture.entry(), other], &[("RUNTIME__PROCESS__ENABLED", "false")]).await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let tokens = client.connect(&gateway, &mut browser, "other").await;
    rules(
        &gateway,
        "default",
        json!([{ "effect": "allow", "subjects": [{ "user": "ada" }], "targets": [{ "server": "fixture" }] }]),
    )
    .await;
    let page = browser.open(&client.authorization_url(None)).await.expect(200);
    assert!(page.text().contains("value=\"fixture\"") && !page.text().contains("value=\"other\""), "{}", page.text());
    let chosen = browser.decide(&page, "allow", Some("other")).await;
    assert_eq!(parameters(&chosen)["error"], "access_denied");
    let absent = format!("http://{}/mcp-connect/absent", gateway.address);
    let hidden = format!("http://{}/mcp-connect/other", gateway.address);
    let [absent, hidden] = [absent, hidden].map(|resource| client.authorization_url(Some(&resource)));
    let (absent, hidden) = (browser.open(&absent).await, browser.open(&hidden).await);
    let way = |answer: &Answer| ["location", "refresh"].map(|name| answer.headers.get(name).cloned());
    assert_eq!((absent.status, way(&absent)), (hidden.status, way(&hidden)));
    let refreshed = client.refresh(&gateway, &tokens.refresh).await.expect(400);
    assert_eq!(refreshed.json()["error"], "invalid_grant");
    let call = mcp::modern_tool("other", &tokens.key(), 1, "test_simple_text", &json!({}));
    call.send(gateway.address).await.expect(404);
}
