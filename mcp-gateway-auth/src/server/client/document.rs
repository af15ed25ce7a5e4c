//! Clients whose id is the URL of a document that describes them (draft-ietf-oauth-client-id-metadata-document).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::CACHE_CONTROL;
use mcp_gateway_core::contract::Clock;
use mcp_gateway_core::egress::{Fetch, FetchOptions, Fetched, Fetcher, get_json};
use serde::Deserialize;
use url::Url;

use super::super::ServerLimits;
use super::registration::ClientMetadata;
use super::{KnownBy, OAuthClient, RegistrationPolicy};

/// Fetches and remembers Client ID Metadata Documents.
///
/// Fetched with an egress client that has no hole whatever is allowed elsewhere: a stranger names the URL. Only after
/// somebody has logged in, without following redirects, up to 5 KiB, within 5 seconds.
pub struct DocumentClients {
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    remembered: Mutex<HashMap<String, (Instant, OAuthClient)>>,
}

/// Why a URL is no client. Told to nobody but the log: it would say what our network looks like.
#[derive(Debug, thiserror::Error)]
#[error("the client's document cannot be used: {0}")]
pub struct DocumentError(String);

impl DocumentClients {
    /// The shortest and the longest time that a document is remembered, whatever its `Cache-Control` says.
    pub const REMEMBER: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3_600));
    /// Documents that are remembered.
    pub const REMEMBERED: usize = 1_024;

    /// Fetches over connections of its own.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_fetch(Arc::new(Fetcher::new(Self::fetch_options())), clock)
    }

    /// The limits of a fetch, without a hole; for a client that goes through a proxy or trusts further authorities.
    #[must_use]
    pub fn fetch_options() -> FetchOptions {
        FetchOptions::default().with_body(ServerLimits::DOCUMENT).with_timeout(Duration::from_secs(5))
    }

    /// Fetches by another client, which must check addresses as [`Fetcher`] does.
    pub fn with_fetch(fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self { fetch, clock, remembered: Mutex::default() }
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
        self.lock().get(id).filter(|(until, _)| *until > now).map(|(_, client)| client.clone())
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
        let failed = |why: String| DocumentError(why);
        if !Self::is_url(id) {
            return Err(failed("its address is not one that a document can have".to_owned()));
        }
        let request = get_json(id).map_err(|error| failed(error.to_string()))?;
        let answer = self.fetch.fetch(request).await.map_err(|error| failed(error.to_string()))?;
        let client = self.read(id, &answer, policy).map_err(failed)?;
        let mut remembered = self.lock();
        if remembered.len() >= Self::REMEMBERED {
            remembered.retain(|_, (until, _)| *until > now);
        }
        if let Some(life) = life(&answer).filter(|_| remembered.len() < Self::REMEMBERED) {
            remembered.insert(id.to_owned(), (now + life, client.clone()));
        }
        Ok(client)
    }

    fn read(&self, id: &str, answer: &Fetched, policy: &RegistrationPolicy) -> Result<OAuthClient, String> {
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
        if answer.status != StatusCode::OK {
            return Err(format!("status {}", answer.status));
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
        if document.metadata.jwks_uri.is_some() {
            return Err("it refers to its keys by jwks_uri; put them into jwks".to_owned());
        }
        let now = self.clock.now();
        // No secret is ever made for a document.
        let accepted = document.metadata.accept(KnownBy::Document, policy, now, String::new);
        accepted.map(|registered| registered.client).map_err(|error| error.why)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, OAuthClient)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DocumentClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentClients").field("remembered", &self.lock().len()).finish_non_exhaustive()
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
