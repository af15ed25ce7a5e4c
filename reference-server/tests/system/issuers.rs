//! Tokens and decisions of another issuer, one that others wrote.

use serde_json::{Value, json};

use crate::support::gateway::{BOOTSTRAP, remote};
use crate::support::identity::{Browser, IdentityProvider};
use crate::support::{Answer, Call, Fixture, Gateway, Key, mcp, until};

fn ada() -> Value {
    json!({ "sub": "248289", "name": "Ada", "email": "ada@a.example", "email_verified": true, "groups": [] })
}

async fn call(gateway: &Gateway, server: &str, token: &str) -> Answer {
    let key = Key { id: String::new(), secret: token.to_owned() };
    mcp::modern_tool(server, &key, 1, "test_simple_text", &json!({})).send(gateway.address).await
}

async fn status(gateway: &Gateway, server: &str, token: &str) -> u16 {
    call(gateway, server, token).await.status.as_u16()
}

/// A gateway with two servers that accepts tokens of the company; `more` are further members of the issuer's settings.
async fn gateway(company: &IdentityProvider, more: Value) -> (Fixture, Gateway) {
    let fixture = Fixture::start();
    let other = remote("other", &format!("http://{}/mcp", fixture.address));
    let mut issuer = json!({ "issuer": company.issuer, "audiences": { "tools": ["fixture"] } });
    issuer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let issuers = json!([issuer]).to_string();
    let entries = [fixture.entry(), other];
    let gateway = company.gateway_with(json!({}), &entries, &[("AUTH__ISSUERS", &*issuers)]).await;
    company.account(ada()).await;
    (fixture, gateway)
}

#[tokio::test]
async fn tokens_of_the_company_are_good_for_its_people_where_their_audience_says() {
    let company = IdentityProvider::start();
    let keys = json!({ "jwks_uri": format!("{}/jwks", company.issuer) });
    let (_fixture, gateway) = gateway(&company, keys).await;
    let url = |server: &str| format!("http://{}/mcp-connect/{server}", gateway.address);
    let path = "/.well-known/oauth-protected-resource/mcp-connect/fixture";
    let document = Call::get(path).send(gateway.address).await.expect(200).json();
    assert_eq!(document["authorization_servers"], json!([format!("http://{}", gateway.address), company.issuer]));

    // Nobody here before they have signed in; then they have the rights that they have here.
    let mut browser = Browser::default();
    let token = company.access_token(&mut browser, &url("fixture")).await;
    let refused = call(&gateway, "fixture", &token).await.expect(401);
    assert!(refused.header("www-authenticate").contains("invalid_token"), "{:?}", refused.headers);
    let id = browser.sign_in(&gateway).await.1.json()["subject"]["id"].as_str().unwrap().to_owned();
    assert_eq!(status(&gateway, "fixture", &token).await, 200);
    let rows = gateway.audit_of(1, |row| row["method"] == "tools/call" && row["outcome"] == "ok").await;
    assert_eq!(
        (&rows[0]["actor"]["subject"]["id"], &rows[0]["actor"]["id"]),
        (&json!(id), &json!(format!("{} cli", company.issuer))),
        "{}",
        rows[0]
    );

    // A server's own URL is good for that one, the company's name for what it is mapped to, another for nothing.
    assert_eq!(status(&gateway, "other", &token).await, 401);
    company.tokens("jwt", Some("tools")).await;
    let named = company.access_token(&mut browser, &url("other")).await;
    assert_eq!((status(&gateway, "fixture", &named).await, status(&gateway, "other", &named).await), (200, 401));
    company.tokens("jwt", Some("something else")).await;
    let elsewhere = company.access_token(&mut browser, &url("fixture")).await;
    assert_eq!(status(&gateway, "fixture", &elsewhere).await, 401);
    // An ID token, or what else the company signs, is no access token; nor is the token good for the admin API.
    let now = jiff::Timestamp::now().as_second();
    let claims = json!({ "iss": company.issuer, "sub": "248289", "aud": url("fixture"), "iat": now, "exp": now + 60 });
    let signed = company.sign(json!({ "typ": "JWT" }), claims.clone()).await;
    assert_eq!(status(&gateway, "fixture", &signed).await, 401);
    let signed = company.sign(json!({ "typ": "at+jwt" }), claims).await;
    assert_eq!(status(&gateway, "fixture", &signed).await, 200, "it was the type");
    Call::get("/api/v1/me").bearer(&token).send(gateway.address).await.expect(401);

    gateway.admin(Call::post(&format!("/api/v1/users/{id}/disable"), "")).await.expect(200);
    assert_eq!(status(&gateway, "fixture", &token).await, 401);
}

