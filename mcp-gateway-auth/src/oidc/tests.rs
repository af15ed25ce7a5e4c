use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use mcp_gateway_core::contract::{KeyRing as _, Signer as _};
use mcp_gateway_core::egress::{FetchError, Fetched};
use mcp_gateway_core::record::Revoked;
use serde_json::{Value, json};

use super::*;
use crate::login::{SessionOptions, SessionUser, Sessions};
use crate::server::Grant;
use crate::testing::World;
use crate::token::{SigningKeyOptions, SigningKeys};

const ISSUER: &str = "https://login.example.com";
const BROWSER: &str = "a cookie of one browser";

/// A provider that says what the test wants, to the gateway alone.
struct Provider {
    keys: Arc<SigningKeys>,
    answers: Mutex<HashMap<String, Value>>,
    token_form: Mutex<HashMap<String, String>>,
    /// Refresh tokens that were given back.
    given_back: Mutex<Vec<String>>,
    away: AtomicBool,
    /// A URL that is never answered.
    hangs: Mutex<String>,
    fetched: AtomicUsize,
}

#[async_trait]
impl Fetch for Provider {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(FetchError::Failed("it is away".into()));
        }
        let url = request.uri().to_string();
        if *self.hangs.lock().unwrap() == url {
            std::future::pending::<()>().await;
        }
        if url.ends_with("/token") {
            *self.token_form.lock().unwrap() = form_urlencoded::parse(request.body()).into_owned().collect();
        }
        if url.ends_with("/revoke") {
            let form: HashMap<String, String> = form_urlencoded::parse(request.body()).into_owned().collect();
            assert_eq!(form["token_type_hint"], "refresh_token");
            self.given_back.lock().unwrap().push(form["token"].clone());
        }
        let body = match self.answers.lock().unwrap().get(&url) {
            Some(answer) => answer.to_string(),
            None if url.ends_with("/keys") => self.keys.document().to_string(),
            None => {
                return Ok(Fetched { status: StatusCode::NOT_FOUND, headers: HeaderMap::new(), body: Bytes::new() });
            }
        };
        Ok(Fetched { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() })
    }
}

impl Provider {
    fn answer(&self, url: &str, answer: Value) {
        self.answers.lock().unwrap().insert(url.to_owned(), answer);
    }
}

struct Login {
    world: World,
    provider: Arc<Provider>,
    providers: Providers,
    sessions: Sessions,
}

impl Login {
    async fn new(options: ProviderOptions) -> Self {
        Self::of(vec![options]).await
    }

    async fn of(options: Vec<ProviderOptions>) -> Self {
        let world = World::new().await;
        let keys = SigningKeys::open(world.of(), world.clock.clone(), SigningKeyOptions::default()).await.unwrap();
        let provider = Arc::new(Provider {
            keys,
            answers: Mutex::default(),
            token_form: Mutex::default(),
            given_back: Mutex::default(),
            away: AtomicBool::new(false),
            hangs: Mutex::default(),
            fetched: AtomicUsize::new(0),
        });
        let at = |path: &str| format!("{ISSUER}/{path}");
        provider.answer(
            &at(".well-known/openid-configuration"),
            json!({
                "issuer": ISSUER, "authorization_endpoint": at("authorize"), "token_endpoint": at("token"),
                "jwks_uri": at("keys"), "end_session_endpoint": at("end"), "userinfo_endpoint": at("userinfo"),
                "revocation_endpoint": at("revoke"),
            }),
        );
        provider.answer(&at("revoke"), json!({}));
        let (store, sealer) = (world.store.clone(), world.sealer.clone());
        let (fetch, clock) = (provider.clone(), world.clock.clone());
        let origin = "https://gateway.example";
        let providers = Providers::new(options, origin, store, sealer, TenantId::default(), fetch, clock).unwrap();
        let sessions = Sessions::new(world.of(), world.clock.clone(), SessionOptions::default());
        Self { world, provider, providers, sessions }
    }

    async fn company() -> Self {
        let mut options = ProviderOptions::new("company", ISSUER, "gateway");
        options.client_secret = Some(Secret::new("s:e%c"));
        Self::new(options).await
    }

    /// Begins a login: the parameters that the browser brings to the provider.
    async fn begin(&self) -> HashMap<String, String> {
        self.begin_within(None).await
    }

    async fn begin_link(&self, session: &str) -> HashMap<String, String> {
        let url = self.providers.begin_link("company", BROWSER, "/next", session).await.unwrap();
        Url::parse(&url).unwrap().query_pairs().into_owned().collect()
    }

    async fn begin_within(&self, max_age: Option<i64>) -> HashMap<String, String> {
        let url = self.providers.begin("company", BROWSER, "/next", max_age).await.unwrap();
        Url::parse(&url).unwrap().query_pairs().into_owned().collect()
    }

    fn claims(&self, nonce: &str) -> Value {
        let now = self.world.clock.now().as_second();
        json!({
            "iss": ISSUER, "aud": "gateway", "sub": "248289", "iat": now, "exp": now + 300, "nonce": nonce,
            "name": "Ada", "email": "ada@a.example", "sid": "s1",
        })
    }

    fn issue(&self, id_token: &str) {
        self.provider.answer(&format!("{ISSUER}/token"), json!({ "access_token": "at", "id_token": id_token }));
    }

    async fn sign(&self, typ: &'static str, claims: &Value) -> String {
        self.provider.keys.sign(typ, claims.to_string().as_bytes()).await.unwrap()
    }

    /// Ends a login with what the provider says.
    async fn finish(&self, sent: &HashMap<String, String>) -> Result<Proven, OidcError> {
        self.finish_with(sent, "").await
    }

