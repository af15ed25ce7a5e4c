//! What a provider says about itself (`OpenID` Connect Discovery 1.0, RFC 8414).

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::Clock;
use mcp_gateway_core::egress::{Fetch, get_json};
use serde::Deserialize;
use tokio::sync::watch;
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
    /// Where refresh tokens are given back (RFC 7009).
    #[serde(default)]
    pub(super) revocation_endpoint: Option<String>,
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
        let optional = [&metadata.userinfo_endpoint, &metadata.end_session_endpoint, &metadata.revocation_endpoint];
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
pub(super) struct Discovery(Arc<Inner>);

struct Inner {
    issuer: String,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    known: ArcSwapOption<Discovered>,
    fetching: Mutex<Fetching>,
}

#[derive(Default)]
struct Fetching {
    /// When the last fetch ended.
    tried: Option<Instant>,
    under_way: Weak<watch::Sender<()>>,
}

impl Discovery {
    pub(super) fn new(issuer: String, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let (known, fetching) = (ArcSwapOption::empty(), Mutex::default());
        Self(Arc::new(Inner { issuer, fetch, clock, known, fetching }))
    }

    /// What is known at once, renewed beside it when it is old; nobody waits unless nothing is known.
    pub(super) async fn get(&self) -> Result<Arc<Discovered>, OidcError> {
        let inner = &self.0;
        if let Some(known) = inner.known.load_full() {
            if inner.clock.monotonic().saturating_duration_since(known.at) >= REFRESH {
                drop(inner.fetching());
            }
            return Ok(known);
        }
        if let Some(mut under_way) = inner.fetching() {
            // Ends when the fetch does, whoever began it.
            let _ = under_way.changed().await;
        }
        let known = inner.known.load_full();
        known.ok_or_else(|| OidcError::Provider("its metadata could not be fetched; see the log".into()))
    }
}

impl Inner {
    /// Fetches in a task of its own, one at a time; `None` when the last attempt has just ended.
    fn fetching(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = fetching.under_way.upgrade() {
            return Some(under_way.subscribe());
        }
        let now = self.clock.monotonic();
        if fetching.tried.is_some_and(|at| now.saturating_duration_since(at) < RETRY) {
            return None;
        }
        let under_way = Arc::new(watch::Sender::new(()));
        let receiver = under_way.subscribe();
        fetching.under_way = Arc::downgrade(&under_way);
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            match inner.fetch(now, inner.known.load_full().as_deref()).await {
                Ok(known) => inner.known.store(Some(Arc::new(known))),
                Err(error) => {
                    tracing::warn!(issuer = inner.issuer, %error, "the metadata of an identity provider cannot be fetched");
                }
            }
            let mut fetching = inner.fetching.lock().unwrap_or_else(PoisonError::into_inner);
            fetching.tried = Some(inner.clock.monotonic());
            drop(under_way);
        });
        Some(receiver)
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::{HeaderMap, Request};
    use mcp_gateway_core::egress::{FetchError, Fetched};
    use tokio::sync::Semaphore;

    use super::*;

    /// A provider that answers as often as it is let.
    struct Slow {
        asked: AtomicUsize,
        may: Semaphore,
    }

    #[async_trait]
    impl Fetch for Slow {
        async fn fetch(&self, _: Request<Bytes>) -> Result<Fetched, FetchError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.may.acquire().await.unwrap().forget();
            let metadata = serde_json::json!({
                "issuer": "https://a.example", "authorization_endpoint": "https://a.example/authorize",
                "token_endpoint": "https://a.example/token", "jwks_uri": "https://a.example/keys",
            });
            Ok(Fetched { status: StatusCode::OK, headers: HeaderMap::new(), body: metadata.to_string().into() })
        }
    }

    #[tokio::test]
    async fn whoever_waits_takes_the_answer_of_one_fetch_and_what_is_known_is_not_waited_for() {
        let world = crate::testing::World::new().await;
        let slow = Arc::new(Slow { asked: AtomicUsize::new(0), may: Semaphore::new(0) });
        let discovery = Discovery::new("https://a.example".into(), slow.clone(), world.clock.clone());
        let first = async { tokio::join!(discovery.get(), discovery.get(), discovery.get()) };
        let answer = async {
            tokio::task::yield_now().await;
            slow.may.add_permits(1);
        };
        let (all, ()) = tokio::join!(first, answer);
        assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
        assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
        world.clock.advance(REFRESH);
        for _ in 0..3 {
            discovery.get().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(slow.asked.load(Ordering::SeqCst), 2, "one renews it, and nobody waits");
    }

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
            serde_json::json!({ "revocation_endpoint": "http://a.example/revoke" }),
            serde_json::json!({ "userinfo_endpoint": "https://u@a.example/" }),
            serde_json::json!({ "jwks_uri": 1 }),
            serde_json::json!({ "code_challenge_methods_supported": ["plain"] }),
        ] {
            assert!(read(change.clone()).is_err(), "{change}");
        }
    }
}
