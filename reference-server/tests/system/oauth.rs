//! From a server's 401 to a call in the name of a person, and to the end of it.

use serde_json::{Value, json};

use crate::support::browser::{Browser, field, onward, parameters};
use crate::support::client::{Client, Tokens, discover, path_of};
use crate::support::gateway::remote;
use crate::support::mcp;
use crate::support::{Call, Fixture, Gateway, until};

/// Child processes would be shared by whoever calls.
const SEVERAL_PEOPLE: (&str, &str) = ("RUNTIME__PROCESS__ENABLED", "false");

async fn call(gateway: &Gateway, server: &str, tokens: &Tokens) -> u16 {
    let call = mcp::modern_tool(server, &tokens.key(), 1, "test_simple_text", &json!({}));
    call.send(gateway.address).await.status.as_u16()
}

async fn two_servers() -> (Fixture, Gateway) {
    let fixture = Fixture::start();
    let other = remote("other", &format!("http://{}/mcp", fixture.address));
    let gateway = Gateway::start_with(&[fixture.entry(), other], &[SEVERAL_PEOPLE]).await;
    (fixture, gateway)
}

#[tokio::test]
async fn a_person_connects_a_client_that_registers_itself() {
    let (_fixture, gateway) = two_servers().await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let resource = format!("http://{}/mcp-connect/fixture", gateway.address);

    let page = browser.open(&client.authorization_url(Some(&resource))).await.expect(200);
    let text = page.text();
    for shown in ["a program on this computer", "<bdi>Laptop</bdi>", "Nobody has checked", "fixture", "ada"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(policy.contains("form-action 'self' http://127.0.0.1:33418"), "{policy}");
    assert!(!text.contains("<script") && page.header("referrer-policy") == "no-referrer");

    let answer = browser.decide(&page, "allow", None).await;
    assert!(onward(&answer).starts_with(&client.redirect));
    let parameters = parameters(&answer);
    assert_eq!((&*parameters["state"], &parameters["iss"]), ("of the client", &format!("http://{}", gateway.address)));
    let answer = client.redeem(&gateway, &parameters["code"]).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let tokens = Tokens::of(&answer);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 200);

    // Each step is in the trail, with whose it was and by which client; that a stranger registered is only counted.
    for action in ["oauth.consent", "oauth.token"] {
        let rows = gateway.audit_of(1, |row| row["method"] == action).await;
        assert_eq!((&rows[0]["category"], &rows[0]["outcome"]), (&json!("auth"), &json!("ok")), "{}", rows[0]);
    }
    let rows = gateway.audit_of(1, |row| row["method"] == "tools/call").await;
    assert_eq!(rows[0]["actor"]["subject"]["id"], "ada", "{}", rows[0]);
    assert_eq!(rows[0]["actor"]["id"], client.id.as_str(), "{}", rows[0]);
}

#[tokio::test]
async fn a_token_is_for_one_server_and_for_nothing_else() {
    let (_fixture, gateway) = two_servers().await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let tokens = client.connect(&gateway, &mut browser, "fixture").await;
    assert_eq!(call(&gateway, "fixture", &tokens).await, 200);
    assert_eq!(call(&gateway, "other", &tokens).await, 401);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 200);
    // Nor for the admin API, nor in a query, nor twice.
    Call::get("/api/v1/me").bearer(&tokens.access).send(gateway.address).await.expect(401);
    let path = format!("/mcp-connect/fixture?access_token={}", tokens.access);
    Call::post(&path, "{}").send(gateway.address).await.expect(401);
    let twice = mcp::modern_tool("fixture", &tokens.key(), 1, "test_simple_text", &json!({})).bearer(&tokens.access);
    twice.send(gateway.address).await.expect(400);
    // The other side of it: a refresh token opens no other server either.
    let other = format!("http://{}/mcp-connect/other", gateway.address);
    let fields = [("grant_type", "refresh_token"), ("refresh_token", &*tokens.refresh), ("resource", &*other)];
    let answer = client.post(&gateway, "token_endpoint", &fields).await.expect(400);
    assert_eq!(answer.json()["error"], "invalid_target");
}

#[tokio::test]
async fn refusals_have_the_form_that_clients_act_on() {
    let (_fixture, gateway) = two_servers().await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let tokens = client.connect(&gateway, &mut browser, "other").await;
    let metadata = format!("http://{}/.well-known/oauth-protected-resource/mcp-connect/fixture", gateway.address);
    let path = mcp::path("fixture");
    let plain = format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp\"");
    let invalid = format!("{plain}, error=\"invalid_token\"");
    let mut tampered = tokens.access.clone();
    tampered.pop();
    for base in [Call::post(&path, "{}"), Call::get(&path), Call::delete(&path)] {
        let answer = base.clone().send(gateway.address).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), plain);
        // Of another server, broken, and nobody's.
        for bad in [&*tokens.access, &tampered, "opaque"] {
            let answer = base.clone().bearer(bad).send(gateway.address).await.expect(401);
            assert_eq!(answer.header("www-authenticate"), invalid);
        }
        // A key that is good, but not for this.
        let narrow = gateway.key_for(&json!({ "name": "narrow", "servers": ["*"], "scopes": ["registry"] })).await;
        let answer = base.bearer(&narrow.secret).send(gateway.address).await.expect(403);
        assert_eq!(answer.header("www-authenticate"), format!("{plain}, error=\"insufficient_scope\""));
    }
}