    /// The same with more parameters in the answer.
    async fn finish_with(&self, sent: &HashMap<String, String>, more: &str) -> Result<Proven, OidcError> {
        self.providers.finish("company", BROWSER, &format!("state={}&code=c{more}", sent["state"])).await
    }

    /// A whole login and its session; the session's token.
    async fn session(&self, sid: &str) -> String {
        let sent = self.begin().await;
        let mut claims = self.claims(&sent["nonce"]);
        claims["sid"] = json!(sid);
        self.issue(&self.sign("JWT", &claims).await);
        let proven = self.finish(&sent).await.unwrap();
        let user = SessionUser { id: "ada".into(), epoch: 0 };
        let begun = self.sessions.begin(&user, "company").await.unwrap();
        self.providers.remember(&begun.id, &proven.login, self.sessions.longest()).await.unwrap();
        begun.token.expose().to_owned()
    }

    async fn logout(&self, change: Value) -> Result<EndedLogins, OidcError> {
        let now = self.world.clock.now().as_second();
        let event = json!({ "http://schemas.openid.net/event/backchannel-logout": {} });
        let mut claims =
            json!({ "iss": ISSUER, "aud": "gateway", "iat": now, "exp": now + 120, "jti": "1", "events": event });
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let token = self.sign("logout+jwt", &claims).await;
        self.providers.back_channel("company", logout::form(&token).as_bytes()).await
    }
}

fn invalid<T: fmt::Debug>(answer: &Result<T, OidcError>) -> bool {
    matches!(answer, Err(OidcError::Invalid(_)))
}

#[tokio::test]
async fn a_login_belongs_to_one_browser_and_is_used_once() {
    let login = Login::company().await;
    let sent = login.begin().await;
    assert_eq!((&*sent["client_id"], &*sent["response_type"]), ("gateway", "code"));
    assert_eq!(sent["redirect_uri"], "https://gateway.example/login/callback/company");
    login.issue(&login.sign("JWT", &login.claims(&sent["nonce"])).await);
    let elsewhere = login.providers.finish("company", "another", &format!("state={}&code=c", sent["state"])).await;
    assert!(matches!(elsewhere, Err(OidcError::State)));
    let proven = login.finish(&sent).await.unwrap();
    assert_eq!((&*proven.next, &*proven.asserted.name), ("/next", "Ada"));
    let email = proven.asserted.email.unwrap();
    assert_eq!((&*email.address, email.verified), ("ada@a.example", false));
    let form = login.provider.token_form.lock().unwrap().clone();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    assert_eq!((&sent["code_challenge"], &*sent["code_challenge_method"]), (&challenge, "S256"));
    assert!(!form.contains_key("client_secret"), "it is in the header");
    assert!(matches!(login.finish(&sent).await, Err(OidcError::State)), "there is no second time");

    let late = login.begin().await;
    for strange in [String::new(), "state=a&state=b".into(), format!("state={}", "x".repeat(OidcLimits::CALLBACK))] {
        let answer = login.providers.finish("company", BROWSER, &strange).await;
        assert!(matches!(answer, Err(OidcError::State)), "{strange:.20}");
    }
    assert!(matches!(login.providers.finish("other", BROWSER, "state=x").await, Err(OidcError::NoProvider)));
    assert_ne!(late["state"], sent["state"]);
    assert_ne!(late["nonce"], sent["nonce"]);
}

#[tokio::test]
async fn an_id_token_is_signed_by_the_provider_and_is_one() {
    let login = Login::company().await;
    for forge in ["none", "HS256", "type", "kid", "claims", "signature"] {
        let sent = login.begin().await;
        let claims = login.claims(&sent["nonce"]);
        let good = login.sign("JWT", &claims).await;
        let parts: Vec<&str> = good.split('.').collect();
        let header = |change: &dyn Fn(&mut Value)| {
            let mut header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
            change(&mut header);
            format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), parts[1], parts[2])
        };
        let token = match forge {
            "none" | "HS256" => header(&|header| header["alg"] = json!(forge)),
            "type" => login.sign("at+jwt", &claims).await,
            "kid" => header(&|header| header["kid"] = json!("unknown")),
            "claims" => format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(b"{}"), parts[2]),
            _ => format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 4]),
        };
        login.issue(&token);
        let answer = login.finish(&sent).await;
        assert!(invalid(&answer), "{forge}: {answer:?}");
        login.world.clock.advance(std::time::Duration::from_secs(2));
    }
    let sent = login.begin().await;
    let long = json!({ "x": "x".repeat(OidcLimits::ID_TOKEN) });
    login.issue(&login.sign("JWT", &long).await);
    assert!(invalid(&login.finish(&sent).await));
}

/// Somebody who is signed in proves anew who they are at the other provider, in the same browser.
#[tokio::test]
async fn what_is_to_be_linked_is_no_login_and_is_asked_anew() {
    let login = Login::company().await;
    let sent = login.begin_link("the session's id").await;
    assert_eq!((&*sent["max_age"], sent.get("prompt")), ("0", None));
    let mut claims = login.claims(&sent["nonce"]);
    claims["auth_time"] = json!(login.world.clock.now().as_second() - 600);
    login.issue(&login.sign("JWT", &claims).await);
    assert!(invalid(&login.finish(&sent).await), "the provider has asked nobody");
    let sent = login.begin_link("the session's id").await;
    let mut claims = login.claims(&sent["nonce"]);
    claims["auth_time"] = json!(login.world.clock.now().as_second());
    login.issue(&login.sign("JWT", &claims).await);
    assert_eq!(login.finish(&sent).await.unwrap().link.as_deref(), Some("the session's id"));
    let sent = login.begin().await;
    login.issue(&login.sign("JWT", &login.claims(&sent["nonce"])).await);
    assert_eq!(login.finish(&sent).await.unwrap().link, None);
}

