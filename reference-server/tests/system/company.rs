//! Login with a company's identity provider, one that others wrote.

use serde_json::{Value, json};

use crate::support::identity::{Browser, IdentityProvider, field};
use crate::support::{Call, Gateway};

fn ada(groups: &[&str]) -> Value {
    json!({ "sub": "248289", "name": "Ada", "email": "ada@a.example", "email_verified": true, "groups": groups })
}

fn roles(me: &Value) -> Vec<&str> {
    me["roles"].as_array().unwrap().iter().map(|role| role.as_str().unwrap()).collect()
}

/// The URL with a parameter of the query changed.
fn with(url: &str, name: &str, value: &str) -> String {
    let (path, query) = url.split_once('?').unwrap();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let pairs: Vec<_> = pairs.map(|(one, old)| if one == name { (one, value.into()) } else { (one, old) }).collect();
    format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

async fn logins(gateway: &Gateway, action: &str, outcome: &str, count: usize) -> Vec<Value> {
    gateway.audit_of(count, |row| row["method"] == action && row["outcome"] == outcome).await
}

#[tokio::test]
async fn a_person_signs_in_with_the_company_and_out_of_both() {
    let company = IdentityProvider::start();
    let gateway = company.gateway(json!({})).await;
    let origin = format!("http://{}", gateway.address);
    company.account(ada(&["ops"])).await;
    let mut browser = Browser::default();
    let page = browser.get(&format!("{origin}/login?next=/api/v1/me")).await;
    assert!(page.text().contains("href=\"/login/with/company?next=%2Fapi%2Fv1%2Fme\""), "{}", page.text());
    let (end, me) = browser.sign_in(&gateway).await;
    assert_eq!((end, me.status.as_u16()), (format!("{origin}/api/v1/me"), 200), "{}", me.text());
    let ada_id = me.json()["subject"]["id"].as_str().unwrap().to_owned();
    let user = gateway.admin(Call::get(&format!("/api/v1/users/{ada_id}"))).await.expect(200).json();
    assert_eq!(
        (&user["name"], &user["email"], &user["email_verified"]),
        (&json!("Ada"), &json!("ada@a.example"), &json!(true))
    );

    // Another browser is the same person, and what is signed in is in the trail.
    let mut second = Browser::default();
    assert_eq!(second.sign_in(&gateway).await.1.json()["subject"]["id"], *ada_id);
    let rows = logins(&gateway, "login.provider", "ok", 2).await;
    assert!(rows.iter().all(|row| row["target"] == *ada_id), "{rows:?}");

    // Signing out here shows the way to sign out there; there, it ends the provider's session and comes back.
    let page = browser.get(&format!("{origin}/login")).await;
    let out = browser.post(&format!("{origin}/logout"), &[("csrf", &field(&page, "csrf"))]).await.expect(200);
    assert!(browser.me(&gateway).await.is_none());
    let text = out.text().replace("&amp;", "&");
    let href = text.split("href=\"").find(|part| part.starts_with(&company.issuer)).unwrap().split('"').next().unwrap();
    assert!(href.contains("id_token_hint="), "{href}");
    let (_, confirm) = browser.follow(href, None).await;
    let fields = [("xsrf", &*field(&confirm, "xsrf")), ("logout", "yes")];
    let confirmed = browser.post(&format!("{}/session/end/confirm", company.issuer), &fields).await;
    assert!(confirmed.header("location").starts_with(&format!("{origin}/login")), "{:?}", confirmed.headers);
    assert!(second.me(&gateway).await.is_some(), "another browser of the same person is another session");
}

#[tokio::test]
async fn answers_that_do_not_belong_to_the_login_are_refused() {
    let company = IdentityProvider::start();
    let gateway = company.gateway(json!({})).await;
    let origin = format!("http://{}", gateway.address);
    let callback = format!("{origin}/login/callback/company");
    company.account(ada(&[])).await;
    let begin = format!("{origin}/login/with/company");
    // Follows to the provider with a changed request, and back to the gateway's door.
    let come_back = async |browser: &mut Browser, change: Option<(&str, &str)>| {
        let (url, _) = browser.follow(&begin, Some(&company.issuer)).await;
        let url = change.map_or(url.clone(), |(name, value)| with(&url, name, value));
        browser.follow(&url, Some(&callback)).await.0
    };
    let mut browser = Browser::default();
    let refused = async |browser: &mut Browser, url: &str, status: u16| {
        let answer = browser.get(url).await;
        assert_eq!(answer.status.as_u16(), status, "{url}: {}", answer.text());
        assert!(browser.me(&gateway).await.is_none());
    };

    let url = come_back(&mut browser, Some(("nonce", "of-somebody-else"))).await;
    refused(&mut browser, &url, 403).await;
    let url = come_back(&mut browser, Some(("state", "of-somebody-else"))).await;
    refused(&mut browser, &url, 400).await;
    // Somebody else's browser brings an answer: neither a new one nor one that has begun a login of its own.
    let url = come_back(&mut browser, None).await;
    let mut victim = Browser::default();
    refused(&mut victim, &url, 400).await;
    victim.follow(&begin, Some(&company.issuer)).await;
    refused(&mut victim, &url, 400).await;
    refused(&mut browser, &with(&url, "iss", "https://evil.example"), 403).await;
    // Used up by that attempt, as every answer is by its first use.
    refused(&mut browser, &url, 400).await;
    let url = come_back(&mut browser, None).await;
    refused(&mut browser, &with(&url, "code", "guessed"), 403).await;
    let url = come_back(&mut browser, None).await;
    let denied = format!("{}&error=access_denied", url.replace("code=", "not_code="));
    refused(&mut browser, &denied, 403).await;
    refused(&mut browser, &url.replace("/callback/company", "/callback/other"), 404).await;

    let rows = logins(&gateway, "login.provider", "denied", 4).await;
    assert_eq!(rows.len(), 4, "what anybody can bring about is counted, not told one by one: {rows:?}");
    // After all that, the honest way is open.
    let url = come_back(&mut browser, None).await;
    assert_eq!(browser.get(&url).await.status.as_u16(), 303);
    assert!(browser.me(&gateway).await.is_some());
    // An answer leads nowhere but to a path of the gateway.
    let evil = format!("{begin}?next=https%3A%2F%2Fevil.example");
    assert_eq!(browser.follow(&evil, Some(&format!("{origin}/login?"))).await.0, format!("{origin}/login"));
}

#[tokio::test]
async fn who_gets_in_and_what_they_may_do_is_what_the_provider_says_now() {
    let company = IdentityProvider::start();
    let gateway = company.gateway(json!({ "group_roles": { "ops": ["admin"] } })).await;
    let sign_in = async |account: Value| {
        company.account(account).await;
        Browser::default().sign_in(&gateway).await.1
    };
    let about = |change: Value| {
        let mut account = ada(&[]);
        account.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        account
    };
    for change in [
        json!({ "email_verified": false }),
        json!({ "email": "ada@b.example" }),
        json!({ "email": "ada@a.example.evil.example" }),
        json!({ "email": null }),
        json!({ "groups": [{ "id": "ops" }] }),
    ] {
        let answer = sign_in(about(change.clone())).await;
        assert_eq!(answer.status.as_u16(), 403, "{change}: {}", answer.text());
    }
    assert!(gateway.admin(Call::get("/api/v1/users")).await.json()["items"].as_array().unwrap().is_empty());

    assert_eq!(roles(&sign_in(ada(&[])).await.json()), ["basic"]);
    assert_eq!(roles(&sign_in(ada(&["ops", "dev"])).await.json())[0], "admin");
    company.rotate().await;
    assert_eq!(roles(&sign_in(ada(&["dev"])).await.json()), ["basic"], "with other keys, and out of the group");

    // A group that an administrator gives a role, and the preset of the configuration.
    let groups = gateway.admin(Call::get("/api/v1/groups")).await.json()["items"].clone();
    let dev = groups.as_array().unwrap().iter().find(|group| group["external_id"] == "dev").unwrap()["id"].clone();
    let path = format!("/api/v1/groups/{}/roles", dev.as_str().unwrap());
    let body = json!({ "roles": ["power_user"] }).to_string();
    gateway.admin(Call::new(http::Method::PUT, &path).with_body(body)).await.expect(200);
    assert_eq!(roles(&sign_in(ada(&["dev"])).await.json()), ["power_user", "basic"]);
    let owner = about(json!({ "sub": "1", "email": "Owner@A.example" }));
    assert_eq!(roles(&sign_in(owner).await.json())[0], "owner");
    // From then on the token of the first day is void.
    assert_eq!(gateway.admin(Call::get("/api/v1/users")).await.status.as_u16(), 401);
}

#[tokio::test]
async fn a_logout_at_the_company_ends_its_sessions_here() {
    let company = IdentityProvider::start();
    let gateway = company.gateway(json!({})).await;
    company.account(ada(&[])).await;
    let (mut browser, mut elsewhere) = (Browser::default(), Browser::default());
    browser.sign_in(&gateway).await.1.expect(200);
    elsewhere.sign_in(&gateway).await.1.expect(200);
    let confirm = browser.get(&format!("{}/session/end", company.issuer)).await;
    let fields = [("xsrf", &*field(&confirm, "xsrf")), ("logout", "yes")];
    browser.post(&format!("{}/session/end/confirm", company.issuer), &fields).await;
    assert!(browser.me(&gateway).await.is_none(), "when the provider has answered, it has ended");
    assert!(elsewhere.me(&gateway).await.is_some(), "the other session of the same person goes on");
    logins(&gateway, "login.back-channel-logout", "ok", 1).await;

    let path = "/login/back-channel/company";
    for body in ["logout_token=a.b.c", "logout_token=a&logout_token=b", "", "x=y"] {
        let answer = Call::post(path, body).send(gateway.address).await;
        assert_eq!(answer.status.as_u16(), 400, "{body}");
    }
    assert_eq!(Call::post("/login/back-channel/other", "").send(gateway.address).await.status.as_u16(), 404);
    assert!(elsewhere.me(&gateway).await.is_some());
}

#[tokio::test]
async fn whoever_the_company_deactivates_is_out_with_the_next_call() {
    const TOKEN: &str = "a token for the tests of SCIM, 0123456789";
    let company = IdentityProvider::start();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("scim");
    std::fs::write(&file, TOKEN).unwrap();
    let gateway = company.gateway(json!({ "scim_token_file": file })).await;
    let scim = async |method: http::Method, path: &str, body: Value| {
        let call = Call::new(method, &format!("/scim/v2/{path}")).header("content-type", "application/scim+json");
        call.with_body(body.to_string()).bearer(TOKEN).send(gateway.address).await
    };
    let user = json!({ "userName": "ada@a.example", "externalId": "248289", "displayName": "Ada" });
    let made = scim(http::Method::POST, "Users", user).await.expect(201);
    assert_eq!(made.header("content-type"), "application/scim+json");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert!(made.header("location").ends_with(&format!("/scim/v2/Users/{id}")));

    // She signs in as whom the company has made, and has a key.
    company.account(ada(&[])).await;
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&gateway).await.1.json()["subject"]["id"], *id);
    let key = json!({ "name": "k", "servers": ["*"], "scopes": ["api:read"], "subject": id });
    let key = gateway.key_for(&key).await;
    let by_key = async || Call::get("/api/v1/me").bearer(&key.secret).send(gateway.address).await.status.as_u16();
    assert_eq!(by_key().await, 200);

    let patch = json!({ "Operations": [{ "op": "Replace", "path": "active", "value": "False" }] });
    let out = scim(http::Method::PATCH, &format!("Users/{id}"), patch).await.expect(200);
    assert_eq!(out.json()["active"], false);
    assert!(browser.me(&gateway).await.is_none());
    assert_eq!(by_key().await, 401);
    assert_eq!(browser.sign_in(&gateway).await.1.status.as_u16(), 403);
    logins(&gateway, "scim.user.change", "ok", 1).await;

    // The token is good for nothing else, and nothing else for SCIM.
    assert_eq!(Call::get("/api/v1/me").bearer(TOKEN).send(gateway.address).await.status.as_u16(), 401);
    for call in [Call::get("/scim/v2/Users"), Call::get("/scim/v2/Users").bearer("wrong")] {
        assert_eq!(call.send(gateway.address).await.status.as_u16(), 401);
    }
    assert_eq!(gateway.admin(Call::get("/scim/v2/Users")).await.status.as_u16(), 401);
    for path in ["ServiceProviderConfig", "ResourceTypes", "Schemas"] {
        assert!(scim(http::Method::GET, path, Value::Null).await.expect(200).json()["schemas"].is_array(), "{path}");
    }
}

