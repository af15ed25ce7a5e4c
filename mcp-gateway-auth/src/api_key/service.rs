//! Making, listing and revoking keys.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::{Clock, IndexTerm, Revision, StoreError, When, Write};
use mcp_gateway_core::record::{ApiKey, Principal, Rate, Resources, Roles, Scope, Secret, Stored, Subject};

use super::{LastUsed, NewKeyText};

/// Makes, lists and revokes the keys of one tenant.
///
/// Whether the caller may do so at all is for the API to decide; it must not let a key make keys.
#[derive(Clone)]
pub struct ApiKeys {
    keys: Resources<ApiKey>,
    last_used: Arc<LastUsed>,
    clock: Arc<dyn Clock>,
    longest: Option<Duration>,
}

/// The bounds of a key.
#[derive(Debug)]
pub struct ApiKeyLimits;

impl ApiKeyLimits {
    /// Bytes of a name.
    pub const NAME: usize = 128;
    /// Servers that a key lists by id.
    pub const SERVERS: usize = 100;
    /// Bytes of a subject's issuer and id together.
    pub const SUBJECT: usize = 255;
    /// Seconds of a rate.
    pub const RATE_SECONDS: u32 = 86_400;
    /// Keys of a page.
    pub const PAGE: usize = 1_000;
}

/// A key that is to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name, for people.
    pub name: String,
    /// Ids of servers, or `*` alone for all that the subject may use.
    pub servers: Vec<String>,
    /// What it is good for; `mcp` alone unless more is asked for.
    pub scopes: Vec<Scope>,
    /// For whom it speaks; the creator by default. Only an owner may name somebody else.
    pub subject: Option<Subject>,
    /// When it ends; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// How many calls may be made with it; `None` for what all keys may.
    pub rate: Option<Rate>,
}

impl NewKey {
    /// A key for the data plane: all servers, scope `mcp`, the creator's own, without an end.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            servers: vec!["*".to_owned()],
            scopes: vec![Scope::Mcp],
            subject: None,
            expires_at: None,
            rate: None,
        }
    }
}

/// A key that was just made.
#[derive(Debug, Clone)]
pub struct CreatedKey {
    /// Its id.
    pub id: Box<str>,
    /// What is kept of it.
    pub record: ApiKey,
    /// The key itself: shown once, kept nowhere.
    pub key: Secret,
    /// The commit that made it; a replica that has applied it accepts the key.
    pub revision: Revision,
}

/// A key as it is listed.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Its id.
    pub id: Box<str>,
    /// The revision that wrote it: its ETag.
    pub revision: Revision,
    /// What is kept of it.
    pub record: ApiKey,
    /// When it was used last, as far as known; up to a minute behind for uses at other replicas.
    pub last_used_at: Option<Timestamp>,
}