/// What was proved is shown, and linked in the session that it was proved in, once.
#[tokio::test]
async fn what_is_to_be_linked_waits_for_the_person_to_agree() {
    let mut options = ProviderOptions::github("company", "gateway");
    (options.anybody, options.groups_claim, options.fresh_without_auth_time) = (true, None, true);
    assert!(options.proves_anew() && !ProviderOptions::github("hub", "x").proves_anew());
    let login = Login::new(options).await;
    let token = json!({ "access_token": "gho", "token_type": "bearer" });
    login.provider.answer("https://github.com/login/oauth/access_token", token);
    login.provider.answer("https://api.github.com/user", json!({ "id": 42, "login": "ada" }));
    let emails = json!([{ "email": "ada@a.example", "primary": true, "verified": true }]);
    login.provider.answer("https://api.github.com/user/emails", emails);
    let proven = login.finish(&login.begin_link("session").await).await.unwrap();
    let held = login.providers.hold_link("session", &proven).await.unwrap();
    assert_eq!((&*held.identity.subject, held.email.as_deref()), ("42", Some("ada@a.example")));
    let id = held.identity.id();
    let take = async |session: &str, identity: &str| login.providers.take_link(session, identity).await.unwrap();
    assert_eq!(take("another", &id).await, None);
    assert_eq!(take("session", "another").await, None, "not what was shown");
    assert_eq!(take("session", &id).await, Some(held));
    assert_eq!(take("session", &id).await, None, "once");
}

/// `OpenID` Connect Core §11: without consent, `offline_access` is ignored.
#[tokio::test]
async fn consent_is_asked_for_where_a_refresh_token_needs_it() {
    let hour = std::time::Duration::from_secs(3_600);
    let plain = || ProviderOptions::new("company", ISSUER, "gateway");
    let keycloak = ProviderOptions::keycloak("company", ISSUER, "gateway");
    for (options, prompt) in [
        (plain(), None),
        (ProviderOptions { refresh: hour, ..plain() }, Some("consent")),
        (ProviderOptions { refresh: hour, consent_for_refresh: false, ..plain() }, None),
        (ProviderOptions { refresh: hour, ..keycloak }, None),
    ] {
        let login = Login::new(options).await;
        let sent = login.begin().await;
        assert_eq!(sent.get("prompt").map(String::as_str), prompt);
        let linked = login.begin_link("session").await;
        assert!(
            !linked.contains_key("prompt") && !linked["scope"].contains("offline_access"),
            "no token is kept of it"
        );
    }
}

#[tokio::test]
async fn a_login_is_as_fresh_as_its_provider_says() {
    let strict = Login::company().await;
    let mut options = ProviderOptions::new("company", ISSUER, "gateway");
    options.fresh_without_auth_time = true;
    let lax = Login::new(options).await;
    let unrepresentable = i64::MAX / 2;
    // Seconds from now; `i64::MIN` is never.
    let never = Some(i64::MIN);
    for (login, again, said, fresh) in [
        (&strict, false, None, never),
        (&strict, false, Some(-3_000_000), Some(-3_000_000)),
        (&strict, false, Some(unrepresentable), never),
        (&strict, false, Some(3_600), Some(0)),
        (&strict, true, Some(-20), Some(-20)),
        (&strict, true, Some(-31), None),
        (&strict, true, None, None),
        (&lax, false, None, Some(0)),
        (&lax, true, None, Some(0)),
        (&lax, true, Some(-31), None),
        (&lax, false, Some(unrepresentable), never),
    ] {
        let sent = login.begin_within(again.then_some(0)).await;
        assert_eq!(sent["max_age"], if again { "0" } else { "604800" }, "it is always asked");
        let mut claims = login.claims(&sent["nonce"]);
        let now = login.world.clock.now().as_second();
        if let Some(said) = said {
            claims["auth_time"] = json!(now + said);
        }
        login.issue(&login.sign("JWT", &claims).await);
        let proven = login.finish(&sent).await.ok().map(|proven| proven.authenticated_at);
        let proven = proven.map(|at| if at == NEVER { i64::MIN } else { at.as_second() - now });
        assert_eq!(proven, fresh, "again: {again}, auth_time: {said:?}");
    }
}

#[tokio::test]
async fn userinfo_is_about_the_same_person() {
    let mut options = ProviderOptions::keycloak("company", ISSUER, "gateway");
    options.email_domains = vec!["a.example".into()];
    let login = Login::new(options).await;
    let ask = async |userinfo: Value| {
        login.provider.answer(&format!("{ISSUER}/userinfo"), userinfo);
        let sent = login.begin().await;
        let claims = login.claims(&sent["nonce"]);
        login.issue(&login.sign("JWT", &claims).await);
        login.finish(&sent).await
    };
    let said =
        |sub: &str, email: &str| json!({ "sub": sub, "groups": ["ops"], "email": email, "email_verified": true });
    let proven = ask(said("248289", "ada@a.example")).await.unwrap();
    assert_eq!(proven.asserted.groups.unwrap()[0].id, "ops");
    let email = proven.asserted.email.unwrap();
    assert_eq!((&*email.address, email.verified), ("ada@a.example", true));
    let of_another = ask(said("248289", "owner@a.example")).await;
    assert!(
        matches!(of_another, Err(OidcError::NotAllowed(_))),
        "what is verified of one address says nothing of another"
    );
    assert!(invalid(&ask(said("1", "ada@a.example")).await));
    assert!(invalid(&ask(json!([])).await));
}

