//! An authenticator of your own: bearer tokens whose hashes are lines of a file.
//!
//! ```sh
//! printf 'ada %s\n' "$(printf %s "open sesame" | sha256sum | cut -d' ' -f1)" > tokens
//! cargo run -p mcp-gateway-examples --bin own_authenticator -- tokens
//! curl -H 'Authorization: Bearer open sesame' http://127.0.0.1:3000/whoami
//! ```
//!
//! It stands alone behind an [`AuthenticateLayer`] here; in a whole gateway it is one of `Parts::authenticators`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use http::request::Parts;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuthError, Authenticator, Resource};
use mcp_gateway_core::layer::authenticate::{AuthenticateLayer, Caller};
use mcp_gateway_core::record::Principal;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).context("usage: own_authenticator FILE")?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, service(TokenFile::new(file, Duration::from_secs(10)))).await?)
}

/// A handler behind the authenticator.
pub(crate) fn service(tokens: TokenFile) -> Router {
    let resource = Resource { url: "http://127.0.0.1:3000".into(), metadata: None, server: None };
    let layer = AuthenticateLayer::new(resource, vec![Arc::new(tokens)]);
    Router::new().route("/whoami", get(whoami)).layer(layer)
}

async fn whoami(Caller(principal): Caller) -> String {
    format!("{}\n", principal.subject.id)
}

/// Knows callers by a file of lines `NAME SHA256`, and reads it again when what it remembers is older than `fresh`.
#[derive(Clone)]
pub(crate) struct TokenFile(Arc<Shared>);

struct Shared {
    path: PathBuf,
    fresh: Duration,
    known: RwLock<Option<(Instant, Known)>>,
}

/// By the hash of the token: a lookup tells an attacker's clock nothing about the token itself.
type Known = Arc<HashMap<String, Arc<Principal>>>;

impl TokenFile {
    pub(crate) fn new(path: impl Into<PathBuf>, fresh: Duration) -> Self {
        Self(Arc::new(Shared { path: path.into(), fresh, known: RwLock::default() }))
    }
}

impl Authenticator for TokenFile {
    fn authenticate(&self, parts: &Parts, _: &Resource) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        let token = parts.headers.get("authorization").and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        // Not of this kind: the next authenticator is asked.
        let Some(token) = token else { return Ok(None).into() };
        let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        // The usual call is answered from memory, and allocates no future.
        if let Some(known) = self.0.remembered() {
            return judge(&known, &hash).into();
        }
        let shared = Arc::clone(&self.0);
        MaybeReady::wait(async move { judge(&shared.read().await?, &hash) })
    }
}

fn judge(known: &Known, hash: &str) -> Result<Option<Arc<Principal>>, AuthError> {
    known.get(hash).cloned().map(Some).ok_or(AuthError::Invalid("no line of the file has this token"))
}

impl Shared {
    fn remembered(&self) -> Option<Known> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(read, _)| read.elapsed() < self.fresh).map(|(_, known)| Arc::clone(known))
    }

    async fn read(&self) -> Result<Known, AuthError> {
        // 503, not 401: the credential may well be good.
        let text = tokio::fs::read_to_string(&self.path).await.map_err(|error| AuthError::Unavailable(error.into()))?;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let known: Known =
            Arc::new(lines.map(|(name, hash)| (hash.to_owned(), Arc::new(Principal::new("file", name)))).collect());
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&known)));
        Ok(known)
    }
}
