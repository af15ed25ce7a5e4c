//! Clients whose id is the URL of a document that describes them (draft-ietf-oauth-client-id-metadata-document).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::CACHE_CONTROL;
use jiff::Timestamp;
use mcp_gateway_core::contract::{Clock, Limited};
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
    remembered: Mutex<HashMap<String, Heard<OAuthClient>>>,
    /// JWK Sets by their URL.
    keys: Mutex<HashMap<String, Heard<String>>>,
    /// What the token endpoint has heard in vain, by URL.
    failed: Mutex<HashMap<String, Heard<DocumentError>>>,
    /// Fetches for the token endpoint: one of a URL at a time.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// What a URL has said.
#[derive(Clone)]
struct Heard<T> {
    at: Instant,
    /// How long it may be remembered.
    until: Instant,
    said: T,
}

/// Why a URL is no client, or has no keys. Told to nobody but the log: it would say what our network looks like.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// How long the token endpoint remembers an error, and how long it waits at least to ask again for a key that a client
    /// did not have.
    pub const AGAIN: Duration = Duration::from_secs(60);
    /// How long the token endpoint goes by an answer that must not be remembered: for as many as come together.
    pub const BRIEF: Duration = Duration::from_secs(5);
    /// How long the token endpoint goes by an old answer while the budget for a new one is used up.
    pub const STALE: Duration = Duration::from_secs(600);

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
        let (remembered, keys) = (Mutex::default(), Mutex::default());
        Self { fetch, clock, remembered, keys, failed: Mutex::default(), turns: Mutex::default() }
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
        lock(&self.remembered).get(id).filter(|heard| heard.until > now).map(|heard| heard.said.clone())
    }

    /// The client at this URL, for a person who has logged in.
    ///
    /// # Errors
    /// [`DocumentError`]; errors and documents that are not valid are not remembered.
    pub async fn load(&self, id: &str, policy: &RegistrationPolicy) -> Result<OAuthClient, DocumentError> {
        if let Some(client) = self.remembered(id) {
            return Ok(client);
        }
        self.fetch_client(id, policy).await
    }

    /// The client at this URL, for the token endpoint, where anybody can name it. `may` takes from the budget for a fetch;
    /// `anew` wants a later answer than the one that is remembered.
    pub(crate) async fn client_now(
        &self,
        id: &str,
        policy: &RegistrationPolicy,
        anew: bool,
        may: impl Future<Output = Result<(), Limited>>,
    ) -> Result<OAuthClient, DocumentError> {
        self.now(&self.remembered, id, anew, may, self.fetch_client(id, policy)).await
    }

    /// The JWK Set at this URL, in the same way.
    pub(crate) async fn keys_now(
        &self,
        url: &str,
        anew: bool,
        may: impl Future<Output = Result<(), Limited>>,
    ) -> Result<String, DocumentError> {
        self.now(&self.keys, url, anew, may, self.fetch_keys(url)).await
    }

    async fn now<T: Clone>(
        &self,
        held: &Mutex<HashMap<String, Heard<T>>>,
        url: &str,
        anew: bool,
        may: impl Future<Output = Result<(), Limited>>,
        fetch: impl Future<Output = Result<T, DocumentError>>,
    ) -> Result<T, DocumentError> {
        let turn = self.turn(url);
        // Whoever has waited finds what the one before has heard.
        let _turn = turn.lock().await;
        let now = self.clock.monotonic();
        let known = lock(held).get(url).cloned();
        let good_until = |heard: &Heard<T>| match anew {
            true => heard.at + Self::AGAIN,
            false => heard.until.max(heard.at + Self::BRIEF),
        };
        if let Some(heard) = known.as_ref().filter(|heard| good_until(heard) > now) {
            return Ok(heard.said.clone());
        }
        if let Some(failed) = lock(&self.failed).get(url).filter(|failed| failed.until > now) {
            return Err(failed.said.clone());
        }
        if may.await.is_err() {
            let stale = known.filter(|heard| heard.until + Self::STALE > now).map(|heard| heard.said);
            return stale.ok_or_else(|| DocumentError::unanswered("too much was fetched".to_owned()));
        }
        let fetched = fetch.await;
        if let Err(error) = &fetched {
            if !error.unanswered {
                lock(held).remove(url);
            }
            self.remember(&self.failed, url, error, Self::AGAIN);
        }
        fetched
    }

    fn turn(&self, url: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get(url).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.len() >= Self::REMEMBERED {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        turns.insert(url.to_owned(), Arc::downgrade(&turn));
        turn
    }

    async fn fetch_client(&self, id: &str, policy: &RegistrationPolicy) -> Result<OAuthClient, DocumentError> {
        let answer = self.answer(id).await?;
        let client = read(id, &answer, policy, self.clock.now())?;
        self.remember(&self.remembered, id, &client, life(&answer));
        Ok(client)
    }

    async fn fetch_keys(&self, url: &str) -> Result<String, DocumentError> {
        let answer = self.answer(url).await?;
        let keys = read_keys(&answer)?;
        self.remember(&self.keys, url, &keys, life(&answer));
        Ok(keys)
    }

    /// Remembers what was read for so long; where too much is remembered, not at all.
    fn remember<T: Clone>(&self, held: &Mutex<HashMap<String, Heard<T>>>, url: &str, said: &T, life: Duration) {
        let (mut held, now) = (lock(held), self.clock.monotonic());
        if held.len() >= Self::REMEMBERED {
            held.retain(|_, heard| heard.until > now);
        }
        if held.len() < Self::REMEMBERED || held.contains_key(url) {
            held.insert(url.to_owned(), Heard { at: now, until: now + life, said: said.clone() });
        }
    }

    async fn answer(&self, url: &str) -> Result<Fetched, DocumentError> {
        if !Self::is_url(url) {
            return Err(DocumentError::of_content("its address is not one that a document can have".to_owned()));
        }
        let request = get_json(url).map_err(|error| DocumentError::of_content(error.to_string()))?;
        let answer = self.fetch.fetch(request).await;
        let answer = answer.map_err(|error| DocumentError::unanswered(error.to_string()))?;
        if answer.status == StatusCode::OK {
            return Ok(answer);
        }
        // Anything else may be the word of a proxy, or of a host that does not like us.
        let gone = matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE);
        Err(DocumentError { why: format!("status {}", answer.status), unanswered: !gone })
    }
}

