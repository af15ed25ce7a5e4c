//! An OAuth 2.1 authorization server for MCP clients, as one tower service.
//!
//! It knows clients, codes, grants and tokens. It knows no people: an [`Interaction`] says who is logged in at a browser
//! and shows the pages, and a [`Resolve`] says which servers somebody may use. Everything that it keeps is in a
//! [`ResourceStore`], so any number of replicas serve one issuer.
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use bytes::Bytes;
//! use http::{Request, Response, request::Parts};
//! use mcp_gateway_auth::server::{AuthorizationServer, ConsentPage, Interaction, LoggedIn, Problem, ServerParts};
//! use mcp_gateway_auth::token::{SigningKeyOptions, SigningKeys};
//! use mcp_gateway_core::contract::{Resolve, ResolveError, SystemClock};
//! use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
//! use mcp_gateway_core::record::{Mount, Principal, Resources, Route, Subject, TenantId};
//! use mcp_gateway_core::seal::Sealer;
//! use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
//! use mcp_gateway_core::{Body, BoxError, catalog};
//! use tower_service::Service as _;
//!
//! /// The people of a service: whoever its own front end says is there.
//! struct People;
//!
//! #[async_trait]
//! impl Interaction for People {
//!     async fn who(&self, head: &Parts) -> Result<Option<LoggedIn>, BoxError> {
//!         let user = head.headers.get("x-internal-user").and_then(|user| user.to_str().ok());
//!         Ok(user.map(|user| LoggedIn { subject: Subject::local(user), session: None }))
//!     }
//!     async fn login(&self, _: &Parts, return_to: &str) -> Response<Body> {
//!         Response::builder().status(303).header("location", format!("/login?then={return_to}")).body(Body::empty()).unwrap()
//!     }
//!     async fn consent(&self, _: &Parts, page: &ConsentPage) -> Response<Body> {
//!         Response::new(Body::from(Bytes::from(format!("<form method=post action={}>…</form>", page.action))))
//!     }
//!     async fn problem(&self, _: &Parts, problem: &Problem) -> Response<Body> {
//!         Response::new(Body::from(Bytes::from(problem.text())))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let clock = Arc::new(SystemClock);
//! let store = Arc::new(MemoryStore::new(clock.clone()));
//! let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
//! let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
//! let ring = Resources::new(store.clone(), sealer.clone(), TenantId::default());
//! let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
//! let compile = Arc::new({ let mount = mount.clone(); move |entry: &_| catalog::compile(entry, &mount) });
//! let options = SnapshotOptions::new(sealer.clone(), compile);
//! let (snapshots, driver) = Snapshots::follow(store.clone(), options).await.unwrap();
//! tokio::spawn(driver);
//! let snapshots = Arc::new(snapshots);
//!
//! let mut server = AuthorizationServer::new(ServerParts {
//!     mount,
//!     tenant: TenantId::default(),
//!     store,
//!     sealer,
//!     signer: keys.clone(),
//!     keys,
//!     resolve: snapshots.clone(),
//!     standing: snapshots,
//!     interaction: Arc::new(People),
//!     clock,
//! });
//! let request = Request::get("/.well-known/oauth-authorization-server").body(Body::empty()).unwrap();
//! let response = server.call(request).await.unwrap();
//! assert_eq!(response.status(), 200);
//! # });
//! ```

mod admin;
mod answer;
mod assertion;
mod audit;
mod authorize;
mod budget;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod check;
mod client;
mod consent;
mod device;
mod form;
mod grant;
mod inspect;
mod interaction;
mod issuer;
mod limits;
mod lookup;
mod metadata;
mod register;
mod state;
mod target;
mod token;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use mcp_gateway_core::contract::{AuditSink, Clock, KeyRing, RateLimiter, Resolve, ResourceStore, Signer};
use mcp_gateway_core::record::{FieldSealer, Mount, TenantId};
use mcp_gateway_core::{Body, BoxError, BoxFuture};
use tower_service::Service;

