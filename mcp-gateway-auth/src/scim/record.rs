//! What is kept of what a client has provisioned.

use jiff::Timestamp;
use mcp_gateway_core::contract::{IndexTerm, Kind, StoreError, When, Write};
use mcp_gateway_core::record::{Resource, Resources, User};
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
    /// Whether the client has removed the user: it lists and finds only others.
    #[serde(default)]
    pub(crate) removed: bool,
}

impl Resource for ScimUser {
    const KIND: Kind = Kind::quiet("scim-user");
    const INDEXES: &'static [&'static str] = &["provider"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        if self.removed { Vec::new() } else { vec![of_provider(&self.provider)] }
    }
}

/// The writes that forget what a client has said about a user: the same person may be made again.
pub(crate) async fn forgetting(users: &Resources<User>, id: &str) -> Result<Vec<Write>, StoreError> {
    let (people, names) = (users.of_kind::<ScimUser>(), users.of_kind::<ScimName>());
    let Some(person) = people.get(id).await? else { return Ok(Vec::new()) };
    let name_id = ScimName::id(&person.value.provider, &person.value.document.user_name);
    let mut writes = vec![Write::Delete { key: people.key(id), when: When::Any }];
    if let Some(name) = names.get(&name_id).await?.filter(|name| name.value.user == id) {
        writes.push(Write::Delete { key: names.key(&name_id), when: When::At(name.revision) });
    }
    Ok(writes)
}

/// The issuer whose client provisions a user, if one does, and that this holds.
pub(crate) async fn provisioned_by(users: &Resources<User>, id: &str) -> Result<(Option<String>, Write), StoreError> {
    let people = users.of_kind::<ScimUser>();
    let person = people.get(id).await?;
    let when = person.as_ref().map_or(When::Absent, |person| When::At(person.revision));
    let by = person.filter(|person| !person.value.removed).map(|person| person.value.provider);
    Ok((by, Write::Check { key: people.key(id), when }))
}

/// Those of these groups that a client provisions.
pub(crate) async fn provisioned_groups(
    users: &Resources<User>,
    ids: impl Iterator<Item = &str>,
) -> Result<Vec<Box<str>>, StoreError> {
    let kept = users.of_kind::<ScimGroup>().get_many(ids).await?;
    Ok(kept.into_iter().flatten().map(|group| group.id).collect())
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
