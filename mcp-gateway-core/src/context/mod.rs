//! What is known of a request: write-once facts that travel with it.

mod facts;
mod peer;
mod trace;

use std::any::Any;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use http::Extensions;
use jiff::Timestamp;
use ulid::Ulid;

pub use self::facts::{
    Agreed, Completes, Elicitation, Inspected, MessageFacts, MessageKind, Requested, SessionFacts, Timings,
};
pub use self::peer::PeerAddr;
pub(crate) use self::trace::text_of as hex_of;
pub use self::trace::{Sampling, TraceContext};
use crate::contract::Endpoint;
use crate::policy::Reach;
use crate::record::{FilterFact, FilterVerdict, Label, Principal, Route, TenantId};
use crate::refusal::Refusal;
use crate::wire::version::ProtocolVersion;

/// What is known of one request, shared by every layer that handles it.
///
/// Each fact is set at most once: a later layer cannot replace the principal, and the outer audit layer still reads
/// the facts after the caller has hung up. A layer that misses a fact that it needs refuses with 500 and says which
/// layer is absent; it never lets the call through.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::context::McpContext;
/// use mcp_gateway_core::contract::SystemClock;
/// use mcp_gateway_core::record::Principal;
///
/// let cx = McpContext::new(&SystemClock);
/// cx.set_principal(Arc::new(Principal::new("local", "ada"))).unwrap();
/// assert!(cx.set_principal(Arc::new(Principal::new("local", "eve"))).is_err());
/// ```
#[derive(Clone)]
pub struct McpContext(Arc<Facts>);

struct Facts {
    request_id: Ulid,
    shared: Option<McpContext>,
    began_at: Timestamp,
    began: Instant,
    address: OnceLock<IpAddr>,
    tenant: OnceLock<Option<TenantId>>,
    trace: OnceLock<TraceContext>,
    principal: OnceLock<Arc<Principal>>,
    requested: OnceLock<Requested>,
    route: OnceLock<Arc<Route>>,
    session: OnceLock<SessionFacts>,
    endpoint: OnceLock<Endpoint>,
    message: OnceLock<MessageFacts>,
    forwarded_target: OnceLock<Arc<str>>,
    credential: OnceLock<Arc<str>>,
    negotiated: OnceLock<ProtocolVersion>,
    rule: OnceLock<Arc<str>>,
    reach: OnceLock<Reach>,
    inspected: OnceLock<Inspected>,
    filters: OnceLock<Mutex<Vec<FilterFact>>>,
    cut: OnceLock<Arc<str>>,
    refusal: OnceLock<RefusalFacts>,
    timings: Timings,
    taken: AtomicBool,
    probe: AtomicBool,
    forwarded: AtomicBool,
    request_mutated: AtomicBool,
    response_mutated: AtomicBool,
    guards: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// What the audit trail keeps of a refusal.
#[derive(Debug, Clone)]
pub struct RefusalFacts {
    /// The HTTP status.
    pub status: u16,
    /// The JSON-RPC code.
    pub code: i64,
    /// The public message.
    pub message: Box<str>,
}

/// A fact was set already. The layer that tried answers 500: two layers claim the same duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the fact `{0}` is set already: is a layer in the stack twice?")]
pub struct FactSet(pub &'static str);

macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident / $set:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> Option<&$type> {
                self.0.$name.get()
            }

            #[doc = concat!("Sets the fact `", stringify!($name), "`.")]
            ///
            /// # Errors
            /// [`FactSet`] when it is set already.
            pub fn $set(&self, value: $type) -> Result<(), FactSet> {
                self.0.$name.set(value).map_err(|_| FactSet(stringify!($name)))
            }
        )*
    };
}

impl McpContext {
    /// A new request, beginning now.
    #[must_use]
    pub fn new(clock: &dyn crate::contract::Clock) -> Self {
        Self::build(Ulid::generate(), clock.now(), clock.monotonic(), None)
    }

