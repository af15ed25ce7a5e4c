//! A whole server in memory.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, ApiKeys, LastUsed, NewKey};
use mcp_gateway_auth::bootstrap::{Bootstrap, BootstrapOptions};
use mcp_gateway_auth::login::{CookieNames, LocalLogins, Passwords, SessionAuthenticator, SessionOptions, Sessions};
use mcp_gateway_auth::oidc::Providers;
use mcp_gateway_auth::scim::Scim;
use mcp_gateway_auth::server::{AuthorizationServer, ServerParts};
use mcp_gateway_auth::token::{SigningKeyOptions, SigningKeys};
use mcp_gateway_auth::upstream::{AccountParts, Accounts, Fetchers};
use mcp_gateway_auth::user::{UserOptions, Users};
use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::conformance::{FlakyStore, ManualClock};
use mcp_gateway_core::contract::{
    AuditSink, AuditStore, Authenticator, Clock, Observation, RuntimeError, RuntimeErrorKind, SystemClock, Upstream,
    UpstreamError, UpstreamErrorKind, When, WorkloadId, WorkloadState,
};
use mcp_gateway_core::filter::SnapshotFilters;
use mcp_gateway_core::layer::refusals::Strangers;
use mcp_gateway_core::lease::Leases;
use mcp_gateway_core::memory::{
    MemoryAuditSink, MemoryAuditStore, MemoryKeys, MemoryRateLimiter, MemoryRuntime, MemoryStore,
};
use mcp_gateway_core::pin::ToolPinning;
use mcp_gateway_core::policy::{SnapshotRules, Visible, everybody_at_first};
use mcp_gateway_core::record::{ApiKey, AuditEvent, Entry, Mount, Resources, Scope, Secret, Subject, TenantId};
use mcp_gateway_core::seal::{RingOptions, Sealer, SessionKeyRing};
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::schema;
use crate::api::{WitnessedStore, router};
use crate::app::{App, DataPlaneLoad, Logins};
use crate::config::Config;
use crate::metrics::{MeteredSink, Metrics};
use crate::oauth::{Browser, OAuth};
use crate::wiring::Servers;

pub(crate) const BOOTSTRAP: &str = "bootstrap-0123456789abcdef0123456789abcdef";

pub(crate) struct World {
    pub(crate) app: Arc<App>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) unled: tokio::sync::watch::Sender<Vec<&'static str>>,
    pub(crate) store: Arc<FlakyStore>,
    pub(crate) sink: Arc<MemoryAuditSink>,
    pub(crate) audit: Arc<MemoryAuditStore>,
    pub(crate) runtime: Arc<MemoryRuntime>,
    pub(crate) entries: Resources<Entry>,
    router: axum::Router,
}