#[tokio::test]
async fn a_provider_that_is_away_is_asked_again() {
    let login = Login::company().await;
    let begin = async || login.providers.begin("company", BROWSER, "/", None).await;
    login.provider.away.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(matches!(begin().await, Err(OidcError::Provider(_))));
    }
    login.provider.away.store(false, Ordering::SeqCst);
    assert!(matches!(begin().await, Err(OidcError::Provider(_))), "not asked at once");
    login.world.clock.advance(std::time::Duration::from_secs(1));
    begin().await.unwrap();
    // What is known stays good when it cannot be renewed; the token endpoint cannot be replaced by anything.
    login.provider.away.store(true, Ordering::SeqCst);
    login.world.clock.advance(std::time::Duration::from_secs(3_601));
    let sent = login.begin().await;
    assert!(matches!(login.finish(&sent).await, Err(OidcError::Provider(_))));
    assert!(matches!(login.finish(&sent).await, Err(OidcError::State)), "a failed login begins again");
}

#[tokio::test]
async fn the_provider_ends_sessions_with_all_that_came_of_them() {
    let login = Login::company().await;
    let (one, two) = (login.session("s1").await, login.session("s2").await);
    let stands = async |token: &str| login.sessions.find(token).await.unwrap().is_some();
    let id = crate::login::sha256_hex(&one);
    let grants = login.world.of::<Grant>();
    let now = login.world.clock.now();
    let grant: Grant = serde_json::from_value(json!({
        "subject": { "tenant": "default", "issuer": "local", "id": "ada" }, "clientId": "c", "server": "s",
        "scope": "mcp", "session": id, "createdAt": now, "endsAt": now, "rotatedAt": now,
    }))
    .unwrap();
    grants.save("g", &grant, When::Any).await.unwrap();

    assert!(invalid(&login.logout(json!({ "sid": "s1", "iss": "https://evil.example" })).await));
    assert_eq!(login.logout(json!({ "sid": "s1", "sub": "1", "jti": "0" })).await.unwrap().sessions, 0, "not theirs");
    assert!(stands(&one).await);
    let ended = login.logout(json!({ "sid": "s1", "sub": "248289" })).await.unwrap();
    assert_eq!((ended.sessions, &*ended.users), (1, &["ada".to_owned()][..]));
    assert!(!stands(&one).await && stands(&two).await);
    assert!(grants.get("g").await.unwrap().is_none());
    let revoked = login.world.of::<Revocation>().get(&Revoked::Session(&id).id()).await.unwrap();
    assert!(revoked.is_some(), "access tokens end by the feed");

    let fetched = login.provider.fetched.load(Ordering::SeqCst);
    login.world.clock.advance(std::time::Duration::from_secs(3_601));
    for strange in
        [json!({ "sid": "s1", "iss": "https://evil.example" }), json!({ "sid": "s1", "aud": "x" }), json!({})]
    {
        assert!(invalid(&login.logout(strange).await));
    }
    assert_eq!(
        login.provider.fetched.load(Ordering::SeqCst),
        fetched,
        "the provider is not asked for what is wrong anyway"
    );

    // The same token again ends nothing, even what has begun since.
    let again = login.session("s1").await;
    assert!(invalid(&login.logout(json!({ "sid": "s1", "sub": "248289" })).await));
    assert!(stands(&again).await);
    let all = login.logout(json!({ "sub": "248289", "jti": "2" })).await.unwrap();
    assert_eq!(all.sessions, 2);
    assert!(!stands(&again).await && !stands(&two).await);
}

#[tokio::test]
async fn signing_out_here_leads_to_the_provider() {
    let login = Login::company().await;
    let session = crate::login::sha256_hex(&login.session("s1").await);
    let url = login.providers.sign_out(&session).await.unwrap().unwrap();
    let url = Url::parse(&url).unwrap();
    let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!(url.path(), "/end");
    assert_eq!(query["post_logout_redirect_uri"], "https://gateway.example/login");
    assert!(query["id_token_hint"].starts_with("ey"));
    assert!(login.providers.sign_out(&session).await.unwrap().is_none(), "it is forgotten");
}