    /// A sub-call of this request to another server: an own message, route, endpoint and refusal; the same request id,
    /// principal and trace.
    #[must_use]
    pub fn child(&self, clock: &dyn crate::contract::Clock) -> Self {
        let child = Self::build(self.0.request_id, clock.now(), clock.monotonic(), Some(self.clone()));
        if let Some(address) = self.address() {
            let _ = child.set_address(*address);
        }
        if let Some(tenant) = self.tenant() {
            let _ = child.set_tenant(tenant.clone());
        }
        if let Some(trace) = self.trace() {
            let _ = child.set_trace(trace.clone());
        }
        if let Some(principal) = self.principal() {
            let _ = child.set_principal(Arc::clone(principal));
        }
        child
    }

    fn build(request_id: Ulid, began_at: Timestamp, began: Instant, shared: Option<McpContext>) -> Self {
        Self(Arc::new(Facts {
            request_id,
            shared,
            began_at,
            began,
            address: OnceLock::new(),
            tenant: OnceLock::new(),
            trace: OnceLock::new(),
            principal: OnceLock::new(),
            requested: OnceLock::new(),
            route: OnceLock::new(),
            session: OnceLock::new(),
            endpoint: OnceLock::new(),
            message: OnceLock::new(),
            forwarded_target: OnceLock::new(),
            credential: OnceLock::new(),
            negotiated: OnceLock::new(),
            rule: OnceLock::new(),
            reach: OnceLock::new(),
            inspected: OnceLock::new(),
            filters: OnceLock::new(),
            cut: OnceLock::new(),
            refusal: OnceLock::new(),
            timings: Timings::default(),
            taken: AtomicBool::new(false),
            probe: AtomicBool::new(false),
            forwarded: AtomicBool::new(false),
            request_mutated: AtomicBool::new(false),
            response_mutated: AtomicBool::new(false),
            guards: Mutex::new(Vec::new()),
        }))
    }

