//! Whether those whom a token speaks for still stand.

use mcp_gateway_core::record::{Dependence, Roles, Subject};
use mcp_gateway_core::snapshot::Snapshots;

/// What is asked about a remembered token on every call: in memory, without waiting.
///
/// [`Snapshots`] is one that knows revocations. A service with people of its own answers for their roles as well.
pub trait Standing: Send + Sync + 'static {
    /// Whether something that a token depends on has ended.
    fn ended(&self, dependence: &Dependence) -> bool;

    /// Whether revocations have not been heard of for so long that none can be relied on: 503.
    fn refuses(&self) -> bool;

    /// The roles of a subject now; `None` when it may not use the gateway at all. Never from the token.
    fn roles(&self, _: &Subject) -> Option<Roles> {
        Some(Roles::NONE)
    }
}

impl Standing for Snapshots {
    fn ended(&self, dependence: &Dependence) -> bool {
        self.load().revocations.end(dependence)
    }

    fn refuses(&self) -> bool {
        Snapshots::refuses(self)
    }
}
