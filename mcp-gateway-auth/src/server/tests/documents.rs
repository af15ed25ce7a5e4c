//! Clients by document.

use http::HeaderValue;
use http::header::{CACHE_CONTROL, HeaderName};
use mcp_gateway_core::egress::{Fetch, FetchError, Fetched};

use super::*;

const ID: &str = "https://client.example/oauth/client.json";

type Fields = Vec<(HeaderName, &'static str)>;

/// A web of one document.
#[derive(Default)]
struct Web {
    answer: Mutex<(u16, Fields, String)>,
    /// What is at another place.
    elsewhere: Mutex<HashMap<String, String>>,
    fetched: Mutex<Vec<String>>,
}

impl Web {
    fn says(&self, status: u16, headers: &[(HeaderName, &'static str)], body: &Value) {
        *self.answer.lock().unwrap() = (status, headers.to_vec(), body.to_string());
    }

    fn fetched(&self) -> usize {
        self.fetched.lock().unwrap().len()
    }
}

#[async_trait]
impl Fetch for Web {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        self.fetched.lock().unwrap().push(request.uri().to_string());
        let (status, extra, mut body) = self.answer.lock().unwrap().clone();
        if let Some(other) = self.elsewhere.lock().unwrap().get(&request.uri().to_string()) {
            body.clone_from(other);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in extra {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Ok(Fetched { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into() })
    }
}

fn document() -> Value {
    json!({ "client_id": ID, "client_name": "Tools", "redirect_uris": [REDIRECT], "client_uri": "https://client.example" })
}

async fn world() -> (World, Arc<Web>) {
    let web = Arc::new(Web::default());
    web.says(200, &[], &document());
    let held = web.clone();
    let world = World::with(|server| {
        let clock = server.0.clock.clone();
        server.documents(Some(DocumentClients::with_fetch(held, clock)))
    });
    (world.await, web)
}

#[tokio::test]
async fn a_document_is_fetched_after_login_and_the_client_connects() {
    let (world, web) = world().await;
    let held = world.authorize(ID, &[]).await;
    let login = world.send(Request::get(held.location()).header(COOKIE, cookie(&held)), "").await;
    assert!(login.location().starts_with("/login"));
    assert_eq!(web.fetched(), 0, "strangers make us fetch nothing");
    let (page, cookie) = world.ask(ID, "ada", &[]).await;
    assert_eq!((page.known_by, page.client_name.as_deref()), (KnownBy::Document, Some("Tools")));
    let allowed = world.decide(&page, &cookie, "ada", "allow").await;
    let code = allowed.parameters().remove("code").unwrap();
    assert_eq!(web.fetched(), 1, "remembered");
    let tokens = world.redeem(ID, &code, &[]).await.json();
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok());
    assert_eq!(world.refresh("https://other.example/client.json", "x").await.status, 401);
    assert_eq!(web.fetched(), 1, "nor at the token endpoint");
    world.clock.advance(2 * DocumentClients::REMEMBER.0);
    web.says(503, &[], &json!({}));
    let refreshed = world.refresh(ID, text(&tokens, "refresh_token")).await;
    assert_eq!((refreshed.status, web.fetched()), (200, 2), "a public client proves nothing, and goes on");
    let again = world.refresh(ID, text(&refreshed.json(), "refresh_token")).await;
    assert_eq!((again.status, web.fetched()), (200, 2), "nor is its host asked at each request");
    let refreshed = again;
    for status in [301, 403, 408] {
        world.clock.advance(DocumentClients::AGAIN);
        web.says(status, &[], &json!({}));
        assert_eq!(world.refresh(ID, "x").await.status, 400, "{status} is nothing that the client has said");
    }
    world.clock.advance(DocumentClients::AGAIN);
    web.says(404, &[], &json!({}));
    assert_eq!(
        world.refresh(ID, text(&refreshed.json(), "refresh_token")).await.status,
        401,
        "it is no client any more"
    );
}

/// Signs a client's assertions with this key.
async fn refresh_signed(world: &World, keys: &SigningKeys, refresh: &str, jti: &str) -> Answer {
    use mcp_gateway_core::contract::Signer as _;
    let claims = json!({ "iss": ID, "sub": ID, "aud": ORIGIN, "jti": jti, "exp": world.clock.now().as_second() + 60 });
    let assertion = keys.sign("JWT", claims.to_string().as_bytes()).await.unwrap();
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh),
        ("client_assertion", &assertion),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
    ];
    world.post("/token", &form).await
}

async fn redeem_signed(world: &World, keys: &SigningKeys, code: &str) -> Answer {
    use mcp_gateway_core::contract::Signer as _;
    let claims = json!({ "iss": ID, "sub": ID, "aud": ORIGIN, "jti": code, "exp": world.clock.now().as_second() + 60 });
    let assertion = keys.sign("JWT", claims.to_string().as_bytes()).await.unwrap();
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    world.redeem(ID, code, &[("client_assertion", &assertion), ("client_assertion_type", kind)]).await
}

/// Keys of a client, which are not the gateway's.
async fn keys_of_a_client(world: &World) -> Arc<SigningKeys> {
    let store = Arc::new(MemoryStore::new(world.clock.clone()));
    let ring = Resources::new(store, world.sealer.clone(), TenantId::default());
    SigningKeys::open(ring, world.clock.clone(), SigningKeyOptions::default()).await.unwrap()
}

/// Whether the document has the keys in it or says where they are: what it says now is what counts.
#[tokio::test]
async fn a_key_that_a_client_has_withdrawn_is_good_for_nothing() {
    const KEYS: &str = "https://client.example/keys.json";
    for published in [false, true] {
        let (world, web) = world().await;
        let (old, new) = (keys_of_a_client(&world).await, keys_of_a_client(&world).await);
        let says = |keys: &SigningKeys| {
            let mut document = document();
            document["token_endpoint_auth_method"] = "private_key_jwt".into();
            if published {
                document["jwks_uri"] = KEYS.into();
                web.elsewhere.lock().unwrap().insert(KEYS.into(), keys.document().to_string());
            } else {
                document["jwks"] = serde_json::from_str(&keys.document()).unwrap();
            }
            web.says(200, &[], &document);
        };
        says(&old);
        let code = world.code(ID).await;
        let tokens = redeem_signed(&world, &old, &code).await;
        assert_eq!(tokens.status, 200, "{published} {tokens:?}");
        let refresh = text(&tokens.json(), "refresh_token").to_owned();
        assert_eq!(world.refresh(ID, &refresh).await.status, 401, "a name alone proves nothing");
        says(&new);
        let before = web.fetched();
        let tokens = refresh_signed(&world, &old, &refresh, "1").await;
        assert_eq!((tokens.status, web.fetched()), (200, before), "as long as the answer may be remembered");
        let refresh = text(&tokens.json(), "refresh_token").to_owned();
        world.clock.advance(DocumentClients::REMEMBER.0);
        assert_eq!(refresh_signed(&world, &old, &refresh, "2").await.status, 401, "{published}");
        assert_eq!(refresh_signed(&world, &new, &refresh, "3").await.status, 200, "{published}");
        world.clock.advance(DocumentClients::REMEMBER.0);
        web.says(500, &[], &json!({}));
        web.elsewhere.lock().unwrap().clear();
        assert_eq!(refresh_signed(&world, &new, &refresh, "4").await.status, 503, "nobody can say whether it is good");
    }
}

/// A registration may say where its keys are: they are fetched once somebody has agreed to the client.
#[tokio::test]
async fn keys_of_registered_clients_are_fetched_only_after_consent() {
    let (world, web) = world().await;
    let metadata = |uri: &str| json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": uri });
    for bad in ["http://client.example/keys", "https://client.example:8443/keys", "https://u@client.example/keys", "x"]
    {
        assert_eq!(world.register(metadata(bad)).await.error(), "invalid_client_metadata", "{bad}");
    }
    let mut both = metadata("https://client.example/keys");
    both["jwks"] = json!({ "keys": [] });
    assert_eq!(world.register(both).await.error(), "invalid_client_metadata");
    let registered = world.register(metadata("https://client.example/keys")).await.json();
    assert_eq!(text(&registered, "token_endpoint_auth_method"), "private_key_jwt");
    let answer = world.refresh(text(&registered, "client_id"), "x").await;
    assert_eq!((answer.status, web.fetched()), (401, 0));
    let none = json!({ "redirect_uris": [REDIRECT], "jwks_uri": "https://169.254.169.254/keys" });
    let ignored = world.register(none).await;
    assert_eq!((ignored.status, web.fetched()), (201, 0), "who proves nothing needs no keys");
    let without = World::new().await;
    assert_eq!(without.register(metadata("https://client.example/keys")).await.error(), "invalid_client_metadata");
}

/// Anybody can name a client at the token endpoint: its host is asked only so often, and whoever asks stops nobody.
#[tokio::test]
async fn the_token_endpoint_asks_a_host_only_so_often() {
    let web = Arc::new(Web::default());
    let keys = document_with_keys(&web, &[(CACHE_CONTROL, "no-store")]).await;
    let held = web.clone();
    let world = World::with(|server| {
        let clock = server.0.clock.clone();
        let limiter = mcp_gateway_core::memory::MemoryRateLimiter::new(clock.clone(), 100);
        let options = ServerOptions { documents_per_minute: 1, ..ServerOptions::default() };
        server.documents(Some(DocumentClients::with_fetch(held, clock))).options(options).limit_addresses(limiter)
    });
    let world = world.await;
    let (page, cookie) = world.ask(ID, "ada", &[]).await;
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.decide(&page, &cookie, "ada", "allow").await.status, 303);
    world.clock.advance(DocumentClients::BRIEF);
    let mut before = web.fetched();
    for n in 0..20 {
        assert_eq!(refresh_signed(&world, &keys, "x", &format!("a{n}")).await.error(), "invalid_grant");
    }
    assert_eq!(web.fetched() - before, 1, "for all who come together");
    for n in 0..20 {
        let used_up = world.server.0.limit_refetch(ID).await.is_err();
        assert_eq!(used_up, n >= 9, "{n}");
    }
    before = web.fetched();
    world.clock.advance(DocumentClients::BRIEF - Duration::from_nanos(1));
    for n in 0..20 {
        world.clock.advance(Duration::from_nanos(1));
        assert_eq!(refresh_signed(&world, &keys, "x", &format!("b{n}")).await.error(), "invalid_grant", "{n}");
    }
    assert_eq!(web.fetched() - before, 0, "it goes by the last answer");
    // What proves nothing whatever the keys are makes us fetch nothing.
    world.clock.advance(2 * DocumentClients::STALE);
    assert_eq!(world.refresh(ID, "x").await.status, 401);
    assert_eq!(web.fetched(), before);
}

