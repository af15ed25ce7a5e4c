//! Who is calling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HOST, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::gate::{Gate, gate_layer};
use super::limit::{Rate, conclude as limited, network};
use crate::context::McpContext;
use crate::contract::{
    AuthError, Authenticator, Budget, Effort, LimitKey, Limited, RateLimiter, Resource, SystemClock,
};
use crate::record::{Mount, Principal, Scope};
use crate::refusal::Refusal;
use crate::{BoxFuture, MaybeReady};

/// `X-API-Key`.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

static CREDENTIALS: [HeaderName; 4] = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, X_API_KEY];

/// Authenticates requests and sets the fact `principal`.
///
/// The authenticators are asked in order; the first that knows the credential decides. Nobody knows it: 401 with a
/// challenge (RFC 6750 §3, RFC 9728 §5.1), as for a caller of [another tenant](super::context::Tenants). Afterwards no credential is left in the request: nothing behind this layer
/// ever sees one.
///
/// Works alone in any tower stack; without a [`ContextLayer`](super::context::ContextLayer) it begins the context
/// itself. Handlers find the caller in [`McpContext::principal`], or, with feature `axum`, by the extractor
/// [`Caller`](crate::layer::authenticate::Caller).
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::{AuthError, Resource};
/// use mcp_gateway_core::layer::authenticate::AuthenticateLayer;
/// use mcp_gateway_core::record::Principal;
///
/// let resource = Resource { url: "https://tools.example/mcp".into(), metadata: None, server: None };
/// let layer = AuthenticateLayer::from_fn(resource, |parts, _| {
///     match parts.headers.get("authorization") {
///         Some(value) if value == "Bearer correct horse" => Ok(Some(Arc::new(Principal::new("local", "ada")))),
///         Some(_) => Err(AuthError::Invalid("not the password")),
///         None => Ok(None),
///     }
/// });
/// ```
#[derive(Clone)]
pub struct AuthenticateLayer(Arc<Inner>);

struct Inner {
    chain: Vec<Arc<dyn Authenticator>>,
    resource: ResourceOf,
    scope: Option<Scope>,
    rendering: Rendering,
    failures: Option<Failures>,
    addresses: Option<(Arc<dyn RateLimiter>, Rate)>,
}

/// Which resource a request is for.
enum ResourceOf {
    Fixed(Resource),
    Requested { mount: Mount, known: KnownResource },
}

/// Looks a server's resource up in memory, so that the usual call need not put its URL together.
pub type KnownResource = Arc<dyn Fn(&str) -> Option<Resource> + Send + Sync>;

/// For whom refusals are rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rendering {
    /// MCP clients.
    Mcp,
    /// Users of the admin API.
    Problem,
}

struct Failures {
    limiter: Arc<dyn RateLimiter>,
    per_minute: u32,
    /// Until somebody fails, nobody's budget needs to be looked at.
    seen: AtomicBool,
}

impl AuthenticateLayer {
    /// Authenticates for one fixed resource.
    #[must_use]
    pub fn new(resource: Resource, chain: Vec<Arc<dyn Authenticator>>) -> Self {
        Self::build(ResourceOf::Fixed(resource), chain)
    }

    /// Authenticates for one fixed resource by a closure.
    pub fn from_fn<F>(resource: Resource, authenticate: F) -> Self
    where
        F: Fn(&Parts, &Resource) -> Result<Option<Arc<Principal>>, AuthError> + Send + Sync + 'static,
    {
        Self::new(resource, vec![Arc::new(authenticate)])
    }

    /// Authenticates for the server that the admit layer found in the URL.
    ///
    /// `known` answers for the servers that exist; others get a resource of the same form, so that an answer does not
    /// tell which ones exist.
    #[must_use]
    pub fn for_servers(mount: Mount, known: KnownResource, chain: Vec<Arc<dyn Authenticator>>) -> Self {
        Self::build(ResourceOf::Requested { mount, known }, chain)
    }

    fn build(resource: ResourceOf, chain: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(Arc::new(Inner {
            chain,
            resource,
            scope: None,
            rendering: Rendering::Mcp,
            failures: None,
            addresses: None,
        }))
    }

