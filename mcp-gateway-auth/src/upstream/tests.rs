//! Accounts of several people at several replicas, against an issuer in memory that rotates what it gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, StatusCode};
use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::catalog;
use mcp_gateway_core::conformance::FlakyStore;
use mcp_gateway_core::contract::{CredentialAsk, CredentialError, UpstreamCredentials as _};
use mcp_gateway_core::egress::{FetchError, Fetched};
use mcp_gateway_core::memory::MemoryAuditSink;
use mcp_gateway_core::record::{Mount, Route};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::login::{SessionOptions, Sessions};
use crate::scim::Scim;
use crate::testing::World;

const OAUTH: &str =
    "entryKey: x\nname: X\nruntime: remote\nremoteConfig: {fixedURL: 'https://up.example/mcp', auth: {type: oauth}}";
const ISSUER: &str = "https://as.example";

/// Gives each account tokens that say whose they are; a refresh token is good once.
#[derive(Default)]
struct Issuer(Mutex<Given>);

/// Every server is the one of the test.
struct Everything {
    route: Arc<Route>,
    gone: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Known for Everything {
    fn route(&self, _: &str) -> Option<Arc<Route>> {
        Some(Arc::clone(&self.route))
    }

    fn is_other(&self, _: &str, _: &str) -> bool {
        false
    }

    async fn may_have(&self, subject: &Subject) -> Result<bool, StoreError> {
        Ok(!self.gone.lock().unwrap().contains(&*subject.id))
    }
}

#[derive(Default)]
struct Given {
    made: u64,
    refreshes: u64,
    live: BTreeSet<String>,
    /// Tokens that came twice.
    reused: Vec<String>,
    /// How often the token endpoint was asked.
    asked: u64,
    /// What it answers instead of tokens.
    refuses: Option<&'static str>,
    /// How long access tokens live; seconds.
    lives: Option<u64>,
    /// What the token endpoint was shown by whom.
    authorization: Option<String>,
    /// Happens while the token endpoint is asked next.
    during: Option<BoxFuture<()>>,
}

impl Issuer {
    fn answer(&self, path: &str, form: &BTreeMap<String, String>) -> (StatusCode, Value) {
        let mut given = self.0.lock().unwrap();
        let refused = |error: &str| (StatusCode::BAD_REQUEST, json!({ "error": error }));
        match path {
            "/.well-known/oauth-protected-resource/mcp" => {
                (StatusCode::OK, json!({ "resource": "https://up.example/mcp", "authorization_servers": [ISSUER] }))
            }
            "/.well-known/oauth-authorization-server" => (
                StatusCode::OK,
                json!({
                    "issuer": ISSUER, "authorization_endpoint": format!("{ISSUER}/authorize"),
                    "token_endpoint": format!("{ISSUER}/token"), "registration_endpoint": format!("{ISSUER}/register"),
                    "revocation_endpoint": format!("{ISSUER}/revoke"), "code_challenge_methods_supported": ["S256"],
                    "authorization_response_iss_parameter_supported": true,
                }),
            ),
            "/register" => (StatusCode::CREATED, json!({ "client_id": "c", "client_secret": "s" })),
            "/revoke" => {
                given.live.remove(&form["token"]);
                (StatusCode::OK, json!({}))
            }
            "/token" => {
                given.asked += 1;
                if let Some(word) = given.refuses {
                    return refused(word);
                }
                let account = match &*form["grant_type"] {
                    "authorization_code" => form["code"].clone(),
                    "client_credentials" => "gateway".to_owned(),
                    _ => {
                        let token = &form["refresh_token"];
                        if !given.live.remove(token) {
                            given.reused.push(token.clone());
                            return refused("invalid_grant");
                        }
                        given.refreshes += 1;
                        token.split('.').nth(1).unwrap().to_owned()
                    }
                };
                given.made += 1;
                let (access, refresh) = (format!("a.{account}.{}", given.made), format!("r.{account}.{}", given.made));
                given.live.insert(refresh.clone());
                let tokens = json!({
                    "access_token": access, "refresh_token": refresh, "token_type": "bearer",
                    "expires_in": given.lives.unwrap_or(3_600),
                });
                (StatusCode::OK, tokens)
            }
            _ => refused("nothing"),
        }
    }
}

#[async_trait]
impl Fetch for Issuer {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        // Somebody else may be first.
        tokio::task::yield_now().await;
        if request.uri().path() == "/token" {
            let shown = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let during = {
                let mut given = self.0.lock().unwrap();
                given.authorization = shown;
                given.during.take()
            };
            if let Some(during) = during {
                during.await;
            }
        }
        let form = form_urlencoded::parse(request.body()).into_owned().collect();
        let (status, body) = self.answer(request.uri().path(), &form);
        tokio::task::yield_now().await;
        Ok(Fetched { status, headers: HeaderMap::new(), body: body.to_string().into() })
    }
}

