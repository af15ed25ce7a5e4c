//! A gateway over memory alone: the request path without store and spool.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use http::{HeaderValue, Response};
use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, KeyDirectory, NewKeyText};
use mcp_gateway_core::context::{Agreed, SessionFacts};
use mcp_gateway_core::contract::{
    Address, AuditFull, AuditSink, Authorizer, Clock as _, Incarnation, Program, Runtime, Seq, SystemClock, Upstream,
    UpstreamError,
};
use mcp_gateway_core::egress::EgressPolicy;
use mcp_gateway_core::gateway::{Gateway, GatewayOptions, Parts};
use mcp_gateway_core::layer::filter::FilterOptions;
use mcp_gateway_core::layer::session::{SessionCodec, SessionError};
use mcp_gateway_core::memory::{MemoryRoutes, MemoryRuntime};
use mcp_gateway_core::policy::RuleFilter;
use mcp_gateway_core::record::{
    ApiKey, AuditEvent, Mount, Placement, Principal, Route, RouteTarget, Scope, Subject, TenantId,
};
use mcp_gateway_core::seal::EventIds;
use mcp_gateway_core::shim::{ForwardOptions, Shim};
use mcp_gateway_core::snapshot::KeyFacts;
use mcp_gateway_core::{Body, BoxFuture, MaybeReady};

use crate::result;
use crate::rules::company;

/// The id of the one server behind the gateway.
pub const SERVER: &str = "bench";

/// The whole data plane, with one server and one API key for it.
#[derive(Debug)]
pub struct MemoryGateway {
    /// The stack.
    pub gateway: Gateway,
    /// What callers send as `Authorization`.
    pub authorization: HeaderValue,
    /// Events recorded so far, intents among them.
    pub events: Arc<AtomicU64>,
}

impl MemoryGateway {
    /// A gateway in front of this server.
    ///
    /// # Errors
    /// When `public_url` is not one.
    pub fn new(public_url: &str, server: Address) -> anyhow::Result<Self> {
        let mount = Mount::new(public_url, "/mcp-connect")?;
        let incarnation = Incarnation("bench~1".into());
        let (target, runtime) = match server {
            Address::Http(url) => (RouteTarget::Remote { url, headers: [].into(), auth: None, incarnation }, None),
            Address::Local(upstream) => {
                let program = Program::Command { command: SERVER.to_owned(), args: Vec::new() };
                let template = Arc::new(Route::template(SERVER, program, Vec::new()));
                let runtime: Arc<dyn Runtime> = Arc::new(MemoryRuntime::new(upstream));
                (RouteTarget::Hosted { placement: Placement::Shared, template }, Some(runtime))
            }
        };
        let resource = mount.resource(SERVER);
        let route = Arc::new(Route {
            id: SERVER.into(),
            name: "Bench".into(),
            resource: resource.clone(),
            target,
            sub_paths: [].into(),
            query_parameters: [].into(),
            response_headers: [].into(),
            server_requests: mcp_gateway_core::record::ServerRequests::default(),
        });
        let (authenticator, authorization) = api_key()?;
        let events = Arc::new(AtomicU64::new(0));
        let sink: Arc<dyn AuditSink> = Arc::new(Counted(Arc::clone(&events)));
        let egress = EgressPolicy::new(["127.0.0.0/8".parse()?]);
        let forward = ForwardOptions { egress, ..ForwardOptions::default() };
        let ruled = Arc::new(company(1_000)?);
        let authorizer: Arc<dyn Authorizer> = ruled.clone();
        let lists = RuleFilter::new(ruled.clone(), move |server| ruled.reach(server));
        let shim = Shim::builder(Arc::clone(&sink))
            .authorizer(Arc::clone(&authorizer))
            .filters(vec![Arc::new(lists)], FilterOptions::default())
            .forward(forward)
            .build();
        let mut parts = Parts::new(
            Arc::new(MemoryRoutes::from_iter([route])),
            vec![Arc::new(authenticator)],
            Arc::new(NoSessions),
            sink,
        );
        parts.authorizer = authorizer;
        parts.shim = Some(Arc::new(shim));
        parts.runtime = runtime;
        let gateway = Gateway::builder(parts)
            .options(GatewayOptions { loopback: true, ..GatewayOptions::default() })
            .known_resources(Arc::new(move |id| (id == SERVER).then(|| resource.clone())))
            .build(&mount)
            .gateway;
        Ok(Self { gateway, authorization, events })
    }
}

/// The check of API keys with one key in memory, and the header that passes it.
///
/// # Errors
/// Never in practice: the key is made here.
pub fn api_key() -> anyhow::Result<(ApiKeyAuthenticator, HeaderValue)> {
    let key = NewKeyText::generate();
    let clock = Arc::new(SystemClock);
    let record = ApiKey {
        name: "bench".into(),
        secret_sha256: key.secret_sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        subject: Subject::local("bench"),
        owner: false,
        scopes: vec![Scope::Mcp],
        servers: vec!["*".into()],
        created_at: clock.now(),
        expires_at: None,
        rate: None,
    };
    let facts = KeyFacts::new(&TenantId::default(), &key.id, &record).map_err(anyhow::Error::msg)?;
    let directory = Keys(HashMap::from([(key.id.clone(), Arc::new(facts))]));
    let header = HeaderValue::try_from(format!("Bearer {}", key.text.expose()))?;
    Ok((ApiKeyAuthenticator::new(Arc::new(directory), clock), header))
}

/// Answers every request with a result of this many bytes, in this process.
#[must_use]
pub fn local(size: usize) -> Address {
    Address::Local(Arc::new(Fixed(result(size))))
}

struct Fixed(bytes::Bytes);

impl Upstream for Fixed {
    fn call(&self, _: http::Request<Body>) -> BoxFuture<Result<Response<Body>, UpstreamError>> {
        let mut response = Response::new(Body::from(self.0.clone()));
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Box::pin(std::future::ready(Ok(response)))
    }
}

struct Keys(HashMap<Box<str>, Arc<KeyFacts>>);

impl KeyDirectory for Keys {
    fn key(&self, id: &str) -> Option<Arc<KeyFacts>> {
        self.0.get(id).cloned()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// Counts events: what keeping them costs is measured with the spool.
struct Counted(Arc<AtomicU64>);

#[async_trait]
impl AuditSink for Counted {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        drop(event);
        Ok(Seq(self.0.fetch_add(1, Ordering::Relaxed) + 1)).into()
    }

    async fn flush(&self) {}
}

/// No sessions are opened in the benchmarks that call through the stack.
struct NoSessions;

impl SessionCodec for NoSessions {
    fn seal(&self, _: &str, _: &Incarnation, _: Agreed, _: &str, _: &Principal) -> Result<HeaderValue, SessionError> {
        Err(SessionError::NoKey)
    }

    fn open(&self, _: &HeaderValue, _: &str, _: &Principal) -> Option<SessionFacts> {
        None
    }

    fn event_ids(&self, _: &HeaderValue) -> Option<EventIds> {
        None
    }
}
