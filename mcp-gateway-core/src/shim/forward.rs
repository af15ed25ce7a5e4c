//! Calls the server.

#![expect(clippy::disallowed_types, reason = "this is the client that everybody else is sent to")]

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use super::initialize::negotiated;
use super::response::{Silence, UpstreamBody, admit};
use super::{credential, headers, response};
use crate::context::McpContext;
use crate::contract::{Address, Clock, SystemClock, UpstreamCredentials, UpstreamError, UpstreamErrorKind};
use crate::egress::{Blocked, Connections, EgressConnector, EgressPolicy, PlainClient, PlainError, connector};
use crate::layer::audit::micros;
use crate::layer::resolve::no_such_path;
use crate::record::{Principal, Roles, Route, RouteTarget};
use crate::refusal::Refusal;
use crate::{Body, BoxFuture};

/// Forwards a request to the endpoint in its context, over pooled connections, streaming both ways.
///
/// Required facts: `route`, `endpoint`. Dropping the answer's body closes the leg to the server at once.
#[derive(Clone)]
pub struct Forward(Arc<Inner>);

/// How servers are called.
#[derive(Clone)]
pub struct ForwardOptions {
    /// `egress.allow`: which private addresses remote servers may be at.
    pub egress: EgressPolicy,
    /// `limits.connect_timeout`.
    pub connect_timeout: Duration,
    /// `limits.call_max_duration`: how long a server may think before its answer's head comes, and between two parts of it.
    pub head_timeout: Duration,
    /// `limits.stream_idle`: a GET or listen stream that is silent for so long ends; its client opens it anew.
    pub stream_idle: Duration,
    /// `limits.pool_idle_per_host`: idle connections kept for one server.
    pub pool_idle_per_host: usize,
    /// `limits.pool_idle`: how long they are kept.
    pub pool_idle: Duration,
    /// As whom servers are called whose entries say `auth`; such calls are refused where nothing says so.
    pub credentials: Option<Arc<dyn UpstreamCredentials>>,
    /// Counts the connections.
    pub connections: Arc<Connections>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for ForwardOptions {
    /// No private address; 10 s to connect; 15 min for a head; 10 min of silence; 128 connections for 60 s.
    fn default() -> Self {
        Self {
            egress: EgressPolicy::default(),
            connect_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(15 * 60),
            stream_idle: Duration::from_secs(10 * 60),
            pool_idle_per_host: 128,
            pool_idle: Duration::from_secs(60),
            credentials: None,
            connections: Arc::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

impl std::fmt::Debug for ForwardOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardOptions")
            .field("egress", &self.egress)
            .field("head_timeout", &self.head_timeout)
            .field("stream_idle", &self.stream_idle)
            .finish_non_exhaustive()
    }
}

struct Inner {
    /// Checks addresses.
    remote: Clients,
    /// The same for calls with a credential, which is to be read by nobody on the way.
    secret: Clients,
    /// For what our own runtimes run.
    hosted: Clients,
    options: ForwardOptions,
}

struct Clients {
    plain: PlainClient,
    /// HTTP/1.1 or HTTP/2, as the server's TLS says.
    tls: Client<EgressConnector, Body>,
}

impl Forward {
    /// Calls servers with these limits.
    #[must_use]
    pub fn new(options: ForwardOptions) -> Self {
        let clients = |policy| {
            let connector = connector(policy, options.connect_timeout, Arc::clone(&options.connections));
            Clients {
                plain: PlainClient::new(connector.clone(), options.pool_idle_per_host, options.pool_idle),
                tls: Client::builder(TokioExecutor::new())
                    .pool_idle_timeout(options.pool_idle)
                    .pool_max_idle_per_host(options.pool_idle_per_host)
                    .pool_timer(TokioTimer::new())
                    .timer(TokioTimer::new())
                    .build(connector),
            }
        };
        let secret = options.egress.clone().with_plain_http_in_holes_alone();
        Self(Arc::new(Inner {
            remote: clients(Some(options.egress.clone())),
            secret: clients(Some(secret)),
            hosted: clients(None),
            options,
        }))
    }
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forward(..)")
    }
}

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ForwardFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ForwardFuture {
        let inner = Arc::clone(&self.0);
        ForwardFuture(Box::pin(async move {
            let Some(cx) = McpContext::of(request.extensions()).cloned() else {
                return Refusal::layer_absent("context", "ContextLayer").into_mcp(None);
            };
            // One timer for all that it takes until there is a head. Pinned where it is: it is large to move.
            let answer = pin!(inner.forward(request, &cx));
            match tokio::time::timeout(inner.options.head_timeout, answer).await {
                Ok(Ok(response)) => response,
                Ok(Err(refusal)) => refusal.into_mcp(Some(&cx)),
                Err(_) => {
                    tracing::warn!(request_id = %cx.request_id(), "the server did not answer in time");
                    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "The server did not answer in time.").into_mcp(Some(&cx))
                }
            }
        }))
    }
}

