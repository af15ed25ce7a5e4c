//! Budgets.

mod open;

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;

pub use self::open::AtOnce;
use self::open::PerCaller;
use super::admit::is_stream;
use super::gate::{Gate, gate_layer};
use crate::MaybeReady;
use crate::context::{McpContext, MessageKind};
use crate::contract::{Allow, Budget, LimitKey, Limited, RateLimiter};
pub use crate::record::Rate;
use crate::record::{ActorKind, Principal, Subject};
use crate::refusal::Refusal;

impl Rate {
    pub(crate) fn budget<'a>(self, scope: &'static str, id: impl Into<Cow<'a, str>>) -> Budget<'a> {
        let period = Duration::from_secs(u64::from(self.seconds.max(1)));
        Budget { key: LimitKey { scope, id: id.into() }, cost: 1, limit: self.limit, period }
    }
}

/// The part of an address that counts: whoever has one IPv6 address has the 2^64 of its network.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}

/// Limits calls by caller and by API key: how many in a time, and how many calls and streams of a caller at once.
///
/// Optional fact: `principal`. Addresses are limited by the authenticate layer, before a credential is read. Refuses
/// with 429 and `Retry-After`. A place is given back when the last byte of the answer has left, or nobody reads it any
/// more.
#[derive(Clone)]
pub struct CallerLimitLayer(Arc<CallerLimits>);

struct CallerLimits {
    limiter: Arc<dyn RateLimiter>,
    principal: Option<Rate>,
    key: Option<Rate>,
    calls: PerCaller,
    streams: PerCaller,
}

impl CallerLimitLayer {
    /// `limits.rate.principal` (`None` for no limit), `limits.calls_per_principal` and `limits.streams_per_principal`.
    pub fn new(limiter: Arc<dyn RateLimiter>, principal: Option<Rate>, at_once: AtOnce) -> Self {
        let (calls, streams) = (PerCaller::new(at_once.calls), PerCaller::new(at_once.streams));
        Self(Arc::new(CallerLimits { limiter, principal, key: None, calls, streams }))
    }

    /// The same with `limits.rate.key`, for API keys that have no rate of their own.
    #[must_use]
    pub fn with_keys(mut self, rate: Option<Rate>) -> Self {
        // Only called while building, before the layer is cloned.
        if let Some(limits) = Arc::get_mut(&mut self.0) {
            limits.key = rate;
        }
        self
    }

    /// Takes from the rates of an API key alone, for whoever serves keys behind something else than this layer: a key has
    /// one rate, wherever it is used.
    pub fn check_key(&self, principal: &Principal) -> MaybeReady<Result<(), Refusal>> {
        let budgets: Vec<Budget<'_>> = self.of_key(principal).collect();
        if budgets.is_empty() { Ok(()).into() } else { take(&*self.0.limiter, &budgets) }
    }

    /// The rates of the key, if the caller has one.
    fn of_key(&self, principal: &Principal) -> impl Iterator<Item = Budget<'static>> {
        let is_key = principal.actor.kind == ActorKind::ApiKey;
        // Whoever makes a key gives it its rate; that of the operator holds beside it.
        let rates = [("key", self.0.key), ("key-own", principal.rate)].into_iter().filter(move |_| is_key);
        rates.filter_map(move |(scope, rate)| {
            Some(rate?.budget(scope, format!("{} {}", principal.subject.tenant, principal.actor.id)))
        })
    }

    fn enter(&self, parts: &Parts, cx: &McpContext, principal: &Principal) -> Result<(), Refusal> {
        let (open, what) = match is_stream(&parts.method, &parts.headers) {
            true => (&self.0.streams, "streams are open"),
            false => (&self.0.calls, "calls are under way"),
        };
        let Some(place) = open.enter(&principal.subject) else {
            let public = format!("At most {} {what} at once for one caller.", open.limit);
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, public).retry_after(1));
        };
        cx.hold(place);
        Ok(())
    }
}