impl DocumentError {
    fn of_content(why: String) -> Self {
        Self { why, unanswered: false }
    }

    fn unanswered(why: String) -> Self {
        Self { why, unanswered: true }
    }

    /// What is no JSON is nothing that a client has said.
    fn of_json(body: &[u8], why: String) -> Self {
        Self { why, unanswered: serde_json::from_slice::<serde::de::IgnoredAny>(body).is_err() }
    }
}

/// What an answer says of the client at this URL.
pub(crate) fn read(
    id: &str,
    answer: &Fetched,
    policy: &RegistrationPolicy,
    now: Timestamp,
) -> Result<OAuthClient, DocumentError> {
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
        return Err(DocumentError::unanswered("it is not JSON".to_owned()));
    }
    let wrong = |why: &str| Err(DocumentError::of_content(why.to_owned()));
    if answer.body.len() > ServerLimits::DOCUMENT {
        return wrong("it is larger than 5 KiB");
    }
    let document: Document = serde_json::from_slice(&answer.body)
        .map_err(|error| DocumentError::of_json(&answer.body, error.to_string()))?;
    if document.client_id != id {
        return wrong("its client_id is another one");
    }
    if document.client_secret.is_some() || document.client_secret_expires_at.is_some() {
        return wrong("it holds a secret");
    }
    if document.metadata.client_name.is_none() {
        return wrong("it has no client_name");
    }
    // No secret is ever made for a document.
    let accepted = document.metadata.accept(KnownBy::Document, policy, now, String::new);
    accepted.map(|registered| registered.client).map_err(|error| DocumentError::of_content(error.why))
}

/// The JWK Set in an answer, if there is a key in it that can be used.
fn read_keys(answer: &Fetched) -> Result<String, DocumentError> {
    if answer.body.len() > ServerLimits::CLIENT_KEYS {
        return Err(DocumentError::of_content("its keys are larger than 16 KiB".to_owned()));
    }
    let usable = PublicKey::read_set(&answer.body).is_ok_and(|keys| !keys.is_empty());
    let keys = String::from_utf8(answer.body.to_vec()).ok().filter(|_| usable);
    let wrong = || "its keys are no JWK Set with a key that can be used".to_owned();
    keys.ok_or_else(|| DocumentError::of_json(&answer.body, wrong()))
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for DocumentClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentClients").field("remembered", &lock(&self.remembered).len()).finish_non_exhaustive()
    }
}

/// How long an answer may be remembered (RFC 9111 §5.2.2), within our bounds; zero: not at all.
fn life(answer: &Fetched) -> Duration {
    let (shortest, longest) = DocumentClients::REMEMBER;
    let mut life = shortest;
    for value in answer.headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            if directive == "no-store" {
                return Duration::ZERO;
            }
            if let Some(seconds) = directive.strip_prefix("max-age=") {
                life = Duration::from_secs(seconds.parse().unwrap_or(0)).clamp(shortest, longest);
            }
        }
    }
    life
}