    fn edit(mut self, edit: impl FnOnce(&mut Inner)) -> Self {
        // Only called while building, before the layer is cloned.
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            edit(inner);
        }
        self
    }

    /// The same, demanding a scope: 403 `insufficient_scope` without it.
    #[must_use]
    pub fn require(self, scope: Scope) -> Self {
        self.edit(|inner| inner.scope = Some(scope))
    }

    /// The same, with refusals rendered for these readers.
    #[must_use]
    pub fn render_as(self, rendering: Rendering) -> Self {
        self.edit(|inner| inner.rendering = rendering)
    }

    /// The same, with budgets of failures per address and minute, by the [effort](Authenticator::effort) that they took:
    /// one of guesses, one of what takes work. When the one is used up, wrong guesses from there are 429 and good
    /// credentials go on; when the other is, what takes work is not looked at (429): no signature is checked for a flood.
    /// A credential that is known to be over uses up neither: a program that goes on with one shuts nobody else out.
    #[must_use]
    pub fn limit_failures(self, limiter: Arc<dyn RateLimiter>, per_minute: u32) -> Self {
        self.edit(|inner| inner.failures = Some(Failures { limiter, per_minute, seen: AtomicBool::new(false) }))
    }
}

impl AuthenticateLayer {
    /// The same, with a budget of requests per address, drawn from before a credential is read; `None` for no limit.
    #[must_use]
    pub fn limit_addresses(self, limiter: Arc<dyn RateLimiter>, rate: Option<Rate>) -> Self {
        self.edit(|inner| inner.addresses = rate.map(|rate| (limiter, rate)))
    }
}

impl std::fmt::Debug for AuthenticateLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateLayer").field("authenticators", &self.0.chain.len()).finish_non_exhaustive()
    }
}

impl Gate for AuthenticateLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let cx = match McpContext::of(&parts.extensions) {
            Some(cx) => cx.clone(),
            None => {
                let cx = McpContext::new(&SystemClock);
                parts.extensions.insert(cx.clone());
                cx
            }
        };
        let resource = match self.0.resource(&cx, parts) {
            Ok(resource) => resource,
            Err(refusal) => return Err(refusal).into(),
        };
        if let (Some((limiter, rate)), Some(address)) = (&self.0.addresses, cx.address())
            // A limiter that has to ask somebody is not waited for before a credential is read.
            && let MaybeReady::Ready(verdict) = limiter.check(&[rate.budget("address", network(*address).to_string())])
            && let Err(refusal) = limited(verdict)
        {
            return Err(refusal).into();
        }
        if let Some(refusal) = self.0.exhausted(&cx, parts, &resource) {
            return Err(refusal).into();
        }
        if parts.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
            return Err(self.0.refuse(&AuthError::Malformed("two Authorization fields"), None, &resource, &cx)).into();
        }
        let mut chain = self.0.chain.iter();
        let verdict = loop {
            let Some(authenticator) = chain.next() else { break Ok(None) };
            match authenticator.authenticate(parts, &resource) {
                MaybeReady::Ready(Ok(None)) => {}
                MaybeReady::Ready(verdict) => break verdict,
                MaybeReady::Wait(first) => {
                    let rest = chain.cloned().collect();
                    return self.wait(first, rest, parts, resource, cx);
                }
            }
        };
        let tried = self.0.tried(&verdict, parts, &resource);
        strip(&mut parts.headers);
        self.0.conclude(verdict, tried, &resource, &cx).into()
    }

    fn render<R: From<Bytes>>(&self, refusal: Refusal, cx: Option<&McpContext>) -> Response<R> {
        match self.0.rendering {
            Rendering::Mcp => refusal.into_mcp(cx),
            Rendering::Problem => refusal.into_problem(cx),
        }
    }
}

gate_layer!(AuthenticateLayer);

type Verdict = Result<Option<Arc<Principal>>, AuthError>;

impl AuthenticateLayer {
    /// The slow way: an authenticator has to ask somebody. It owns a copy of the head, credential included.
    fn wait(
        &self,
        first: BoxFuture<Verdict>,
        rest: Vec<Arc<dyn Authenticator>>,
        parts: &mut Parts,
        resource: Resource,
        cx: McpContext,
    ) -> MaybeReady<Result<(), Refusal>> {
        let head = parts.clone();
        strip(&mut parts.headers);
        let inner = Arc::clone(&self.0);
        MaybeReady::wait(async move {
            let mut verdict = first.await;
            for authenticator in rest {
                if !matches!(verdict, Ok(None)) {
                    break;
                }
                verdict = authenticator.authenticate(&head, &resource).await;
            }
            let tried = inner.tried(&verdict, &head, &resource);
            inner.conclude(verdict, tried, &resource, &cx)
        })
    }
}