#[tokio::test]
async fn a_person_of_github_is_a_number_with_a_primary_address() {
    let mut options = ProviderOptions::github("company", "gateway");
    options.email_domains = vec!["a.example".into()];
    let login = Login::new(options).await;
    let api = |path: &str| format!("https://api.github.com{path}");
    let provider = &login.provider;
    provider.answer(
        "https://github.com/login/oauth/access_token",
        json!({ "access_token": "gho", "token_type": "bearer" }),
    );
    provider.answer(&api("/user"), json!({ "id": 42, "login": "ada", "name": null }));
    let emails = |primary_verified: bool| {
        json!([
            { "email": "ada@a.example", "primary": false, "verified": true },
            { "email": "Ada.King@a.example", "primary": true, "verified": primary_verified },
        ])
    };
    provider.answer(&api("/user/emails"), emails(true));
    let many: Vec<_> = (0..100).map(|n| json!({ "id": n, "login": format!("o{n}") })).collect();
    provider.answer(&api("/user/orgs?per_page=100&page=1"), json!(many));
    provider.answer(&api("/user/orgs?per_page=100&page=2"), json!([{ "id": 100, "login": "last" }]));
    let team = json!([{ "id": 7, "slug": "ops", "organization": { "id": 1, "login": "o1" } }]);
    provider.answer(&api("/user/teams?per_page=100&page=1"), team);
    let sent = login.begin().await;
    assert!(!sent.contains_key("nonce") && sent["scope"].contains("read:org") && sent.contains_key("code_challenge"));
    let proven = login.finish(&sent).await.unwrap();
    assert_eq!(proven.authenticated_at, NEVER, "it does not say when");
    // To be linked, somebody would have to be asked again.
    let link = login.begin_link("the session's id").await;
    assert_eq!(link["prompt"], "select_account");
    assert!(invalid(&login.finish(&link).await), "who was at the browser is not known");
    let person = proven.asserted;
    assert_eq!(person.identity, crate::user::IdentityKey::new("https://github.com", "42"));
    assert_eq!((&*person.name, &*person.email.unwrap().address), ("ada", "ada.king@a.example"));
    let groups = person.groups.unwrap();
    assert_eq!((groups.len(), &*groups[101].id, &*groups[101].name), (102, "team/7", "o1/ops"));

    let sent = login.begin().await;
    let named = login.finish_with(&sent, "&iss=https%3A%2F%2Fgithub.com%2Flogin%2Foauth").await.unwrap();
    assert_eq!(named.asserted.identity.issuer, "https://github.com", "the person is the same");
    for other in ["https%3A%2F%2Fgithub.com", "https%3A%2F%2Fevil.example%2Flogin%2Foauth"] {
        let sent = login.begin().await;
        assert!(invalid(&login.finish_with(&sent, &format!("&iss={other}")).await), "{other}");
    }

    provider.answer(&api("/user/emails"), emails(false));
    let sent = login.begin().await;
    assert!(matches!(login.finish(&sent).await, Err(OidcError::NotAllowed(_))));
    provider.answer("https://github.com/login/oauth/access_token", json!({ "error": "bad_verification_code" }));
    let sent = login.begin().await;
    assert!(invalid(&login.finish(&sent).await));
}

#[tokio::test]
async fn members_of_an_organization_of_github_may_sign_in() {
    let mut options = ProviderOptions::github("company", "gateway");
    (options.organizations, options.groups_claim) = (vec![7], None);
    let login = Login::new(options).await;
    let token = json!({ "access_token": "gho", "token_type": "bearer" });
    login.provider.answer("https://github.com/login/oauth/access_token", token);
    let api = |path: &str, answer| login.provider.answer(&format!("https://api.github.com{path}"), answer);
    api("/user", json!({ "id": 42, "login": "ada" }));
    api("/user/emails", json!([]));
    for (organization, may) in [(7, true), (8, false)] {
        api("/user/orgs?per_page=100&page=1", json!([{ "id": organization, "login": "seven" }]));
        let sent = login.begin().await;
        assert_eq!(login.finish(&sent).await.is_ok(), may, "{organization}");
    }
}

#[tokio::test]
async fn two_providers_are_two() {
    let world = World::new().await;
    let fetch: Arc<dyn Fetch> = Arc::new(mcp_gateway_core::egress::Fetcher::new(Default::default()));
    let new = |all: Vec<ProviderOptions>| {
        let (store, sealer, clock) = (world.store.clone(), world.sealer.clone(), world.clock.clone());
        Providers::new(all, "https://gateway.example", store, sealer, TenantId::default(), fetch.clone(), clock)
    };
    let one = || ProviderOptions::new("one", ISSUER, "gateway");
    let two = || ProviderOptions::new("two", "https://two.example", "gateway");
    assert_eq!(new(vec![one(), two()]).unwrap().list().count(), 2);
    assert_eq!(new(vec![one(), ProviderOptions { name: "one".into(), ..two() }]).unwrap_err().field, "name");
    assert_eq!(new(vec![one(), ProviderOptions { issuer: ISSUER.into(), ..two() }]).unwrap_err().field, "issuer");
}

/// What a provider says between logins: of groups, and that it knows somebody no more.
mod between_logins {
    use std::time::Duration;

    use mcp_gateway_core::contract::Write;
    use mcp_gateway_core::record::{Email, Roles};

    use super::*;
    use crate::testing::owner;
    use crate::user::{Asserted, IdentityKey};

    const MINUTES: Duration = Duration::from_secs(600);

    #[derive(Debug, Default, PartialEq)]
    struct Refreshed {
        asked: usize,
        ended: Vec<String>,
        ownerless: Vec<String>,
    }

    struct Asked {
        login: Login,
        session: String,
        id: String,
        user: String,
    }

    impl Asked {
        /// Somebody of the group `ops` who has signed in.
        async fn new() -> Self {
            Self::with(Vec::new(), &[]).await
        }

        /// The same with addresses of these domains, and with these providers beside the company.
        async fn with(others: Vec<ProviderOptions>, domains: &[&str]) -> Self {
            let mut options = ProviderOptions::new("company", ISSUER, "gateway");
            (options.groups_claim, options.refresh) = (Some("groups".to_owned()), MINUTES);
            options.email_domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
            let login = Login::of([vec![options], others].concat()).await;
            let sent = login.begin().await;
            assert!(sent["scope"].split(' ').any(|scope| scope == "offline_access"));
            let mut claims = login.claims(&sent["nonce"]);
            claims["groups"] = json!(["ops"]);
            claims["email_verified"] = json!(true);
            let id_token = login.sign("JWT", &claims).await;
            let token = json!({ "access_token": "at", "id_token": id_token, "refresh_token": "r1" });
            login.provider.answer(&format!("{ISSUER}/token"), token);
            let proven = login.finish(&sent).await.unwrap();
            let signed_in = login.world.users.sign_in(&proven.asserted).await.unwrap();
            login.world.applied(signed_in.revision).await;
            let user = SessionUser { id: signed_in.id.clone(), epoch: 0 };
            let begun = login.sessions.begin(&user, "company").await.unwrap();
            login.providers.remember(&begun.id, &proven.login, Duration::from_secs(30 * 24 * 3_600)).await.unwrap();
            let (id, session) = (begun.id, begun.token.expose().to_owned());
            Self { login, session, id, user: signed_in.id.into() }
        }

