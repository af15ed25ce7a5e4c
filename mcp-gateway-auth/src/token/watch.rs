//! Opaque tokens while something is open that was opened with them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::{AuthError, Resource};
use mcp_gateway_core::record::{CredentialWatch, Secret};
use rand::RngExt as _;
use tokio::time::Instant;

use super::Introspection;
use super::authenticator::Inner;
use super::verified::TokenHash;

/// The shortest time between two questions for one stream, however short answers are remembered.
const LEAST: Duration = Duration::from_secs(1);
/// The longest one while the issuer does not answer, and half as much again at most.
const MOST: Duration = Duration::from_secs(30);

/// Asks about an opaque token again when what is remembered of it ends: its issuer tells nobody of a revocation.
pub(super) struct OpaqueWatch {
    /// What is remembered there holds this.
    inner: Weak<Inner>,
    token: Arc<Secret>,
    hash: TokenHash,
    resource: Resource,
}

impl OpaqueWatch {
    pub(super) fn new(inner: &Arc<Inner>, token: &[u8], hash: TokenHash, resource: &Resource) -> Self {
        // Whoever could be asked about it was sent text.
        let token = Arc::new(Secret::new(String::from_utf8_lossy(token).into_owned()));
        Self { inner: Arc::downgrade(inner), token, hash, resource: resource.clone() }
    }
}

impl CredentialWatch for OpaqueWatch {
    fn over(&self) -> BoxFuture<()> {
        let (inner, token, hash) = (Weak::clone(&self.inner), Arc::clone(&self.token), self.hash);
        let resource = self.resource.clone();
        Box::pin(async move {
            let (mut heard, mut pause) = (Instant::now(), LEAST);
            loop {
                let Some(left) = inner.upgrade().map(|inner| inner.remembered_for(&hash)) else { return };
                // Many wait for the same issuer.
                let pause_now = pause.mul_f64(rand::rng().random_range(1.0..1.5));
                tokio::time::sleep(left.unwrap_or_default().max(pause_now)).await;
                let Some(inner) = inner.upgrade() else { return };
                match inner.still(token.expose().as_bytes(), hash, &resource).await {
                    Ok(()) => (heard, pause) = (Instant::now(), LEAST),
                    Err(AuthError::Unavailable(_)) if heard.elapsed() < Introspection::AWAY => {
                        pause = (pause * 2).min(MOST);
                    }
                    Err(_) => return,
                }
            }
        })
    }
}