pub use self::admin::{AdminError, CreatedClient, NewClient};
use self::answer::{OAuthError, document, empty, for_any_origin, method_not_allowed, preflight};
pub use self::assertion::IdentityProvider;
pub use self::client::{
    ClientAuthentication, DocumentClients, DocumentError, GrantType, KnownBy, OAuthClient, RedirectKind,
    RegistrationMode, RegistrationPolicy,
};
pub use self::consent::Consent;
pub(crate) use self::consent::forget;
pub use self::device::DeviceOptions;
use self::form::Form;
pub use self::grant::{AuthorizationCode, Grant, PendingRequest};
pub use self::interaction::{
    Connected, ConsentPage, DeviceConfirm, DeviceEntry, DeviceStep, Interaction, LoggedIn, NotConnected, Problem,
};
use self::issuer::Issuer;
pub use self::issuer::Issuers;
pub use self::limits::ServerLimits;
use self::lookup::ClientLookup;
pub(crate) use self::lookup::client_key;
use self::state::State;
pub(crate) use self::state::revocation;
pub use self::token::CLIENT_SUBJECT;
use crate::token::{Standing, TokenIssuer};

/// Where the endpoints are, below the origin.
mod paths {
    pub(super) const METADATA: &str = "/.well-known/oauth-authorization-server";
    pub(super) const OPENID: &str = "/.well-known/openid-configuration";
    pub(super) const KEYS: &str = "/jwks.json";
    pub(super) const AUTHORIZE: &str = "/authorize";
    pub(super) const CONTINUE: &str = "/authorize/continue";
    pub(super) const DECIDE: &str = "/authorize/decide";
    pub(super) const TOKEN: &str = "/token";
    pub(super) const REVOKE: &str = "/revoke";
    pub(super) const INTROSPECT: &str = "/introspect";
    pub(super) const REGISTER: &str = "/register";
    pub(super) const DEVICE_AUTHORIZATION: &str = "/device_authorization";
    pub(super) const DEVICE: &str = "/device";
    pub(super) const DEVICE_DECIDE: &str = "/device/decide";
    /// Below it the endpoints of servers that have an issuer of their own.
    pub(super) const ISSUERS: &str = "/issuers";
}

/// The authorization server: a tower service for the root of the gateway's origin.
/// Every other path is a 404. A handle: clones share it.
#[derive(Clone)]
pub struct AuthorizationServer(Arc<Inner>);

/// What an authorization server is made of.
#[derive(Clone)]
pub struct ServerParts {
    /// Its origin is the issuer; its servers are the resources.
    pub mount: Mount,
    /// Whose.
    pub tenant: TenantId,
    /// Where everything is kept.
    pub store: Arc<dyn ResourceStore>,
    /// Seals what must not be read there.
    pub sealer: Arc<dyn FieldSealer>,
    /// Signs access tokens.
    pub signer: Arc<dyn Signer>,
    /// The public keys of `signer`.
    pub keys: Arc<dyn KeyRing>,
    /// Which servers somebody may use: asked before consent and for every token.
    pub resolve: Arc<dyn Resolve>,
    /// Whether somebody may use the gateway at all: asked likewise.
    pub standing: Arc<dyn Standing>,
    /// Who is at the browser, and pages.
    pub interaction: Arc<dyn Interaction>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// The times of an authorization server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// `oauth.issuer`: shared.
    pub issuers: Issuers,
    /// `oauth.access_token_seconds`: 1 hour; at most 24 hours.
    pub access_token: Duration,
    /// `oauth.refresh_grace_seconds`: how long the refresh token before is answered with the same successor; 60 s.
    pub refresh_grace: Duration,
    /// `oauth.grant_idle_seconds`: after how long without use a grant ends; 30 days.
    pub refresh_idle: Duration,
    /// `oauth.grant_seconds`: after how long it ends, used or not; 180 days.
    pub grant_life: Duration,
    /// `oauth.consent_seconds`: how long the same request is not asked about again, where that may be; 180 days, 0:
    /// each is asked about.
    pub consent_life: Duration,
    /// `oauth.requests_per_minute`: requests of one address to the token, revocation, introspection and authorization
    /// endpoints together, and tokens and consents of one client with one account; 300.
    pub requests_per_minute: u32,
    /// `oauth.registrations_per_minute`: registrations from one address; 10.
    pub registrations_per_minute: u32,
    /// `oauth.registrations_total_per_minute`: registrations from all addresses together, and likewise requests of
    /// clients by document of which nothing is kept; 100.
    pub registrations_total_per_minute: u32,
    /// `oauth.documents_per_minute`: clients' documents that are fetched for one person; 20. Of one host ten times as
    /// many, for all.
    pub documents_per_minute: u32,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 24 * 3_600);
        Self {
            issuers: Issuers::Shared,
            access_token: TokenIssuer::LIFETIME,
            refresh_grace: Duration::from_secs(60),
            refresh_idle: days(30),
            grant_life: days(180),
            consent_life: days(180),
            requests_per_minute: 300,
            registrations_per_minute: 10,
            registrations_total_per_minute: 100,
            documents_per_minute: 20,
        }
    }
}

