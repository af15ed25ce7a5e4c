//! What a call needs to know of an API key.

use std::sync::Arc;

use jiff::Timestamp;

use crate::record::{Actor, ActorKind, ApiKey, Principal, Roles, Scope, ServerList, TenantId};

/// An API key, ready for use: nothing is parsed or allocated per call.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// The key's id.
    pub id: Arc<str>,
    /// SHA-256 of the secret part; compared in constant time.
    pub secret_sha256: [u8; 32],
    /// Who calls with it.
    pub principal: Arc<Principal>,
    /// When it ends; `None` for never. Checked on every call.
    pub expires_at: Option<Timestamp>,
}

impl KeyFacts {
    /// Prepares a key that is kept in a tenant.
    ///
    /// # Errors
    /// Says what is wrong with the record: such a key is good for nothing.
    pub fn new(tenant: &TenantId, id: &str, key: &ApiKey) -> Result<Self, &'static str> {
        if key.subject.tenant != *tenant {
            return Err("its subject is of another tenant");
        }
        let secret_sha256 = sha256_from_hex(&key.secret_sha256).ok_or("its hash is not 64 hexadecimal digits")?;
        let id: Arc<str> = id.into();
        let servers = if key.servers.iter().any(|server| server == "*") {
            ServerList::All
        } else {
            ServerList::Only(key.servers.iter().map(|server| server.as_str().into()).collect())
        };
        let actor = Actor { kind: ActorKind::ApiKey, id: Arc::clone(&id), name: Some(key.name.as_str().into()) };
        let principal = Principal::new(Arc::clone(&key.subject.issuer), Arc::clone(&key.subject.id))
            .with_tenant(key.subject.tenant.clone())
            .with_actor(actor)
            .with_scopes(key.scopes.iter().copied())
            .with_servers(servers)
            .with_roles(if key.owner { Roles::OWNER.with_included() } else { Roles::NONE })
            .with_expiry(key.expires_at)
            .with_rate(key.rate);
        Ok(Self { id, secret_sha256, principal: Arc::new(principal), expires_at: key.expires_at })
    }

    /// The same key, whose subject is a person with these roles. It calls servers only as long as the person may.
    pub(super) fn of_person(&self, roles: Roles) -> Arc<Self> {
        let mut principal = (*self.principal).clone().with_roles(roles);
        if !roles.contains(Roles::BASIC) {
            principal.scopes = principal.scopes.iter().copied().filter(|scope| *scope != Scope::Mcp).collect();
        }
        Arc::new(Self { principal: Arc::new(principal), ..self.clone() })
    }

    /// The same key, whose subject holds these roles.
    #[must_use]
    pub fn with_roles(&self, roles: Roles) -> Arc<Self> {
        let principal = Arc::new((*self.principal).clone().with_roles(roles));
        Arc::new(Self { principal, ..self.clone() })
    }
}

impl std::fmt::Debug for KeyFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFacts")
            .field("id", &self.id)
            .field("principal", &self.principal)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}
