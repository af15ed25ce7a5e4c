//! Budgets.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::request::Parts;
use http::{Method, StatusCode};

use super::gate::{Gate, gate_layer};
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Allow, Budget, LimitKey, Limited, RateLimiter};
use crate::record::{Principal, Subject};
use crate::refusal::Refusal;

/// How much there is of something per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// This many, at once or spread.
    pub limit: u32,
    /// Per so many seconds.
    pub seconds: u32,
}

impl Rate {
    pub(crate) fn budget<'a>(self, scope: &'static str, id: impl Into<Cow<'a, str>>) -> Budget<'a> {
        let period = Duration::from_secs(u64::from(self.seconds.max(1)));
        Budget { key: LimitKey { scope, id: id.into() }, cost: 1, limit: self.limit, period }
    }
}

/// Limits calls by caller: per principal, and streams at once per principal.
///
/// Optional fact: `principal`. Addresses are limited by the authenticate layer, before a credential is read. Refuses with 429 and `Retry-After`.
#[derive(Clone)]
pub struct CallerLimitLayer(Arc<CallerLimits>);

struct CallerLimits {
    limiter: Arc<dyn RateLimiter>,
    principal: Option<Rate>,
    streams: usize,
    open: Arc<Mutex<HashMap<Subject, usize>>>,
}

impl CallerLimitLayer {
    /// `limits.rate.principal` (`None` for no limit) and `limits.streams_per_principal`.
    pub fn new(limiter: Arc<dyn RateLimiter>, principal: Option<Rate>, streams: usize) -> Self {
        Self(Arc::new(CallerLimits { limiter, principal, streams, open: Arc::default() }))
    }

    fn open_stream(&self, cx: &McpContext, principal: &Principal) -> Result<(), Refusal> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal.subject.clone()).or_insert(0);
        if *count >= self.0.streams {
            let public = format!("At most {} streams are open at once for one caller.", self.0.streams);
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, public).retry_after(1));
        }
        *count += 1;
        drop(open);
        cx.hold(OpenStream { open: Arc::clone(&self.0.open), subject: principal.subject.clone() });
        Ok(())
    }
}

impl std::fmt::Debug for CallerLimitLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerLimitLayer")
            .field("principal", &self.0.principal)
            .field("streams", &self.0.streams)
            .finish_non_exhaustive()
    }
}

struct OpenStream {
    open: Arc<Mutex<HashMap<Subject, usize>>>,
    subject: Subject,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.subject);
            }
        }
    }
}

impl Gate for CallerLimitLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let listens = || parts.headers.get("mcp-method").is_some_and(|method| method == "subscriptions/listen");
        if let Some(principal) = cx.principal()
            && (parts.method == Method::GET || listens())
            && let Err(refusal) = self.open_stream(cx, principal)
        {
            return Err(refusal).into();
        }
        let (Some(principal), Some(rate)) = (cx.principal(), self.0.principal) else { return Ok(()).into() };
        let budget = rate.budget("principal", principal_key(principal));
        take(&*self.0.limiter, &[budget])
    }
}

gate_layer!(CallerLimitLayer);

/// Limits calls by what is called: per server, and per server and tool.
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
        let public = format!("The rate limit of this {} is reached.", limited.scope);
        let seconds = limited.retry_after.as_secs() + u64::from(limited.retry_after.subsec_nanos() > 0);
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, public).retry_after(seconds)
    })
}