#[tokio::test]
async fn opaque_tokens_are_good_while_their_issuer_says_so() {
    let company = IdentityProvider::start();
    let introspection = json!({ "introspection": {
        "endpoint": format!("{}/token/introspection", company.issuer),
        "client_id": "gateway", "client_secret_file": company.secret(), "remember_seconds": 0,
    } });
    let (_fixture, gateway) = gateway(&company, introspection).await;
    company.tokens("opaque", Some("tools")).await;
    let mut browser = Browser::default();
    browser.sign_in(&gateway).await.1.expect(200);
    let resource = format!("http://{}/mcp-connect/fixture", gateway.address);
    let token = company.access_token(&mut browser, &resource).await;
    assert!(!token.contains('.'), "{token}");
    assert_eq!(status(&gateway, "fixture", &token).await, 200);
    assert_eq!(status(&gateway, "other", &token).await, 401);
    assert_eq!(status(&gateway, "fixture", "made-up").await, 401);
    company.revoke(&token).await;
    assert_eq!(status(&gateway, "fixture", &token).await, 401);
    // While the issuer does not answer, nobody knows: it is no reason to log in anew.
    let another = company.access_token(&mut browser, &resource).await;
    drop(company);
    assert_eq!(status(&gateway, "fixture", &another).await, 503);
    for own in [BOOTSTRAP, "mcpgwr_of-a-registration"] {
        assert_eq!(status(&gateway, "fixture", own).await, 401, "what is ours is shown to nobody");
    }
}

/// The client has changed its user's login into a grant at the company (ID-JAG), and nobody is asked here.
#[tokio::test]
async fn a_company_decides_for_its_people_without_their_being_asked() {
    const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let company = IdentityProvider::start();
    let fixture = Fixture::start();
    let mut gateway = company.gateway_with(json!({}), &[fixture.entry()], &[]).await;
    company.account(ada()).await;
    let agent = json!({ "name": "Agent", "secret": true, "grant_types": [GRANT] });
    let make = async || gateway.admin(Call::post("/api/v1/oauth/clients", agent.to_string())).await.expect(201).json();
    let (agent, unnamed) = (make().await, make().await);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let settings = json!([{
        "issuer": company.issuer, "jwks_uri": format!("{}/jwks", company.issuer), "clients": [agent["id"]],
    }]);
    gateway.restart_with("OAUTH__IDENTITY_PROVIDERS", &settings.to_string()).await;
    let origin = format!("http://{}", gateway.address);
    let metadata = Call::get("/.well-known/oauth-authorization-server").send(gateway.address).await.expect(200).json();
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!(GRANT)));
    assert_eq!(
        metadata["authorization_grant_profiles_supported"],
        json!(["urn:ietf:params:oauth:grant-profile:id-jag"])
    );

    let id_of = |client: &Value| text(&client["id"]);
    let present = async |client: &Value, named: &str, sub: &str, jti: &str| {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": company.issuer, "sub": sub, "aud": origin, "client_id": named, "jti": jti, "iat": now,
            "exp": now + 300, "resource": format!("{origin}/mcp-connect/fixture"), "scope": "mcp",
        });
        let assertion = company.sign(json!({ "typ": "oauth-id-jag+jwt" }), claims).await;
        let (id, secret) = (id_of(client), text(&client["client_secret"]));
        let fields =
            [("grant_type", GRANT), ("assertion", &*assertion), ("client_id", &*id), ("client_secret", &*secret)];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let call = Call::post("/token", body).header("content-type", "application/x-www-form-urlencoded");
        call.send(gateway.address).await
    };
    let named = id_of(&agent);
    assert_eq!(present(&agent, &named, "248289", "1").await.json()["error"], "invalid_grant", "nobody here yet");
    let id = text(&Browser::default().sign_in(&gateway).await.1.json()["subject"]["id"]);
    let given = until("the person is known", async || {
        let answer = present(&agent, &named, "248289", &rand_jti()).await;
        (answer.status == 200).then_some(answer)
    })
    .await
    .json();
    assert!(given["expires_in"].as_u64().unwrap() <= 600 && given.get("refresh_token").is_none(), "{given}");
    assert_eq!(status(&gateway, "fixture", &text(&given["access_token"])).await, 200);
    let rows = gateway.audit_of(1, |row| row["method"] == "oauth.token").await;
    assert_eq!(
        (&rows[0]["actor"]["subject"]["id"], &rows[0]["actor"]["id"]),
        (&json!(id), &agent["id"]),
        "{}",
        rows[0]
    );
    // Not of a client that the configuration does not name, for another client, twice, or for somebody unknown.
    present(&agent, &named, "248289", "2").await.expect(200);
    for (client, named, sub, jti) in [
        (&unnamed, id_of(&unnamed), "248289", "3"),
        (&agent, id_of(&unnamed), "248289", "4"),
        (&agent, named.clone(), "248289", "2"),
        (&agent, named.clone(), "nobody", "5"),
    ] {
        let answer = present(client, &named, sub, jti).await.expect(400);
        assert_eq!(answer.json()["error"], "invalid_grant", "{jti}");
    }
}

/// An id that no assertion has had.
fn rand_jti() -> String {
    jiff::Timestamp::now().as_nanosecond().to_string()
}
