//! What is kept of what a client has provisioned.

use jiff::Timestamp;
use mcp_gateway_core::contract::{IndexTerm, Kind};
use mcp_gateway_core::record::Resource;
use serde::{Deserialize, Serialize};

use super::document::UserDocument;
use crate::login::sha256_hex;
use crate::user::IdentityKey;

/// A user of a client, by the user's id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScimUser {
    /// The issuer of the client's provider.
    pub(crate) provider: String,
    pub(crate) document: UserDocument,
    pub(crate) created_at: Timestamp,
    /// The epoch in which the client has left the user disabled. In another one, somebody else has disabled them, whose
    /// block it does not lift.
    #[serde(default)]
    pub(crate) disabled_in: Option<u64>,
}

impl Resource for ScimUser {
    const KIND: Kind = Kind::quiet("scim-user");
    const INDEXES: &'static [&'static str] = &["provider"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        vec![of_provider(&self.provider)]
    }
}

/// Whose a `userName` is, by provider and name without case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScimName {
    pub(crate) user: String,
}

impl Resource for ScimName {
    const KIND: Kind = Kind::quiet("scim-name");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

impl ScimName {
    pub(super) fn id(provider: &str, user_name: &str) -> String {
        IdentityKey::new(provider, user_name.to_lowercase()).id()
    }
}

/// A group of a client, by the group's id.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScimGroup {
    /// The issuer of the client's provider.
    pub(crate) provider: String,
    pub(crate) display_name: String,
    #[serde(default)]
    pub(crate) external_id: Option<String>,
    pub(crate) created_at: Timestamp,
}

impl Resource for ScimGroup {
    const KIND: Kind = Kind::quiet("scim-group");
    const INDEXES: &'static [&'static str] = &["provider", "name"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        let name = IdentityKey::new(&self.provider, self.display_name.to_lowercase()).id();
        vec![of_provider(&self.provider), IndexTerm { name: "name", value: name.into() }]
    }
}

/// Issuers may be longer than terms can be.
pub(super) fn of_provider(provider: &str) -> IndexTerm {
    IndexTerm { name: "provider", value: sha256_hex(provider).into() }
}
