//! What is kept of logins with a provider.

use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{IndexTerm, Kind};
use mcp_gateway_core::record::{Resource, Secret};
use serde::{Deserialize, Serialize};

use crate::user::IdentityKey;

/// A login under way, by the SHA-256 of its `state`. Used once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginTransaction {
    /// The name of the provider that the browser was sent to.
    pub provider: String,
    /// SHA-256 of the cookie of the browser that was sent.
    pub browser: String,
    /// What the ID token must repeat.
    pub nonce: String,
    /// The secret of PKCE; sealed.
    pub verifier: Secret,
    /// Where it goes on afterwards.
    pub next: String,
    /// How old the person's login at the provider may be, in seconds, if that was asked for.
    #[serde(default)]
    pub max_age: Option<i64>,
    /// The session whose person wants to sign in with this, too: the id of its record.
    #[serde(default)]
    pub link: Option<String>,
    /// When it began.
    pub began_at: Timestamp,
}

impl LoginTransaction {
    /// When the person must have proved to the provider who they are, at the earliest.
    pub(super) fn authenticated_after(&self) -> Option<Timestamp> {
        let max_age = SignedDuration::from_secs(self.max_age?);
        Some(self.began_at.checked_sub(max_age).unwrap_or(Timestamp::MIN))
    }
}

impl Resource for LoginTransaction {
    const KIND: Kind = Kind::quiet("login-transaction");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/verifier"];
}

/// What a session came of, by the id of the session.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderLogin {
    /// The name of the provider.
    pub provider: String,
    /// Its issuer.
    pub issuer: String,
    /// What it calls the person in its tokens.
    pub subject: String,
    /// What it calls its own session.
    #[serde(default)]
    pub session: Option<String>,
    /// Shown to it when the person signs out; sealed.
    #[serde(default)]
    pub id_token: Option<Secret>,
    /// By which it is asked about the person between logins; sealed.
    #[serde(default)]
    pub refresh_token: Option<Secret>,
    /// What the ID token of the login answered.
    #[serde(default)]
    pub nonce: Option<String>,
    /// When the provider was asked last.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
    /// Until when this is kept.
    #[serde(default)]
    pub ends_at: Option<Timestamp>,
}

impl Resource for ProviderLogin {
    const KIND: Kind = Kind::quiet("provider-login");
    const INDEXES: &'static [&'static str] = &["person", "session"];
    const SEALED: &'static [&'static str] = &["/idToken", "/refreshToken"];

    fn terms(&self) -> Vec<IndexTerm> {
        let mut terms = vec![Self::of_person(&self.issuer, &self.subject)];
        terms.extend(self.session.as_deref().map(|session| Self::of_session(&self.issuer, session)));
        terms
    }
}

impl ProviderLogin {
    pub(super) fn of_person(issuer: &str, subject: &str) -> IndexTerm {
        IndexTerm { name: "person", value: IdentityKey::new(issuer, subject).id().into() }
    }

    pub(super) fn of_session(issuer: &str, session: &str) -> IndexTerm {
        IndexTerm { name: "session", value: IdentityKey::new(issuer, session).id().into() }
    }
}

/// A logout token that was used, by its issuer and id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UsedLogoutToken {}

impl Resource for UsedLogoutToken {
    const KIND: Kind = Kind::quiet("used-logout-token");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}