/// Why a key was not made, or could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// A field is wrong: 422.
    #[error("{field} {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// Only an owner may make a key for somebody else: 403.
    #[error("only an owner may make a key for another subject")]
    Forbidden,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApiKeys {
    /// The keys that are kept here.
    pub fn new(keys: Resources<ApiKey>, last_used: Arc<LastUsed>, clock: Arc<dyn Clock>) -> Self {
        Self { keys, last_used, clock, longest: None }
    }

    /// The same, making no key that is good for longer than this (`auth.key_max_days`); one that is made without an end
    /// ends then.
    #[must_use]
    pub fn ending_within(mut self, longest: Option<Duration>) -> Self {
        self.longest = longest;
        self
    }

    /// Makes a key. Its text is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`ApiKeyError`]; after a lost connection the key may exist, without anybody who knows it.
    pub async fn create(&self, by: &Principal, new: NewKey) -> Result<CreatedKey, ApiKeyError> {
        let now = self.clock.now();
        let subject = new.subject.unwrap_or_else(|| by.subject.clone());
        if subject != by.subject && !by.roles.contains(Roles::OWNER) {
            return Err(ApiKeyError::Forbidden);
        }
        check_name(&new.name)?;
        check_subject(&subject)?;
        if subject.tenant != self.keys.key("x").tenant {
            return wrong("subject", "is of another tenant");
        }
        if new.expires_at.is_some_and(|end| end <= now) {
            return wrong("expiresAt", "must be in the future");
        }
        let latest = self.longest.and_then(|longest| now.saturating_add(longest).ok());
        if new.expires_at.zip(latest).is_some_and(|(end, latest)| end > latest) {
            return wrong("expiresAt", "is later than auth.key_max_days permits");
        }
        let text = NewKeyText::generate();
        let record = ApiKey {
            name: new.name,
            secret_sha256: text.secret_sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
            owner: subject == by.subject && by.roles.contains(Roles::OWNER),
            subject,
            scopes: checked_scopes(&new.scopes)?,
            servers: checked_servers(new.servers)?,
            created_at: now,
            expires_at: new.expires_at.or(latest),
            rate: checked_rate(new.rate)?,
        };
        let revision = self.keys.save(&text.id, &record, When::Absent).await?;
        Ok(CreatedKey { id: text.id, record, key: text.text, revision })
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ApiKeyError::Store`].
    pub async fn get(&self, id: &str) -> Result<Option<KeyInfo>, ApiKeyError> {
        if !is_id(id) {
            return Ok(None);
        }
        let Some(stored) = self.keys.get(id).await? else { return Ok(None) };
        Ok(self.with_uses(vec![stored]).await?.pop())
    }

    /// Reads a page of at most [`ApiKeyLimits::PAGE`] of everybody's keys, or of one subject's, in the order of ids, and
    /// where the next begins.
    ///
    /// # Errors
    /// [`ApiKeyError::Store`].
    pub async fn list(
        &self,
        of: Option<&Subject>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<KeyInfo>, Option<Box<str>>), ApiKeyError> {
        let value = |of: &Subject| format!("{} {}", of.issuer, of.id).into();
        let term = of.map(|of| IndexTerm { name: "subject", value: value(of) });
        let (page, next) = self.keys.list(term, after, limit.clamp(1, ApiKeyLimits::PAGE)).await?;
        Ok((self.with_uses(page).await?, next))
    }

    /// Revokes a key: it is gone from the store, and from each replica that has applied the revision returned. `None`
    /// when there is no such key.
    ///
    /// # Errors
    /// [`ApiKeyError::Store`].
    pub async fn revoke(&self, id: &str) -> Result<Option<Revision>, ApiKeyError> {
        if !is_id(id) || self.keys.get(id).await?.is_none() {
            return Ok(None);
        }
        let gone = |key| Write::Delete { key, when: When::Any };
        let writes = vec![gone(self.keys.key(id)), gone(self.last_used.uses().key(id))];
        let revision = self.keys.store().commit(writes).await?;
        self.last_used.forget(id);
        Ok(Some(revision))
    }

    async fn with_uses(&self, keys: Vec<Stored<ApiKey>>) -> Result<Vec<KeyInfo>, ApiKeyError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let uses = self.last_used.uses().get_many(keys.iter().map(|key| &*key.id)).await?;
        let infos = keys.into_iter().zip(uses).map(|(key, written)| {
            let written = written.map(|written| written.value.last_used_at);
            let last_used_at = written.max(self.last_used.seen(&key.id));
            KeyInfo { id: key.id, revision: key.revision, record: key.value, last_used_at }
        });
        Ok(infos.collect())
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").field("keys", &self.keys).finish_non_exhaustive()
    }
}

fn wrong<T>(field: &'static str, problem: &'static str) -> Result<T, ApiKeyError> {
    Err(ApiKeyError::Invalid { field, problem })
}

/// Asked about anything else, a store would rightly call it an invalid request.
fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn check_name(name: &str) -> Result<(), ApiKeyError> {
    if name.trim().is_empty() || name.len() > ApiKeyLimits::NAME || name.chars().any(char::is_control) {
        return wrong("name", "must be 1 to 128 bytes of text without control characters");
    }
    Ok(())
}

fn check_subject(subject: &Subject) -> Result<(), ApiKeyError> {
    let valid = |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ' ');
    if !valid(&subject.issuer) || !valid(&subject.id) || subject.issuer.len() + subject.id.len() > ApiKeyLimits::SUBJECT
    {
        return wrong("subject", "must have an issuer and an id, without spaces, together at most 255 bytes");
    }
    Ok(())
}

fn checked_rate(rate: Option<Rate>) -> Result<Option<Rate>, ApiKeyError> {
    match rate {
        Some(rate) if rate.limit == 0 || !(1..=ApiKeyLimits::RATE_SECONDS).contains(&rate.seconds) => {
            wrong("rate", "must be at least 1 call in 1 to 86,400 seconds")
        }
        rate => Ok(rate),
    }
}

fn checked_scopes(scopes: &[Scope]) -> Result<Vec<Scope>, ApiKeyError> {
    let mut unique = Vec::new();
    for scope in scopes {
        if !unique.contains(scope) {
            unique.push(*scope);
        }
    }
    if unique.is_empty() { wrong("scopes", "must not be empty; mcp is the usual one") } else { Ok(unique) }
}

fn checked_servers(servers: Vec<String>) -> Result<Vec<String>, ApiKeyError> {
    if servers == ["*"] {
        return Ok(servers);
    }
    if servers.is_empty() || servers.len() > ApiKeyLimits::SERVERS {
        return wrong("servers", "must be * alone, or 1 to 100 ids of servers");
    }
    let label = |id: &String| {
        (1..=63).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if !servers.iter().all(label) {
        return wrong("servers", "must be * alone, or ids of servers: lowercase letters, digits and -");
    }
    Ok(servers.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
