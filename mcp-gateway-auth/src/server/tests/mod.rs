//! The authorization server as clients and browsers meet it.

mod attacks;
mod clients;
mod consents;
mod devices;
mod documents;
mod journey;
mod refresh;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use async_trait::async_trait;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, LOCATION, SET_COOKIE};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::contract::{AuthError, Authenticator as _, Incarnation, ResolveError};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Principal, Resources, Route, RouteTarget, Subject};
use mcp_gateway_core::seal::Sealer;
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::hex_hash;
use super::*;
use crate::token::{Person, SigningKeyOptions, SigningKeys, TokenAuthenticator};

pub(super) const ORIGIN: &str = "https://gateway.example";
pub(super) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(super) const REDIRECT: &str = "http://127.0.0.1:33418/callback";

/// The people of a test, and the page that was shown last.
#[derive(Default)]
pub(super) struct People {
    pub(super) page: Mutex<Option<ConsentPage>>,
    pub(super) problem: Mutex<Option<Problem>>,
    pub(super) step: Mutex<Option<DeviceStep>>,
}

#[async_trait]
impl Interaction for People {
    async fn who(&self, head: &Parts) -> Result<Option<LoggedIn>, BoxError> {
        let user = head.headers.get("x-user").map(|user| user.to_str().unwrap());
        Ok(user.map(|user| LoggedIn { subject: Subject::local(user), session: Some(format!("login-of-{user}")) }))
    }

    async fn login(&self, _: &Parts, return_to: &str) -> Response<Body> {
        Response::builder()
            .status(303)
            .header(LOCATION, format!("/login?then={return_to}"))
            .body(Body::empty())
            .unwrap()
    }

    async fn consent(&self, _: &Parts, page: &ConsentPage) -> Response<Body> {
        *self.page.lock().unwrap() = Some(page.clone());
        Response::new(Body::from(Bytes::from("consent")))
    }

    async fn device(&self, _: &Parts, step: &DeviceStep) -> Response<Body> {
        *self.step.lock().unwrap() = Some(step.clone());
        Response::new(Body::from(Bytes::from("device")))
    }

    async fn problem(&self, _: &Parts, problem: &Problem) -> Response<Body> {
        *self.problem.lock().unwrap() = Some(*problem);
        Response::new(Body::from(Bytes::from(problem.text())))
    }
}

/// Which servers there are, and who may not see which.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) hidden: Mutex<HashSet<(String, String)>>,
}

impl Resolve for Servers {
    fn resolve(&self, id: &str, who: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        let hidden = self.hidden.lock().unwrap().contains(&(id.to_owned(), who.subject.id.to_string()));
        let known = !hidden && matches!(id, "github" | "gitlab");
        let route = known.then(|| {
            let url = http::Uri::from_static("https://up.example/mcp");
            let incarnation = Incarnation("1".into());
            Arc::new(Route {
                id: id.into(),
                name: format!("The {id}").into(),
                resource: Mount::new(ORIGIN, "/mcp-connect").unwrap().resource(id),
                target: RouteTarget::Remote { url, headers: Arc::from([]), auth: None, incarnation },
                sub_paths: Arc::from([]),
                query_parameters: Arc::from([]),
                response_headers: Arc::from([]),
                server_requests: mcp_gateway_core::record::ServerRequests::default(),
            })
        });
        Ok(route).into()
    }
}

/// Revocations from the store, and people whose epoch a test counts up.
pub(super) struct Stands(Snapshots, pub(super) std::sync::atomic::AtomicU64);

impl Standing for Stands {
    fn ended(&self, dependence: &mcp_gateway_core::record::Dependence) -> bool {
        self.0.ended(dependence)
    }

    fn refuses(&self) -> bool {
        Standing::refuses(&self.0)
    }

    fn person(&self, _: &Subject) -> Option<Person> {
        Some(Person { epoch: self.1.load(std::sync::atomic::Ordering::SeqCst), ..Person::default() })
    }
}