/// The future of [`Forward`].
pub struct ForwardFuture(BoxFuture<Response<Body>>);

impl std::fmt::Debug for ForwardFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ForwardFuture(..)")
    }
}

impl Future for ForwardFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map(Ok)
    }
}

impl Inner {
    async fn forward(&self, request: Request<Body>, cx: &McpContext) -> Result<Response<Body>, Refusal> {
        let route = cx.route().ok_or_else(|| Refusal::layer_absent("route", "ResolveLayer"))?;
        let endpoint = cx.endpoint().ok_or_else(|| Refusal::layer_absent("endpoint", "DeployLayer"))?;
        let (mut parts, body) = request.into_parts();
        let sub_path = cx.requested().and_then(|requested| requested.sub_path.as_deref());
        let base = match &endpoint.address {
            Address::Http(base) => base.clone(),
            Address::Local(_) => Uri::from_static("http://local/mcp"),
        };
        parts.uri = headers::target(&base, sub_path, parts.uri.query(), route).ok_or_else(no_such_path)?;
        parts.version = http::Version::HTTP_11;
        headers::prepare(&mut parts.headers, &parts.method, cx, route);
        let remote = matches!(route.target, RouteTarget::Remote { .. });
        if !remote {
            headers::forwarded(&mut parts.headers, cx, route);
        }
        let credential = match route.auth() {
            // Most servers: nobody is asked.
            None => None,
            Some(_) => {
                // In a box: most calls need no room for it.
                Some(Box::pin(credential::Calling::begin(self.options.credentials.as_ref(), cx, route)).await?)
            }
        };
        let body = match &credential {
            None => body,
            Some(credential) => {
                credential.put(&mut parts.headers);
                credential::without_our_answer(body, cx)?
            }
        };
        cx.forward();
        let called = micros(cx, &*self.options.clock);
        cx.timings().upstream_called(called);
        let (answer, exchange) = match &endpoint.address {
            Address::Local(upstream) => {
                let answer = upstream.call(Request::from_parts(parts, body));
                (answer.await.map_err(|error| refuse(&error, cx, route))?, None)
            }
            Address::Http(_) => {
                let clients = match &credential {
                    _ if !remote => &self.hosted,
                    None => &self.remote,
                    Some(_) => &self.secret,
                };
                let exchange = self.options.connections.exchange();
                let answer = match credential {
                    None => self.call_http(clients, parts, body, cx, route).await?,
                    Some(credential) => Box::pin(self.call_as(credential, clients, parts, body, cx, route)).await?,
                };
                let alone = answer.version() != http::Version::HTTP_2;
                (answer, alone.then_some(exchange))
            }
        };
        cx.timings().upstream_answered(micros(cx, &*self.options.clock).saturating_sub(called));
        let mut response = admit(answer, cx, route).await?;
        if cx.message().is_some_and(|message| message.method.as_deref() == Some("initialize")) {
            // A session is sealed with its version when its head leaves.
            let (whole, version) = negotiated(response).await;
            response = whole;
            if let Some(version) = version {
                cx.set_negotiated(version).map_err(Refusal::fact_set)?;
            }
        }
        let silence = Silence::of(response.headers(), cx, &self.options);
        Ok(response.map(|body| {
            let over = http_body::Body::is_end_stream(&body);
            if over { body } else { Body::new(UpstreamBody::new(body, silence, cx.clone(), exchange)) }
        }))
    }

