//! Who may call.

use std::collections::HashSet;

use mcp_gateway_auth::bootstrap::Bootstrap;
use mcp_gateway_core::record::{Subject, TenantId, User};
use mcp_gateway_core::snapshot::Snapshot;

/// Everybody who may call: users, and those for whom keys speak.
///
/// Keys of the first day speak for whoever started the gateway. Once a person has taken over, that is them.
#[derive(Debug)]
pub(crate) struct People(HashSet<Subject>);

impl People {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let users = snapshot.users.values().filter(|user| user.enabled);
        let users = users.map(|user| User::subject(TenantId::default(), &user.id));
        let keys = snapshot.keys.values().map(|key| key.principal.subject.clone());
        let mut all: HashSet<Subject> = users.chain(keys).collect();
        if snapshot.owned && !snapshot.users.contains_key(Bootstrap::OWNER) {
            all.remove(&Subject::local(Bootstrap::OWNER));
        }
        Self(all)
    }

    /// How many.
    #[cfg(feature = "process")]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether there is somebody else.
    pub(crate) fn has_others(&self, subject: &Subject) -> bool {
        self.0.iter().any(|one| one != subject)
    }
}
