//! A program without a browser, and the person who lets it in.

use serde_json::{Value, json};

use crate::support::browser::{Browser, field};
use crate::support::client::{Client, Tokens, discover, path_of};
use crate::support::{Answer, Call, Fixture, Gateway, mcp};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A client that an administrator makes for programs without a browser.
async fn cli(gateway: &Gateway) -> Client {
    let body = json!({ "name": "Command line", "grant_types": [GRANT, "refresh_token"] });
    let made = gateway.admin(Call::post("/api/v1/oauth/clients", body.to_string())).await.expect(201).json();
    assert_eq!((&made["authentication"], &made["client_secret"]), (&json!("none"), &Value::Null));
    let metadata = discover(gateway, "fixture").await;
    Client { id: made["id"].as_str().unwrap().to_owned(), secret: None, metadata, redirect: String::new() }
}

async fn begin(gateway: &Gateway, client: &Client) -> Value {
    let resource = format!("http://{}/mcp-connect/fixture", gateway.address);
    let fields = [("scope", "mcp"), ("resource", &*resource)];
    client.post(gateway, "device_authorization_endpoint", &fields).await.expect(200).json()
}

async fn poll(gateway: &Gateway, client: &Client, begun: &Value) -> Answer {
    let code = begun["device_code"].as_str().unwrap();
    client.post(gateway, "token_endpoint", &[("grant_type", GRANT), ("device_code", code)]).await
}

/// From the link that the program shows to the question.
async fn enter(gateway: &Gateway, browser: &mut Browser, begun: &Value) -> Answer {
    let page = browser.open(&path_of(gateway, begun["verification_uri_complete"].as_str().unwrap())).await.expect(200);
    let (csrf, code) = (field(&page, "csrf"), field(&page, "user_code"));
    assert_eq!(code, begun["user_code"].as_str().unwrap());
    browser.post("/device", &[("csrf", &csrf), ("user_code", &code)]).await
}

async fn decide(browser: &mut Browser, page: &Answer, decision: &str) -> Answer {
    let (csrf, request) = (field(page, "csrf"), field(page, "request"));
    let fields = [("csrf", &*csrf), ("request", &*request), ("decision", decision)];
    browser.post("/device/decide", &fields).await
}

#[tokio::test]
async fn a_person_lets_a_program_without_a_browser_in() {
    let fixture = Fixture::start();
    let settings = [("RUNTIME__PROCESS__ENABLED", "false"), ("OAUTH__DEVICE__INTERVAL_SECONDS", "1")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let mut browser = Browser::of(&gateway, "ada").await;
    let client = cli(&gateway).await;
    let begun = begin(&gateway, &client).await;
    assert_eq!((&begun["interval"], &begun["expires_in"]), (&json!(1), &json!(600)));
    assert_eq!(poll(&gateway, &client, &begun).await.expect(400).json()["error"], "authorization_pending");
    assert_eq!(poll(&gateway, &client, &begun).await.expect(400).json()["error"], "slow_down");

    let page = enter(&gateway, &mut browser, &begun).await.expect(200);
    let text = page.text();
    let code = begun["user_code"].as_str().unwrap();
    for shown in [code, "Command line", "fixture", "ada", "127.0.0.1", "Did somebody send you the code"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self';"), "{policy}");
    assert!(!text.contains("<script") && page.header("referrer-policy") == "no-referrer");
    let done = decide(&mut browser, &page, "allow").await.expect(200);
    assert!(done.text().contains("is connected"), "{}", done.text());

    // Its interval is six seconds since it asked too early.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let tokens = Tokens::of(&poll(&gateway, &client, &begun).await);
    let call = mcp::modern_tool("fixture", &tokens.key(), 1, "test_simple_text", &json!({}));
    assert_eq!(call.send(gateway.address).await.status, 200);
    Tokens::of(&client.refresh(&gateway, &tokens.refresh).await);
    assert_eq!(poll(&gateway, &client, &begun).await.expect(400).json()["error"], "invalid_grant");

    // No, and a code that is none.
    let refused = begin(&gateway, &client).await;
    let page = enter(&gateway, &mut browser, &refused).await.expect(200);
    assert!(decide(&mut browser, &page, "deny").await.expect(200).text().contains("got nothing"));
    assert_eq!(poll(&gateway, &client, &refused).await.expect(400).json()["error"], "access_denied");
    let wrong = enter(&gateway, &mut browser, &refused).await.expect(400);
    assert!(wrong.text().contains("role=\"alert\""), "{}", wrong.text());
    for (action, outcome) in [
        ("oauth.device-consent", "ok"),
        ("oauth.device-consent", "denied"),
        ("oauth.device-code", "denied"),
        ("oauth.token", "ok"),
    ] {
        let rows = gateway.audit_of(1, |row| row["method"] == action && row["outcome"] == outcome).await;
        assert_eq!((&rows[0]["category"], &rows[0]["actor"]["subject"]["id"]), (&json!("auth"), &json!("ada")));
    }
    // Five tries in the life of a code; three were made.
    let mut last = 0;
    for _ in 0..3 {
        last = enter(&gateway, &mut browser, &begin(&gateway, &client).await).await.status.as_u16();
    }
    assert_eq!(last, 429);
}