pub(crate) struct Inner {
    mount: Mount,
    tenant: TenantId,
    tokens: TokenIssuer,
    signer: Arc<dyn Signer>,
    keys: Arc<dyn KeyRing>,
    state: State,
    resolve: Arc<dyn Resolve>,
    standing: Arc<dyn Standing>,
    interaction: Arc<dyn Interaction>,
    documents: Option<Arc<DocumentClients>>,
    devices: Option<DeviceOptions>,
    policy: RegistrationPolicy,
    options: ServerOptions,
    limiter: Option<Arc<dyn RateLimiter>>,
    audit: Option<Arc<dyn AuditSink>>,
    identity_providers: Vec<IdentityProvider>,
    clock: Arc<dyn Clock>,
}

impl AuthorizationServer {
    /// A server with the usual options: registration by policy, Client ID Metadata Documents, no limits by address.
    #[must_use]
    pub fn new(parts: ServerParts) -> Self {
        let ServerParts { mount, tenant, store, sealer, signer, keys, resolve, standing, interaction, clock } = parts;
        let state = State::new(&store, &sealer, &tenant);
        let tokens = TokenIssuer::new(mount.origin(), Arc::clone(&signer), Arc::clone(&clock));
        let documents = Some(Arc::new(DocumentClients::new(Arc::clone(&clock))));
        let inner = Inner {
            mount,
            tenant,
            tokens,
            signer,
            keys,
            state,
            resolve,
            standing,
            interaction,
            documents,
            devices: None,
            policy: RegistrationPolicy::default(),
            options: ServerOptions::default(),
            limiter: None,
            audit: None,
            identity_providers: Vec::new(),
            clock,
        };
        Self(Arc::new(inner))
    }

    /// The same with these times and limits.
    #[must_use]
    pub fn options(self, options: ServerOptions) -> Self {
        self.edit(|inner| {
            let tokens = TokenIssuer::new(inner.mount.origin(), Arc::clone(&inner.signer), Arc::clone(&inner.clock));
            inner.tokens = tokens.with_lifetime(options.access_token);
            inner.options = options;
        })
    }

    /// The same with this rule about clients.
    #[must_use]
    pub fn policy(self, policy: RegistrationPolicy) -> Self {
        self.edit(|inner| inner.policy = policy)
    }

    /// The same with Client ID Metadata Documents fetched so, or none at all.
    #[must_use]
    pub fn documents(self, documents: Option<DocumentClients>) -> Self {
        self.edit(|inner| inner.documents = documents.map(Arc::new))
    }

    /// The same with limits by address, which a `ContextLayer` in front finds out.
    #[must_use]
    pub fn limit_addresses(self, limiter: Arc<dyn RateLimiter>) -> Self {
        self.edit(|inner| inner.limiter = Some(limiter))
    }