        async fn ask(&self) -> Refreshed {
            let changes = Arc::new(Mutex::new(Vec::new()));
            let kept = Arc::clone(&changes);
            let told: OnLoginChange = Arc::new(move |change| {
                kept.lock().unwrap().push(change);
                Box::pin(async {})
            });
            let asked = self.login.providers.refresh_due(&self.login.world.users, &told, None).await.unwrap();
            let mut refreshed = Refreshed { asked, ..Refreshed::default() };
            for change in changes.lock().unwrap().drain(..) {
                match change {
                    LoginChange::Ended(user) => refreshed.ended.push(user),
                    LoginChange::Ownerless(user) => refreshed.ownerless.push(user),
                }
            }
            refreshed
        }

        /// Another session of hers, of this provider.
        async fn session_of(&self, provider: &str, issuer: &str) -> String {
            let user = SessionUser { id: self.user.as_str().into(), epoch: 0 };
            let begun = self.login.sessions.begin(&user, provider).await.unwrap();
            let kept = self.login.providers.0.logins.get(&self.id).await.unwrap().unwrap().value;
            let login = ProviderLogin { provider: provider.to_owned(), issuer: issuer.to_owned(), ..kept };
            self.login.providers.remember(&begun.id, &login, MINUTES * 100).await.unwrap();
            begun.id
        }

        fn denies(&self) {
            self.login.provider.answer(&format!("{ISSUER}/token"), json!({ "error": "invalid_grant" }));
        }

        fn later(&self) {
            self.login.world.clock.advance(MINUTES);
        }

        fn says(&self, groups: &[&str]) {
            let token = json!({ "access_token": "at", "refresh_token": "r2" });
            self.login.provider.answer(&format!("{ISSUER}/token"), token);
            let about = json!({ "sub": "248289", "name": "Ada King", "email": "ada@a.example", "groups": groups });
            self.login.provider.answer(&format!("{ISSUER}/userinfo"), about);
        }

        /// What comes back to the provider beside what is done.
        async fn given_back(&self) -> Vec<String> {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            self.login.provider.given_back.lock().unwrap().clone()
        }

        async fn user(&self) -> mcp_gateway_core::record::User {
            self.login.world.users.get(&self.user).await.unwrap().unwrap().value
        }

        async fn is_signed_in(&self) -> bool {
            self.login.sessions.find(&self.session).await.unwrap().is_some()
        }
    }

    #[tokio::test]
    async fn groups_follow_the_provider_while_a_login_lives() {
        let asked = Asked::new().await;
        asked.says(&["dev"]);
        assert_eq!(asked.ask().await, Refreshed::default(), "it is too early");
        asked.later();
        assert_eq!(asked.ask().await.asked, 1);
        assert_eq!(asked.ask().await.asked, 0, "it was asked a moment ago");
        assert_eq!(asked.user().await.groups, [crate::user::group_id(ISSUER, "dev")]);
        assert_eq!(asked.user().await.name, "Ada King");
        let form = asked.login.provider.token_form.lock().unwrap().clone();
        assert_eq!((&*form["grant_type"], &*form["refresh_token"]), ("refresh_token", "r1"));
        // With the token that followed, in an ID token this time, and of the last owner.
        let group = asked.user().await.groups[0].clone();
        let given = asked.login.world.users.set_group_roles(&owner(), &group, Roles::OWNER, None).await.unwrap();
        asked.login.world.applied(given).await;
        asked.later();
        let mut claims = asked.login.claims("");
        claims["groups"] = json!([]);
        claims.as_object_mut().unwrap().remove("nonce");
        let id_token = asked.login.sign("JWT", &claims).await;
        let token = json!({ "access_token": "at", "id_token": id_token });
        asked.login.provider.answer(&format!("{ISSUER}/token"), token);
        let refreshed = asked.ask().await;
        assert_eq!(refreshed.ownerless, std::slice::from_ref(&asked.user));
        assert_eq!(asked.login.provider.token_form.lock().unwrap()["refresh_token"], "r2");
        assert!(asked.user().await.groups.is_empty() && asked.is_signed_in().await);
        assert!(!asked.login.world.users.effective_roles(&asked.user).contains(Roles::OWNER));
    }

    /// RFC 7009: who signs out leaves nothing at the provider that is good for something.
    #[tokio::test]
    async fn the_providers_refresh_token_is_given_back_with_the_login() {
        let asked = Asked::new().await;
        assert!(asked.login.providers.sign_out(&asked.id).await.unwrap().is_some());
        assert_eq!(asked.given_back().await, ["r1"]);
        assert!(asked.login.providers.sign_out(&asked.id).await.unwrap().is_none());
        assert_eq!(asked.given_back().await, ["r1"], "once");

        // A session that has ended otherwise, with an identity that was taken away for instance.
        let asked = Asked::new().await;
        asked.login.sessions.end(&asked.session).await.unwrap();
        asked.later();
        assert_eq!(asked.ask().await.asked, 0);
        assert_eq!(asked.given_back().await, ["r1"]);

        let asked = Asked::new().await;
        asked.login.logout(json!({ "sub": "248289" })).await.unwrap();
        assert_eq!(asked.given_back().await, ["r1"]);
    }

