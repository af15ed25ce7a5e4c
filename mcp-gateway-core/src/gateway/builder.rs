//! Puts a gateway together.

use std::sync::Arc;

use ipnet::IpNet;
use tower_layer::Layer;

use super::{Admitted, Gateway, Known, Proxy, ResourceMetadata};
use crate::context::Sampling;
use crate::contract::{
    AuditSink, Authenticator, Authorizer, Clock, RateLimiter, Resolve, Runtime, SystemClock, Upstream,
};
use crate::layer::admit::{AdmitLayer, AdmitLimits, Load};
use crate::layer::authenticate::{AuthenticateLayer, KnownResource};
use crate::layer::authorize::KeyServers;
use crate::layer::context::{ContextLayer, Tenants};
use crate::layer::cors::{CorsLayer, KNOWN_WEB_CLIENTS};
use crate::layer::deploy::DeployLayer;
use crate::layer::host::HostLayer;
use crate::layer::limit::{AtOnce, CallerLimitLayer, Rate};
use crate::layer::refusals::{RefusalsLayer, Strangers};
use crate::layer::resolve::ResolveLayer;
use crate::layer::revoke::{RevokeLayer, RevokeService};
use crate::layer::session::{SessionCodec, SessionLayer};
use crate::record::{Mount, Scope};
use crate::shim::Shim;

/// What a gateway is made of: values, replaceable one by one.
#[derive(Clone)]
pub struct Parts {
    /// Finds servers.
    pub resolve: Arc<dyn Resolve>,
    /// Know callers, asked in order.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Decides who may reach what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Keeps budgets.
    pub limiter: Arc<dyn RateLimiter>,
    /// Runs servers; `None` when all are remote.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// Seals sessions.
    pub sessions: Arc<dyn SessionCodec>,
    /// Takes the audit trail.
    pub audit: Arc<dyn AuditSink>,
    /// Stands in front of the servers; `None` for the [default](Shim::builder) one, inline.
    pub shim: Option<Arc<dyn Upstream>>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Parts {
    /// The parts that have no default; the others may be replaced afterwards.
    pub fn new(
        resolve: Arc<dyn Resolve>,
        authenticators: Vec<Arc<dyn Authenticator>>,
        sessions: Arc<dyn SessionCodec>,
        audit: Arc<dyn AuditSink>,
    ) -> Self {
        Self {
            resolve,
            authenticators,
            authorizer: Arc::new(KeyServers),
            limiter: crate::memory::MemoryRateLimiter::new(SystemClock, 100_000),
            runtime: None,
            sessions,
            audit,
            shim: None,
            clock: Arc::new(SystemClock),
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// What an operator sets.
#[derive(Debug, Clone)]
pub struct GatewayOptions {
    /// `trusted_proxies`.
    pub trusted_proxies: Vec<IpNet>,
    /// `allowed_hosts`, beside the public URL's.
    pub allowed_hosts: Vec<String>,
    /// `allowed_origins`, beside the public URL's.
    pub allowed_origins: Vec<String>,
    /// `allow_loopback_origins`: web pages of this machine may call, on any port.
    pub loopback_origins: bool,
    /// Whether the listener is bound to loopback: its names are allowed as `Host` then.
    pub loopback: bool,
    /// Sizes and load.
    pub limits: AdmitLimits,
    /// `limits.rate.principal`.
    pub principal_rate: Option<Rate>,
    /// `limits.rate.key`.
    pub key_rate: Option<Rate>,
    /// `limits.rate.address`, for every request of an address.
    pub address_rate: Option<Rate>,
    /// How much one caller may have under way at once.
    pub at_once: AtOnce,
    /// `limits.auth_failures_per_minute`, per address.
    pub auth_failures_per_minute: u32,
    /// `limits.refusal_addresses`.
    pub refusal_addresses: usize,
    /// `telemetry.traces.sample_ratio`, while traces are exported.
    pub trace_sampling: Sampling,
}

impl Default for GatewayOptions {
    /// No proxy, the known web clients, loopback pages, 250 calls and 50 streams a principal, 100 failures a minute, no
    /// traces.
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            allowed_hosts: Vec::new(),
            allowed_origins: KNOWN_WEB_CLIENTS.iter().map(|&origin| origin.to_owned()).collect(),
            loopback_origins: true,
            loopback: false,
            limits: AdmitLimits::default(),
            principal_rate: None,
            key_rate: None,
            address_rate: None,
            at_once: AtOnce::default(),
            auth_failures_per_minute: 100,
            refusal_addresses: 10_000,
            trace_sampling: Sampling::default(),
        }
    }
}

/// Puts a [`Gateway`] together.
pub struct GatewayBuilder {
    parts: Parts,
    options: GatewayOptions,
    known: KnownResource,
    revoke: Option<RevokeLayer>,
    tenants: Option<Tenants>,
    authorization_servers: Vec<String>,
    own_issuers: bool,
    nested: bool,
}

/// A gateway with what its operator looks at.
#[derive(Debug, Clone)]
pub struct Built {
    /// The data plane.
    pub gateway: Gateway,
    /// POSTs under way.
    pub calls: Arc<Load>,
    /// Streams under way.
    pub streams: Arc<Load>,
    /// Refusals of strangers, to be [flushed](Strangers::flush) once a minute.
    pub strangers: Arc<Strangers>,
    /// The documents that the data plane's challenges point to. Whoever serves the gateway serves them, too.
    pub metadata: ResourceMetadata,
    #[cfg(feature = "axum")]
    at: (Mount, bool),
}

#[cfg(feature = "axum")]
impl Built {
    /// The data plane and its metadata as routes, to be [merged](axum::Router::merge) into a service's own.
    pub fn router(&self) -> axum::Router {
        let (mount, nested) = &self.at;
        let router = axum::Router::new().route_service(&self.metadata.route(), self.metadata.clone());
        if *nested {
            return router.nest_service(mount.path(), self.gateway.clone());
        }
        router.route_service(&format!("{}/{{*rest}}", mount.path()), self.gateway.clone())
    }
}

impl std::fmt::Debug for GatewayBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl GatewayBuilder {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            options: GatewayOptions::default(),
            known: Arc::new(|_| None),
            revoke: None,
            tenants: None,
            authorization_servers: Vec::new(),
            own_issuers: false,
            nested: false,
        }
    }

