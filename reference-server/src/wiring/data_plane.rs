//! The gateway and its shim, from the configuration.

use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, LastUsed};
use mcp_gateway_auth::token::TokenAuthenticator;
use mcp_gateway_core::context::{McpContext, Sampling};
use mcp_gateway_core::contract::{
    Action, AuditSink, Authenticator, Authorizer, Clock, RateLimiter, Runtime, Target, UpstreamCredentials,
};
use mcp_gateway_core::egress::{Connections, FetchOptions, Fetcher};
use mcp_gateway_core::filter::{FilterLimits, SnapshotFilters};
use mcp_gateway_core::gateway::{Built, Gateway, GatewayOptions, Parts};
use mcp_gateway_core::layer::admit::AdmitLimits;
use mcp_gateway_core::layer::audit::AuditOptions;
use mcp_gateway_core::layer::filter::FilterOptions;
use mcp_gateway_core::layer::limit::AtOnce;
use mcp_gateway_core::layer::peek::PeekOptions;
use mcp_gateway_core::layer::revoke::{RevokeLayer, Standing};
use mcp_gateway_core::layer::session::SessionCodec;
use mcp_gateway_core::pin::{PinnedTools, ToolPinning};
use mcp_gateway_core::policy::{RuleFilter, SnapshotRules};
use mcp_gateway_core::record::{ActorKind, Dependence, Mount, Principal, Route};
use mcp_gateway_core::shim::{ForwardOptions, Shim};
use mcp_gateway_core::snapshot::Snapshots;
use mcp_gateway_core::wire;

use crate::config::{Capacity, Config, ConfigError};

/// What the data plane is made of, beside the configuration.
pub(super) struct Ingredients {
    pub(super) mount: Mount,
    pub(super) capacity: Capacity,
    pub(super) snapshots: Snapshots,
    pub(super) access: Arc<SnapshotRules>,
    pub(super) filters: Arc<SnapshotFilters>,
    pub(super) pinning: ToolPinning,
    pub(super) last_used: Arc<LastUsed>,
    /// What accepts OAuth tokens, where somebody gives them.
    pub(super) tokens: Option<TokenAuthenticator>,
    pub(super) limiter: Arc<dyn RateLimiter>,
    pub(super) sessions: Arc<dyn SessionCodec>,
    pub(super) runtime: Option<Arc<dyn Runtime>>,
    pub(super) sink: Arc<dyn AuditSink>,
    /// As whom servers are called.
    pub(super) credentials: Arc<dyn UpstreamCredentials>,
    pub(super) connections: Arc<Connections>,
    pub(super) clock: Arc<dyn Clock>,
}