    /// The same, giving codes to devices (RFC 8628) whose clients an operator has made for it. People enter them at
    /// `/device`, by [`Interaction::device`]. Guesses are held back by this limiter, and everything else where there is
    /// no other.
    #[must_use]
    pub fn devices(self, options: DeviceOptions, limiter: Arc<dyn RateLimiter>) -> Self {
        self.edit(|inner| {
            inner.devices = Some(options);
            inner.limiter.get_or_insert(limiter);
        })
    }

    /// The same, accepting what this company identity provider has decided: see [`IdentityProvider`].
    #[must_use]
    pub fn identity_provider(self, provider: IdentityProvider) -> Self {
        self.edit(|inner| inner.identity_providers.push(provider))
    }

    /// The same, recording in this trail who registered, what was agreed to, which tokens were given and what ended.
    /// When the trail is full nothing is given any more (503); what ends access goes on.
    #[must_use]
    pub fn audit(self, sink: Arc<dyn AuditSink>) -> Self {
        self.edit(|inner| inner.audit = Some(sink))
    }

    fn edit(mut self, edit: impl FnOnce(&mut Inner)) -> Self {
        // Only called while building, before the service is cloned.
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            edit(inner);
        }
        self
    }
}

impl fmt::Debug for AuthorizationServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizationServer").field("issuer", &self.0.tokens.issuer()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerParts").field("mount", &self.mount).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for AuthorizationServer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            Ok(inner.serve(&head, Body::new(body)).await)
        })
    }
}

impl Inner {
    async fn serve(&self, head: &Parts, body: Body) -> Response<Body> {
        let Some((issuer, path)) = Issuer::of_path(&self.mount, self.options.issuers, head.uri.path()) else {
            return empty(StatusCode::NOT_FOUND);
        };
        let (get, post) = (head.method == Method::GET, head.method == Method::POST);
        match path {
            paths::METADATA | paths::OPENID | paths::KEYS => for_any_origin(match (get, path) {
                (true, paths::KEYS) => document(&self.keys.document(), "public, max-age=300"),
                (true, _) => document(&self.describe(&issuer).to_string(), "public, max-age=300"),
                _ if head.method == Method::OPTIONS => preflight(),
                _ => method_not_allowed("GET"),
            }),
            paths::AUTHORIZE | paths::CONTINUE if get => match self.limit_address(head, false).await {
                Err(limited) => self.page(head, Problem::TooMany, Some(limited)).await,
                Ok(()) if path == paths::AUTHORIZE => self.authorize(head, &issuer).await,
                Ok(()) => self.proceed(head).await,
            },
            paths::DECIDE if post => match self.decision(head, body).await {
                Err(problem) => self.page(head, problem, None).await,
                Ok(form) => self.decide(head, &form).await,
            },
            paths::DEVICE | paths::DEVICE_DECIDE => match &self.devices {
                Some(options) => self.device_page(head, options, path, body).await,
                None => empty(StatusCode::NOT_FOUND),
            },
            paths::AUTHORIZE | paths::CONTINUE => method_not_allowed("GET"),
            paths::DECIDE => method_not_allowed("POST"),
            _ => self.for_programs(head, &issuer, path, body).await,
        }
    }

    /// What clients read about an issuer.
    fn describe(&self, issuer: &Issuer) -> serde_json::Value {
        let mut metadata = metadata::server(&self.mount, issuer, self.policy.mode, self.documents.is_some());
        if !self.identity_providers.is_empty() {
            metadata::add_identity_grant(&mut metadata);
        }
        if self.devices.is_some() {
            device::describe(&mut metadata, issuer);
        }
        metadata
    }

    /// The form of a page.
    async fn decision(&self, head: &Parts, body: Body) -> Result<Form, Problem> {
        self.limit_address(head, false).await.map_err(|_| Problem::TooMany)?;
        self.form(head, body).await.map_err(|error| match error.status {
            StatusCode::REQUEST_TIMEOUT => Problem::TooSlow,
            _ => Problem::RequestGone,
        })
    }