    /// The context of a request, if the context layer has run.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get::<Self>()
    }

    facts! {
        /// The caller's address, after trusted proxies.
        address / set_address: IpAddr;
        /// The tenant that the request is for, `None` when it is nobody's; set by the context layer where there are several.
        tenant / set_tenant: Option<TenantId>;
        /// The W3C trace context.
        trace / set_trace: TraceContext;
        /// Who calls; set by the authenticate layer.
        principal / set_principal: Arc<Principal>;
        /// Which server and path the URL names; set by the admit layer.
        requested / set_requested: Requested;
        /// The server that is called; set by the resolve layer.
        route / set_route: Arc<Route>;
        /// The legacy session of the request, opened; set by the session layer.
        session / set_session: SessionFacts;
        /// Which replica answers; set by the deploy layer.
        endpoint / set_endpoint: Endpoint;
        /// What the body says; set by the peek layer.
        message / set_message: MessageFacts;
        /// The tool, prompt or resource that the server is asked for, when a filter has put it in the place of the one in
        /// `message`; set by the filter layer.
        forwarded_target / set_forwarded_target: Arc<str>;
        /// As whom the server is called: the id of an account or issuer, no secret; set by the shim.
        credential / set_credential: Arc<str>;
        /// The version that the server answered to `initialize`; set by the shim before the answer's head leaves.
        negotiated / set_negotiated: ProtocolVersion;
        /// Which rule decided; set by the authorize layer.
        rule / set_rule: Arc<str>;
        /// How far the access rules of the server went when it was resolved; set by the authorizer that goes by them.
        reach / set_reach: Reach;
        /// What each filter that [may outgrow](crate::contract::Filter::may_outgrow) it looks at of the exchange; set by
        /// the filter layer.
        inspected / set_inspected: Inspected;
        /// Which rule forbade what was open already; set by the revoke layer.
        cut / set_cut: Arc<str>;
    }

    /// Whether the request is for this tenant. Where nobody tells tenants apart, all requests are for `default`.
    #[must_use]
    pub fn is_for(&self, tenant: &TenantId) -> bool {
        match self.tenant() {
            Some(own) => own.as_ref() == Some(tenant),
            None => *tenant == TenantId::default(),
        }
    }

    /// The request's id, in logs, audit trail and error answers.
    #[must_use]
    pub fn request_id(&self) -> Ulid {
        self.0.request_id
    }

    /// The request that this one is a sub-call of.
    #[must_use]
    pub fn parent(&self) -> Option<&McpContext> {
        self.0.shared.as_ref()
    }

    /// When it began.
    #[must_use]
    pub fn began_at(&self) -> Timestamp {
        self.0.began_at
    }

    /// When it began, on the monotonic clock.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.0.began
    }

    /// Notes that, by its headers, the request is the one with which clients find out the server's era.
    pub(crate) fn note_probe(&self) {
        self.0.probe.store(true, Ordering::Relaxed);
    }

    /// Whether the client finds out the server's era by this request.
    pub(crate) fn is_probe(&self) -> bool {
        self.0.probe.load(Ordering::Relaxed)
    }

    /// How long the upstream and the first byte took.
    #[must_use]
    pub fn timings(&self) -> &Timings {
        &self.0.timings
    }

    /// Marks that a shim has taken the request: from here on its audit layer records it, not the gateway's.
    pub fn take(&self) {
        self.0.taken.store(true, Ordering::Release);
    }

    /// Whether a shim has taken the request.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.0.taken.load(Ordering::Acquire)
    }

    /// Marks that the request is on its way to the server: a refusal from here on is the server's failure.
    pub fn forward(&self) {
        self.0.forwarded.store(true, Ordering::Release);
    }

    /// Whether the request was on its way to the server.
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        self.0.forwarded.load(Ordering::Acquire)
    }

    /// Notes that a filter has changed the request.
    pub(crate) fn note_request_mutated(&self) {
        self.0.request_mutated.store(true, Ordering::Relaxed);
    }

    /// Whether a filter has changed the request: what the server reads is not what `message` says.
    #[must_use]
    pub fn is_request_mutated(&self) -> bool {
        self.0.request_mutated.load(Ordering::Relaxed)
    }

    /// Notes that a filter has changed or withheld a message of the answer.
    pub(crate) fn note_response_mutated(&self) {
        self.0.response_mutated.store(true, Ordering::Relaxed);
    }

    /// Whether a filter has changed or withheld a message of the answer so far.
    #[must_use]
    pub fn is_response_mutated(&self) -> bool {
        self.0.response_mutated.load(Ordering::Relaxed)
    }

    /// Notes what a configured filter said of a message, for the audit trail.
    pub(crate) fn note_filter(&self, filter: &Arc<str>, verdict: FilterVerdict, found: Vec<Label>) {
        let facts = self.0.filters.get_or_init(Mutex::default);
        let mut facts = facts.lock().unwrap_or_else(PoisonError::into_inner);
        FilterFact::note(&mut facts, filter, verdict, found);
    }

    /// What the configured filters said so far.
    #[must_use]
    pub fn filters(&self) -> Vec<FilterFact> {
        let facts = self.0.filters.get().map(|facts| facts.lock().unwrap_or_else(PoisonError::into_inner).clone());
        facts.unwrap_or_default()
    }

    /// Keeps a guard (a permit, a counter) until the exchange is over: until the answer's body is read or dropped.
    pub fn hold(&self, guard: impl Any + Send) {
        self.0.guards.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(guard));
    }

    /// Remembers the first refusal, for the audit layers.
    pub fn note_refusal(&self, refusal: &Refusal) {
        let _ = self.0.refusal.set(RefusalFacts {
            status: refusal.status().as_u16(),
            code: refusal.code(),
            message: refusal.public().into(),
        });
    }

    /// The refusal that ended the request, if one did.
    #[must_use]
    pub fn refusal(&self) -> Option<&RefusalFacts> {
        self.0.refusal.get()
    }
}

impl std::fmt::Debug for McpContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpContext")
            .field("request_id", &self.0.request_id)
            .field("principal", &self.principal().map(|principal| &principal.subject))
            .field("route", &self.route().map(|route| &route.id))
            .finish_non_exhaustive()
    }
}
