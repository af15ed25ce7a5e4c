//! Who calls with a key.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use http::request::Parts;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuthError, Authenticator, Clock, Effort, Resource};
use mcp_gateway_core::record::Principal;
use mcp_gateway_core::snapshot::{KeyFacts, Snapshots};

use super::{KeyText, LastUsed};
use crate::bearer::{authorization, bearer, single};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Where keys are looked up, on every call: in memory, without waiting.
///
/// [`Snapshots`] is one. A service with keys of its own implements this in a few lines.
pub trait KeyDirectory: Send + Sync + 'static {
    /// The key of this id.
    fn key(&self, id: &str) -> Option<Arc<KeyFacts>>;

    /// Whether the directory has been cut off for so long that a key in it may have been revoked long ago. No key is
    /// accepted then, and none is refused either: 503.
    fn refuses(&self) -> bool;
}

impl KeyDirectory for Snapshots {
    fn key(&self, id: &str) -> Option<Arc<KeyFacts>> {
        self.load().key(id).cloned()
    }

    fn refuses(&self) -> bool {
        Snapshots::refuses(self)
    }
}

/// Authenticates calls that carry an API key, as `Authorization: Bearer mcpgw_…` or `X-API-Key: mcpgw_…`.
///
/// A bearer or `X-API-Key` that does not begin like a key is somebody else's: the next in the chain is asked. A key
/// that is mistyped, unknown, wrong or expired ends the chain with 401; one that comes beside another credential, with
/// 400. Credentials in the query are never read.
///
/// Whether the key's scopes and servers suffice is not decided here but by whoever asks for them: the principal carries
/// both. A call costs one lookup and one SHA-256, and allocates nothing.
pub struct ApiKeyAuthenticator {
    keys: Arc<dyn KeyDirectory>,
    clock: Arc<dyn Clock>,
    last_used: Option<Arc<LastUsed>>,
}

impl ApiKeyAuthenticator {
    /// Authenticates by the keys of this directory.
    pub fn new(keys: Arc<dyn KeyDirectory>, clock: Arc<dyn Clock>) -> Self {
        Self { keys, clock, last_used: None }
    }

    /// The same, noting when each key was used.
    #[must_use]
    pub fn with_last_used(mut self, last_used: Arc<LastUsed>) -> Self {
        self.last_used = Some(last_used);
        self
    }

    fn check(&self, parts: &Parts) -> Result<Option<Arc<Principal>>, AuthError> {
        let Some(text) = presented(parts)? else { return Ok(None) };
        let key = KeyText::parse(text).map_err(|_| AuthError::Invalid("the API key is incomplete or mistyped"))?;
        if self.keys.refuses() {
            return Err(AuthError::Unavailable("the key directory has been cut off for too long".into()));
        }
        let facts = self.keys.key(key.id()).ok_or(AuthError::Invalid("no API key has this id; it may be revoked"))?;
        if !key.matches(&facts.secret_sha256) {
            return Err(AuthError::Invalid("the secret of the API key is wrong"));
        }
        let now = self.clock.now();
        if facts.expires_at.is_some_and(|end| end <= now) {
            return Err(AuthError::Invalid("the API key has expired"));
        }
        if let Some(last_used) = &self.last_used {
            last_used.touch(&facts.id, now);
        }
        Ok(Some(Arc::clone(&facts.principal)))
    }
}

impl Authenticator for ApiKeyAuthenticator {
    fn authenticate(&self, parts: &Parts, _: &Resource) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        self.check(parts).into()
    }

    fn effort(&self, parts: &Parts, _: &Resource) -> Effort {
        match presented(parts) {
            Ok(None) => Effort::Nothing,
            _ => Effort::Comparison,
        }
    }
}

impl fmt::Debug for ApiKeyAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyAuthenticator").field("last_used", &self.last_used).finish_non_exhaustive()
    }
}

/// What was presented as a key, if anything was.
fn presented(parts: &Parts) -> Result<Option<&[u8]>, AuthError> {
    let authorization = authorization(parts)?;
    let header = single(&parts.headers, &X_API_KEY, "more than one X-API-Key field")?
        .map(<[u8]>::trim_ascii)
        .filter(|text| KeyText::is_meant(text));
    let bearer = authorization.and_then(bearer).filter(|token| KeyText::is_meant(token));
    match (authorization, header) {
        (Some(_), Some(header)) if bearer != Some(header) => {
            Err(AuthError::Malformed("Authorization and X-API-Key carry different credentials"))
        }
        _ => Ok(bearer.or(header)),
    }
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
