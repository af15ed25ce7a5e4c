//! Programs without a browser (RFC 8628).

use std::time::Duration;

use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Query, ResourceStore as _, SystemClock};
use mcp_gateway_core::memory::MemoryRateLimiter;
use mcp_gateway_core::record::{Resource as _, Revoked};

use super::super::device::{DevicePoll, DeviceRequest, GRANT, UserCodeKey, UserCodeRecord};
use super::*;

const RESOURCE: &str = "https://gateway.example/mcp-connect/github";

/// Devices with the usual times, and more tries than a test needs.
fn patient() -> DeviceOptions {
    DeviceOptions { tries_per_account: 1_000, tries_per_address: 1_000, ..DeviceOptions::default() }
}

fn giving(server: AuthorizationServer, options: DeviceOptions) -> AuthorizationServer {
    server.documents(None).devices(options, MemoryRateLimiter::new(SystemClock, 100))
}

async fn world() -> World {
    World::with(|server| giving(server, patient())).await
}

/// A client that an administrator has made for devices.
async fn cli(world: &World) -> String {
    let mut new = NewClient::named("Command line");
    new.grants = [GrantType::DeviceCode, GrantType::RefreshToken].into();
    world.server.create_client(new).await.unwrap().id
}

async fn begin(world: &World, client: &str, more: &[(&str, &str)]) -> Answer {
    world.post("/device_authorization", &[&[("client_id", client), ("scope", "mcp openid")], more].concat()).await
}

/// A device's two codes, for the one server.
async fn codes(world: &World, client: &str) -> (String, String) {
    let begun = begin(world, client, &[("resource", RESOURCE)]).await.json();
    (text(&begun, "device_code").to_owned(), text(&begun, "user_code").to_owned())
}

async fn poll(world: &World, client: &str, device_code: &str) -> Answer {
    let form = [("grant_type", GRANT), ("client_id", client), ("device_code", device_code)];
    world.post("/token", &form).await
}

/// A person's browser at the pages for devices.
struct Browser<'a> {
    world: &'a World,
    user: &'static str,
    cookie: String,
    csrf: String,
}

impl<'a> Browser<'a> {
    async fn of(world: &'a World, user: &'static str) -> Self {
        let answer = world.send(Request::get("/device").header("x-user", user), "").await;
        let Some(DeviceStep::Enter(entry)) = world.people.step.lock().unwrap().take() else { panic!("{answer:?}") };
        Self { world, user, cookie: cookie(&answer), csrf: entry.csrf }
    }

    fn request(&self, path: &str) -> http::request::Builder {
        let request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.header(COOKIE, &self.cookie).header("x-user", self.user)
    }

    async fn enter(&self, code: &str) -> (Answer, Option<DeviceStep>) {
        let form = encoded(&[("csrf", &self.csrf), ("user_code", code)]);
        let answer = self.world.send(self.request("/device"), form).await;
        (answer, self.world.people.step.lock().unwrap().take())
    }

    async fn confirm(&self, code: &str) -> DeviceConfirm {
        match self.enter(code).await {
            (_, Some(DeviceStep::Confirm(confirm))) => *confirm,
            other => panic!("{other:?}"),
        }
    }

    async fn decide(&self, asked: &DeviceConfirm, decision: &str, server: &str) -> (Answer, Option<DeviceStep>) {
        let form = [("request", &*asked.request), ("csrf", &asked.csrf), ("decision", decision), ("server", server)];
        let answer = self.world.send(self.request("/device/decide"), encoded(&form)).await;
        (answer, self.world.people.step.lock().unwrap().take())
    }

    async fn allow(&self, code: &str) {
        let asked = self.confirm(code).await;
        let (answer, step) = self.decide(&asked, "allow", "").await;
        assert_eq!(step, Some(DeviceStep::Allowed { server: "The github".to_owned() }), "{answer:?}");
    }
}

