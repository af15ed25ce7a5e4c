//! What a provider says about itself (`OpenID` Connect Discovery 1.0, RFC 8414).

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::Clock;
use mcp_gateway_core::egress::{Fetch, get_json};
use serde::Deserialize;
use url::Url;

use super::OidcError;
use super::provider::is_safe;
use crate::token::{RemoteKeys, RemoteKeysOptions};

/// How old metadata may be before it is fetched again.
const REFRESH: Duration = Duration::from_secs(3_600);
/// The shortest time between two attempts after a failure, and between two looks at the keys for a logout token, which
/// anybody can send.
const RETRY: Duration = Duration::from_secs(1);

/// The members that are used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    pub(super) userinfo_endpoint: Option<String>,
    #[serde(default)]
    pub(super) end_session_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    code_challenge_methods_supported: Option<Vec<String>>,
    /// Whether answers carry `iss` (RFC 9207 §3).
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

impl Metadata {
    /// Reads the metadata of this issuer.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn read(document: &[u8], issuer: &str) -> Result<Self, &'static str> {
        let metadata: Self = serde_json::from_slice(document).map_err(|_| "its metadata is not as it must be")?;
        if metadata.issuer != issuer {
            return Err("its metadata names another issuer");
        }
        let endpoints = [&metadata.authorization_endpoint, &metadata.token_endpoint, &metadata.jwks_uri];
        let optional = [&metadata.userinfo_endpoint, &metadata.end_session_endpoint];
        let safe = |url: &String| Url::parse(url).is_ok_and(|url| url.fragment().is_none() && is_safe(&url));
        if !endpoints.into_iter().chain(optional.into_iter().flatten()).all(safe) {
            return Err("its metadata has an endpoint that is no https URL");
        }
        if metadata.code_challenge_methods_supported.as_ref().is_some_and(|all| !all.iter().any(|one| one == "S256")) {
            return Err("it does not know PKCE with S256");
        }
        Ok(metadata)
    }

    /// Whether the secret goes into the header; `client_secret_basic` is what holds when nothing is said.
    pub(super) fn takes_basic(&self) -> bool {
        let named = self.token_endpoint_auth_methods_supported.as_ref();
        named.is_none_or(|methods| methods.iter().any(|method| method == "client_secret_basic"))
    }
}

/// What is known of a provider.
#[derive(Clone)]
pub(super) struct Discovered {
    pub(super) metadata: Metadata,
    /// For ID tokens. They come from the provider itself: nobody else makes us look for keys that are not there.
    pub(super) keys: RemoteKeys,
    /// For logout tokens.
    pub(super) logout_keys: RemoteKeys,
    at: Instant,
}

/// Fetches a provider's metadata when it is needed, and remembers it while the provider is away.
pub(super) struct Discovery {
    issuer: String,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    known: ArcSwapOption<Discovered>,
    /// When it was last tried, by whoever fetches.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

impl Discovery {
    pub(super) fn new(issuer: String, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, fetch, clock, known: ArcSwapOption::empty(), tried: tokio::sync::Mutex::default() }
    }

    pub(super) async fn get(&self) -> Result<Arc<Discovered>, OidcError> {
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let mut tried = self.tried.lock().await;
        if let Some(known) = self.fresh() {
            return Ok(known);
        }
        let now = self.clock.monotonic();
        let old = self.known.load_full();
        if tried.is_some_and(|at| now.saturating_duration_since(at) < RETRY) {
            return old.ok_or_else(|| OidcError::Provider("its metadata could not be fetched a moment ago".into()));
        }
        *tried = Some(now);
        match (self.fetch(now, old.as_deref()).await, old) {
            (Ok(known), _) => {
                let known = Arc::new(known);
                self.known.store(Some(Arc::clone(&known)));
                Ok(known)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(issuer = self.issuer, %error, "the metadata of an identity provider cannot be renewed");
                Ok(old)
            }
            (Err(error), None) => Err(OidcError::Provider(error)),
        }
    }

    fn fresh(&self) -> Option<Arc<Discovered>> {
        let now = self.clock.monotonic();
        self.known.load_full().filter(|known| now.saturating_duration_since(known.at) < REFRESH)
    }

    async fn fetch(&self, now: Instant, old: Option<&Discovered>) -> Result<Discovered, BoxError> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let answer = self.fetch.fetch(get_json(&url)?).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("{url}: status {}", answer.status).into());
        }
        let metadata = Metadata::read(&answer.body, &self.issuer)?;
        if let Some(old) = old.filter(|old| old.metadata.jwks_uri == metadata.jwks_uri) {
            return Ok(Discovered { metadata, at: now, ..old.clone() });
        }
        let keys = |retry| {
            let options = RemoteKeysOptions { retry, ..RemoteKeysOptions::default() };
            RemoteKeys::new(&metadata.jwks_uri, Arc::clone(&self.fetch), Arc::clone(&self.clock), options)
        };
        let (keys, logout_keys) = (keys(Duration::ZERO), keys(RETRY));
        Ok(Discovered { metadata, keys, logout_keys, at: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_others_and_unsafe_endpoints_are_refused() {
        let good = serde_json::json!({
            "issuer": "https://a.example", "authorization_endpoint": "https://a.example/authorize",
            "token_endpoint": "https://a.example/token", "jwks_uri": "https://a.example/keys",
        });
        let read = |change: serde_json::Value| {
            let mut document = good.clone();
            document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            Metadata::read(document.to_string().as_bytes(), "https://a.example")
        };
        assert!(read(serde_json::json!({})).unwrap().takes_basic());
        let post = serde_json::json!({ "token_endpoint_auth_methods_supported": ["client_secret_post"] });
        assert!(!read(post).unwrap().takes_basic());
        for change in [
            serde_json::json!({ "issuer": "https://a.example/" }),
            serde_json::json!({ "authorization_endpoint": "javascript:alert(1)" }),
            serde_json::json!({ "token_endpoint": "http://a.example/token" }),
            serde_json::json!({ "end_session_endpoint": "http://a.example/end" }),
            serde_json::json!({ "userinfo_endpoint": "https://u@a.example/" }),
            serde_json::json!({ "jwks_uri": 1 }),
            serde_json::json!({ "code_challenge_methods_supported": ["plain"] }),
        ] {
            assert!(read(change.clone()).is_err(), "{change}");
        }
    }
}