    /// What the operator sets.
    #[must_use]
    pub fn options(mut self, options: GatewayOptions) -> Self {
        self.options = options;
        self
    }

    /// Looks resources of known servers up, so that a call need not put them together.
    #[must_use]
    pub fn known_resources(mut self, known: KnownResource) -> Self {
        self.known = known;
        self
    }

    /// Cuts what is open when its caller is revoked.
    #[must_use]
    pub fn revocations(mut self, revoke: RevokeLayer) -> Self {
        self.revoke = Some(revoke);
        self
    }

    /// Tells tenants apart; without this there is one, `default`.
    #[must_use]
    pub fn tenants(mut self, tenants: Tenants) -> Self {
        self.tenants = Some(tenants);
        self
    }

    /// Names the issuers of tokens in the metadata of servers, which makes clients begin a login there.
    #[must_use]
    pub fn authorization_servers(mut self, issuers: Vec<String>) -> Self {
        self.authorization_servers = issuers;
        self
    }

    /// Names each server's own URL as its issuer in its metadata.
    #[must_use]
    pub fn own_issuers(mut self) -> Self {
        self.own_issuers = true;
        self
    }

    /// For `axum::Router::nest_service`, which strips the mount's path from requests.
    #[must_use]
    pub fn nested(mut self) -> Self {
        self.nested = true;
        self
    }

    /// The gateway at this mount.
    #[must_use]
    pub fn build(self, mount: &Mount) -> Built {
        let Self { parts, options, known, revoke, tenants, authorization_servers, own_issuers, nested } = self;
        let metadata = ResourceMetadata::new(mount.clone());
        let metadata = metadata.with_authorization_servers(authorization_servers);
        let metadata = if own_issuers { metadata.with_own_issuers() } else { metadata };
        let limits = options.limits;
        let admit = if nested { AdmitLayer::nested(limits) } else { AdmitLayer::new(mount, limits) };
        let (calls, streams) = (admit.calls(), admit.streams());
        let strangers = Arc::new(Strangers::new(options.refusal_addresses));
        let shim = parts.shim.unwrap_or_else(|| {
            Arc::new(Shim::builder(Arc::clone(&parts.audit)).authorizer(Arc::clone(&parts.authorizer)).build())
        });

        // From the inside out; requests go from the last line to the first.
        let stack = Proxy::new(shim);
        // Starts the server only now that the caller is known to be allowed to see it.
        let stack = DeployLayer::new(parts.runtime).layer(stack);
        // A foreign session ends here, before anything is started for it.
        let stack = SessionLayer::new(parts.sessions).layer(stack);
        // Absent and hidden are the same 404.
        let stack = ResolveLayer::new(parts.resolve, parts.authorizer).layer(stack);
        // What is open when its caller is revoked is cut.
        let stack = match revoke {
            Some(revoke) => revoke.layer(stack),
            None => RevokeService::never(stack),
        };
        let stack = Known(stack);
        // By who calls; by what is called only behind the peek.
        let stack = CallerLimitLayer::new(Arc::clone(&parts.limiter), options.principal_rate, options.at_once)
            .with_keys(options.key_rate)
            .layer(stack);
        // From here inwards no credential is in the request.
        let stack = AuthenticateLayer::for_servers(mount.clone(), known, parts.authenticators)
            .require(Scope::Mcp)
            .limit_failures(Arc::clone(&parts.limiter), options.auth_failures_per_minute)
            .limit_addresses(parts.limiter, options.address_rate)
            .layer(stack);
        // Sizes, path and load, before any work.
        let stack = Admitted(admit.layer(stack));
        // Answers preflights, which carry no credential.
        let stack = CorsLayer::new(mount, options.allowed_origins, options.loopback_origins).layer(stack);
        // Against DNS rebinding.
        let stack = HostLayer::new(mount, options.allowed_hosts, options.loopback).layer(stack);
        // What ends before a shim took it.
        let stack = RefusalsLayer::new(parts.audit, Arc::clone(&parts.clock), Arc::clone(&strangers)).layer(stack);
        let mut context = ContextLayer::with(parts.clock, options.trusted_proxies).sampling(options.trace_sampling);
        if let Some(tenants) = tenants {
            context = context.tenants(tenants);
        }
        let stack = context.layer(stack);
        Built {
            gateway: Gateway(stack),
            calls,
            streams,
            strangers,
            metadata,
            #[cfg(feature = "axum")]
            at: (mount.clone(), nested),
        }
    }
}