#[tokio::test]
async fn refresh_tokens_rotate_and_reuse_ends_what_came_of_them() {
    let fixture = Fixture::start();
    let settings = [SEVERAL_PEOPLE, ("OAUTH__REFRESH_GRACE_SECONDS", "0")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let first = client.connect(&gateway, &mut browser, "fixture").await;
    let second = Tokens::of(&client.refresh(&gateway, &first.refresh).await);
    assert_ne!(first.refresh, second.refresh);
    for tokens in [&first, &second] {
        assert_eq!(call(&gateway, "fixture", tokens).await, 200);
    }
    let answer = client.refresh(&gateway, &first.refresh).await.expect(400);
    assert_eq!(answer.json()["error"], "invalid_grant");
    let gone = async || (call(&gateway, "fixture", &second).await == 401).then_some(());
    until("the end of what was stolen", gone).await;
    assert_eq!(call(&gateway, "fixture", &first).await, 401);
    client.refresh(&gateway, &second.refresh).await.expect(400);
    let rows = gateway.audit_of(1, |row| row["method"] == "oauth.reuse").await;
    assert_eq!(rows[0]["outcome"], "denied");
    let why = rows[0]["error"].as_str().unwrap();
    assert!(why.starts_with("a refresh token was used again after its grace"), "{why}");
}

/// Each way to end access ends it, and nobody else's.
#[tokio::test]
async fn what_is_ended_is_refused() {
    let (_fixture, gateway) = two_servers().await;
    let mut ada = Browser::of(&gateway, "ada").await;
    let mut bob = Browser::of(&gateway, "bob").await;
    let client = Client::register(&gateway, "fixture").await;
    let kept = client.connect(&gateway, &mut bob, "fixture").await;
    let refused = async |tokens: &Tokens| {
        until("the end of a token", async || (call(&gateway, "fixture", tokens).await == 401).then_some(())).await;
        client.refresh(&gateway, &tokens.refresh).await.expect(400);
    };

    // By the client: the refresh token with everything.
    let tokens = client.connect(&gateway, &mut ada, "fixture").await;
    client.revoke(&gateway, &tokens.refresh).await.expect(200);
    refused(&tokens).await;
    // By logging out.
    let tokens = client.connect(&gateway, &mut ada, "fixture").await;
    ada.sign_out().await;
    refused(&tokens).await;
    // By an administrator, with what is open.
    let tokens = client.connect(&gateway, &mut ada, "fixture").await;
    let listen =
        mcp::modern_request(1, "subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut stream = mcp::modern("fixture", &tokens.key(), &listen).open(gateway.address).await;
    assert_eq!(stream.status, 200);
    stream.event().await.expect("the stream has begun");
    gateway.admin(Call::post("/api/v1/users/ada/end-sessions", "")).await.expect(200);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 401, "the answer was the last moment");
    refused(&tokens).await;
    while stream.event().await.is_some() {}
    let tokens = client.connect(&gateway, &mut ada, "fixture").await;
    gateway.admin(Call::post("/api/v1/users/ada/disable", "")).await.expect(200);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 401);
    refused(&tokens).await;

    assert_eq!(call(&gateway, "fixture", &kept).await, 200);
    Tokens::of(&client.refresh(&gateway, &kept.refresh).await);
}

#[tokio::test]
async fn without_a_resource_a_person_chooses_and_saying_no_gives_nothing() {
    let (_fixture, gateway) = two_servers().await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let page = browser.open(&client.authorization_url(None)).await.expect(200);
    assert!(page.text().contains("<option value=\"other\">other</option>"), "{}", page.text());
    let code = parameters(&browser.decide(&page, "allow", Some("other")).await).remove("code").unwrap();
    let tokens = Tokens::of(&client.redeem(&gateway, &code).await);
    assert_eq!(call(&gateway, "other", &tokens).await, 200);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 401);
    for (server, decision, error) in [
        (None, "allow", "invalid_target"),
        (Some(""), "allow", "invalid_target"),
        (Some("other"), "deny", "access_denied"),
    ] {
        let page = browser.open(&client.authorization_url(None)).await.expect(200);
        let parameters = parameters(&browser.decide(&page, decision, server).await);
        assert_eq!((&*parameters["error"], parameters.get("code")), (error, None));
        assert!(parameters.contains_key("iss"));
    }
    // The page of one browser is nothing in another.
    let page = browser.open(&client.authorization_url(None)).await.expect(200);
    let mut thief = Browser::of(&gateway, "eve").await;
    thief.open(&client.authorization_url(None)).await.expect(200);
    let answer = thief.decide(&page, "allow", Some("other")).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("This request has ended") && field(&page, "csrf").len() == 43);
}

