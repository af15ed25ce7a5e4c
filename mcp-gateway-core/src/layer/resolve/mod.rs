//! Which server is called, and whether this caller may know of it.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;

use super::gate::{Gate, gate_layer};
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Action, Ask, Authorizer, Decision, Resolve, ResolveError, Target};
use crate::record::{Principal, Route};
use crate::refusal::Refusal;

/// Resolves the id in the URL and sets the fact `route`.
///
/// Required facts: `requested`, `principal`. Absent and hidden servers are the same 404. A server that the subject may
/// see, but not with this credential, is a 403. A path below its URL is a 404 unless the route lists it. An allow here is
/// coarse: what the caller may do there is for the shim.
#[derive(Clone)]
pub struct ResolveLayer(Arc<Parties>);

struct Parties {
    resolve: Arc<dyn Resolve>,
    authorizer: Arc<dyn Authorizer>,
}

impl ResolveLayer {
    /// Finds servers here and asks this authorizer for `connect`.
    pub fn new(resolve: Arc<dyn Resolve>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self(Arc::new(Parties { resolve, authorizer }))
    }
}

impl std::fmt::Debug for ResolveLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResolveLayer(..)")
    }
}

impl Gate for ResolveLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let Some(requested) = cx.requested() else {
            return Err(Refusal::layer_absent("requested", "AdmitLayer")).into();
        };
        let Some(principal) = cx.principal() else {
            return Err(Refusal::layer_absent("principal", "AuthenticateLayer")).into();
        };
        match self.0.resolve.resolve(&requested.id, principal) {
            MaybeReady::Ready(found) => match self.0.found(found, cx, principal) {
                Ok((route, MaybeReady::Ready(decision))) => conclude(route, &decision, cx).into(),
                Ok((route, MaybeReady::Wait(wait))) => {
                    let cx = cx.clone();
                    MaybeReady::wait(async move { conclude(route, &wait.await, &cx) })
                }
                Err(refusal) => Err(refusal).into(),
            },
            MaybeReady::Wait(wait) => {
                let (parties, cx, principal) = (Arc::clone(&self.0), cx.clone(), Arc::clone(principal));
                MaybeReady::wait(async move {
                    let (route, decision) = parties.found(wait.await, &cx, &principal)?;
                    conclude(route, &decision.await, &cx)
                })
            }
        }
    }
}

gate_layer!(ResolveLayer);

impl Parties {
    #[allow(clippy::type_complexity)]
    fn found(
        &self,
        found: Result<Option<Arc<Route>>, ResolveError>,
        cx: &McpContext,
        principal: &Principal,
    ) -> Result<(Arc<Route>, MaybeReady<Decision>), Refusal> {
        let route = match found {
            Ok(Some(route)) => route,
            Ok(None) => return Err(no_such_server()),
            Err(error) => {
                return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Servers cannot be looked up now.")
                    .retry_after(5)
                    .because(error));
            }
        };
        let target = Target { server: &route.id, name: None };
        let decision = self.authorizer.decide(&Ask { principal, action: Action::Connect, target, cx, arguments: None });
        Ok((route, decision))
    }
}

fn conclude(route: Arc<Route>, decision: &Decision, cx: &McpContext) -> Result<(), Refusal> {
    // Also of a refusal: the trail names the server that exists and was refused.
    cx.set_route(route).map_err(Refusal::fact_set)?;
    if decision.allow {
        // Before anything is started or recorded for a path that the entry does not list.
        return match cx.requested().and_then(|requested| requested.sub_path.as_deref()) {
            Some(path) if !cx.route().is_some_and(|route| route.has_sub_path(path)) => Err(no_such_path()),
            _ => Ok(()),
        };
    }
    let _ = cx.set_rule(Arc::clone(&decision.rule));
    Err(if decision.hidden {
        no_such_server()
    } else {
        Refusal::new(StatusCode::FORBIDDEN, "This credential is not good for this server.")
    })
}

/// 404: what is below the server's URL, and not listed.
pub(crate) fn no_such_path() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "The server has no such path.")
}

/// 404: absent, and hidden.
pub(crate) fn no_such_server() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is no such server.")
}

#[cfg(test)]
mod tests;