/// A key that is new counts before the old set is forgotten; a made-up one costs one question in a while.
#[tokio::test]
async fn a_new_key_of_a_client_is_looked_for_once_in_a_while() {
    let (world, web) = world().await;
    let keys = document_with_keys(&web, &[(CACHE_CONTROL, "max-age=86400")]).await;
    let code = world.code(ID).await;
    assert_eq!(redeem_signed(&world, &keys, &code).await.status, 200);
    let new = document_with_keys(&web, &[(CACHE_CONTROL, "max-age=86400")]).await;
    let before = web.fetched();
    assert_eq!(refresh_signed(&world, &new, "x", "1").await.error(), "invalid_client");
    assert_eq!(web.fetched(), before, "it was asked a moment ago");
    world.clock.advance(DocumentClients::AGAIN);
    assert_eq!(refresh_signed(&world, &new, "x", "2").await.error(), "invalid_grant");
    assert_eq!(refresh_signed(&world, &keys, "x", "3").await.error(), "invalid_client");
    assert_eq!(web.fetched(), before + 1);
}

/// A document of new keys.
async fn document_with_keys(web: &Web, headers: &[(HeaderName, &'static str)]) -> Arc<SigningKeys> {
    let keys = keys_of_a_client(&World::new().await).await;
    let mut document = document();
    document["token_endpoint_auth_method"] = "private_key_jwt".into();
    document["jwks"] = serde_json::from_str(&keys.document()).unwrap();
    web.says(200, headers, &document);
    keys
}

#[tokio::test]
async fn a_document_that_was_never_used_can_be_blocked() {
    let (world, web) = world().await;
    world.server.block_client(ID).await.unwrap();
    let held = world.authorize(ID, &[]).await;
    let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
    assert_eq!(world.send(request, "").await.status, 403);
    assert_eq!(web.fetched(), 0);
    world.server.unblock_client(ID).await.unwrap();
    world.ask(ID, "ada", &[]).await;
}

#[tokio::test]
async fn only_a_whole_document_is_a_client() {
    let (world, web) = world().await;
    let with = |name: &str, value: Value| {
        let mut document = document();
        document[name] = value;
        document
    };
    let refused = async |what: &str| {
        world.clock.advance(DocumentClients::REMEMBER.0);
        let held = world.authorize(ID, &[]).await;
        let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
        let answer = world.send(request, "").await;
        assert_eq!(answer.status, 400, "{what}");
        assert!(!answer.headers.contains_key("location"), "{what}");
    };
    for (name, value) in [
        ("client_id", json!("https://other.example/client.json")),
        ("client_secret", json!("s")),
        ("client_secret_expires_at", json!(0)),
        ("client_name", Value::Null),
        ("redirect_uris", json!([])),
        ("redirect_uris", json!(["https://evil.example/cb"])),
        ("token_endpoint_auth_method", json!("client_secret_basic")),
        ("token_endpoint_auth_method", json!("private_key_jwt")),
        ("client_uri", json!("x".repeat(ServerLimits::DOCUMENT))),
    ] {
        web.says(200, &[], &with(name, value.clone()));
        refused(name).await;
    }
    for status in [301, 302, 304, 404, 500, 203] {
        web.says(status, &[], &document());
        refused("status").await;
    }
    web.says(200, &[(CONTENT_TYPE, "text/html")], &document());
    refused("HTML").await;
    world.clock.advance(DocumentClients::REMEMBER.0);
    let mut linked = document();
    for name in ["logo_uri", "client_uri", "policy_uri", "tos_uri", "jwks_uri"] {
        linked[name] = "https://169.254.169.254/latest".into();
    }
    web.says(200, &[(CONTENT_TYPE, "application/client-metadata+json")], &linked);
    world.ask(ID, "ada", &[]).await;
    assert!(web.fetched.lock().unwrap().iter().all(|url| url == ID), "nothing that it names is fetched");
}

#[tokio::test]
async fn errors_are_not_remembered_and_documents_within_bounds() {
    let (world, web) = world().await;
    web.says(500, &[], &json!({}));
    let held = world.authorize(ID, &[]).await;
    let request = || Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
    assert_eq!(world.send(request(), "").await.status, 400);
    web.says(200, &[(CACHE_CONTROL, "public, max-age=1")], &document());
    assert_eq!(world.send(request(), "").await.status, 200);
    assert_eq!(web.fetched(), 2);
    world.clock.advance(Duration::from_secs(59));
    world.ask(ID, "ada", &[]).await;
    assert_eq!(web.fetched(), 2, "a minute at least");
    world.clock.advance(Duration::from_secs(1));
    web.says(200, &[(CACHE_CONTROL, "max-age=99999999")], &document());
    world.ask(ID, "ada", &[]).await;
    world.clock.advance(DocumentClients::REMEMBER.1 - Duration::from_secs(1));
    world.ask(ID, "ada", &[]).await;
    assert_eq!(web.fetched(), 3);
    world.clock.advance(Duration::from_secs(1));
    web.says(200, &[(CACHE_CONTROL, "no-store")], &document());
    world.ask(ID, "ada", &[]).await;
    world.ask(ID, "ada", &[]).await;
    assert_eq!(web.fetched(), 5, "a day at most, and no-store is obeyed");
}

#[test]
fn only_plain_https_urls_are_ids() {
    for good in [ID, "https://a.example/x", "https://a.example/x?y", "https://a.example/x/"] {
        assert!(DocumentClients::is_url(good), "{good}");
    }
    let long = format!("https://a.example/{}", "x".repeat(ServerLimits::CLIENT_ID));
    for bad in [
        "http://a.example/x",
        "https://a.example",
        "https://a.example/",
        "https://a.example:443/x",
        "https://a.example:8443/x",
        "https://A.example/x",
        "https://u@a.example/x",
        "https://@a.example/x",
        "https://a.example/x#y",
        "https://a.example/x#",
        "https://a.example/a/../x",
        "https://a.example/./x",
        "https://a.example/%2e%2e/x",
        "https://a.example\\x",
        "HTTPS://a.example/x",
        "https:a.example/x",
        " https://a.example/x",
        "client",
        &long,
    ] {
        assert!(!DocumentClients::is_url(bad), "{bad}");
    }
}

/// The real client: every special-use address is refused, whatever the URL looks like, and nothing of why is told.
#[tokio::test]
async fn private_addresses_are_never_fetched() {
    let world = World::with(|server| server).await;
    for id in ["https://127.0.0.1/x", "https://169.254.169.254/latest", "https://[::1]/x", "https://10.0.0.1/x"] {
        let held = world.authorize(id, &[]).await;
        let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
        let answer = world.send(request, "").await;
        assert_eq!((answer.status, &*answer.body), (400, Problem::UnknownClient.text().as_bytes()), "{id}");
    }
}

/// The name of a document's host leads to the network of the gateway, at once or as soon as it was looked at.
#[tokio::test]
async fn a_document_whose_name_leads_inside_is_not_fetched() {
    use std::collections::VecDeque;
    use std::net::IpAddr;

    use mcp_gateway_core::egress::{Fetcher, Names};

    #[derive(Debug)]
    struct Attackers(Mutex<VecDeque<Vec<IpAddr>>>);

    #[async_trait]
    impl Names for Attackers {
        async fn addresses(&self, name: &str, _: u16) -> std::io::Result<Vec<IpAddr>> {
            assert_eq!(name, "client.example");
            Ok(self.0.lock().unwrap().pop_front().expect("it is asked once for each connection"))
        }
    }

    let inside = tokio::net::TcpListener::bind("127.0.0.1:443").await.ok();
    let of = |all: &[&str]| all.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>();
    let answers = [
        of(&["127.0.0.1"]),
        of(&["10.0.0.1", "169.254.169.254", "127.0.0.1"]),
        of(&["::ffff:127.0.0.1"]),
        of(&["::1", "fd00::1"]),
    ];
    let names = Arc::new(Attackers(Mutex::new(answers.clone().into())));
    let fetch = Arc::new(Fetcher::new(DocumentClients::fetch_options().with_names(names.clone())));
    let world = World::with(|server| {
        let clock = server.0.clock.clone();
        server.documents(Some(DocumentClients::with_fetch(fetch, clock)))
    });
    let world = world.await;
    for answer in answers {
        let held = world.authorize(ID, &[]).await;
        let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
        assert_eq!(world.send(request, "").await.status, 400, "{answer:?}");
    }
    assert!(names.0.lock().unwrap().is_empty(), "each time the name was looked up, and what it said was checked");
    if let Some(inside) = inside {
        let called = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
        assert!(called.is_err(), "somebody called: {called:?}");
    }
}

/// What may be shown to a person and what decides may come apart: a document can change in between.
#[tokio::test]
async fn a_document_that_changes_before_the_answer_is_shown_again() {
    let (world, web) = world().await;
    let (page, cookie) = world.ask(ID, "ada", &[]).await;
    let mut changed = document();
    changed["client_name"] = "Something else".into();
    web.says(200, &[], &changed);
    world.clock.advance(DocumentClients::REMEMBER.0);
    assert_eq!(world.decide(&page, &cookie, "ada", "allow").await.status, 400);
    assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::RequestGone));
    let (page, cookie) = world.ask(ID, "ada", &[]).await;
    assert_eq!(page.client_name.as_deref(), Some("Something else"));
    assert!(world.decide(&page, &cookie, "ada", "allow").await.parameters().contains_key("code"));
}