impl std::fmt::Debug for CallerLimitLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerLimitLayer")
            .field("principal", &self.0.principal)
            .field("key", &self.0.key)
            .field("calls", &self.0.calls.limit)
            .field("streams", &self.0.streams.limit)
            .finish_non_exhaustive()
    }
}

impl Gate for CallerLimitLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let Some(principal) = cx.principal() else { return Ok(()).into() };
        if let Err(refusal) = self.enter(parts, cx, principal) {
            return Err(refusal).into();
        }
        let of_caller = self.0.principal.map(|rate| rate.budget("principal", principal_key(principal)));
        let budgets: Vec<Budget<'_>> = of_caller.into_iter().chain(self.of_key(principal)).collect();
        if budgets.is_empty() {
            return Ok(()).into();
        }
        take(&*self.0.limiter, &budgets)
    }
}

gate_layer!(CallerLimitLayer);

/// Limits requests by what is called: per server, and per server and tool. Notifications and a client's answers belong
/// to a request that was counted.
///
/// Required facts: `route`, `message`. It runs behind the peek: in the legacy era the tool is in the body, and a
/// server's budget needs the resolved id, or a caller could choose the keys.
#[derive(Clone)]
pub struct TargetLimitLayer(Arc<TargetLimits>);

struct TargetLimits {
    limiter: Arc<dyn RateLimiter>,
    server: Option<Rate>,
    tool: Option<Rate>,
}

impl TargetLimitLayer {
    /// `limits.rate.server` and `limits.rate.tool` (per principal and tool), each `None` for no limit.
    pub fn new(limiter: Arc<dyn RateLimiter>, server: Option<Rate>, tool: Option<Rate>) -> Self {
        Self(Arc::new(TargetLimits { limiter, server, tool }))
    }
}

impl std::fmt::Debug for TargetLimitLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetLimitLayer")
            .field("server", &self.0.server)
            .field("tool", &self.0.tool)
            .finish_non_exhaustive()
    }
}

impl Gate for TargetLimitLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        if self.0.server.is_none() && self.0.tool.is_none() {
            return Ok(()).into();
        }
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let Some(route) = cx.route() else {
            return Err(Refusal::layer_absent("route", "ResolveLayer")).into();
        };
        let Some(message) = cx.message() else {
            return Err(Refusal::layer_absent("message", "PeekLayer")).into();
        };
        if message.kind != MessageKind::Request {
            return Ok(()).into();
        }
        let tenant = cx.principal().map_or("", |principal| principal.subject.tenant.as_str());
        let server = self.0.server.map(|rate| rate.budget("server", format!("{tenant} {}", route.id)));
        let tool = match (self.0.tool, message.method.as_deref(), &message.target, cx.principal()) {
            (Some(rate), Some("tools/call"), Some(tool), Some(principal)) => {
                Some(rate.budget("tool", format!("{} {} {tool}", principal_key(principal), route.id)))
            }
            _ => None,
        };
        let budgets: Vec<Budget<'_>> = server.into_iter().chain(tool).collect();
        take(&*self.0.limiter, &budgets)
    }
}

gate_layer!(TargetLimitLayer);

fn principal_key(principal: &Principal) -> String {
    let Subject { tenant, issuer, id } = &principal.subject;
    format!("{tenant} {issuer} {id}")
}

fn take(limiter: &dyn RateLimiter, budgets: &[Budget<'_>]) -> MaybeReady<Result<(), Refusal>> {
    match limiter.check(budgets) {
        MaybeReady::Ready(verdict) => conclude(verdict).into(),
        MaybeReady::Wait(wait) => MaybeReady::wait(async move { conclude(wait.await) }),
    }
}

pub(crate) fn conclude(verdict: Result<Allow, Limited>) -> Result<(), Refusal> {
    verdict.map(|_| ()).map_err(|limited| {
        let whose = if limited.scope == "key" { "API key" } else { limited.scope };
        let public = format!("The rate limit of this {whose} is reached.");
        let seconds = limited.retry_after.as_secs() + u64::from(limited.retry_after.subsec_nanos() > 0);
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, public).retry_after(seconds)
    })
}

#[cfg(test)]
mod tests;
