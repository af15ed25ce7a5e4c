//! The rule of a gateway without policies.

use std::sync::{Arc, LazyLock};

use crate::MaybeReady;
use crate::contract::{Ask, Authorizer, Decision};
use crate::record::{Roles, Subject};

/// Everybody may use exactly the servers that their credential lists.
///
/// A server that an owner's credential does not list is visible and refused (403), because another credential of
/// theirs would do; to everybody else it does not exist (404).
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyServers;

static LISTED: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("credential-servers"));

impl Authorizer for KeyServers {
    fn decide(&self, ask: &Ask<'_>) -> MaybeReady<Decision> {
        let principal = ask.principal;
        let rule = Arc::clone(&LISTED);
        if principal.servers.contains(ask.target.server) {
            return Decision::allow(rule).into();
        }
        let owner = principal.roles.contains(Roles::OWNER) && *principal.subject.issuer == *Subject::LOCAL;
        if owner { Decision::narrow(rule) } else { Decision::deny(rule) }.into()
    }
}