/// RFC 8628 §3.1 to §3.5; each step at the replica that happens to get it.
#[tokio::test]
async fn a_person_lets_a_device_in_and_it_calls_and_refreshes() {
    let world = world().await;
    let metadata = world.get("/.well-known/oauth-authorization-server").await.json();
    assert_eq!(metadata["device_authorization_endpoint"], format!("{ORIGIN}/device_authorization"));
    assert!(metadata["grant_types_supported"].as_array().unwrap().contains(&json!(GRANT)));
    let client = cli(&world).await;
    let begun = begin(&world, &client, &[("resource", RESOURCE)]).await;
    assert_eq!((begun.status, &begun.headers["cache-control"]), (200, &"no-store".parse().unwrap()));
    let begun = begun.json();
    let (device_code, user_code) = (text(&begun, "device_code"), text(&begun, "user_code"));
    assert_eq!(
        (device_code.len(), user_code.len(), &begun["expires_in"], &begun["interval"]),
        (43, 9, &json!(600), &json!(5))
    );
    assert_eq!(text(&begun, "verification_uri"), format!("{ORIGIN}/device"));
    assert_eq!(text(&begun, "verification_uri_complete"), format!("{ORIGIN}/device?user_code={user_code}"));
    assert_eq!(poll(&world, &client, device_code).await.error(), "authorization_pending");

    // A stranger logs in first, and comes back with the code; with the link it is shown, and nothing is sent for it.
    let path = format!("/device?user_code={}", user_code.to_ascii_lowercase());
    let login = world.get(&path).await;
    assert_eq!(login.location(), format!("/login?then=/device?user_code={user_code}"));
    let page = world.send(Request::get(&path).header("x-user", "ada"), "").await;
    for (name, value) in [("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")] {
        assert_eq!(page.headers[name], value);
    }
    let Some(DeviceStep::Enter(entry)) = world.people.step.lock().unwrap().take() else { panic!("{page:?}") };
    assert_eq!((&*entry.user_code, entry.wrong), (user_code, false));
    assert_eq!(world.get("/device?user_code=%3Cscript%3E").await.location(), "/login?then=/device");

    let browser = Browser::of(&world, "ada").await;
    let asked = browser.confirm(&user_code.replace('-', " ")).await;
    assert_eq!((&*asked.user_code, asked.client_name.as_deref()), (user_code, Some("Command line")));
    assert_eq!(asked.server, Some(("github".to_owned(), "The github".to_owned())));
    let (answer, step) = browser.decide(&asked, "allow", "").await;
    assert_eq!(step, Some(DeviceStep::Allowed { server: "The github".to_owned() }), "{answer:?}");

    let other = AuthorizationServer::new(ServerParts {
        mount: Mount::new(ORIGIN, "/mcp-connect").unwrap(),
        tenant: TenantId::default(),
        store: world.store.clone(),
        sealer: world.sealer.clone(),
        signer: world.keys.clone(),
        keys: world.keys.clone(),
        resolve: world.servers.clone(),
        standing: world.standing.clone(),
        interaction: world.people.clone(),
        clock: world.clock.clone(),
    });
    let replica = World { server: giving(other, patient()), ..world };
    replica.clock.advance(Duration::from_secs(5));
    let tokens = poll(&replica, &client, device_code).await.json();
    let principal = replica.call(text(&tokens, "access_token"), "github").await.unwrap();
    assert_eq!((&*principal.subject.id, &*principal.actor.id), ("ada", &*client));
    let refreshed = replica.refresh(&client, text(&tokens, "refresh_token")).await.json();
    assert!(replica.call(text(&refreshed, "access_token"), "github").await.is_ok());
    // Used once: whoever has the code too ends what came of it.
    assert_eq!(poll(&replica, &client, device_code).await.error(), "invalid_grant");
    replica.settle().await;
    assert!(replica.call(text(&refreshed, "access_token"), "github").await.is_err());
    assert_eq!(replica.refresh(&client, text(&refreshed, "refresh_token")).await.error(), "invalid_grant");
    assert!(matches!(browser_of(&replica, user_code).await, Some(DeviceStep::Enter(entry)) if entry.wrong));
}

async fn browser_of(world: &World, code: &str) -> Option<DeviceStep> {
    Browser::of(world, "bob").await.enter(code).await.1
}

