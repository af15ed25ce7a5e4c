//! Replicas, a server behind them, and their clients.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request as Incoming, State};
use axum::response::Response as Outgoing;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, ApiKeys, CreatedKey, LastUsed, NewKey};
use mcp_gateway_auth::token::{NewToken, SigningKeyOptions, SigningKeys, TokenAuthenticator, TokenIssuer};
use mcp_gateway_auth::user::{UserOptions, Users};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::catalog;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{
    Clock, Filter, Head, KeyManagement, Needs, Query, ResourceStore, Revision, SystemClock, Verdict, View, When,
};
use mcp_gateway_core::egress::EgressPolicy;
use mcp_gateway_core::gateway::{Gateway, Parts};
use mcp_gateway_core::layer::filter::FilterOptions;
use mcp_gateway_core::memory::{MemoryAuditSink, MemoryKeys};
use mcp_gateway_core::record::{Entry, Mount, Principal, Resource, Resources, Roles, Subject, TenantId};
use mcp_gateway_core::seal::{RingOptions, Sealer, SessionKeyRing, SessionKeyRingRecord, SessionSealer};
use mcp_gateway_core::shim::{ForwardOptions, Shim};
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use serde_json::json;
use tower::ServiceExt as _;

/// What no client may read.
pub(crate) const SECRET: &str = "hunter2";
const HOST: &str = "gateway.example";

/// Two replicas with a store, a master key, and a server in common; nothing else.
pub(crate) struct Replicas {
    pub(crate) both: [Replica; 2],
    server: Arc<Server>,
}

/// A gateway with its own snapshot and its own view of the ring of session keys.
pub(crate) struct Replica {
    gateway: Gateway,
    pub(crate) snapshots: Snapshots,
    pub(crate) ring: Arc<SessionKeyRing>,
    pub(crate) keys: ApiKeys,
    pub(crate) users: Users,
    tokens: TokenIssuer,
}

/// A key of a caller.
pub(crate) struct Key {
    pub(crate) id: Box<str>,
    pub(crate) text: String,
    revision: Revision,
}

/// What a client reads.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) session: Option<String>,
    /// The id of the last event.
    pub(crate) last_event: Option<String>,
    pub(crate) body: String,
}

impl Replicas {
    pub(crate) async fn start(store: Arc<dyn ResourceStore>) -> Self {
        Self::with([Arc::clone(&store), store], Arc::new(SystemClock)).await
    }

