//! What an identity provider says about a person.

use jiff::Timestamp;
use mcp_gateway_core::contract::{IndexTerm, Kind};
use mcp_gateway_core::record::{Email, Resource};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::UserLimits;
use super::error::{UserError, wrong};

/// Who somebody is: an issuer, and what it calls the person for ever.
///
/// Of `OpenID` Connect `iss` and `sub`; of Entra ID the tenant's issuer and `oid`; of GitHub the numeric id; of this
/// gateway's own passwords `local` and the login name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdentityKey {
    /// The issuer.
    pub issuer: String,
    /// What it calls the person.
    pub subject: String,
}

impl IdentityKey {
    /// An identity.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), subject: subject.into() }
    }

    /// The id of its record: two identities never share one.
    #[must_use]
    pub fn id(&self) -> String {
        pair_id(&self.issuer, &self.subject)
    }

    pub(super) fn check(&self) -> Result<(), UserError> {
        let fits = |text: &str| (1..=UserLimits::FOREIGN_ID).contains(&text.len());
        if fits(&self.issuer) && fits(&self.subject) {
            return Ok(());
        }
        wrong("identity", "must have an issuer and a subject, each of 1 to 1,024 bytes")
    }
}

/// The id of the record of a provider's group.
#[must_use]
pub fn group_id(provider: &str, external_id: &str) -> String {
    pair_id(provider, external_id)
}

/// SHA-256 over both with their lengths, lowercase hexadecimal: foreign text of any form makes an id.
fn pair_id(issuer: &str, id: &str) -> String {
    let mut hash = Sha256::new();
    for part in [issuer, id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An identity as it is kept, by [`IdentityKey::id`]: whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Who says what.
    #[serde(flatten)]
    pub key: IdentityKey,
    /// The id of the user.
    pub user: String,
    /// When it was first used, or given to the user.
    pub linked_at: Timestamp,
    /// When the issuer last vouched for the person since then, up to an hour behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_at: Option<Timestamp>,
}

impl Identity {
    /// One of a user, from now on.
    pub(crate) fn new(key: IdentityKey, user: impl Into<String>, now: Timestamp) -> Self {
        Self { key, user: user.into(), linked_at: now, heard_at: None }
    }

    /// When the issuer last spoke of the person.
    pub(super) fn last_heard(&self) -> Timestamp {
        self.heard_at.unwrap_or(self.linked_at)
    }
}

impl Resource for Identity {
    const KIND: Kind = Kind::logged("identity");
    const INDEXES: &'static [&'static str] = &["user"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        vec![IndexTerm { name: "user", value: self.user.as_str().into() }]
    }
}

/// The kind of what proves an identity whose issuer is `local`; it has the identity's id, and goes with it.
pub(crate) const PASSWORD: Kind = Kind::quiet("password");

/// What a login has proved.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Asserted {
    /// Who it was.
    pub identity: IdentityKey,
    /// A name, for people.
    pub name: String,
    /// An address; verified only if the provider says so and is authoritative for its domain.
    pub email: Option<Email>,
    /// The person's groups at this provider; `None` when it does not say.
    pub groups: Option<Vec<AssertedGroup>>,
}

/// A group that a provider named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertedGroup {
    /// The provider's id of it.
    pub id: String,
    /// A name, for people.
    pub name: String,
}

impl Asserted {
    /// Somebody of this name, about whom no more is known.
    pub fn new(identity: IdentityKey, name: impl Into<String>) -> Self {
        Self { identity, name: name.into(), email: None, groups: None }
    }

    /// The same with this address.
    #[must_use]
    pub fn with_email(mut self, email: Option<Email>) -> Self {
        self.email = email;
        self
    }

    /// The same, being in exactly these groups.
    #[must_use]
    pub fn in_groups(mut self, groups: Vec<AssertedGroup>) -> Self {
        self.groups = Some(groups);
        self
    }
}

/// A name as it may be kept: without control characters, of bounded length.
pub(crate) fn tidy(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let name = name.trim();
    name[..name.floor_char_boundary(UserLimits::NAME)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities_never_run_into_each_other() {
        let ids = [("a", "bc"), ("ab", "c"), ("a\0b", "c"), ("", "abc")].map(|(issuer, id)| pair_id(issuer, id));
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(id.len(), 64);
            assert!(!ids[..n].contains(id));
        }
    }

    proptest! {
        #[test]
        fn foreign_names_are_bounded(text in any::<String>(), long in 0..600_usize) {
            let name = tidy(&format!("{text}{}", "é".repeat(long)));
            prop_assert!(name.len() <= UserLimits::NAME && !name.chars().any(char::is_control));
        }
    }
}