/// An answer, read to its end and compared with the OpenAPI document.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl World {
    pub(crate) async fn new() -> Self {
        let mut config = Config::default();
        // Keys speak for several people here.
        config.runtime.process.i_trust_all_servers = true;
        Self::with(config).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = FlakyStore::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
        let resources = WitnessedStore::over(store.clone());
        let master = Arc::new(MemoryKeys::new());
        let sealer = Sealer::open(resources.clone(), master.clone(), clock.clone()).await.unwrap();
        let ring = SessionKeyRing::open(resources.clone(), master, clock.clone(), RingOptions::default());
        let session_keys = ring.await.unwrap();
        let tenant = TenantId::default();
        let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
        let compiled = mount.clone();
        let mut options = SnapshotOptions::new(
            sealer.clone(),
            Arc::new(move |entry| mcp_gateway_core::catalog::compile(entry, &compiled)),
        );
        options.clock = clock.clone();
        everybody_at_first(&Resources::new(resources.clone(), sealer.clone(), tenant.clone())).await.unwrap();
        let (snapshots, driver) = Snapshots::follow(resources.clone(), options).await.unwrap();
        tokio::spawn(driver);
        let last_used = Arc::new(LastUsed::new(Resources::new(resources.clone(), sealer.clone(), tenant.clone())));
        let typed = Resources::<ApiKey>::new(resources.clone(), sealer.clone(), tenant.clone());
        let keys = ApiKeys::new(typed, last_used.clone(), clock.clone());
        let state = Resources::new(resources.clone(), sealer.clone(), tenant.clone());
        let bootstrap =
            Bootstrap::open(state, clock.clone(), BootstrapOptions::supplied(Secret::new(BOOTSTRAP))).await.unwrap();
        let by_key =
            ApiKeyAuthenticator::new(Arc::new(snapshots.clone()), clock.clone()).with_last_used(last_used.clone());
        let directory = Arc::new(snapshots.clone());
        let users = Users::new(
            resources.clone(),
            sealer.clone(),
            tenant.clone(),
            clock.clone(),
            directory.clone(),
            UserOptions::default(),
        );
        let passwords = Resources::new(resources.clone(), sealer.clone(), tenant.clone());
        let limiter = MemoryRateLimiter::new(SystemClock, 1_000);
        let local = LocalLogins::new(users.clone(), passwords, Passwords::default(), limiter.clone(), clock.clone());
        let sessions = Resources::new(resources.clone(), sealer.clone(), tenant.clone());
        let sessions = Sessions::new(sessions, clock.clone(), SessionOptions::default());
        let by_session = SessionAuthenticator::new(sessions.clone(), directory.clone(), tenant.clone(), mount.origin());
        let by_token = bootstrap.authenticator().unwrap().until_owned(directory);
        let authenticators: Vec<Arc<dyn Authenticator>> =
            vec![Arc::new(by_key), Arc::new(by_session), Arc::new(by_token)];
        let providers = config.providers().unwrap();
        let fetch = Arc::new(mcp_gateway_core::egress::Fetcher::new(Default::default()));
        let parts = (resources.clone(), sealer.clone(), tenant.clone());
        let providers =
            Providers::new(providers, mount.origin(), parts.0, parts.1, parts.2, fetch, clock.clone()).unwrap();
        let logins = Logins { users, local, providers, sessions, cookies: CookieNames::for_url(mount.origin()) };
        let ring = Resources::new(resources.clone(), sealer.clone(), tenant.clone());
        let signing = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
        let access = Arc::new(SnapshotRules::new(snapshots.clone()));
        let asked = Arc::new(mcp_gateway_core::egress::Fetcher::new(Default::default()));
        let filters = SnapshotFilters::new(snapshots.clone(), asked, clock.clone());
        let server = AuthorizationServer::new(ServerParts {
            mount: mount.clone(),
            tenant: tenant.clone(),
            store: resources.clone(),
            sealer: sealer.clone(),
            signer: signing.clone(),
            keys: signing.clone(),
            resolve: Arc::new(Visible::new(Arc::new(snapshots.clone()), access.clone(), clock.clone())),
            standing: Arc::new(snapshots.clone()),
            interaction: Arc::new(Browser {
                logins: logins.clone(),
                snapshots: snapshots.clone(),
                access: access.clone(),
            }),
            clock: clock.clone(),
        });
        let oauth = OAuth { server: server.documents(None), keys: signing };
        let audit = Arc::new(MemoryAuditStore::new());
        let sink = Arc::new(MemoryAuditSink::with_store(10_000, audit.clone()));
        let metrics = Arc::new(Metrics::new());
        let metered = MeteredSink::new(sink.clone() as Arc<dyn AuditSink>, metrics.clone());
        let ring = Resources::new(resources.clone(), sealer.clone(), tenant.clone());
        let mut options = SigningKeyOptions::default();
        "upstream".clone_into(&mut options.name);
        let upstream_keys = SigningKeys::open(ring, clock.clone(), options).await.unwrap();
        let nowhere = Arc::new(mcp_gateway_core::egress::Fetcher::new(Default::default()));
        let (accounts, driver) = Accounts::open(AccountParts {
            store: resources.clone(),
            sealer: sealer.clone(),
            tenant: tenant.clone(),
            origin: mount.origin().to_owned(),
            fetchers: Fetchers { servers: nowhere.clone(), issuers: nowhere },
            signer: None,
            issuers: Vec::new(),
            known: Arc::new(Servers {
                snapshots: snapshots.clone(),
                users: Resources::new(resources.clone(), sealer.clone(), tenant.clone()),
            }),
            sink: sink.clone(),
            clock: clock.clone(),
        })
        .await
        .unwrap();
        tokio::spawn(driver);
        let runtime = Arc::new(MemoryRuntime::new(Arc::new(Uncalled)));
        let entries = Resources::new(resources.clone(), sealer.clone(), tenant);
        let base = format!("{}/scim/v2", mount.origin());
        let scim = Scim::new(logins.users.clone(), logins.sessions.clone(), Arc::default(), clock.clone(), base)
            .with_accounts(accounts.clone());
        let (unled, nobodys) = tokio::sync::watch::channel(Vec::new());
        let pinning =
            ToolPinning::new(snapshots.clone(), entries.of_kind(), sink.clone(), clock.clone(), config.tools.options());
        let app = Arc::new(App {
            scim,
            scim_tokens: Vec::new(),
            config: Arc::new(config),
            mount,
            resources,
            sealer,
            audit_store: audit.clone() as Arc<dyn AuditStore>,
            audit_sink: Arc::new(metered),
            snapshots,
            access,
            filters: Arc::new(filters),
            pinning,
            runtime: Some(runtime.clone()),
            keys,
            last_used,
            session_keys,
            logins,
            oauth: Some(oauth),
            accounts,
            upstream_keys,
            admin_authenticators: authenticators,
            limiter,
            spool_stats: None,
            strangers: Arc::new(Strangers::new(100)),
            load: DataPlaneLoad { calls: Arc::default(), streams: Arc::default(), connections: Arc::default() },
            metrics,
            leases: Leases::new(store.clone()),
            unled: nobodys,
            clock: clock.clone(),
            started_at: clock.now(),
            started: clock.monotonic(),
            draining: tokio_util::sync::CancellationToken::new(),
        });
        let router = router(app.clone());
        Self { app, clock, unled, store, sink, audit, runtime, entries, router }
    }

    /// Puts an entry and waits until it is served.
    pub(crate) async fn put(&self, entry: Value) {
        let entry: Entry = serde_json::from_value(entry).unwrap();
        let revision = self.entries.save(&entry.entry_key, &entry, When::Any).await.unwrap();
        self.app.snapshots.wait_for(revision).await;
    }

    /// Two hosted servers, one shared and one for each subject, and a remote one with a secret.
    pub(crate) async fn with_servers() -> Self {
        let world = Self::new().await;
        world
            .put(json!({
                "entryKey": "shared", "name": "Shared", "runtime": "npx", "serverUserType": "multiUser",
                "npxConfig": { "package": "x" },
            }))
            .await;
        world.put(json!({ "entryKey": "own", "name": "Own", "runtime": "uvx", "uvxConfig": { "package": "x" } })).await;
        world
            .put(json!({
                "entryKey": "far", "name": "Far", "runtime": "remote",
                "remoteConfig": {
                    "fixedURL": "https://far.example/mcp",
                    "headers": [{ "key": "Authorization", "value": "Bearer hunter2", "sensitive": true }],
                },
            }))
            .await;
        world
    }

    /// A key that is in the snapshot: its id and text.
    pub(crate) async fn key(&self, scopes: &[Scope], owner: bool) -> (String, String) {
        let owners = mcp_gateway_core::record::Principal::new(Subject::LOCAL, Bootstrap::OWNER)
            .with_roles(mcp_gateway_core::record::Roles::OWNER);
        let mut new = NewKey::named("test");
        new.scopes = scopes.to_vec();
        new.subject = (!owner).then(|| Subject::local("ada"));
        let created = self.app.keys.create(&owners, new).await.unwrap();
        self.app.snapshots.wait_for(created.revision).await;
        (created.id.into(), created.key.expose().to_owned())
    }

    /// The response to a request, not yet read.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request and checks what every answer must have.
    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.send(request).await;
        let (parts, body) = response.into_parts();
        assert_eq!(parts.headers["cache-control"], "no-store");
        assert_eq!(parts.headers["x-content-type-options"], "nosniff");
        let bytes = body.collect().await.unwrap().to_bytes();
        let kind = parts.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        let body = match kind.as_deref() {
            Some("text/event-stream") => Value::String(String::from_utf8(bytes.to_vec()).unwrap()),
            _ if bytes.is_empty() => Value::Null,
            _ => serde_json::from_slice(&bytes).unwrap(),
        };
        if parts.status.is_client_error() || parts.status.is_server_error() {
            assert_eq!(kind.as_deref(), Some("application/problem+json"), "{method} {path}: {body}");
            assert_eq!(body["status"], parts.status.as_u16());
            assert!(body["instance"].as_str().unwrap().starts_with("urn:ulid:"), "{body}");
        }
        schema::check_answer(&method, &path, parts.status, kind.as_deref(), &body);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Asks as the owner.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(owners("GET", path).body(Body::empty()).unwrap()).await
    }

    /// Posts JSON as the owner.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = owners("POST", path).header("content-type", "application/json");
        self.ask(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// Asks with a key, without a body.
    pub(crate) async fn with_key(&self, key: &str, method: &str, path: &str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
        self.ask(request.body(Body::empty()).unwrap()).await
    }

    /// Something has brought a workload of this server into this state; its id.
    pub(crate) fn runs(
        &self,
        server: &str,
        subject: Option<Subject>,
        state: WorkloadState,
        error: Option<&str>,
    ) -> String {
        let id = match &subject {
            Some(subject) => mcp_gateway_core::record::Route::workload_id(server, subject),
            None => WorkloadId(server.into()),
        };
        self.runtime.place(Observation {
            id: id.clone(),
            server: server.into(),
            subject,
            state,
            since: jiff::Timestamp::UNIX_EPOCH,
            children: 2,
            restarts: 3,
            last_error: error.map(str::to_owned),
        });
        id.to_string()
    }

    /// A runtime that is away.
    pub(crate) fn away() -> RuntimeError {
        let public = "The runtime does not answer.".to_owned();
        RuntimeError { kind: RuntimeErrorKind::Unavailable, public, detail: Some("a\u{1b}b".to_owned()) }
    }

    /// What was recorded since the last time.
    pub(crate) fn recorded(&self) -> Vec<AuditEvent> {
        self.sink.take()
    }
}

/// A request of the owner.
pub(crate) fn owners(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("authorization", format!("Bearer {BOOTSTRAP}"))
}

/// No server is called through the admin API.
struct Uncalled;

impl Upstream for Uncalled {
    fn call(
        &self,
        _: Request<mcp_gateway_core::Body>,
    ) -> BoxFuture<Result<http::Response<mcp_gateway_core::Body>, UpstreamError>> {
        Box::pin(async { Err(UpstreamError::new(UpstreamErrorKind::Broken, "Nobody calls it.")) })
    }
}
