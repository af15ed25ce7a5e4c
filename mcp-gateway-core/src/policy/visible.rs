//! Servers that somebody may use, for whoever names servers outside the data plane.

use std::sync::Arc;

use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Action, Ask, Authorizer, Clock, Resolve, ResolveError, Target};
use crate::record::{Principal, Route};

/// Finds the servers that a principal may reach, and no others: what an authorization server gives tokens for, and what
/// lists show.
#[derive(Clone)]
pub struct Visible {
    resolve: Arc<dyn Resolve>,
    authorizer: Arc<dyn Authorizer>,
    clock: Arc<dyn Clock>,
}

impl Visible {
    /// Those of `resolve` that `authorizer` lets the principal connect to.
    pub fn new(resolve: Arc<dyn Resolve>, authorizer: Arc<dyn Authorizer>, clock: Arc<dyn Clock>) -> Self {
        Self { resolve, authorizer, clock }
    }

    fn filtered(&self, route: Option<Arc<Route>>, principal: &Principal) -> MaybeReady<Option<Arc<Route>>> {
        let Some(route) = route else { return None.into() };
        let cx = McpContext::new(&*self.clock);
        let target = Target { server: &route.id, name: None };
        let ask = Ask { principal, action: Action::Connect, target, cx: &cx, arguments: None };
        match self.authorizer.decide(&ask) {
            MaybeReady::Ready(decision) => decision.allow.then_some(route).into(),
            MaybeReady::Wait(wait) => MaybeReady::wait(async move { wait.await.allow.then_some(route) }),
        }
    }
}

impl std::fmt::Debug for Visible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Visible(..)")
    }
}

impl Resolve for Visible {
    fn resolve(&self, id: &str, principal: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        match self.resolve.resolve(id, principal) {
            MaybeReady::Ready(Ok(route)) => match self.filtered(route, principal) {
                MaybeReady::Ready(route) => Ok(route).into(),
                MaybeReady::Wait(wait) => MaybeReady::wait(async move { Ok(wait.await) }),
            },
            MaybeReady::Ready(Err(error)) => Err(error).into(),
            MaybeReady::Wait(wait) => {
                let (this, principal) = (self.clone(), principal.clone());
                MaybeReady::wait(async move { Ok(this.filtered(wait.await?, &principal).await) })
            }
        }
    }
}
