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

    /// The person or service behind a subject as it is now; `None` when it may not use the gateway at all.
    fn person(&self, _: &Subject) -> Option<Person> {
        Some(Person::default())
    }
}

/// What is known of a person on every call; never from the token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Person {
    /// What the person may do.
    pub roles: Roles,
    /// What was issued under another epoch is void: counting it up ends everything that a person has.
    pub epoch: u64,
}

/// The standing of everybody in a service that revokes nothing: its tokens are good until their end.
#[derive(Debug, Clone, Copy)]
pub struct Unrevoked;

impl Standing for Unrevoked {
    fn ended(&self, _: &Dependence) -> bool {
        false
    }

    fn refuses(&self) -> bool {
        false
    }
}

impl Standing for Snapshots {
    fn ended(&self, dependence: &Dependence) -> bool {
        self.load().revocations.end(dependence)
    }

    fn refuses(&self) -> bool {
        Snapshots::refuses(self)
    }

    /// People of this gateway have roles and an epoch, also those who are deleted: what is kept of them is disabled.
    /// Whoever was never one of them has no role.
    fn person(&self, subject: &Subject) -> Option<Person> {
        self.load().user(subject).map_or(Some(Person::default()), |user| {
            user.enabled.then_some(Person { roles: user.roles, epoch: user.epoch })
        })
    }
}
