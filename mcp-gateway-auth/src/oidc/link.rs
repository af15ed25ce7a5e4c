//! An account at a provider that waits for the person to agree that it is theirs.

use mcp_gateway_core::contract::{Kind, StoreError, StoreErrorKind, When};
use mcp_gateway_core::record::Resource;
use serde::{Deserialize, Serialize};

use super::{OidcLimits, Proven, Providers};
use crate::user::IdentityKey;

/// What a provider has vouched for in somebody's session, by the id of the session: linked once they have seen what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldLink {
    /// The name of the provider.
    pub provider: String,
    /// Who it says they are.
    #[serde(flatten)]
    pub identity: IdentityKey,
    /// The name there, for people.
    pub name: String,
    /// The address there, for people.
    #[serde(default)]
    pub email: Option<String>,
}

impl Resource for HeldLink {
    const KIND: Kind = Kind::quiet("held-link");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

impl Providers {
    /// Keeps for [`OidcLimits::LINK`] what was proved for the person of a session, instead of what was kept before.
    ///
    /// # Errors
    /// As the store's.
    pub async fn hold_link(&self, session: &str, proven: &Proven) -> Result<HeldLink, StoreError> {
        let asserted = &proven.asserted;
        let held = HeldLink {
            provider: proven.login.provider.clone(),
            identity: asserted.identity.clone(),
            name: crate::user::tidy(&asserted.name),
            email: asserted.email.as_ref().map(|email| email.address.clone()),
        };
        let links = &self.0.links;
        links.store().commit(vec![links.put(session, &held, Some(OidcLimits::LINK), When::Any)?]).await?;
        Ok(held)
    }

    /// What was kept for this session, if it is the identity of this id, which the person was shown; there is no second
    /// time.
    ///
    /// # Errors
    /// As the store's.
    pub async fn take_link(&self, session: &str, identity: &str) -> Result<Option<HeldLink>, StoreError> {
        let links = &self.0.links;
        let Some(held) = links.get(session).await?.filter(|held| held.value.identity.id() == identity) else {
            return Ok(None);
        };
        match links.delete(session, When::At(held.revision)).await {
            Err(error) if matches!(error.kind(), StoreErrorKind::Conflict | StoreErrorKind::Unknown) => Ok(None),
            done => done.map(|_| Some(held.value)),
        }
    }
}
