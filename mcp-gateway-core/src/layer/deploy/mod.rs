//! Makes sure that the server runs, and chooses the replica that answers.

mod table;

use std::sync::Arc;

use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use self::table::Table;
use super::gate::{Gate, gate_layer};
use super::session::no_such_session;
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Address, Endpoint, Runtime, RuntimeError, RuntimeErrorKind, Workload};
use crate::record::{Principal, Roles, Route, RouteTarget};
use crate::refusal::Refusal;

/// Sets the fact `endpoint`, starting the server if need be.
///
/// Required facts: `principal`, `route`; optional: `session`. Only POST starts a workload: clients reconnect GET
/// streams by themselves for ever, and a server would never stay stopped. A session whose incarnation is gone is a 404
/// at once. The endpoints of running workloads are in memory; the runtime is asked only when there is none.
#[derive(Clone)]
pub struct DeployLayer(Arc<Deployer>);

struct Deployer {
    runtime: Option<Arc<dyn Runtime>>,
    table: Table,
}

impl DeployLayer {
    /// Starts servers with this runtime; without one, only remote servers can be called.
    pub fn new(runtime: Option<Arc<dyn Runtime>>) -> Self {
        Self(Arc::new(Deployer { runtime, table: Table::default() }))
    }
}

impl std::fmt::Debug for DeployLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeployLayer").field("runtime", &self.0.runtime.is_some()).finish_non_exhaustive()
    }
}

impl Gate for DeployLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let (Some(route), Some(principal)) = (cx.route(), cx.principal()) else {
            return Err(Refusal::layer_absent("route or principal", "ResolveLayer or AuthenticateLayer")).into();
        };
        if let RouteTarget::Remote { url, incarnation, .. } = &route.target {
            let endpoint = Endpoint {
                incarnation: incarnation.clone(),
                address: Address::Http(url.clone()),
                ready: true,
                load: 0,
            };
            return choose(std::slice::from_ref(&endpoint), cx)
                .unwrap_or_else(|| Err(no_such_session()))
                .and_then(|endpoint| cx.set_endpoint(endpoint).map_err(Refusal::fact_set))
                .into();
        }
        let running = self.0.table.endpoints(route, &principal.subject);
        let chosen = running.as_deref().and_then(|endpoints| choose(endpoints, cx));
        match chosen {
            Some(Ok(endpoint)) => cx.set_endpoint(endpoint).map_err(Refusal::fact_set).into(),
            Some(Err(refusal)) => Err(refusal).into(),
            None if cx.session().is_some() => Err(no_such_session()).into(),
            None if parts.method != Method::POST => {
                let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Open a session first.");
                Err(refusal.with_header(ALLOW, HeaderValue::from_static("POST"))).into()
            }
            None => self.start(route, principal, cx),
        }
    }
}

gate_layer!(DeployLayer);

impl DeployLayer {
    fn start(
        &self,
        route: &Arc<Route>,
        principal: &Arc<Principal>,
        cx: &McpContext,
    ) -> MaybeReady<Result<(), Refusal>> {
        let (Some(runtime), Some(workload)) = (&self.0.runtime, route.workload(&principal.subject)) else {
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "This gateway does not run servers.");
            return Err(refusal).into();
        };
        let (deployer, runtime) = (Arc::clone(&self.0), Arc::clone(runtime));
        let (route, principal, cx) = (Arc::clone(route), Arc::clone(principal), cx.clone());
        MaybeReady::wait(async move {
            let deployment = runtime.ensure(&workload).await.map_err(|error| refuse(&error, &workload, &principal))?;
            let endpoints = deployment.endpoints.borrow().clone();
            deployer.table.insert(&route, &workload, deployment);
            let endpoint = choose(&endpoints, &cx).unwrap_or_else(|| {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The server is starting.").retry_after(1))
            })?;
            cx.set_endpoint(endpoint).map_err(Refusal::fact_set)
        })
    }
}

/// The endpoint of the session, else the one with the least to do. `None` when there is none.
fn choose(endpoints: &[Endpoint], cx: &McpContext) -> Option<Result<Endpoint, Refusal>> {
    if let Some(session) = cx.session() {
        let own = endpoints.iter().find(|endpoint| endpoint.incarnation == session.incarnation);
        return Some(own.cloned().ok_or_else(no_such_session));
    }
    endpoints.iter().filter(|endpoint| endpoint.ready).min_by_key(|endpoint| endpoint.load).cloned().map(Ok)
}

fn refuse(error: &RuntimeError, workload: &Workload, principal: &Principal) -> Refusal {
    tracing::warn!(workload = %workload.id, kind = ?error.kind, detail = error.detail, "{error}");
    let seconds = match error.kind {
        RuntimeErrorKind::Exhausted | RuntimeErrorKind::Timeout => 5,
        RuntimeErrorKind::Missing | RuntimeErrorKind::Unsupported => 60,
        RuntimeErrorKind::Failed | RuntimeErrorKind::Unavailable => 10,
    };
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.public.clone()).retry_after(seconds);
    // What a server wrote to stderr may hold anything: only an owner reads it.
    match &error.detail {
        Some(detail) if principal.roles.contains(Roles::OWNER) => {
            refusal.with_data(serde_json::json!({ "detail": detail }))
        }
        _ => refusal,
    }
}

#[cfg(test)]
mod tests;