struct Replicas {
    world: World,
    issuer: Arc<Issuer>,
    all: Vec<Accounts>,
    route: Arc<Route>,
    sink: Arc<MemoryAuditSink>,
    store: Arc<FlakyStore>,
    known: Arc<Everything>,
}

impl Replicas {
    async fn new(count: usize) -> Self {
        Self::of(count, OAUTH).await
    }

    async fn of(count: usize, entry: &str) -> Self {
        let (world, issuer) = (World::new().await, Arc::new(Issuer::default()));
        let known = Arc::new(Everything { route: route(entry), gone: Mutex::default() });
        let store = FlakyStore::new(world.store.clone());
        let sink = Arc::new(MemoryAuditSink::new(100));
        let mut all = Vec::new();
        for _ in 0..count {
            let (accounts, driver) = Accounts::open(AccountParts {
                store: store.clone(),
                sealer: world.sealer.clone(),
                tenant: TenantId::default(),
                origin: "https://gateway.example".to_owned(),
                fetchers: Fetchers { servers: issuer.clone(), issuers: issuer.clone() },
                signer: None,
                issuers: Vec::new(),
                known: known.clone(),
                sink: sink.clone(),
                clock: world.clock.clone(),
            })
            .await
            .unwrap();
            tokio::spawn(driver);
            all.push(accounts);
        }
        Self { world, issuer, all, route: known.route.clone(), sink, store, known }
    }

    fn ask(&self, user: &str) -> CredentialAsk {
        CredentialAsk { subject: Subject::local(user), route: Arc::clone(&self.route) }
    }

    /// Connects the account of the same name.
    async fn connect(&self, at: usize, user: &str) {
        self.try_connect(at, user).await.unwrap();
    }

    async fn try_connect(&self, at: usize, user: &str) -> Result<Finished, AccountError> {
        let subject = Subject::local(user);
        let who = AtBrowser { subject: &subject, session: user };
        let prepared = self.all[at].prepare(who, &self.route).await.unwrap();
        let going = self.all[at].confirm(who, &prepared.request).await.unwrap();
        let url = Url::parse(&going.href).unwrap();
        let (_, state) = url.query_pairs().find(|(name, _)| name == "state").unwrap();
        let query = format!("state={state}&code={user}&iss=https%3A%2F%2Fas.example");
        let (_, back) = url.query_pairs().find(|(name, _)| name == "redirect_uri").unwrap();
        let tag = back.strip_prefix("https://gateway.example/oauth/callback/");
        self.all[at].finish(who, tag, &query).await
    }

    /// What happens while the token endpoint is asked next.
    fn during(&self, what: impl Future<Output = ()> + Send + 'static) {
        self.issuer.0.lock().unwrap().during = Some(Box::pin(what));
    }

    fn late(&self) {
        self.world.clock.advance(Duration::from_secs(3_580));
    }

    fn asked(&self) -> u64 {
        self.issuer.0.lock().unwrap().asked
    }

    async fn kept(&self, user: &str) -> Option<Stored<Connection>> {
        self.world.of::<Connection>().get(&Connection::id_of("x", &Subject::local(user))).await.unwrap()
    }

    /// The tokens that are good at the issuer are those that are kept, and none was used twice.
    async fn is_whole(&self, user: &str) {
        let kept = self.kept(user).await.and_then(|one| one.value.refresh_token).map(|one| one.expose().to_owned());
        let given = self.issuer.0.lock().unwrap();
        assert_eq!(given.live, kept.into_iter().collect());
        assert_eq!(given.reused, Vec::<String>::new());
    }

    /// Whose token a call of somebody gets.
    async fn account(&self, at: usize, user: &str) -> Result<String, CredentialError> {
        let credential = self.all[at].credential(&self.ask(user)).await?;
        let value = credential.value.to_str().unwrap().strip_prefix("Bearer a.").unwrap().to_owned();
        Ok(value.split('.').next().unwrap().to_owned())
    }
}

fn route(entry: &str) -> Arc<Route> {
    let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
    let entry = catalog::parse(entry.as_bytes(), "x.yaml").pop().unwrap().unwrap();
    Arc::new(catalog::compile(&entry, &mount).unwrap())
}