impl Inner {
    fn resource(&self, cx: &McpContext, parts: &Parts) -> Result<Resource, Refusal> {
        match &self.resource {
            ResourceOf::Fixed(resource) => Ok(resource.clone()),
            ResourceOf::Requested { mount, known } => {
                let requested = cx.requested().ok_or_else(|| Refusal::layer_absent("requested", "AdmitLayer"))?;
                let resource = known(&requested.id).unwrap_or_else(|| mount.resource(&requested.id));
                // Where the document is that names the server as it was called; the audience has one name.
                let host = parts.headers.get(HOST).filter(|host| *host != mount.authority());
                let called = host.and_then(|host| mount.on_loopback_as(host.to_str().ok()?));
                let metadata = called.map_or(resource.metadata, |mount| mount.resource(&requested.id).metadata);
                Ok(Resource { metadata, ..resource })
            }
        }
    }

    fn budget<'a>(&self, failures: &Failures, scope: &'static str, cx: &McpContext, cost: u32) -> Option<Budget<'a>> {
        let address = cx.address()?;
        let key = LimitKey { scope, id: network(*address).to_string().into() };
        Some(Budget { key, cost, limit: failures.per_minute, period: Duration::from_secs(60) })
    }

    /// What would take work, from an address where too much of that was in vain.
    fn exhausted(&self, cx: &McpContext, parts: &Parts, resource: &Resource) -> Option<Refusal> {
        let failures = self.failures.as_ref().filter(|failures| failures.seen.load(Ordering::Relaxed))?;
        if !has_credential(&parts.headers) {
            return None;
        }
        let budget = self.budget(failures, WORK, cx, 0)?;
        match failures.limiter.check(&[budget]) {
            MaybeReady::Ready(Err(limited)) if self.effort(parts, resource) == Effort::Work => Some(too_many(&limited)),
            // A limiter that has to ask somebody is not waited for before a credential is read.
            MaybeReady::Ready(_) | MaybeReady::Wait(_) => None,
        }
    }

    /// What a credential that is not good has taken; `None` when it is, or there is none.
    fn tried(&self, verdict: &Verdict, parts: &Parts, resource: &Resource) -> Option<Effort> {
        let failed = matches!(verdict, Ok(None) | Err(AuthError::Invalid(_)));
        (failed && has_credential(&parts.headers)).then(|| match &self.failures {
            Some(_) => self.effort(parts, resource),
            None => Effort::Recall,
        })
    }

    /// What the one that knows the credential says. What nobody knows is a guess.
    fn effort(&self, parts: &Parts, resource: &Resource) -> Effort {
        let mut efforts = self.chain.iter().map(|one| one.effort(parts, resource));
        efforts.find(|effort| *effort != Effort::Nothing).unwrap_or(Effort::Comparison)
    }

    fn conclude(
        &self,
        verdict: Verdict,
        tried: Option<Effort>,
        resource: &Resource,
        cx: &McpContext,
    ) -> Result<(), Refusal> {
        let principal = match verdict {
            Ok(Some(principal)) => principal,
            Ok(None) => return Err(self.unauthorized(tried, resource, cx)),
            Err(error) => return Err(self.refuse(&error, tried, resource, cx)),
        };
        if !cx.is_for(&principal.subject.tenant) {
            tracing::debug!(request_id = %cx.request_id(), "a credential belongs to another tenant");
            return Err(self.unauthorized(Some(Effort::Comparison), resource, cx));
        }
        let scope = self.scope.filter(|scope| !principal.has(*scope));
        cx.set_principal(principal).map_err(Refusal::fact_set)?;
        match scope {
            None => Ok(()),
            Some(scope) => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("The credential lacks the scope `{}`.", scope.as_str()),
            )
            .challenge(self.challenge(resource, Some("insufficient_scope"), Some(scope)))),
        }
    }

    fn refuse(&self, error: &AuthError, tried: Option<Effort>, resource: &Resource, cx: &McpContext) -> Refusal {
        match error {
            AuthError::Invalid(reason) => {
                tracing::debug!(reason, request_id = %cx.request_id(), "a credential is not valid");
                self.unauthorized(tried, resource, cx)
            }
            AuthError::Malformed(reason) => {
                tracing::debug!(reason, request_id = %cx.request_id(), "a credential is malformed");
                Refusal::new(StatusCode::BAD_REQUEST, "The credentials of the request contradict each other.")
                    .challenge(self.challenge(resource, Some("invalid_request"), None))
            }
            AuthError::Forged(reason) => {
                tracing::debug!(reason, request_id = %cx.request_id(), "a request was not meant to be sent");
                Refusal::new(StatusCode::FORBIDDEN, "The request does not come from a page of this gateway.")
            }
            AuthError::Unavailable(cause) => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Credentials cannot be checked now.")
                    .retry_after(5)
                    .because(cause.to_string())
            }
        }
    }

    /// Counts a failure by what it has taken. A guess too many is told so instead.
    fn count(&self, tried: Effort, cx: &McpContext) -> Result<(), Limited> {
        let scope = match tried {
            Effort::Work => WORK,
            Effort::Comparison => GUESS,
            Effort::Nothing | Effort::Recall => return Ok(()),
        };
        let Some(failures) = &self.failures else { return Ok(()) };
        failures.seen.store(true, Ordering::Relaxed);
        let Some(budget) = self.budget(failures, scope, cx, 1) else { return Ok(()) };
        match failures.limiter.check(&[budget]) {
            MaybeReady::Ready(counted) if scope == GUESS => counted.map(drop),
            MaybeReady::Ready(_) => Ok(()),
            MaybeReady::Wait(wait) => {
                // Counted in the background: the answer does not wait for it.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(wait);
                }
                Ok(())
            }
        }
    }

    fn unauthorized(&self, tried: Option<Effort>, resource: &Resource, cx: &McpContext) -> Refusal {
        if let Some(Err(limited)) = tried.map(|tried| self.count(tried, cx)) {
            return too_many(&limited);
        }
        let (error, public) = if tried.is_some() {
            (Some("invalid_token"), "The credential is not valid.")
        } else {
            (None, "Authentication is required: send `Authorization: Bearer …`.")
        };
        Refusal::new(StatusCode::UNAUTHORIZED, public).challenge(self.challenge(resource, error, self.scope))
    }

    /// RFC 6750 §3 with `resource_metadata` of RFC 9728 §5.1.
    fn challenge(&self, resource: &Resource, error: Option<&str>, scope: Option<Scope>) -> HeaderValue {
        let scope = scope.or(self.scope).map(Scope::as_str);
        let given = [("resource_metadata", resource.metadata.as_deref()), ("scope", scope), ("error", error)];
        let mut parameters: Vec<String> =
            given.iter().filter_map(|(name, value)| Some(format!("{name}=\"{}\"", (*value)?))).collect();
        if parameters.is_empty() {
            parameters.push("realm=\"mcp-gateway\"".to_owned());
        }
        let text = format!("Bearer {}", parameters.join(", "));
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
    }
}