/// RFC 8628 §3.5.
#[tokio::test]
async fn a_device_that_asks_too_often_waits_longer() {
    let world = world().await;
    let client = cli(&world).await;
    let (code, _) = codes(&world, &client).await;
    let after = async |milliseconds| {
        world.clock.advance(Duration::from_millis(milliseconds));
        poll(&world, &client, &code).await.error()
    };
    assert_eq!(after(0).await, "authorization_pending");
    assert_eq!(after(5_000).await, "authorization_pending");
    assert_eq!(after(4_500).await, "authorization_pending", "clocks are apart, and networks differ");
    assert_eq!(after(4_499).await, "slow_down");
    assert_eq!(after(9_499).await, "slow_down");
    assert_eq!(after(15_000).await, "authorization_pending");
    // At the same time at two replicas: one is answered.
    world.clock.advance(Duration::from_secs(15));
    let (one, another) = tokio::join!(poll(&world, &client, &code), poll(&world, &client, &code));
    let errors = HashSet::from([one.error(), another.error()]);
    assert_eq!(errors, HashSet::from(["authorization_pending".to_owned(), "slow_down".to_owned()]));
    for _ in 0..20 {
        assert_eq!(after(0).await, "slow_down");
    }
    assert_eq!(after(60_000).await, "authorization_pending", "it never has to wait longer");
}

#[tokio::test]
async fn a_device_code_ends_in_time_and_says_so() {
    let world = world().await;
    let client = cli(&world).await;
    let (code, user_code) = codes(&world, &client).await;
    let browser = Browser::of(&world, "ada").await;
    let asked = browser.confirm(&user_code).await;
    world.clock.advance(Duration::from_millis(599_999));
    assert_eq!(poll(&world, &client, &code).await.error(), "authorization_pending");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(poll(&world, &client, &code).await.error(), "expired_token");
    assert!(matches!(browser.enter(&user_code).await.1, Some(DeviceStep::Enter(entry)) if entry.wrong));
    assert_eq!(browser.decide(&asked, "allow", "").await.0.status, 400);
    world.clock.advance(ServerLimits::DEVICE_KEPT);
    assert_eq!(poll(&world, &client, &code).await.error(), "invalid_grant");
}

/// Whoever agrees at the last moment has agreed: the device asks only after its interval.
#[tokio::test]
async fn what_was_allowed_at_the_end_is_still_there_for_the_next_question() {
    for (wait, status) in [(59_999, 200), (60_000, 400)] {
        let world = world().await;
        let client = cli(&world).await;
        let (code, user_code) = codes(&world, &client).await;
        world.clock.advance(Duration::from_millis(599_999));
        Browser::of(&world, "ada").await.allow(&user_code).await;
        world.clock.advance(Duration::from_millis(wait));
        assert_eq!(poll(&world, &client, &code).await.status, status, "{wait}");
    }
}

/// RFC 8628 §5.4: whoever registers by themselves gets nobody to type a code.
#[tokio::test]
async fn only_clients_that_an_operator_made_for_it_get_device_codes() {
    let world = world().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", GRANT] });
    let registered = text(&world.register(metadata).await.json(), "client_id").to_owned();
    assert_eq!(begin(&world, &registered, &[]).await.error(), "unauthorized_client");
    assert_eq!(poll(&world, &registered, "x").await.error(), "unauthorized_client");
    // Not even when its record says so.
    let clients = world.kept::<OAuthClient>();
    let mut kept = clients.get(&registered).await.unwrap().unwrap().value;
    kept.grants.push(GrantType::DeviceCode);
    clients.save(&registered, &kept, mcp_gateway_core::contract::When::Any).await.unwrap();
    assert_eq!(begin(&world, &registered, &[]).await.error(), "unauthorized_client");
    assert_eq!(begin(&world, "nobody", &[]).await.error(), "invalid_client");

    let client = cli(&world).await;
    let (code, user_code) = codes(&world, &client).await;
    let another = cli(&world).await;
    assert_eq!(poll(&world, &another, &code).await.error(), "invalid_grant");
    assert_eq!(poll(&world, &client, "guessed").await.error(), "invalid_grant");
    world.server.block_client(&client).await.unwrap();
    assert!(matches!(browser_of(&world, &user_code).await, Some(DeviceStep::Enter(entry)) if entry.wrong));
    assert_eq!(poll(&world, &client, &code).await.error(), "invalid_client");
    // Where nobody has pages for it, there is nothing.
    let without = World::new().await;
    assert_eq!((without.get("/device").await.status, begin(&without, "x", &[]).await.status), (404, 404));
}