/// Puts shim and gateway together.
pub(super) fn build(config: &Config, with: Ingredients) -> Result<Built, ConfigError> {
    let Ingredients {
        mount,
        capacity,
        snapshots,
        access,
        filters,
        pinning,
        last_used,
        tokens,
        limiter,
        sessions,
        runtime,
        sink,
        credentials,
        connections,
        clock,
    } = with;
    let limits = &config.limits;
    let peek = PeekOptions {
        message: wire::Limits {
            max_bytes: usize::try_from(limits.body_bytes).unwrap_or(usize::MAX),
            max_depth: limits.message_depth,
            max_id: limits.id_bytes,
            ..wire::Limits::default()
        },
        first_byte: Duration::from_secs(limits.body_first_byte_seconds),
        chunk: Duration::from_secs(limits.body_chunk_seconds),
        total: Duration::from_secs(limits.body_total_seconds),
        unknown_methods: config.policy.unknown_methods,
    };
    let authorizer: Arc<dyn Authorizer> = access.clone();
    let rules = Arc::clone(&access);
    let lists = RuleFilter::new(Arc::clone(&authorizer), move |server| rules.reach(server));
    let (called, comparing) = (PinnedTools::new(Arc::clone(&authorizer), pinning.clone()), pinning.clone());
    let called: Arc<dyn Authorizer> = Arc::new(called);
    let shim = Shim::builder(Arc::clone(&sink))
        .authorizer(called)
        .filters(
            // Tools are compared as the server lists them; what filters make of a message has to pass the rules.
            vec![Arc::new(pinning), filters.clone(), Arc::new(lists)],
            FilterOptions {
                body_bytes: limits.filter_body_bytes,
                event_bytes: limits.event_bytes,
                peek: peek.clone(),
                ..FilterOptions::default()
            },
        )
        .limits(Arc::clone(&limiter), limits.rate.server.rate(), limits.rate.tool.rate())
        .audit(AuditOptions {
            on_full: config.audit.on_full,
            bodies: config.audit.bodies,
            body_limit: config.audit.body_limit,
            redact: config.redacted_headers()?,
            max_event: limits.event_bytes,
            clock: Arc::clone(&clock),
        })
        .peek(peek)
        .forward(ForwardOptions {
            egress: config.egress_policy()?,
            connect_timeout: Duration::from_secs(limits.connect_timeout_seconds),
            head_timeout: Duration::from_secs(limits.call_max_duration_seconds),
            stream_idle: Duration::from_secs(limits.stream_idle_seconds),
            pool_idle_per_host: limits.pool_idle_per_host,
            pool_idle: Duration::from_secs(limits.pool_idle_seconds),
            credentials: Some(credentials),
            connections,
            clock: Arc::clone(&clock),
        })
        .build();

    let keys = Arc::new(snapshots.clone());
    let authenticator = ApiKeyAuthenticator::new(keys, Arc::clone(&clock)).with_last_used(last_used);
    let mut authenticators: Vec<Arc<dyn Authenticator>> = vec![Arc::new(authenticator)];
    authenticators.extend(tokens.map(|tokens| Arc::new(tokens) as Arc<dyn Authenticator>));
    let mut parts = Parts::new(Arc::new(snapshots.clone()), authenticators, sessions, sink);
    parts.authorizer = authorizer;
    parts.limiter = limiter;
    parts.runtime = runtime;
    parts.shim = Some(Arc::new(shim));
    parts.clock = Arc::clone(&clock);
    let (changes, known) = (snapshots.swapped(), snapshots.clone());
    let stands = move |cx: &McpContext| {
        let snapshot = known.load();
        let revoked = |principal: &Arc<Principal>| {
            let ended = |dependence: &Arc<Dependence>| snapshot.revocations.end(dependence);
            let (kind, id) = (principal.actor.kind, &principal.actor.id);
            kind == ActorKind::ApiKey && snapshot.key(id).is_none()
                || principal.dependence.as_ref().is_some_and(ended)
                || kind == ActorKind::Client && snapshot.user(&principal.subject).is_some_and(|user| !user.enabled)
        };
        let removed = |route: &Arc<Route>| !snapshot.routes.contains_key(&route.id);
        let denied_more = |route: &Arc<Route>| {
            let now = snapshot.routes.get(&route.id);
            now.is_some_and(|now| now.server_requests.denies_more(route.server_requests))
        };
        match () {
            () if cx.principal().is_some_and(revoked) || cx.route().is_some_and(removed) => Standing::Revoked,
            () => match standing(&access, &filters, &comparing, cx) {
                Standing::Stands | Standing::Outdated if known.refuses() => Standing::Unknown,
                Standing::Stands if cx.route().is_some_and(denied_more) => Standing::Outdated,
                of_now => of_now,
            },
        }
    };
    let revoke = RevokeLayer::new(Arc::new(stands), changes, clock)
        .call_max(Duration::from_secs(limits.call_max_duration_seconds));
    let options = GatewayOptions {
        trusted_proxies: config.trusted_proxies.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        allowed_origins: config.allowed_origins.clone(),
        loopback_origins: config.allow_loopback_origins,
        loopback: config.is_loopback(),
        limits: AdmitLimits {
            body_bytes: limits.body_bytes,
            header_count: limits.header_count,
            header_bytes: limits.header_bytes,
            calls: limits.calls,
            streams: capacity.streams,
        },
        principal_rate: limits.rate.principal.rate(),
        key_rate: limits.rate.key.rate(),
        address_rate: limits.rate.address.rate(),
        at_once: AtOnce { calls: config.calls_per_principal(), streams: limits.streams_per_principal },
        auth_failures_per_minute: limits.auth_failures_per_minute,
        refusal_addresses: limits.refusal_addresses,
        trace_sampling: match &config.telemetry.traces {
            traces if traces.endpoint.is_some() => Sampling::ratio(traces.sample_ratio),
            _ => Sampling::default(),
        },
    };
    Ok(Gateway::builder(parts)
        .options(options)
        .revocations(revoke)
        .known_resources(Arc::new(move |id| snapshots.load().routes.get(id).map(|route| route.resource.clone())))
        .build(&mount))
}

/// The filters of these snapshots.
pub(super) fn filters(
    config: &Config,
    snapshots: &Snapshots,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<SnapshotFilters>, ConfigError> {
    let options = FetchOptions::default()
        .with_policy(config.filter_policy()?.with_plain_http_in_holes_alone())
        .with_timeout(Duration::from_millis(FilterLimits::TIMEOUT_MS.into()))
        .with_body(config.limits.filter_body_bytes);
    let options = if config.egress.filter.allow.is_empty() { options } else { options.with_plain_http() };
    let fetch = Arc::new(Fetcher::new(options));
    Ok(Arc::new(SnapshotFilters::new(snapshots.clone(), fetch, Arc::clone(clock))))
}

/// What the rules and filters of now say of what is open.
fn standing(access: &SnapshotRules, filters: &SnapshotFilters, pinning: &ToolPinning, cx: &McpContext) -> Standing {
    // What was refused has its answer, which may still wait for the audit trail.
    if cx.refusal().is_some() {
        return Standing::Stands;
    }
    // Who is not known yet has nothing open.
    let (Some(principal), Some(route)) = (cx.principal(), cx.route()) else { return Standing::Stands };
    let server = Target { server: &route.id, name: None };
    let reached = access.explain(principal, Action::Connect, server, None);
    if !reached.allow {
        return Standing::Hidden(reached.rule);
    }
    if let Some(message) = cx.message()
        && let Some(method) = message.method.as_deref()
    {
        let target = Target { name: message.target.as_deref(), ..server };
        let decision = access.explain(principal, Action::Method(method), target, message.completes);
        if !decision.allow {
            return Standing::Forbidden(decision);
        }
    }
    // What is to be read of an exchange was found out when it began.
    match cx.reach() {
        Some(reach) if access.reach(&route.id).outgrows(*reach) => Standing::Outdated,
        _ if filters.outgrow(cx) || pinning.outgrow(cx) => Standing::Outdated,
        _ => Standing::Stands,
    }
}