    /// Keycloak ends by one refresh token all that the client has of the person.
    #[tokio::test]
    async fn no_token_is_given_back_while_the_person_has_another_login() {
        let asked = Asked::new().await;
        let second = asked.session_of("company", ISSUER).await;
        asked.login.providers.sign_out(&asked.id).await.unwrap();
        assert!(asked.given_back().await.is_empty());
        asked.login.providers.sign_out(&second).await.unwrap();
        assert_eq!(asked.given_back().await, ["r1"]);
    }

    /// A replica that was paused while another one has asked about the login, or while the person has signed out.
    #[tokio::test]
    async fn who_was_overtaken_while_asking_writes_nothing() {
        let asked = Asked::new().await;
        let (providers, users) = (&asked.login.providers, &asked.login.world.users);
        let logins = &providers.0.logins;
        let old = logins.get(&asked.id).await.unwrap().unwrap();
        logins.save(&asked.id, &old.value, When::Any).await.unwrap();
        let known = providers.find("company").unwrap();
        let (options, Way::Discovered(discovery)) = (&known.options, &known.way) else { panic!("it is not GitHub") };
        let told: OnLoginChange = Arc::new(|_| Box::pin(async {}));
        let out = Asserted::new(IdentityKey::new(ISSUER, "248289"), "Ada").in_groups(Vec::new());
        for said in [Ok(Some(out)), Err(OidcError::NotAllowed("of another domain"))] {
            let done = providers.believe(users, options, &old, said, &told).await;
            assert_eq!(done.unwrap_err().kind(), mcp_gateway_core::contract::StoreErrorKind::Conflict);
        }
        assert!(asked.is_signed_in().await && asked.user().await.groups.len() == 1);
        // The refresh token that followed is nobody's: it goes back once the login is over.
        asked.says(&["dev"]);
        let (token, now) = (Secret::new("r1"), asked.login.world.clock.now());
        let anew = async || providers.ask_anew(options, discovery, &mut old.clone(), &token, now).await.unwrap();
        assert!(anew().await.is_none() && asked.given_back().await.is_empty());
        logins.delete(&asked.id, When::Any).await.unwrap();
        assert!(anew().await.is_none());
        assert_eq!(asked.given_back().await, ["r2"]);
    }

