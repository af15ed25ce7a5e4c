//! Clients whose id is the URL of a document that describes them (draft-ietf-oauth-client-id-metadata-document).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::CACHE_CONTROL;
use jiff::Timestamp;
use mcp_gateway_core::contract::Clock;
use mcp_gateway_core::egress::{Fetch, FetchOptions, Fetched, Fetcher, get_json};
use serde::Deserialize;
use url::Url;

use super::super::ServerLimits;
use super::registration::ClientMetadata;
use super::{KnownBy, OAuthClient, RegistrationPolicy};
use crate::token::PublicKey;

/// Fetches and remembers Client ID Metadata Documents, and the keys that clients publish at a `jwks_uri`.
///
/// Fetched with an egress client that has no hole whatever is allowed elsewhere: a stranger names the URL. Only after
/// somebody has logged in or for a client that somebody has agreed to, without following redirects, up to 5 KiB (keys:
/// 16 KiB), within 5 seconds.
pub struct DocumentClients {
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<String, (Instant, OAuthClient)>>,
    /// JWK Sets by their URL.
    keys: Mutex<HashMap<String, (Instant, String)>>,
}

/// Why a URL is no client, or has no keys. Told to nobody but the log: it would say what our network looks like.
#[derive(Debug, thiserror::Error)]
#[error("the client's document cannot be used: {why}")]
pub struct DocumentError {
    why: String,
    /// Nobody answered, or not now: it says nothing about the client.
    pub(crate) unanswered: bool,
}

impl DocumentClients {
    /// The shortest and the longest time that a document is remembered, whatever its `Cache-Control` says.
    pub const REMEMBER: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3_600));
    /// Documents that are remembered, and as many sets of keys.
    pub const REMEMBERED: usize = 1_024;

    /// Fetches over connections of its own.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_fetch(Arc::new(Fetcher::new(Self::fetch_options())), clock)
    }

    /// The limits of a fetch, without a hole; for a client that goes through a proxy or trusts further authorities.
    #[must_use]
    pub fn fetch_options() -> FetchOptions {
        FetchOptions::default().with_body(ServerLimits::CLIENT_KEYS).with_timeout(Duration::from_secs(5))
    }

    /// Fetches by another client, which must check addresses as [`Fetcher`] does.
    pub fn with_fetch(fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self { fetch, clock, remembered: Mutex::default(), keys: Mutex::default() }
    }

    /// Whether a client's id has the form of such a URL: https at the default port, with a path, in normal form, without
    /// user information, fragment or dot segments.
    #[must_use]
    pub fn is_url(id: &str) -> bool {
        let Ok(url) = Url::parse(id) else { return false };
        id.len() <= ServerLimits::CLIENT_ID
            && url.scheme() == "https"
            // What a parser has to repair is another URL: an upper-case host, dot segments, a named default port.
            && url.as_str() == id
            && url.port().is_none()
            && url.path() != "/"
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
            && !id.contains(['@', '#', '\\'])
            && !id.to_ascii_lowercase().contains("%2e")
    }

    /// The client at this URL, if its document is remembered.
    #[must_use]
    pub fn remembered(&self, id: &str) -> Option<OAuthClient> {
        let now = self.clock.monotonic();
        lock(&self.remembered).get(id).filter(|(until, _)| *until > now).map(|(_, client)| client.clone())
    }

    /// The keys at this URL, if they are remembered.
    pub(crate) fn remembered_keys(&self, url: &str) -> Option<String> {
        let now = self.clock.monotonic();
        lock(&self.keys).get(url).filter(|(until, _)| *until > now).map(|(_, keys)| keys.clone())
    }

    /// The client at this URL.
    ///
    /// # Errors
    /// [`DocumentError`]; errors and documents that are not valid are never remembered.
    pub async fn load(&self, id: &str, policy: &RegistrationPolicy) -> Result<OAuthClient, DocumentError> {
        let now = self.clock.monotonic();
        if let Some(client) = self.remembered(id) {
            return Ok(client);
        }
        let answer = self.answer(id).await?;
        let client = read(id, &answer, policy, self.clock.now()).map_err(DocumentError::of_content)?;
        remember(&self.remembered, id, &client, life(&answer), now);
        Ok(client)
    }

    /// The JWK Set at this URL.
    pub(crate) async fn load_keys(&self, url: &str) -> Result<String, DocumentError> {
        let now = self.clock.monotonic();
        if let Some(keys) = self.remembered_keys(url) {
            return Ok(keys);
        }
        let answer = self.answer(url).await?;
        let keys = read_keys(&answer).map_err(|why| DocumentError::of_content(why.to_owned()))?;
        remember(&self.keys, url, &keys, life(&answer), now);
        Ok(keys)
    }

    async fn answer(&self, url: &str) -> Result<Fetched, DocumentError> {
        if !Self::is_url(url) {
            return Err(DocumentError::of_content("its address is not one that a document can have".to_owned()));
        }
        let request = get_json(url).map_err(|error| DocumentError::of_content(error.to_string()))?;
        let answer = self.fetch.fetch(request).await;
        let answer = answer.map_err(|error| DocumentError { why: error.to_string(), unanswered: true })?;
        if answer.status == StatusCode::OK {
            return Ok(answer);
        }
        let unanswered = answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS;
        Err(DocumentError { why: format!("status {}", answer.status), unanswered })
    }
}

