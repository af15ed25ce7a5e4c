//! People and groups as they are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Resource, Roles, Subject, TenantId};
use crate::contract::{IndexTerm, Kind};

/// A person. Its id is the record's id, and that of the person's [subject](Self::subject): instances, credentials and
/// keys belong to it, whatever the person logs in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// A name, for people; empty when deleted.
    pub name: String,
    /// An address, for people. It never says who somebody is.
    #[serde(default)]
    pub email: Option<Email>,
    /// The roles that were given to the person themself.
    #[serde(default)]
    pub roles: Roles,
    /// Ids of the [groups](Group) that the identity provider named last.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether the person may do anything.
    #[serde(default)]
    pub state: UserState,
    /// Goes up when everything that was issued to the person ends: sessions and tokens carry the one of their issue.
    #[serde(default)]
    pub epoch: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An e-mail address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email {
    /// In lowercase.
    pub address: String,
    /// Whether a provider that is authoritative for its domain says that it is the person's.
    #[serde(default)]
    pub verified: bool,
    /// The issuer that says so; absent when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<String>,
}

impl Email {
    /// An address of which nobody says whose it is.
    pub fn unverified(address: impl Into<String>) -> Self {
        Self { address: address.into(), verified: false, verified_by: None }
    }

    /// An address that this issuer says is the person's.
    pub fn verified_by(address: impl Into<String>, issuer: impl Into<String>) -> Self {
        Self { address: address.into(), verified: true, verified_by: Some(issuer.into()) }
    }
}

/// Whether a person may do anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserState {
    /// May.
    #[default]
    Active,
    /// May not, until enabled again.
    Disabled,
    /// Never again. The record stays, emptied, so that the audit trail's subjects keep their meaning and no key of the
    /// person can come back to life.
    Deleted,
}

impl UserState {
    /// As it is kept and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }
}

impl User {
    /// The subject of the person with this id.
    pub fn subject(tenant: TenantId, id: &str) -> Subject {
        Subject { tenant, issuer: Subject::LOCAL.into(), id: id.into() }
    }
}

impl Resource for User {
    const KIND: Kind = Kind::logged("user");
    const INDEXES: &'static [&'static str] = &["email", "present"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        let mut terms = Vec::new();
        if let Some(email) = &self.email {
            terms.push(IndexTerm { name: "email", value: email.address.as_str().into() });
        }
        if self.state != UserState::Deleted {
            terms.push(IndexTerm { name: "present", value: "yes".into() });
        }
        terms
    }
}

/// A group of an identity provider: always the pair of both, since two providers may both have an "admins".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The provider's issuer.
    pub provider: String,
    /// The provider's own id of the group.
    pub external_id: String,
    /// A name, for people.
    pub name: String,
    /// The roles of every member.
    #[serde(default)]
    pub roles: Roles,
}

impl Resource for Group {
    const KIND: Kind = Kind::logged("group");
    const INDEXES: &'static [&'static str] = &["provider"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        vec![IndexTerm { name: "provider", value: self.provider.as_str().into() }]
    }
}