/// RFC 8628 §5.1: 20^8 codes, and few tries.
#[tokio::test]
async fn guesses_of_user_codes_are_bounded_by_account_and_address() {
    let options = DeviceOptions { tries_per_account: 5, tries_per_address: 6, ..DeviceOptions::default() };
    let world = World::with(|server| giving(server, options)).await;
    let client = cli(&world).await;
    let (_, user_code) = codes(&world, &client).await;
    let from = async |browser: &Browser<'_>, address: &str, code: &str| {
        let context = McpContext::new(&SystemClock);
        context.set_address(address.parse().unwrap()).unwrap();
        let form = encoded(&[("csrf", &browser.csrf), ("user_code", code)]);
        world.send(browser.request("/device").extension(context), form).await.status
    };
    let ada = Browser::of(&world, "ada").await;
    assert_eq!(from(&ada, "198.51.100.1", "no code").await, 400, "what cannot be one is no try");
    for _ in 0..5 {
        assert_eq!(from(&ada, "198.51.100.1", "BBBB-BBBB").await, 400);
    }
    assert_eq!(from(&ada, "198.51.100.2", &user_code).await, 429, "right ones neither, from anywhere");
    let bob = Browser::of(&world, "bob").await;
    assert_eq!(from(&bob, "198.51.100.1", "BBBB-BBBB").await, 400);
    assert_eq!(from(&bob, "198.51.100.1", &user_code).await, 429, "the address has had its six");
    assert_eq!(from(&bob, "198.51.100.2", &user_code).await, 200);
}

/// A budget that is refilled while it is used gives more than its number in its time.
#[tokio::test]
async fn an_account_has_no_more_tries_in_the_life_of_a_code_than_it_says() {
    let options = DeviceOptions { tries_per_address: 1_000, ..DeviceOptions::default() };
    let world = World::with(|server| {
        let limiter = MemoryRateLimiter::new(server.0.clock.clone(), 100);
        server.documents(None).devices(options, limiter)
    });
    let world = world.await;
    let browser = Browser::of(&world, "ada").await;
    let mut looked_up = 0;
    for _ in 0..600 {
        looked_up += u32::from(browser.enter("BBBB-BBBB").await.0.status == 400);
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(looked_up, 5);
    assert_eq!(browser.enter("BBBB-BBBB").await.0.status, 400, "one comes back with each life");
    assert_eq!(browser.enter("BBBB-BBBB").await.0.status, 429);
}

#[tokio::test]
async fn codes_for_devices_have_a_budget_of_all_together() {
    let options = DeviceOptions { requests_total_per_minute: 2, ..DeviceOptions::default() };
    let world = World::with(|server| giving(server, options)).await;
    let client = cli(&world).await;
    for status in [200, 200, 429] {
        assert_eq!(begin(&world, &client, &[]).await.status, status);
    }
}

#[tokio::test]
async fn one_address_uses_up_nobody_elses_device_codes() {
    let options = DeviceOptions { requests_per_minute: 2, requests_total_per_minute: 3, ..DeviceOptions::default() };
    let world = World::with(|server| giving(server, options)).await;
    let client = cli(&world).await;
    let from = async |address: &str| {
        let context = McpContext::new(&SystemClock);
        context.set_address(address.parse().unwrap()).unwrap();
        let request = Request::post("/device_authorization").extension(context);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        world.send(request, encoded(&[("client_id", &*client)])).await.status
    };
    for status in [200, 200, 429, 429] {
        assert_eq!(from("198.51.100.1").await, status);
    }
    assert_eq!(from("198.51.100.2").await, 200, "what was refused took nothing from the others");
    assert_eq!(from("198.51.100.3").await, 429, "all together have had their three");
}

#[tokio::test]
async fn a_device_is_let_in_by_the_page_the_browser_and_the_person() {
    let world = world().await;
    let client = cli(&world).await;
    let (code, user_code) = codes(&world, &client).await;
    let ada = Browser::of(&world, "ada").await;
    let gone = |(answer, step): (Answer, Option<DeviceStep>)| {
        assert_eq!((answer.status, step), (400, None));
        assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::RequestGone));
    };
    // Another site's form, by its header or without the token; a browser without the cookie.
    let form = encoded(&[("csrf", &ada.csrf), ("user_code", &user_code)]);
    for request in [
        ada.request("/device").header("sec-fetch-site", "cross-site"),
        ada.request("/device").header("origin", "https://evil.example"),
    ] {
        assert_eq!(world.send(request, form.clone()).await.status, 400);
    }
    gone(
        Browser { csrf: Browser::of(&world, "eve").await.csrf, ..Browser::of(&world, "ada").await }
            .enter(&user_code)
            .await,
    );
    gone(Browser { cookie: "a=b".to_owned(), csrf: ada.csrf.clone(), ..ada }.enter(&user_code).await);

    let ada = Browser::of(&world, "ada").await;
    let asked = ada.confirm(&user_code).await;
    let eve = Browser { user: "eve", cookie: ada.cookie.clone(), csrf: ada.csrf.clone(), world: &world };
    gone(eve.decide(&asked, "allow", "").await);
    gone(Browser::of(&world, "ada").await.decide(&asked, "allow", "").await);
    gone(ada.decide(&DeviceConfirm { csrf: "guessed".to_owned(), ..asked.clone() }, "allow", "").await);
    // Whoever enters the code later is asked instead.
    let theirs = Browser::of(&world, "bob").await;
    let bobs = theirs.confirm(&user_code).await;
    gone(ada.decide(&asked, "allow", "").await);
    assert_eq!(theirs.decide(&bobs, "deny", "").await.1, Some(DeviceStep::Denied));
    gone(theirs.decide(&bobs, "allow", "").await);
    assert_eq!(poll(&world, &client, &code).await.error(), "access_denied");
}