/// A server, its store, and a gateway that accepts its tokens.
pub(super) struct World {
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) keys: Arc<SigningKeys>,
    pub(super) people: Arc<People>,
    pub(super) servers: Arc<Servers>,
    pub(super) snapshots: Snapshots,
    pub(super) standing: Arc<Stands>,
    pub(super) server: AuthorizationServer,
    pub(super) gateway: TokenAuthenticator,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn location(&self) -> &str {
        self.headers[LOCATION].to_str().unwrap()
    }

    /// The parameters that the browser takes along.
    pub(super) fn parameters(&self) -> HashMap<String, String> {
        let (_, query) = self.location().split_once('?').unwrap();
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(|server| server.documents(None)).await
    }

    pub(super) async fn with(configure: impl FnOnce(AuthorizationServer) -> AuthorizationServer) -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
        let ring = Resources::new(store.clone(), sealer.clone(), TenantId::default());
        let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
        let options = SnapshotOptions::new(sealer.clone(), Arc::new(|_: &_| unreachable!("there is no entry")));
        let (snapshots, driver) = Snapshots::follow(store.clone(), options).await.unwrap();
        tokio::spawn(driver);
        let standing = Arc::new(Stands(snapshots.clone(), 0.into()));
        let (people, servers) = (Arc::new(People::default()), Arc::new(Servers::default()));
        let server = AuthorizationServer::new(ServerParts {
            mount: Mount::new(ORIGIN, "/mcp-connect").unwrap(),
            tenant: TenantId::default(),
            store: store.clone(),
            sealer: sealer.clone(),
            signer: keys.clone(),
            keys: keys.clone(),
            resolve: servers.clone(),
            standing: standing.clone(),
            interaction: people.clone(),
            clock: clock.clone(),
        });
        let server = configure(server);
        let gateway = TokenAuthenticator::builder(standing.clone(), clock.clone());
        let gateway = gateway.own(ORIGIN, keys.clone()).build();
        Self { clock, store, sealer, keys, people, servers, snapshots, standing, server, gateway }
    }

    pub(super) fn kept<T: mcp_gateway_core::record::Resource>(&self) -> Resources<T> {
        Resources::new(self.store.clone(), self.sealer.clone(), TenantId::default())
    }

    pub(super) async fn send(&self, request: http::request::Builder, body: impl Into<String>) -> Answer {
        let request = request.body(Body::from(Bytes::from(body.into()))).unwrap();
        let response = self.server.clone().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), "").await
    }

    pub(super) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        self.post_as(path, form, None).await
    }

    pub(super) async fn post_as(&self, path: &str, form: &[(&str, &str)], authorization: Option<&str>) -> Answer {
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        self.send(request, encoded(form)).await
    }

    /// Registers a client and returns its id.
    pub(super) async fn register(&self, metadata: Value) -> Answer {
        self.send(Request::post("/register").header(CONTENT_TYPE, "application/json"), metadata.to_string()).await
    }

    pub(super) async fn laptop(&self) -> String {
        let answer = self.register(json!({ "client_name": "Laptop", "redirect_uris": [REDIRECT] })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["client_id"].as_str().unwrap().to_owned()
    }

    /// The request for a code, changed as a test likes.
    pub(super) async fn authorize(&self, client: &str, changes: &[(&str, &str)]) -> Answer {
        let challenge = challenge();
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", client),
            ("redirect_uri", REDIRECT),
            ("state", "s t&te"),
            ("scope", "mcp openid"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", "https://gateway.example/mcp-connect/github"),
        ];
        for (name, value) in changes {
            parameters.retain(|(known, _)| known != name);
            parameters.push((name, value));
        }
        self.get(&format!("/authorize?{}", encoded(&parameters))).await
    }

    /// From the request to the consent page, as this person.
    pub(super) async fn ask(&self, client: &str, user: &str, changes: &[(&str, &str)]) -> (ConsentPage, String) {
        let held = self.authorize(client, changes).await;
        assert_eq!(held.status, 303, "{held:?}");
        let cookie = cookie(&held);
        let request = Request::get(held.location()).header(COOKIE, &cookie).header("x-user", user);
        let page = self.send(request, "").await;
        assert_eq!(page.body, "consent", "{page:?} {:?}", self.people.problem.lock().unwrap());
        (self.people.page.lock().unwrap().take().unwrap(), cookie)
    }

    pub(super) async fn decide(&self, page: &ConsentPage, cookie: &str, user: &str, decision: &str) -> Answer {
        let request = Request::post("/authorize/decide")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(COOKIE, cookie)
            .header("x-user", user);
        let form = [("request", &*page.request), ("csrf", &page.csrf), ("decision", decision)];
        self.send(request, encoded(&form)).await
    }

    /// A code of Ada's.
    pub(super) async fn code(&self, client: &str) -> String {
        let (page, cookie) = self.ask(client, "ada", &[]).await;
        let answer = self.decide(&page, &cookie, "ada", "allow").await;
        answer.parameters().remove("code").unwrap_or_else(|| panic!("{answer:?}"))
    }

    pub(super) async fn redeem(&self, client: &str, code: &str, changes: &[(&str, &str)]) -> Answer {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
            ("resource", "https://gateway.example/mcp-connect/github"),
        ];
        for (name, value) in changes {
            form.retain(|(known, _)| known != name);
            form.push((name, value));
        }
        self.post("/token", &form).await
    }

    /// The tokens of a whole journey.
    pub(super) async fn tokens(&self, client: &str) -> Value {
        let code = self.code(client).await;
        let answer = self.redeem(client, &code, &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    pub(super) async fn refresh(&self, client: &str, token: &str) -> Answer {
        let form = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
        self.post("/token", &form).await
    }

    /// A call of the gateway with this token.
    pub(super) async fn call(&self, token: &str, server: &str) -> Result<Arc<Principal>, AuthError> {
        let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {token}"));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let resource = Mount::new(ORIGIN, "/mcp-connect").unwrap().resource(server);
        self.gateway.authenticate(&parts, &resource).await.map(|principal| principal.expect("a token of ours"))
    }

    /// Waits until the gateway has heard of everything that was committed.
    pub(super) async fn settle(&self) {
        let nothing = self.kept::<mcp_gateway_core::record::Revocation>();
        let revision = nothing.delete("nothing", mcp_gateway_core::contract::When::Any).await.unwrap();
        self.snapshots.wait_for(revision).await;
    }
}

pub(super) fn encoded(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

pub(super) fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

/// The cookie that an answer sets, as the browser sends it back.
pub(super) fn cookie(answer: &Answer) -> String {
    answer.headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
}

pub(super) fn text<'a>(json: &'a Value, name: &str) -> &'a str {
    json[name].as_str().unwrap_or_else(|| panic!("{name} in {json}"))
}