    /// Each over its own way to the same store, with this clock for the ring of session keys.
    pub(crate) async fn with(stores: [Arc<dyn ResourceStore>; 2], clock: Arc<dyn Clock>) -> Self {
        let server = Arc::new(Server::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let master: Arc<dyn KeyManagement> = Arc::new(MemoryKeys::new());
        let [first, second] = stores;
        let both = [
            Replica::start(first, Arc::clone(&master), Arc::clone(&clock), &url).await,
            Replica::start(second, master, clock, &url).await,
        ];
        Self { both, server }
    }

    /// Waits until both know these keys.
    pub(crate) async fn have(&self, keys: &[&Key]) {
        for replica in &self.both {
            for key in keys {
                replica.snapshots.wait_for(key.revision).await;
            }
        }
    }

    /// The sessions that were named to the server, each once.
    pub(crate) fn upstream_sessions(&self) -> Vec<String> {
        let mut sessions: Vec<String> = self.server.named.lock().unwrap().iter().flatten().cloned().collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// How many requests reached the server.
    pub(crate) fn requests(&self) -> usize {
        self.server.named.lock().unwrap().len()
    }
}

impl Replica {
    async fn start(
        store: Arc<dyn ResourceStore>,
        master: Arc<dyn KeyManagement>,
        ring_clock: Arc<dyn Clock>,
        upstream: &str,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let sealer = Sealer::open(Arc::clone(&store), Arc::clone(&master), Arc::clone(&clock)).await.unwrap();
        let ring = SessionKeyRing::open(Arc::clone(&store), master, ring_clock, RingOptions::default()).await.unwrap();
        let mount = Mount::new(&format!("https://{HOST}"), "/mcp-connect").unwrap();
        let compiled = mount.clone();
        let compile = Arc::new(move |entry: &Entry| catalog::compile(entry, &compiled));
        let options = SnapshotOptions::new(sealer.clone(), compile);
        let (snapshots, driver) = Snapshots::follow(Arc::clone(&store), options).await.unwrap();
        tokio::spawn(driver);

        let typed = Typed { store, sealer };
        let entry: Entry = serde_json::from_value(json!({
            "entryKey": "tools", "name": "Tools", "runtime": "remote", "remoteConfig": { "fixedURL": upstream },
        }))
        .unwrap();
        let revision = typed.of().save("tools", &entry, When::Any).await.unwrap();
        snapshots.wait_for(revision).await;
        let used = Arc::new(LastUsed::new(typed.of()));
        let keys = ApiKeys::new(typed.of(), Arc::clone(&used), Arc::clone(&clock));
        let by_key = ApiKeyAuthenticator::new(Arc::new(snapshots.clone()), Arc::clone(&clock)).with_last_used(used);
        let people = (Arc::new(snapshots.clone()), UserOptions::default());
        let users = Users::new(
            Arc::clone(&typed.store),
            typed.sealer.clone(),
            TenantId::default(),
            Arc::clone(&clock),
            people.0.clone(),
            people.1,
        );
        let signing = SigningKeys::open(typed.of(), Arc::clone(&clock), SigningKeyOptions::default()).await.unwrap();
        let tokens = TokenIssuer::new(mount.origin(), signing.clone(), Arc::clone(&clock));
        let by_token = TokenAuthenticator::builder(people.0, clock).own(mount.origin(), signing).build();

        let audit = Arc::new(MemoryAuditSink::new(1_000_000));
        let egress = EgressPolicy::new(["127.0.0.0/8".parse().unwrap()]);
        let shim = Shim::builder(audit.clone())
            .filters(vec![Arc::new(Blank)], FilterOptions::default())
            .forward(ForwardOptions { egress, ..ForwardOptions::default() })
            .build();
        let sessions = Arc::new(SessionSealer::new(Arc::clone(&ring)));
        let mut parts =
            Parts::new(Arc::new(snapshots.clone()), vec![Arc::new(by_key), Arc::new(by_token)], sessions, audit);
        parts.shim = Some(Arc::new(shim));
        let gateway = Gateway::builder(parts).build(&mount).gateway;
        Self { gateway, snapshots, ring, keys, users, tokens }
    }

    /// Makes a key of this person, which this replica may not know yet.
    pub(crate) async fn key(&self, person: &str) -> Key {
        let owner = Principal::new(Subject::LOCAL, "owner").with_roles(Roles::OWNER);
        let new = NewKey { subject: Some(Subject::local(person)), ..NewKey::named(person) };
        let CreatedKey { id, key, revision, .. } = self.keys.create(&owner, new).await.unwrap();
        Key { id, text: key.expose().to_owned(), revision }
    }

    /// An access token of this person, as the authorization server of this replica makes it.
    pub(crate) async fn token(&self, person: &str) -> String {
        let mount = Mount::new(&format!("https://{HOST}"), "/mcp-connect").unwrap();
        let subject = Subject::local(person);
        let new = NewToken {
            subject: &subject,
            client_id: "laptop",
            resource: &mount.resource("tools"),
            scope: "mcp",
            epoch: SystemClock.now(),
            person_epoch: 0,
            grant: None,
            session: None,
        };
        self.tokens.issue(&new).await.unwrap().token.expose().to_owned()
    }

    /// Opens a session; its id as the client reads it.
    pub(crate) async fn initialize(&self, key: &str) -> String {
        let message = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": { "name": "replicas", "version": "1" },
            },
        });
        let answer = self.send(request("POST", key, None), message.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.session.expect("the server opened a session")
    }

    pub(crate) async fn call(&self, key: &str, session: Option<&str>) -> Answer {
        self.send(request("POST", key, session), tool("echo")).await
    }

    /// A call whose stream ends before its answer.
    pub(crate) async fn interrupted(&self, key: &str, session: &str) -> Answer {
        self.send(request("POST", key, Some(session)), tool("interrupted")).await
    }

