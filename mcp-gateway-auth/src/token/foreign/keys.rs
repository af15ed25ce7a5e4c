//! The published keys of another issuer.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::StatusCode;
use mcp_gateway_core::contract::{Clock, KeyRing, KeyRingError, VerifyingKey};
use mcp_gateway_core::egress::{Fetch, get_json};
use mcp_gateway_core::{BoxError, MaybeReady};
use tokio::sync::watch;

use super::super::key::PublicKey;
use super::metadata;

/// A JWK Set that is fetched when it is needed and remembered.
///
/// A key that is not in it lets it be fetched again, but not more often than [`RemoteKeysOptions::retry`]: a flood of
/// tokens with made-up key ids costs one call in that time. While the issuer does not answer, known keys stay good for
/// [`RemoteKeysOptions::keep`], and whoever brings one waits [`RemoteKeysOptions::patience`] at most.
#[derive(Clone)]
pub struct RemoteKeys(Arc<Inner>);

/// How long keys are remembered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteKeysOptions {
    /// How old the set may be before it is fetched again: 1 hour.
    pub refresh: Duration,
    /// The shortest time between two attempts: 30 s.
    pub retry: Duration,
    /// How long known keys are good while the issuer does not answer: 24 hours.
    pub keep: Duration,
    /// How long a known key waits to hear whether the issuer still has it: 1 s, and not at all once it did not answer.
    pub patience: Duration,
}

impl Default for RemoteKeysOptions {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(3_600),
            retry: Duration::from_secs(30),
            keep: Duration::from_secs(24 * 3_600),
            patience: Duration::from_secs(1),
        }
    }
}

struct Inner {
    source: Source,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    options: RemoteKeysOptions,
    held: ArcSwap<Held>,
    /// The fetch that is under way: ends when its sender is dropped.
    fetching: Mutex<Weak<watch::Sender<()>>>,
}

/// Where a set is.
#[derive(Debug)]
enum Source {
    At(String),
    /// Where the metadata of this issuer say; looked up with each fetch.
    Of(String),
}

impl Source {
    fn name(&self) -> &str {
        let (Self::At(name) | Self::Of(name)) = self;
        name
    }
}

#[derive(Clone, Default)]
struct Held {
    keys: Arc<HashMap<Box<str>, Arc<PublicKey>>>,
    document: Arc<str>,
    /// When it was last fetched, and when that was last tried.
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// Whether that was in vain.
    failed: bool,
}

impl RemoteKeys {
    /// The keys at this address, fetched by `fetch`: the egress client of purpose `identity`.
    pub fn new(
        url: impl Into<String>,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        options: RemoteKeysOptions,
    ) -> Self {
        Self::from_source(Source::At(url.into()), fetch, clock, options)
    }

    /// The keys of this issuer, found by its metadata (RFC 8414 §3, OpenID Connect Discovery 1.0 §4).
    pub fn discovered(
        issuer: impl Into<String>,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        options: RemoteKeysOptions,
    ) -> Self {
        Self::from_source(Source::Of(issuer.into()), fetch, clock, options)
    }

    fn from_source(source: Source, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>, options: RemoteKeysOptions) -> Self {
        let (held, fetching) = (ArcSwap::default(), Mutex::default());
        Self(Arc::new(Inner { source, fetch, clock, options, held, fetching }))
    }
}

impl KeyRing for RemoteKeys {
    fn key(&self, id: &str) -> MaybeReady<Result<Option<Arc<dyn VerifyingKey>>, KeyRingError>> {
        let inner = &self.0;
        let now = inner.clock.monotonic();
        let held = inner.held.load();
        let known = held.find(id);
        if held.is_younger(now, inner.options.refresh) && known.is_some() {
            return Ok(known).into();
        }
        if !held.is_due(now, inner.options.retry) && !inner.is_fetching() {
            return inner.without_fetching(&held, id, now).into();
        }
        let good = known.is_some() && held.is_younger(now, inner.options.keep);
        if good && held.failed {
            drop(inner.fetching());
            return Ok(known).into();
        }
        let (inner, id) = (Arc::clone(inner), Box::<str>::from(id));
        MaybeReady::wait(async move {
            // Ends when the fetch does, whoever began it.
            let mut fetching = inner.fetching();
            if good {
                let _ = tokio::time::timeout(inner.options.patience, fetching.changed()).await;
            } else {
                let _ = fetching.changed().await;
            }
            inner.without_fetching(&inner.held.load(), &id, inner.clock.monotonic())
        })
    }

    fn document(&self) -> Arc<str> {
        Arc::clone(&self.0.held.load().document)
    }
}

impl Inner {
    fn without_fetching(
        &self,
        held: &Held,
        id: &str,
        now: Instant,
    ) -> Result<Option<Arc<dyn VerifyingKey>>, KeyRingError> {
        if held.is_younger(now, self.options.keep) {
            return Ok(held.find(id));
        }
        let source = "the issuer's keys could not be fetched; see the log".into();
        Err(KeyRingError { issuer: self.source.name().into(), source })
    }

    fn is_fetching(&self) -> bool {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0
    }

    /// Fetches in a task of its own, one at a time: a caller who hangs up takes nothing from those who wait.
    fn fetching(self: &Arc<Self>) -> watch::Receiver<()> {
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = fetching.upgrade() {
            return under_way.subscribe();
        }
        let under_way = Arc::new(watch::Sender::new(()));
        let receiver = under_way.subscribe();
        *fetching = Arc::downgrade(&under_way);
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = inner.refresh().await {
                tracing::warn!(of = inner.source.name(), %error, "the keys of a trusted issuer cannot be fetched");
            }
            drop(under_way);
        });
        receiver
    }

    async fn refresh(&self) -> Result<(), BoxError> {
        let now = self.clock.monotonic();
        let before = Held::clone(&self.held.load());
        // Somebody who waited for the last fetch may have come too late for it.
        if !before.is_due(now, self.options.retry) {
            return Ok(());
        }
        let read = self.read(now).await;
        // An issuer that takes long to fail is not asked again as soon as it has.
        let tried = Some(self.clock.monotonic());
        let (held, done) = match read {
            Ok(held) => (held, Ok(())),
            Err(error) => (Held { failed: true, ..before }, Err(error)),
        };
        self.held.store(Arc::new(Held { tried, ..held }));
        done
    }

    async fn read(&self, now: Instant) -> Result<Held, BoxError> {
        let url = match &self.source {
            Source::At(url) => url.clone(),
            Source::Of(issuer) => metadata::jwks_uri(&*self.fetch, issuer).await?,
        };
        let answer = self.fetch.fetch(get_json(&url)?).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("status {}", answer.status).into());
        }
        let keys = PublicKey::read_set(&answer.body)?;
        let keys = keys.into_iter().filter_map(|key| Some((Box::from(key.id()?), Arc::new(key)))).collect();
        let document = String::from_utf8_lossy(&answer.body).into();
        Ok(Held { keys: Arc::new(keys), document, fetched: Some(now), tried: None, failed: false })
    }
}

impl Held {
    fn find(&self, id: &str) -> Option<Arc<dyn VerifyingKey>> {
        self.keys.get(id).map(|key| Arc::clone(key) as Arc<dyn VerifyingKey>)
    }

    fn is_younger(&self, now: Instant, than: Duration) -> bool {
        self.fetched.is_some_and(|at| now.saturating_duration_since(at) < than)
    }

    fn is_due(&self, now: Instant, retry: Duration) -> bool {
        self.tried.is_none_or(|at| now.saturating_duration_since(at) >= retry)
    }
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys").field("source", &self.0.source).finish_non_exhaustive()
    }
}
