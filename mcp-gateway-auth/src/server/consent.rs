//! What somebody has agreed to before, where asking again adds nothing.

use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::{IndexTerm, Kind, StoreError, StoreLimits, When, Write};
use mcp_gateway_core::record::{Resource, Resources, Revoked, Subject};
use serde::{Deserialize, Serialize};

use super::client::hex_hash;
use super::grant::of_subject;
use super::{Grant, KnownBy, OAuthClient, RedirectKind};

/// A remembered consent: the next request of the same form is not asked about.
///
/// Kept only for clients that nobody else can pass for: those that prove who they are, and those whose browser goes back
/// to the host that vouches for them. Any program on a machine can take a loopback address or a scheme.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consent {
    /// Who agreed.
    pub subject: Subject,
    /// To which client.
    pub client_id: String,
    /// At which server.
    #[serde(default)]
    pub server: String,
    /// For what; scopes with blanks between.
    #[serde(default)]
    pub scope: String,
    /// Where the browser was sent back to.
    #[serde(default)]
    pub redirect_uri: String,
    /// [`digest`] of the client as it was shown.
    pub shown: String,
    /// The person's epoch then: with another one it is forgotten.
    pub person_epoch: u64,
    /// When.
    pub agreed_at: Timestamp,
}

impl Resource for Consent {
    const KIND: Kind = Kind::quiet("oauth-consent");
    const INDEXES: &'static [&'static str] = &["subject", "client"];
    const SEALED: &'static [&'static str] = &[];

    fn terms(&self) -> Vec<IndexTerm> {
        let term = |name, value: &str| IndexTerm { name, value: super::client_key(value).into() };
        vec![term("subject", &of_subject(&self.subject)), term("client", &self.client_id)]
    }
}

impl Consent {
    /// When the person is asked again, where consents last so long.
    #[must_use]
    pub fn ends_at(&self, life: Duration) -> Timestamp {
        self.agreed_at.saturating_add(life).unwrap_or(Timestamp::MAX)
    }

    /// The term under which a person's consents are listed.
    pub(crate) fn of(subject: &Subject) -> IndexTerm {
        IndexTerm { name: "subject", value: super::client_key(&of_subject(subject)).into() }
    }
}

/// Removes the grants of somebody or something that has ended and, unless it is a login, what was remembered of
/// consents. Says how many grants there were.
pub(crate) async fn forget(grants: &Resources<Grant>, of: Revoked<'_>) -> Result<usize, StoreError> {
    let Some(term) = Grant::ended_with(of) else { return Ok(0) };
    let count = delete_all(grants, &term).await?;
    // A login that ends takes no consent back.
    if !matches!(of, Revoked::Session(_)) {
        delete_all(&grants.of_kind::<Consent>(), &term).await?;
    }
    Ok(count)
}

async fn delete_all<T: Resource>(kept: &Resources<T>, term: &IndexTerm) -> Result<usize, StoreError> {
    let mut count = 0;
    loop {
        let (page, next) = kept.list(Some(term.clone()), None, StoreLimits::WRITES).await?;
        let gone = |id: &str| Write::Delete { key: kept.key(id), when: When::Any };
        let writes: Vec<Write> = page.iter().map(|one| gone(&one.id)).collect();
        count += writes.len();
        if !writes.is_empty() {
            kept.store().commit(writes).await?;
        }
        if next.is_none() {
            return Ok(count);
        }
    }
}

/// The id of the consent to this.
pub(crate) fn id(subject: &Subject, client_id: &str, server: &str, scope: &str) -> String {
    let parts = [&*subject.issuer, &*subject.id, client_id, server, scope];
    // With their lengths: no two run into each other.
    hex_hash(&parts.map(|part| format!("{}:{part}", part.len())).concat())
}

/// Whether consent to this client, sent back to there, may be remembered.
pub(crate) fn may_be_remembered(id: &str, client: &OAuthClient, redirect: &RedirectKind) -> bool {
    let RedirectKind::Https(host) = redirect else { return false };
    match client.known_by {
        KnownBy::Operator => !client.is_public(),
        KnownBy::Document => url::Url::parse(id).is_ok_and(|url| url.host_str() == Some(host)),
        KnownBy::Registration => false,
    }
}

/// What a person sees of a client, and what decides who gets the answer: whatever of it changes, the person is asked
/// about again.
pub(crate) fn digest(client: &OAuthClient, redirect_uri: &str) -> String {
    let shown = (redirect_uri, &client.redirect_uris, &client.authentication, &client.name, client.known_by);
    hex_hash(&serde_json::to_string(&shown).unwrap_or_default())
}