    pub(crate) async fn resume(&self, key: &str, session: &str, last_event: &str) -> Answer {
        let request = request("GET", key, Some(session)).header("last-event-id", last_event);
        self.send(request, String::new()).await
    }

    async fn send(&self, request: http::request::Builder, body: String) -> Answer {
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let (head, body) = self.gateway.clone().oneshot(request).await.unwrap().into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer {
            status: head.status,
            session: head.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned()),
            last_event: body.lines().rev().find_map(|line| line.strip_prefix("id: ")).map(str::to_owned),
            body,
        }
    }
}

fn tool(name: &str) -> String {
    let params = json!({ "name": name, "arguments": {} });
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }).to_string()
}

fn request(method: &str, key: &str, session: Option<&str>) -> http::request::Builder {
    let mut request = Request::builder()
        .method(method)
        .uri("/mcp-connect/tools")
        .header("host", HOST)
        .header("authorization", format!("Bearer {key}"))
        .header("accept", "application/json, text/event-stream");
    if method == "POST" {
        request = request.header("content-type", "application/json");
    }
    if let Some(session) = session {
        request = request.header("mcp-session-id", session).header("mcp-protocol-version", "2025-11-25");
    }
    request
}

struct Typed {
    store: Arc<dyn ResourceStore>,
    sealer: Arc<Sealer>,
}

impl Typed {
    fn of<T: Resource>(&self) -> Resources<T> {
        Resources::new(Arc::clone(&self.store), self.sealer.clone(), TenantId::default())
    }
}

/// Blanks the secret in whatever a server says.
#[derive(Debug)]
struct Blank;

impl Filter for Blank {
    fn name(&self) -> &str {
        "blank"
    }

    fn needs(&self, _: &Head<'_>) -> Needs {
        Needs { request: false, response: true, events: true }
    }

    fn response(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let text = String::from_utf8_lossy(&view.body);
        if text.contains(SECRET) { Verdict::Replace(text.replace(SECRET, "*").into()) } else { Verdict::Pass }.into()
    }

    fn event(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.response(cx, view)
    }
}

/// A legacy server: one session for each `initialize`, and streams that can be resumed.
#[derive(Default)]
struct Server {
    /// The session that each request named.
    named: Mutex<Vec<Option<String>>>,
    opened: AtomicU32,
}

async fn answer(State(server): State<Arc<Server>>, request: Incoming) -> Outgoing {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    server.named.lock().unwrap().push(header("mcp-session-id"));
    if head.method == "GET" {
        let last_event = header("last-event-id").expect("only resumed streams are asked for");
        let result = json!({
            "jsonrpc": "2.0", "id": 7,
            "result": { "content": [{ "type": "text", "text": format!("{SECRET} after {last_event}") }] },
        });
        return events(format!("id: 7/4\ndata: {result}\n\n"));
    }
    let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
    if message["params"]["name"] == "interrupted" {
        let log =
            json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } });
        return events(format!("id: 7/3\ndata: {log}\n\n"));
    }
    let mut response = Outgoing::builder().header("content-type", "application/json");
    if let Some(session) = head.headers.get("mcp-session-id") {
        response = response.header("mcp-session-id", session);
    }
    let result = if message["method"] == "initialize" {
        let opened = server.opened.fetch_add(1, Ordering::SeqCst) + 1;
        response = response.header("mcp-session-id", format!("upstream-{opened}"));
        let info = json!({ "name": "server", "version": "1" });
        json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": info })
    } else {
        json!({ "content": [] })
    };
    let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
    response.body(answer.to_string().into()).unwrap()
}

fn events(body: String) -> Outgoing {
    Outgoing::builder().header("content-type", "text/event-stream").body(body.into()).unwrap()
}

/// The key of the ring that was made last.
pub(crate) async fn newest_session_key(store: &dyn ResourceStore) -> u32 {
    let page = store.list(&Query::all(SessionKeyRingRecord::KIND)).await.unwrap();
    let ring: SessionKeyRingRecord = serde_json::from_slice(&page.records[0].value).unwrap();
    ring.keys.last().unwrap().id
}

/// Waits for something that other tasks bring about.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    patience.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