/// One person makes us fetch only so much, whatever it is; and of one host only so much is fetched, whoever wants it.
#[tokio::test]
async fn documents_are_fetched_within_budgets_of_person_and_host() {
    use mcp_gateway_core::memory::MemoryRateLimiter;
    let web = Arc::new(Web::default());
    web.says(404, &[], &json!({}));
    let held = web.clone();
    let options = ServerOptions { documents_per_minute: 1, ..ServerOptions::default() };
    let budgeted = World::with(|server| {
        let limiter = MemoryRateLimiter::new(mcp_gateway_core::contract::SystemClock, 100);
        let clock = server.0.clock.clone();
        let documents = DocumentClients::with_fetch(held, clock);
        server.documents(Some(documents)).options(options).limit_addresses(limiter)
    });
    let budgeted = budgeted.await;
    let status = async |host: &str, user: &str| {
        let id = format!("https://{host}/client.json");
        let held = budgeted.authorize(&id, &[]).await;
        let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", user);
        budgeted.send(request, "").await.status
    };
    // One person has what they have, and leaves of a host what others need.
    for (host, user, expected) in [("a.example", "ada", 400), ("a.example", "ada", 429), ("b.example", "ada", 429)] {
        assert_eq!(status(host, user).await, expected, "{host} {user}");
    }
    for n in 1..ServerLimits::PEOPLE_AT_A_HOST {
        assert_eq!(status("a.example", &format!("person-{n}")).await, 400);
    }
    assert_eq!(status("a.example", "eve").await, 429);
    assert_eq!(status("d.example", "bob").await, 400);
    assert_eq!(web.fetched(), 11);
}