/// The budget of credentials that were wrong and took no more than a look to tell so.
const GUESS: &str = "auth-failure";
/// The budget of those that took work.
const WORK: &str = "auth-work";

fn too_many(limited: &Limited) -> Refusal {
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "Too many failed attempts from this address.")
        .retry_after(limited.retry_after.as_secs())
}

fn has_credential(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION) || headers.contains_key(X_API_KEY)
}

/// Removes every credential that a request can carry in its head.
pub(crate) fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    // The usual request has no other: one look at each field costs less than looking up all that there could be.
    while let Some(name) = headers.keys().find(|name| is_credential(name)).cloned() {
        headers.remove(name);
    }
}

/// Whether a header carries a credential.
pub(crate) fn is_credential(name: &HeaderName) -> bool {
    CREDENTIALS.contains(name)
}

/// Extracts the caller that an [`AuthenticateLayer`] has found.
#[cfg(feature = "axum")]
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<Principal>);

#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for Caller {
    type Rejection = Response<axum::body::Body>;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let cx = McpContext::of(&parts.extensions);
        match cx.and_then(McpContext::principal) {
            Some(principal) => Ok(Self(Arc::clone(principal))),
            None => Err(Refusal::layer_absent("principal", "AuthenticateLayer").into_problem(cx)),
        }
    }
}

#[cfg(test)]
mod tests;