    /// Calls as somebody, and once more when the server refuses the credential and there is another one.
    async fn call_as(
        &self,
        mut credential: credential::Calling,
        clients: &Clients,
        parts: http::request::Parts,
        body: Body,
        cx: &McpContext,
        route: &Route,
    ) -> Result<Response<Body>, Refusal> {
        let message = body.bytes();
        let (method, uri, mut fields) = (parts.method.clone(), parts.uri.clone(), parts.headers.clone());
        let answer = self.call_http(clients, parts, body, cx, route).await?;
        let Some(refused) = credential::refused(&answer) else { return Ok(answer) };
        drop(answer);
        credential.renew(&refused, cx, route).await?;
        let Some(message) = message else { return Err(credential::try_again()) };
        credential.put(&mut fields);
        let mut request = Request::new(Body::from(message));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, fields);
        let (parts, body) = request.into_parts();
        let answer = self.call_http(clients, parts, body, cx, route).await?;
        if let Some(refused) = credential::refused(&answer) {
            drop(answer);
            // What is left is to say why.
            credential.renew(&refused, cx, route).await?;
            return Err(credential::not_accepted(route));
        }
        Ok(answer)
    }

    async fn call_http(
        &self,
        clients: &Clients,
        mut parts: http::request::Parts,
        body: Body,
        cx: &McpContext,
        route: &Route,
    ) -> Result<Response<Body>, Refusal> {
        // What a redirect's second leg sends is what the first one did: a filter may have replaced the message.
        let message = body.bytes();
        // Nothing of ours, and no fact about the caller, belongs into a foreign client's extensions.
        parts.extensions = http::Extensions::new();
        // A server behind TLS may turn out to speak HTTP/2, where the field is not sent.
        if parts.uri.scheme() == Some(&Scheme::HTTP)
            && let Some(Ok(host)) = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()))
        {
            parts.headers.insert(HOST, host);
        }
        // A list of the fields costs half of what a second map does, for redirects that hardly ever come.
        let again = message.map(|message| {
            let fields: Vec<_> = parts.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            (parts.method.clone(), parts.uri.clone(), fields, message)
        });
        // In a box of its own: one for all would be too large for the allocator's quick lists.
        let answer = Box::pin(clients.request(Request::from_parts(parts, body))).await;
        let answer = answer.map_err(|error| refuse(&error, cx, route))?;
        let Some((method, uri, fields, message)) = again else { return Ok(answer) };
        let Some(location) = response::same_origin_redirect(&answer, &uri) else { return Ok(answer) };
        let mut request = Request::new(Body::from(message));
        (*request.method_mut(), *request.uri_mut()) = (method, location);
        request.headers_mut().extend(fields);
        let answer = Box::pin(clients.request(request)).await;
        answer.map_err(|error| refuse(&error, cx, route))
    }
}

impl Clients {
    async fn request(&self, request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        if request.uri().scheme() == Some(&Scheme::HTTP) {
            return self.plain.request(request).await.map_err(|error| match error {
                PlainError::Connect(error) => upstream_error(&*error, true).because(error),
                PlainError::Exchange(error) => upstream_error(&error, false).because(error),
            });
        }
        let answer = self.tls.request(request).await;
        answer.map(|answer| answer.map(Body::from)).map_err(|error| {
            let connects = error.is_connect();
            upstream_error(&error, connects).because(error)
        })
    }
}

/// What a failed call means; its cause is still to be added.
fn upstream_error(error: &(dyn std::error::Error + 'static), connects: bool) -> UpstreamError {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(blocked) = cause.downcast_ref::<Blocked>() {
            return UpstreamError::new(UpstreamErrorKind::Forbidden, "The gateway may not call this server's address.")
                .with_detail(blocked.to_string());
        }
        source = cause.source();
    }
    if connects {
        return UpstreamError::new(UpstreamErrorKind::Unavailable, "The server cannot be reached.");
    }
    UpstreamError::new(UpstreamErrorKind::Broken, "The server broke off.")
}

/// 502 to 504, never a 400, 404 or 405: a client would take the server for one of the other era.
fn refuse(error: &UpstreamError, cx: &McpContext, route: &Route) -> Refusal {
    let (status, retry_after) = match error.kind {
        UpstreamErrorKind::Unavailable => (StatusCode::BAD_GATEWAY, None),
        UpstreamErrorKind::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
        UpstreamErrorKind::Broken | UpstreamErrorKind::Forbidden => (StatusCode::BAD_GATEWAY, None),
        UpstreamErrorKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, None),
    };
    let starting = error.kind == UpstreamErrorKind::Unavailable && matches!(route.target, RouteTarget::Hosted { .. });
    let (status, retry_after) =
        if starting { (StatusCode::SERVICE_UNAVAILABLE, Some(5)) } else { (status, retry_after) };
    let owner = |principal: &Arc<Principal>| principal.roles.contains(Roles::OWNER);
    let mut refusal = Refusal::new(status, error.public.clone());
    if let Some(detail) = error.detail.as_ref().filter(|_| cx.principal().is_some_and(owner)) {
        refusal = refusal.with_data(serde_json::json!({ "detail": detail }));
    }
    if let Some(seconds) = retry_after {
        refusal = refusal.retry_after(seconds);
    }
    refusal.because(format!("{}: {error}", route.id))
}