#[tokio::test]
async fn a_device_gets_one_server_that_the_person_may_use() {
    let world = world().await;
    let client = cli(&world).await;
    for wrong in ["https://gateway.example/mcp-connect/a/b", "https://other.example/mcp-connect/github"] {
        assert_eq!(begin(&world, &client, &[("resource", wrong)]).await.error(), "invalid_target");
    }
    let begun = begin(&world, &client, &[]).await.json();
    let (code, user_code) = (text(&begun, "device_code"), text(&begun, "user_code"));
    let browser = Browser::of(&world, "ada").await;
    let asked = browser.confirm(user_code).await;
    assert_eq!(asked.server, None);
    for (server, problem) in [("", Problem::NoServer), ("nowhere", Problem::NoAccess)] {
        browser.decide(&asked, "allow", server).await;
        assert_eq!(*world.people.problem.lock().unwrap(), Some(problem));
    }
    browser.decide(&asked, "allow", "gitlab").await;
    let form = [("grant_type", GRANT), ("client_id", &*client), ("device_code", code), ("resource", RESOURCE)];
    assert_eq!(world.post("/token", &form).await.error(), "invalid_target");
    world.clock.advance(Duration::from_secs(5));
    let tokens = poll(&world, &client, code).await.json();
    assert!(world.call(text(&tokens, "access_token"), "gitlab").await.is_ok());
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_err());

    world.servers.hidden.lock().unwrap().insert(("github".to_owned(), "ada".to_owned()));
    let (_, user_code) = codes(&world, &client).await;
    assert_eq!(browser.enter(&user_code).await.0.status, 403);
}

#[tokio::test]
async fn what_ends_a_login_before_the_device_has_its_tokens_ends_them() {
    let world = world().await;
    let client = cli(&world).await;
    let browser = Browser::of(&world, "ada").await;
    let (code, user_code) = codes(&world, &client).await;
    browser.allow(&user_code).await;
    world.server.end_grants(Revoked::Session("login-of-ada")).await.unwrap();
    world.settle().await;
    assert_eq!(poll(&world, &client, &code).await.error(), "invalid_grant");
}

#[tokio::test]
async fn the_store_holds_no_code_of_a_device() {
    let world = world().await;
    let client = cli(&world).await;
    let (code, user_code) = codes(&world, &client).await;
    poll(&world, &client, &code).await;
    let browser = Browser::of(&world, "ada").await;
    let asked = browser.confirm(&user_code).await;
    let key = world.kept::<UserCodeKey>().get("1").await.unwrap().unwrap().value.secret;
    let mut kept = String::new();
    for kind in [DeviceRequest::KIND, DevicePoll::KIND, UserCodeRecord::KIND, UserCodeKey::KIND] {
        for record in world.store.list(&Query::all(kind)).await.unwrap().records {
            kept.push_str(&record.key.id);
            kept.push_str(std::str::from_utf8(&record.value).unwrap());
        }
    }
    let letters = user_code.replace('-', "");
    let nonce = browser.cookie.split_once('=').unwrap().1;
    for secret in
        [&*code, &user_code, &letters, &hex_hash(&user_code), &hex_hash(&letters), nonce, &asked.csrf, key.expose()]
    {
        assert!(!kept.contains(secret), "{secret}");
    }
}