    /// The endpoints that programs call, from pages of any origin too.
    async fn for_programs(&self, head: &Parts, issuer: &Issuer, path: &str, body: Body) -> Response<Body> {
        let managed = path.strip_prefix(paths::REGISTER).and_then(|rest| rest.strip_prefix('/'));
        let devices = self.devices.as_ref().filter(|_| path == paths::DEVICE_AUTHORIZATION);
        let known = managed.is_some()
            || devices.is_some()
            || matches!(path, paths::TOKEN | paths::REVOKE | paths::INTROSPECT | paths::REGISTER);
        if !known {
            return empty(StatusCode::NOT_FOUND);
        }
        if head.method == Method::OPTIONS {
            return preflight();
        }
        let answer = async {
            let registration = path == paths::REGISTER;
            self.limit_address(head, registration).await.map_err(OAuthError::too_many)?;
            if let (&Method::POST, Some(options)) = (&head.method, devices) {
                return self.device_authorization(head, issuer, options, &self.form(head, body).await?).await;
            }
            match (&head.method, path, managed) {
                (&Method::POST, paths::TOKEN, _) => self.token(head, issuer, &self.form(head, body).await?).await,
                (&Method::POST, paths::REVOKE, _) => self.revoke(head, issuer, &self.form(head, body).await?).await,
                (&Method::POST, paths::INTROSPECT, _) => {
                    self.introspect(head, issuer, &self.form(head, body).await?).await
                }
                (&Method::POST, paths::REGISTER, _) => {
                    self.limit_unknown("oauth-register-all").await.map_err(OAuthError::too_many)?;
                    self.register(head, issuer, &read(body, ServerLimits::REGISTRATION).await?).await
                }
                (&Method::GET, _, Some(id)) => self.registration(head, issuer, id).await,
                (&Method::PUT, _, Some(id)) => {
                    self.reregister(head, issuer, id, &read(body, ServerLimits::REGISTRATION).await?).await
                }
                (&Method::DELETE, _, Some(id)) => self.deregister(head, issuer, id).await,
                (_, _, Some(_)) => Ok(method_not_allowed("GET, PUT, DELETE")),
                _ => Ok(method_not_allowed("POST")),
            }
        };
        for_any_origin(answer.await.unwrap_or_else(OAuthError::into_response))
    }

    async fn form(&self, head: &Parts, body: Body) -> Result<Form, OAuthError> {
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OAuthError::bad("invalid_request", "Send application/x-www-form-urlencoded."));
        }
        let body = read(body, ServerLimits::BODY).await?;
        Form::parse(&body).map_err(|why| OAuthError::bad("invalid_request", why))
    }
}

/// 256 random bits, base64url.
fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// A body of at most so many bytes, which does not come a byte at a time for ever.
async fn read(body: Body, longest: usize) -> Result<Bytes, OAuthError> {
    let error = |status, why: String| OAuthError { status, code: "invalid_request", why, retry_after: None };
    let unreadable = |_| {
        let why = format!("The body could not be read, or is larger than {} KiB.", longest / 1_024);
        error(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    let slow = |_| error(StatusCode::REQUEST_TIMEOUT, "The body came too slowly.".to_owned());
    let mut body = std::pin::pin!(Limited::new(body, longest));
    let whole = async {
        let first = tokio::time::timeout(ServerLimits::FIRST_BYTE, body.frame()).await.map_err(slow)?;
        let Some(first) = first else { return Ok(Bytes::new()) };
        let first = first.map_err(unreadable)?.into_data().unwrap_or_default();
        let rest = body.collect().await.map_err(unreadable)?.to_bytes();
        Ok(if rest.is_empty() { first } else { [first, rest].concat().into() })
    };
    tokio::time::timeout(ServerLimits::WHOLE_BODY, whole).await.map_err(slow)?
}

#[cfg(test)]
mod tests;