/// The id of a record is shorter than a URL may be.
#[tokio::test]
async fn a_client_of_a_long_url_is_ended_by_its_own_id() {
    let (world, web) = world().await;
    let id = format!("https://client.example/{}/client.json", "long".repeat(60));
    let mut document = document();
    document["client_id"] = id.as_str().into();
    web.says(200, &[], &document);
    for delete in [true, false] {
        let tokens = world.tokens(&id).await;
        let (clients, _) = world.server.clients(None, 10).await.unwrap();
        assert!(clients[0].id.starts_with("sha256-"));
        assert_eq!(OAuthClient::id_of(&clients[0]), id);
        // By either id: a list shows one, and a program may have kept the other.
        match delete {
            true => world.server.delete_client(&clients[0].id).await.unwrap(),
            false => world.server.block_client(&clients[0].id).await.unwrap(),
        }
        world.settle().await;
        assert!(world.call(text(&tokens, "access_token"), "github").await.is_err());
        world.clock.advance(Duration::from_secs(1));
        if delete {
            assert!(world.server.grants(None, None, 10).await.unwrap().0.is_empty());
        }
    }
    world.server.unblock_client(&id).await.unwrap();
    assert_eq!(world.authorize(&id, &[]).await.status, 303);
}

#[tokio::test]
async fn a_deleted_document_comes_again_with_a_new_consent_at_once() {
    let (world, _) = world().await;
    let before = world.tokens(ID).await;
    world.server.delete_client(ID).await.unwrap();
    world.settle().await;
    world.clock.advance(Duration::from_secs(1));
    assert!(world.call(text(&before, "access_token"), "github").await.is_err());
    let after = world.tokens(ID).await;
    assert!(world.call(text(&after, "access_token"), "github").await.is_ok());
    assert_eq!(world.refresh(ID, text(&after, "refresh_token")).await.status, 200);
    assert_eq!(world.refresh(ID, text(&before, "refresh_token")).await.error(), "invalid_grant");
}