impl DocumentError {
    fn of_content(why: String) -> Self {
        Self { why, unanswered: false }
    }
}

/// What an answer says of the client at this URL.
pub(crate) fn read(
    id: &str,
    answer: &Fetched,
    policy: &RegistrationPolicy,
    now: Timestamp,
) -> Result<OAuthClient, String> {
    #[derive(Deserialize)]
    struct Document {
        client_id: String,
        #[serde(default)]
        client_secret: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        client_secret_expires_at: Option<serde::de::IgnoredAny>,
        #[serde(flatten)]
        metadata: ClientMetadata,
    }
    let json = answer.media_type().is_some_and(|kind| {
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    });
    if !json {
        return Err("it is not JSON".to_owned());
    }
    if answer.body.len() > ServerLimits::DOCUMENT {
        return Err("it is larger than 5 KiB".to_owned());
    }
    let document: Document = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    if document.client_id != id {
        return Err("its client_id is another one".to_owned());
    }
    if document.client_secret.is_some() || document.client_secret_expires_at.is_some() {
        return Err("it holds a secret".to_owned());
    }
    if document.metadata.client_name.is_none() {
        return Err("it has no client_name".to_owned());
    }
    // No secret is ever made for a document.
    let accepted = document.metadata.accept(KnownBy::Document, policy, now, String::new);
    accepted.map(|registered| registered.client).map_err(|error| error.why)
}

/// The JWK Set in an answer, if there is a key in it that can be used.
fn read_keys(answer: &Fetched) -> Result<String, &'static str> {
    if answer.body.len() > ServerLimits::CLIENT_KEYS {
        return Err("its keys are larger than 16 KiB");
    }
    let usable = PublicKey::read_set(&answer.body).is_ok_and(|keys| !keys.is_empty());
    let keys = String::from_utf8(answer.body.to_vec()).ok().filter(|_| usable);
    keys.ok_or("its keys are no JWK Set with a key that can be used")
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers what was read for so long; without a time, or where too much is remembered, not at all.
fn remember<T: Clone>(
    held: &Mutex<HashMap<String, (Instant, T)>>,
    url: &str,
    read: &T,
    life: Option<Duration>,
    now: Instant,
) {
    let mut held = lock(held);
    if held.len() >= DocumentClients::REMEMBERED {
        held.retain(|_, (until, _)| *until > now);
    }
    if let Some(life) = life.filter(|_| held.len() < DocumentClients::REMEMBERED) {
        held.insert(url.to_owned(), (now + life, read.clone()));
    }
}

impl fmt::Debug for DocumentClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentClients").field("remembered", &lock(&self.remembered).len()).finish_non_exhaustive()
    }
}

/// How long an answer may be remembered (RFC 9111 §5.2.2), within our bounds; `None`: not at all.
fn life(answer: &Fetched) -> Option<Duration> {
    let (shortest, longest) = DocumentClients::REMEMBER;
    let mut life = shortest;
    for value in answer.headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" {
                return None;
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                life = Duration::from_secs(seconds.parse().unwrap_or(0)).clamp(shortest, longest);
            }
        }
    }
    Some(life)
}
