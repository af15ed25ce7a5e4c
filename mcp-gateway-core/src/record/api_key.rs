//! API keys as they are kept: never the secret, only its hash.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Rate, Resource, Scope, Subject};
use crate::contract::{IndexTerm, Kind};

/// An API key. Its id is the record's id and the part of the key that finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of the secret part, lowercase hexadecimal.
    pub secret_sha256: String,
    /// For whom it speaks.
    pub subject: Subject,
    /// Whether the subject was an owner when the key was made: until users exist, the key remembers it.
    #[serde(default)]
    pub owner: bool,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Ids of servers, or `*` for all that the subject may use.
    pub servers: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; `None` for never.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// How many calls may be made with it; `None` for what all keys may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

impl Resource for ApiKey {
    const KIND: Kind = Kind::logged("api-key");
    const INDEXES: &'static [&'static str] = &["subject"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        vec![IndexTerm { name: "subject", value: format!("{} {}", self.subject.issuer, self.subject.id).into() }]
    }
}