    #[tokio::test]
    async fn whom_the_provider_knows_no_more_is_out() {
        let asked = Asked::new().await;
        let now = asked.login.world.clock.now();
        let grant: Grant = serde_json::from_value(json!({
            "subject": mcp_gateway_core::record::User::subject(TenantId::default(), &asked.user), "clientId": "c", "server": "s",
            "scope": "mcp", "session": asked.id, "createdAt": now, "endsAt": "2999-01-01T00:00:00Z", "rotatedAt": now,
        }))
        .unwrap();
        let grants = asked.login.world.of::<Grant>();
        grants.save("g", &grant, When::Any).await.unwrap();
        // A mistake of ours, and a provider that is away, end nothing.
        asked.later();
        asked.login.provider.answer(&format!("{ISSUER}/token"), json!({ "error": "invalid_client" }));
        assert!(asked.ask().await.ended.is_empty() && asked.is_signed_in().await);
        asked.later();
        asked.login.provider.away.store(true, Ordering::SeqCst);
        assert!(asked.ask().await.ended.is_empty() && asked.is_signed_in().await);
        asked.login.provider.away.store(false, Ordering::SeqCst);
        asked.later();
        // Somebody else's answer neither.
        asked.says(&["dev"]);
        asked.login.provider.answer(&format!("{ISSUER}/userinfo"), json!({ "sub": "7", "groups": [] }));
        assert!(asked.ask().await.ended.is_empty() && asked.is_signed_in().await);

        // The session has ended by itself; what was agreed to in it is still asked about.
        asked.login.sessions.end(&asked.session).await.unwrap();
        asked.later();
        asked.login.provider.answer(&format!("{ISSUER}/token"), json!({ "error": "invalid_grant" }));
        assert_eq!(asked.ask().await.ended, std::slice::from_ref(&asked.user));
        assert!(grants.get("g").await.unwrap().is_none());
        let session = Revoked::Session(&asked.id).id();
        let given = mcp_gateway_core::record::Dependence { epoch: now, on: [session].into() };
        for _ in 0..100 {
            if asked.login.world.snapshots.load().revocations.end(&given) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("tokens of the login go on");
    }

    #[tokio::test]
    async fn a_login_of_which_nothing_is_left_is_forgotten() {
        let asked = Asked::new().await;
        asked.login.sessions.end(&asked.session).await.unwrap();
        asked.later();
        assert_eq!(asked.ask().await, Refreshed::default());
        assert!(asked.login.providers.0.logins.get(&asked.id).await.unwrap().is_none());
    }

    /// What a provider has said of groups and address ends with its word, however else the person signs in.
    #[tokio::test]
    async fn whom_the_provider_knows_no_more_has_nothing_by_its_word() {
        let asked = Asked::with(Vec::new(), &["a.example"]).await;
        let users = &asked.login.world.users;
        let group = asked.user().await.groups[0].clone();
        let given = users.set_group_roles(&owner(), &group, Roles::OWNER, None).await.unwrap();
        asked.login.world.applied(given).await;
        let second = asked.session_of("company", ISSUER).await;
        asked.denies();
        asked.later();
        // One of two logins may have been signed out there; the other one still speaks.
        let kept = asked.login.providers.0.logins.get(&second).await.unwrap().unwrap();
        let fresh = ProviderLogin { asked_at: Some(asked.login.world.clock.now()), ..kept.value };
        asked.login.providers.0.logins.save(&second, &fresh, When::Any).await.unwrap();
        let refreshed = asked.ask().await;
        assert_eq!((refreshed.ended.len(), asked.user().await.groups.len()), (1, 1));
        assert_eq!(asked.user().await.email, Some(Email::verified_by("ada@a.example", ISSUER)));

        asked.later();
        let refreshed = asked.ask().await;
        assert_eq!((refreshed.ended, refreshed.ownerless), (vec![asked.user.clone()], vec![asked.user.clone()]));
        assert_eq!(asked.user().await.email, Some(Email::unverified("ada@a.example")));
        let hub = IdentityKey::new("https://github.com", "7");
        users.link(&asked.user, &hub).await.unwrap();
        let again = users.sign_in(&Asserted::new(hub, "Ada")).await.unwrap();
        assert_eq!((&*again.id, again.user.groups.len()), (&*asked.user, 0), "no group of the company");
    }

    /// A provider that hangs, and a record that nobody can read, hold up nobody else; what has come of it is told at once.
    #[tokio::test]
    async fn one_provider_does_not_wait_for_another() {
        const SLOW: &str = "https://slow.example.com";
        let mut slow = ProviderOptions::new("slow", SLOW, "gateway");
        slow.refresh = MINUTES;
        let asked = Asked::with(vec![slow], &[]).await;
        let provider = &asked.login.provider;
        let of_slow = json!({
            "issuer": SLOW, "authorization_endpoint": format!("{SLOW}/authorize"),
            "token_endpoint": format!("{SLOW}/token"), "jwks_uri": format!("{SLOW}/keys"),
        });
        provider.answer(&format!("{SLOW}/.well-known/openid-configuration"), of_slow);
        asked.session_of("slow", SLOW).await;
        let logins = &asked.login.providers.0.logins;
        for broken in ["0", "zzz"] {
            let key = logins.key(broken);
            let value = Bytes::from_static(b"{\"provider\":7}");
            let put = Write::Put { key, value, index: Vec::new(), ttl: None, when: When::Any };
            logins.store().commit(vec![put]).await.unwrap();
        }
        // One that says it is due, and cannot be opened.
        let broken = json!({
            "provider": "company", "issuer": ISSUER, "subject": "1", "refreshToken": "not sealed",
            "askedAt": "2020-01-01T00:00:00Z",
        });
        let (key, value) = (logins.key("00"), Bytes::from(broken.to_string()));
        let put = Write::Put { key, value, index: Vec::new(), ttl: None, when: When::Any };
        logins.store().commit(vec![put]).await.unwrap();

        *provider.hangs.lock().unwrap() = format!("{SLOW}/token");
        asked.denies();
        asked.later();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let tells: OnLoginChange = Arc::new(move |change| {
            tell.send(change).unwrap();
            Box::pin(async {})
        });
        let pass = asked.login.providers.refresh_due(&asked.login.world.users, &tells, None);
        tokio::select! {
            done = pass => panic!("the slow one does not answer: {done:?}"),
            change = told.recv() => assert_eq!(change, Some(LoginChange::Ended(asked.user.clone()))),
        }
        assert!(!asked.is_signed_in().await);
    }

    /// Nobody waits for each login of a provider that cannot be reached.
    #[tokio::test]
    async fn a_provider_that_is_away_is_left_out_for_the_rest() {
        let asked = Asked::new().await;
        for _ in 0..3 * OidcLimits::ASKED_AT_ONCE {
            asked.session_of("company", ISSUER).await;
        }
        asked.later();
        asked.login.provider.away.store(true, Ordering::SeqCst);
        let first = asked.ask().await.asked;
        assert!((1..=2 * OidcLimits::ASKED_AT_ONCE).contains(&first), "{first}");
        asked.login.provider.away.store(false, Ordering::SeqCst);
        asked.says(&["ops"]);
        assert_eq!(first + asked.ask().await.asked, 3 * OidcLimits::ASKED_AT_ONCE + 1, "the rest is still due");
    }

    /// A provider that tells less between logins than at one has said nothing.
    #[tokio::test]
    async fn an_address_that_is_not_told_ends_no_login() {
        let asked = Asked::with(Vec::new(), &["a.example"]).await;
        asked.later();
        asked.says(&["ops"]);
        let about = json!({ "sub": "248289", "name": "Ada", "groups": ["ops"] });
        asked.login.provider.answer(&format!("{ISSUER}/userinfo"), about);
        assert!(asked.ask().await.ended.is_empty() && asked.is_signed_in().await);
        asked.later();
        let about = json!({ "sub": "248289", "email": "ada@b.example", "email_verified": true, "groups": [] });
        asked.login.provider.answer(&format!("{ISSUER}/userinfo"), about);
        assert_eq!(asked.ask().await.ended.len(), 1, "another one is");
    }

    #[tokio::test]
    async fn what_is_over_is_not_kept() {
        let asked = Asked::new().await;
        let providers = &asked.login.providers;
        let login = providers.0.logins.get(&asked.id).await.unwrap().unwrap();
        let over = ProviderLogin { ends_at: Some(asked.login.world.clock.now()), ..login.value.clone() };
        assert!(providers.keep(&login, over, None).await.unwrap().is_none());
        assert_eq!(providers.looks_every(), Some(MINUTES / 10));
    }
}
