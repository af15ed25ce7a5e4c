//! A directory of servers that stays as it is.

use std::sync::Arc;

use crate::contract::{Resolve, ResolveError};
use crate::record::{Principal, Route};
use crate::{Map, MaybeReady};

/// A [`Resolve`] over these routes, for every principal: for tests, benchmarks, and gateways whose servers are known
/// when they are built.
#[derive(Debug, Clone, Default)]
pub struct MemoryRoutes(Map<Arc<str>, Arc<Route>>);

impl FromIterator<Arc<Route>> for MemoryRoutes {
    fn from_iter<I: IntoIterator<Item = Arc<Route>>>(routes: I) -> Self {
        Self(routes.into_iter().map(|route| (Arc::clone(&route.id), route)).collect())
    }
}

impl Resolve for MemoryRoutes {
    fn resolve(&self, id: &str, _: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        Ok(self.0.get(id).cloned()).into()
    }
}