/// A person of the gateway's own passwords adds the company, and is the same person from either side.
#[tokio::test]
async fn two_ways_to_sign_in_are_one_person() {
    let company = IdentityProvider::start();
    let gateway = company.gateway(json!({})).await;
    let origin = format!("http://{}", gateway.address);
    company.account(ada(&["ops"])).await;
    let (first, second) = ("only for the first time", "known to nobody else");
    let person = json!({ "name": "Ada", "login": "ada", "password": first }).to_string();
    gateway.admin(Call::post("/api/v1/users", person)).await.expect(201);
    let mut browser = Browser::default();
    let sign_in = async |browser: &mut Browser, password: &str| {
        let form = browser.get(&format!("{origin}/login")).await;
        let fields = [("csrf", &*field(&form, "csrf")), ("login", "ada"), ("password", password)];
        browser.post(&format!("{origin}/login"), &fields).await
    };
    let change = sign_in(&mut browser, first).await.expect(200);
    let fields = [("csrf", &*field(&change, "csrf")), ("login", "ada"), ("password", first), ("new_password", second)];
    browser.post(&format!("{origin}/login/password"), &fields).await.expect(303);
    let id = browser.me(&gateway).await.expect("she is signed in")["subject"]["id"].clone();

    // No other page begins it, and nobody goes on with it but the session that began it.
    let forged = [("csrf", "guessed"), ("provider", "company")];
    browser.post(&format!("{origin}/login/link"), &forged).await.expect(403);
    let begin = async |browser: &mut Browser| {
        let page = browser.get(&format!("{origin}/login")).await.expect(200);
        assert!(page.text().contains("Add Company"), "{}", page.text());
        let fields = [("csrf", &*field(&page, "csrf")), ("provider", "company")];
        let text =
            browser.post(&format!("{origin}/login/link"), &fields).await.expect(200).text().replace("&amp;", "&");
        let href = text.split("href=\"").find(|part| part.starts_with(&company.issuer)).expect("a way there");
        href.split('"').next().unwrap().to_owned()
    };
    let href = begin(&mut browser).await;
    assert!(href.contains("max_age=0"), "{href}");
    let (callback, _) = browser.follow(&href, Some(&format!("{origin}/login/callback/company"))).await;
    let page = browser.get(&format!("{origin}/login")).await;
    browser.post(&format!("{origin}/logout"), &[("csrf", &field(&page, "csrf"))]).await.expect(303);
    browser.get(&callback).await.expect(403);
    assert!(browser.me(&gateway).await.is_none());

    sign_in(&mut browser, second).await.expect(303);
    // Whoever has an account of their own is not linked to another one's.
    company.account(json!({ "sub": "7", "name": "Eve", "email": "eve@a.example", "email_verified": true })).await;
    assert_ne!(Browser::default().sign_in(&gateway).await.1.json()["subject"]["id"], id);
    let confirm = format!("{origin}/login/link/confirm");
    // A browser in which the provider knows nobody yet.
    let mut as_eve = Browser::default();
    sign_in(&mut as_eve, second).await.expect(303);
    let href = begin(&mut as_eve).await;
    let shown = as_eve.follow(&href, None).await.1.expect(200);
    let agreed = [("csrf", &*field(&shown, "csrf")), ("identity", &*field(&shown, "identity"))];
    as_eve.post(&confirm, &agreed).await.expect(409);

    // Nothing is linked before the person has seen what it is, and agreed.
    company.account(ada(&["ops"])).await;
    let href = begin(&mut browser).await;
    let shown = browser.follow(&href, None).await.1.expect(200);
    for text in ["Company", &*company.issuer, "248289", "ada@a.example", "every API key"] {
        assert!(shown.text().contains(text), "{text}: {}", shown.text());
    }
    let (csrf, identity) = (field(&shown, "csrf"), field(&shown, "identity"));
    browser.post(&confirm, &[("csrf", "guessed"), ("identity", &identity)]).await.expect(403);
    browser.post(&confirm, &[("csrf", &csrf), ("identity", "another")]).await.expect(403);
    let listed = browser.get(&format!("{origin}/api/v1/me/identities")).await.expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    browser.post(&confirm, &[("csrf", &csrf), ("identity", &identity)]).await.expect(303);
    logins(&gateway, "identity.link", "ok", 1).await;
    assert!(browser.me(&gateway).await.is_none(), "she signs in once more");
    sign_in(&mut browser, second).await.expect(303);
    let listed = browser.get(&format!("{origin}/api/v1/me/identities")).await.expect(200).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    let mut elsewhere = Browser::default();
    let me = elsewhere.sign_in(&gateway).await.1.json();
    assert_eq!(me["subject"]["id"], id, "by the company she is the same");

    // One way less: everything ends, and the other one remains.
    let of_company = listed["items"].as_array().unwrap().iter().find(|one| one["issuer"] == company.issuer).unwrap();
    let page = browser.get(&format!("{origin}/login")).await;
    let fields = [("csrf", &*field(&page, "csrf")), ("identity", of_company["id"].as_str().unwrap())];
    browser.post(&format!("{origin}/login/unlink"), &fields).await.expect(303);
    assert!(browser.me(&gateway).await.is_none() && elsewhere.me(&gateway).await.is_none());
    sign_in(&mut browser, second).await.expect(303);
    let page = browser.get(&format!("{origin}/login")).await;
    let fields = [("csrf", &*field(&page, "csrf")), ("identity", &*field(&page, "identity"))];
    browser.post(&format!("{origin}/login/unlink"), &fields).await.expect(409);
    company.account(ada(&[])).await;
    assert_ne!(Browser::default().sign_in(&gateway).await.1.json()["subject"]["id"], id, "somebody new");
}

/// A provider that others wrote gives a refresh token only to whom it has asked for consent.
#[tokio::test]
async fn a_refresh_token_comes_with_consent() {
    for (consent, tokens) in [(true, 1), (false, 0)] {
        let company = IdentityProvider::start();
        let gateway = company.gateway(json!({ "refresh_minutes": 60, "consent_for_refresh": consent })).await;
        company.account(ada(&[])).await;
        assert_eq!(Browser::default().sign_in(&gateway).await.1.status.as_u16(), 200);
        assert_eq!(company.refresh_tokens().await, tokens, "consent: {consent}");
    }
}