#[tokio::test]
async fn a_hundred_calls_at_two_replicas_renew_a_token_once() {
    let replicas = Replicas::new(2).await;
    replicas.connect(0, "ada").await;
    replicas.world.clock.advance(Duration::from_secs(3_580));
    let calls = (0..100).map(|turn| replicas.account(turn % 2, "ada"));
    for account in join_all(calls).await {
        assert_eq!(account.unwrap(), "ada");
    }
    let given = replicas.issuer.0.lock().unwrap();
    assert_eq!((given.refreshes, &given.reused), (1, &Vec::new()));
}

#[tokio::test]
async fn tokens_go_where_they_were_connected_for_and_nowhere_else() {
    let replicas = Replicas::new(1).await;
    replicas.connect(0, "ada").await;
    assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada");
    for moved in [
        "entryKey: x\nname: X\nruntime: remote\nremoteConfig: {fixedURL: 'https://evil.example/mcp', auth: {type: oauth}}",
        "entryKey: x\nname: X\nruntime: remote\nremoteConfig: {fixedURL: 'https://up.example/mcp', auth: {type: oauth, client: {type: static, issuer: 'https://other.example', clientId: c}}}",
    ] {
        let ask = CredentialAsk { route: route(moved), ..replicas.ask("ada") };
        let answer = replicas.all[0].credential(&ask).await;
        assert!(matches!(answer, Err(CredentialError::Connect { .. })), "{answer:?}");
    }
    assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada");
}

#[tokio::test]
async fn an_issuer_that_renews_no_more_makes_the_person_connect_anew() {
    let replicas = Replicas::new(1).await;
    replicas.connect(0, "ada").await;
    replicas.issuer.0.lock().unwrap().live.clear();
    replicas.world.clock.advance(Duration::from_secs(3_580));
    for _ in 0..3 {
        assert!(matches!(replicas.account(0, "ada").await, Err(CredentialError::Connect { .. })));
    }
    assert_eq!(replicas.issuer.0.lock().unwrap().reused.len(), 1, "it is asked once");
    let recorded = replicas.sink.events();
    assert!(recorded.iter().any(|event| event.method.as_deref() == Some("account.refresh")), "{recorded:?}");
    replicas.connect(0, "ada").await;
    assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada");
}

#[tokio::test]
async fn what_happens_to_the_record_meanwhile_costs_no_tokens() {
    for case in 0..4 {
        let replicas = Replicas::new(1).await;
        replicas.connect(0, "ada").await;
        replicas.late();
        let (connections, store) = (replicas.world.of::<Connection>(), replicas.store.clone());
        replicas.during(async move {
            match case {
                0 => {
                    let id = Connection::id_of("x", &Subject::local("ada"));
                    let mut noted = connections.get(&id).await.unwrap().unwrap();
                    noted.value.wanted = vec!["more".to_owned()];
                    connections.save(&id, &noted.value, When::At(noted.revision)).await.unwrap();
                }
                1 => store.lose_next_commit(true),
                2 => store.lose_next_commit(false),
                _ => {
                    store.cut();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(120)).await;
                        store.restore();
                    });
                }
            }
        });
        assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada", "{case}");
        replicas.is_whole("ada").await;
        let kept = replicas.kept("ada").await.unwrap().value;
        assert_eq!(kept.wanted.len(), usize::from(case == 0), "what the call has noted stays");
    }
}