#[tokio::test]
async fn a_server_may_be_its_own_issuer() {
    let fixture = Fixture::start();
    let other = remote("other", &format!("http://{}/mcp", fixture.address));
    let settings = [SEVERAL_PEOPLE, ("OAUTH__ISSUER", "per_server")];
    let gateway = Gateway::start_with(&[fixture.entry(), other], &settings).await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let issuer = format!("http://{}/mcp-connect/fixture", gateway.address);
    assert_eq!(client.metadata["issuer"], issuer);
    for path in [
        "/.well-known/openid-configuration/mcp-connect/fixture",
        "/mcp-connect/fixture/.well-known/openid-configuration",
    ] {
        assert_eq!(Call::get(path).send(gateway.address).await.expect(200).json(), client.metadata, "{path}");
    }
    // No `resource` is needed: the issuer says which server it is.
    let page = browser.open(&client.authorization_url(None)).await.expect(200);
    assert!(!page.text().contains("<select"));
    let parameters = parameters(&browser.decide(&page, "allow", None).await);
    assert_eq!(parameters["iss"], issuer);
    let tokens = Tokens::of(&client.redeem(&gateway, &parameters["code"]).await);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 200);
    assert_eq!(call(&gateway, "other", &tokens).await, 401);
    // Client, code and refresh token belong to this issuer alone.
    let metadata = discover(&gateway, "other").await;
    let elsewhere = Client { metadata, ..client.clone() };
    let page = browser.get(&path_of(&gateway, &elsewhere.authorization_url(None))).await;
    assert_eq!(page.status, 400, "{}", page.text());
    let answer = elsewhere.refresh(&gateway, &tokens.refresh).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (401, &json!("invalid_client")));
    Tokens::of(&client.refresh(&gateway, &tokens.refresh).await);
}

/// On loopback a gateway has three names, and clients compare what they read with the one that they call.
#[tokio::test]
async fn a_loopback_address_by_another_name_is_found_again() {
    let (_fixture, gateway) = two_servers().await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = Client::register(&gateway, "fixture").await;
    let name = format!("localhost:{}", gateway.address.port());
    let refused = Call::get("/mcp-connect/fixture").header("host", &name).send(gateway.address).await.expect(401);
    let url = format!("http://{name}/.well-known/oauth-protected-resource/mcp-connect/fixture");
    assert!(refused.header("www-authenticate").contains(&url), "{:?}", refused.headers);
    let path = "/.well-known/oauth-protected-resource/mcp-connect/fixture";
    let document: Value = Call::get(path).header("host", &name).send(gateway.address).await.expect(200).json();
    let resource = document["resource"].as_str().unwrap();
    assert_eq!(resource, format!("http://{name}/mcp-connect/fixture"));
    let page = browser.open(&client.authorization_url(Some(resource))).await.expect(200);
    let code = parameters(&browser.decide(&page, "allow", None).await).remove("code").unwrap();
    let tokens = Tokens::of(&client.redeem(&gateway, &code).await);
    assert_eq!(call(&gateway, "fixture", &tokens).await, 200);
}

/// What is published about a server is published about one that does not exist: the same but for the name.
#[tokio::test]
async fn no_server_is_found_out_by_metadata() {
    let fixture = Fixture::start();
    for issuer in ["shared", "per_server"] {
        let settings = [SEVERAL_PEOPLE, ("OAUTH__ISSUER", issuer)];
        let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
        let about = async |server: &str| {
            let mut seen = Vec::new();
            for path in [
                format!("/.well-known/oauth-protected-resource/mcp-connect/{server}"),
                format!("/.well-known/oauth-authorization-server/mcp-connect/{server}"),
                format!("/.well-known/openid-configuration/mcp-connect/{server}"),
                format!("/mcp-connect/{server}/.well-known/openid-configuration"),
                format!("/mcp-connect/{server}"),
                format!("/issuers/{server}/authorize"),
                format!("/issuers/{server}/jwks.json"),
            ] {
                let answer = Call::get(&path).send(gateway.address).await;
                let fields: Vec<_> = answer
                    .headers
                    .iter()
                    .filter(|(name, _)| {
                        !matches!(name.as_str(), "date" | "x-request-id" | "set-cookie" | "content-length")
                    })
                    .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
                    .collect();
                let body = without_ids(&answer.text());
                seen.push(format!("{path} {} {fields:?} {body}", answer.status).replace(server, "NAME"));
            }
            seen
        };
        let (there, absent) = (about("fixture").await, about("nothing").await);
        assert_eq!(there, absent, "{issuer}");
        assert!(there[0].contains(" 200 "), "{}", there[0]);
        assert_eq!(there[1].contains(" 200 "), issuer == "per_server", "{}", there[1]);
    }
}

/// A text without the ids that each answer has of its own: 26 capitals and digits.
fn without_ids(text: &str) -> String {
    let is_id =
        |word: &str| word.len() == 26 && word.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    words.map(|word| if word.get(..26).is_some_and(is_id) { &word[26..] } else { word }).collect()
}
