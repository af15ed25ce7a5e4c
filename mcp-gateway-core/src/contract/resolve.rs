//! From an id in the URL to a server.

use std::sync::Arc;

use crate::MaybeReady;
use crate::record::{Principal, Route};

/// Finds the server behind an id. Called once a request; the default answers from the snapshot.
///
/// Whether the principal may see it is the [`Authorizer`](super::Authorizer)'s to say; an implementation may hide more.
pub trait Resolve: Send + Sync + 'static {
    /// The route of this id for this principal, or `None` when there is no such server.
    fn resolve(&self, id: &str, principal: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>>;
}

/// The directory of servers cannot be asked now: 503.
#[derive(Debug, thiserror::Error)]
#[error("servers cannot be looked up now")]
pub struct ResolveError(#[source] pub crate::BoxError);