#[tokio::test]
async fn tokens_of_an_account_that_was_disconnected_meanwhile_are_given_back() {
    let replicas = Replicas::new(2).await;
    replicas.connect(0, "ada").await;
    replicas.late();
    let other = replicas.all[1].clone();
    replicas.during(async move {
        other.disconnect(&Connection::id_of("x", &Subject::local("ada"))).await.unwrap();
    });
    let answer = replicas.account(0, "ada").await;
    assert!(matches!(answer, Err(CredentialError::Connect { .. })), "{answer:?}");
    let given = replicas.issuer.0.lock().unwrap();
    // The one before was given back before it came to be used.
    assert!(given.live.is_empty(), "{:?}", given.live);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_the_store_did_not_take_are_kept_for_later() {
    let replicas = Replicas::new(1).await;
    replicas.connect(0, "ada").await;
    replicas.late();
    let store = replicas.store.clone();
    replicas.during(async move { store.cut() });
    let answer = replicas.account(0, "ada").await;
    assert!(matches!(answer, Err(CredentialError::Unavailable(_))), "{answer:?}");
    replicas.store.restore();
    assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada");
    replicas.is_whole("ada").await;
    assert_eq!(replicas.issuer.0.lock().unwrap().refreshes, 1);
}

#[tokio::test]
async fn an_issuer_that_fails_is_asked_once_by_whoever_waits_and_not_again_for_a_moment() {
    let replicas = Replicas::new(1).await;
    replicas.connect(0, "ada").await;
    replicas.late();
    replicas.issuer.0.lock().unwrap().refuses = Some("temporarily_unavailable");
    // As one that runs into its time limit.
    let clock = replicas.world.clock.clone();
    replicas.during(async move { clock.advance(AccountLimits::RETRY * 2) });
    let before = replicas.asked();
    for answer in join_all((0..100).map(|_| replicas.account(0, "ada"))).await {
        assert!(matches!(answer, Err(CredentialError::Unavailable(_))), "{answer:?}");
    }
    assert!(replicas.account(0, "ada").await.is_err());
    assert_eq!(replicas.asked(), before + 1);
    replicas.issuer.0.lock().unwrap().refuses = None;
    replicas.world.clock.advance(AccountLimits::RETRY);
    assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada");
}

#[tokio::test]
async fn a_token_of_the_gateway_itself_is_asked_for_once_and_used_for_most_of_its_life() {
    let replicas = Replicas::of(
        1,
        "entryKey: x\nname: X\nruntime: remote\nremoteConfig: {fixedURL: 'https://up.example/mcp', auth: {type: clientCredentials, client: {type: static, issuer: 'https://as.example', clientId: c, clientSecret: s}}}",
    )
    .await;
    let all = || join_all((0..100).map(|_| replicas.account(0, "ada")));
    replicas.issuer.0.lock().unwrap().refuses = Some("invalid_client");
    assert!(all().await.iter().all(Result::is_err));
    assert!(replicas.account(0, "ada").await.is_err());
    assert_eq!(replicas.asked(), 1);
    replicas.world.clock.advance(AccountLimits::RETRY);
    {
        let mut given = replicas.issuer.0.lock().unwrap();
        (given.refuses, given.lives) = (None, Some(20));
    }
    assert!(all().await.iter().all(Result::is_ok));
    replicas.world.clock.advance(Duration::from_secs(14));
    assert!(all().await.iter().all(Result::is_ok));
    assert_eq!(replicas.asked(), 2);
    replicas.world.clock.advance(Duration::from_secs(1));
    replicas.issuer.0.lock().unwrap().lives = Some(0);
    assert!(all().await.iter().all(Result::is_ok));
    assert_eq!(replicas.asked(), 3, "who has waited gets it, however short it lives");
}

#[tokio::test]
async fn a_client_that_an_administrator_has_registered_is_what_the_entry_says_now() {
    let entry = |secret: &str| {
        format!(
            "entryKey: x\nname: X\nruntime: remote\nremoteConfig: {{fixedURL: 'https://up.example/mcp', auth: {{type: oauth, client: {{type: static, issuer: 'https://as.example', clientId: c, clientSecret: {secret}}}}}}}"
        )
    };
    let mut replicas = Replicas::of(1, &entry("one")).await;
    replicas.connect(0, "ada").await;
    assert!(replicas.kept("ada").await.unwrap().value.client.secret.is_none(), "the entry has it");
    replicas.late();
    replicas.issuer.0.lock().unwrap().refuses = Some("invalid_client");
    let answer = replicas.account(0, "ada").await;
    assert!(matches!(answer, Err(CredentialError::Unavailable(_))), "{answer:?}");
    assert_eq!(replicas.kept("ada").await.unwrap().value.state, ConnectionState::Connected);
    replicas.world.clock.advance(AccountLimits::RETRY);
    replicas.issuer.0.lock().unwrap().refuses = None;
    replicas.route = route(&entry("two"));
    assert_eq!(replicas.account(0, "ada").await.unwrap(), "ada");
    let shown = replicas.issuer.0.lock().unwrap().authorization.clone();
    assert_eq!(shown.as_deref(), Some("Basic Yzp0d28="), "c:two");
}

#[tokio::test]
async fn what_a_call_needs_is_asked_of_whoever_gave_the_rest() {
    let replicas = Replicas::new(1).await;
    replicas.connect(0, "ada").await;
    let mut noted = replicas.kept("ada").await.unwrap();
    (noted.value.wanted, noted.value.step_ups) = (vec!["more".to_owned()], AccountLimits::STEP_UPS);
    replicas.world.of::<Connection>().save(&noted.id, &noted.value, When::At(noted.revision)).await.unwrap();
    let subject = Subject::local("ada");
    let asks = async |route: &Route| {
        let who = AtBrowser { subject: &subject, session: "ada" };
        replicas.all[0].prepare(who, route).await.unwrap().scopes.contains(&"more".to_owned())
    };
    assert!(asks(&replicas.route).await);
    let other = "entryKey: x\nname: X\nruntime: remote\nremoteConfig: {fixedURL: 'https://up.example/mcp', auth: {type: oauth, client: {type: static, issuer: 'https://as.example', clientId: other}}}";
    assert!(!asks(&route(other)).await);
    replicas.connect(0, "ada").await;
    let granted = replicas.kept("ada").await.unwrap().value;
    assert_eq!((granted.wanted.len(), granted.step_ups), (0, 0));
}

#[tokio::test]
async fn who_is_gone_when_the_browser_comes_back_has_no_account() {
    let replicas = Replicas::new(1).await;
    let known = replicas.known.clone();
    replicas.during(async move { known.gone.lock().unwrap().extend(["ada".to_owned()]) });
    assert!(matches!(replicas.try_connect(0, "ada").await, Err(AccountError::NotYours)));
    assert!(replicas.kept("ada").await.is_none());
    replicas.is_whole("ada").await;
}

#[tokio::test]
async fn whoever_is_deactivated_has_no_accounts() {
    let replicas = Replicas::new(1).await;
    let world = &replicas.world;
    let sessions = Sessions::new(world.of(), world.clock.clone(), SessionOptions::default());
    let base = "https://gateway.example/scim/v2";
    let scim = Scim::new(world.users.clone(), sessions, Arc::default(), world.clock.clone(), base)
        .with_accounts(replicas.all[0].clone());
    let document = json!({ "userName": "ada@a.example", "externalId": "ada", "displayName": "ada" });
    let user = scim.create_user(ISSUER, &document).await.unwrap();
    replicas.connect(0, &user.id).await;
    let patch = json!({ "Operations": [{ "op": "Replace", "path": "active", "value": false }] });
    scim.patch_user(ISSUER, &user.id, None, &patch).await.unwrap();
    assert!(replicas.kept(&user.id).await.is_none());
    // The issuer hears of it afterwards.
    let all_back = async {
        while !replicas.issuer.0.lock().unwrap().live.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all_back).await.unwrap();
}

#[tokio::test]
async fn what_was_disconnected_elsewhere_is_used_no_more() {
    let replicas = Replicas::new(2).await;
    for user in ["ada", "bob"] {
        replicas.connect(0, user).await;
        assert_eq!(replicas.account(1, user).await.unwrap(), user);
    }
    let id = Connection::id_of("x", &Subject::local("ada"));
    let (revision, given_back) = replicas.all[0].disconnect(&id).await.unwrap().unwrap();
    assert!(given_back);
    replicas.all[1].wait_for(revision).await;
    assert!(matches!(replicas.account(1, "ada").await, Err(CredentialError::Connect { .. })));
    // A replica that hears nothing trusts what it has for a moment alone.
    replicas.store.cut();
    assert_eq!(replicas.account(1, "bob").await.unwrap(), "bob");
    replicas.world.clock.advance(Duration::from_secs(2));
    assert!(matches!(replicas.account(1, "bob").await, Err(CredentialError::Unavailable(_))));
}

#[derive(Debug, Clone)]
enum Step {
    Call,
    Connect,
    Disconnect,
    Late,
}

fn step() -> impl Strategy<Value = (usize, usize, Step)> {
    let step = prop_oneof![
        6 => Just(Step::Call), 1 => Just(Step::Connect), 1 => Just(Step::Disconnect), 1 => Just(Step::Late)
    ];
    (0..2_usize, 0..2_usize, step)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever people do at the same time at several replicas: a call is made with its own person's account or with none,
    /// no refresh token is used twice, and of what was given nothing is left behind.
    #[test]
    fn two_people_are_never_mixed(turns in prop::collection::vec(prop::collection::vec(step(), 1..8), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let replicas = Replicas::new(2).await;
            for turn in &turns {
                join_all(turn.iter().map(async |(at, user, step)| {
                    let user = ["ada", "bob"][*user];
                    match step {
                        Step::Call => match replicas.account(*at, user).await {
                            Ok(account) => assert_eq!(account, user),
                            Err(CredentialError::Connect { url, .. }) => assert!(url.contains(&Accounts::name_of(&Subject::local(user)))),
                            Err(error) => panic!("{error:?}"),
                        },
                        Step::Connect => replicas.connect(*at, user).await,
                        Step::Disconnect => {
                            let id = Connection::id_of("x", &Subject::local(user));
                            replicas.all[*at].disconnect(&id).await.unwrap();
                        }
                        Step::Late => replicas.world.clock.advance(Duration::from_secs(3_580)),
                    }
                }))
                .await;
            }
            assert_eq!(replicas.issuer.0.lock().unwrap().reused, Vec::<String>::new());
        });
    }
}
