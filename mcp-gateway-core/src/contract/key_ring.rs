//! Keys that sign tokens, and keys that check them.

use std::sync::Arc;

use crate::{BoxError, MaybeReady};

/// Signs the tokens of one issuer.
///
/// Called whenever a token is made, not per call of the data plane. Dropping the future of a slow answer (a key that a
/// provider keeps) leaves nothing half done.
pub trait Signer: Send + Sync + 'static {
    /// Signs a JWT (RFC 7519) whose header has this `typ` and whose claims are this JSON object, with the newest key
    /// that every replica and every reader of the [published keys](KeyRing::document) has; in the compact form.
    fn sign(&self, typ: &'static str, claims: &[u8]) -> MaybeReady<Result<String, KeyRingError>>;
}

/// The public keys of one issuer.
///
/// Asked on every call, also for a token that is remembered: whoever withdraws a key ends what it signed. Answers from
/// memory where it can. Clones of the keys may be kept for the length of a check, not longer.
pub trait KeyRing: Send + Sync + 'static {
    /// The key of this id. `Ok(None)` costs no signature: nobody ever signed with it, or it is retired.
    fn key(&self, id: &str) -> MaybeReady<Result<Option<Arc<dyn VerifyingKey>>, KeyRingError>>;

    /// The JWK Set (RFC 7517 §5) as it is published: keys of tomorrow included, private parts never.
    fn document(&self) -> Arc<str>;
}

/// A public key.
pub trait VerifyingKey: Send + Sync {
    /// The one algorithm (RFC 7518 §3.1) that it is used with, for example `ES256`; never that of the token's header.
    fn algorithm(&self) -> &'static str;

    /// Whether the signature is this key's over the message. Costs 30 to 100 µs of CPU.
    fn verify(&self, message: &[u8], signature: &[u8]) -> bool;
}

/// Keys cannot be had now: 503, never 401.
#[derive(Debug, thiserror::Error)]
#[error("the keys of {issuer} cannot be used now")]
pub struct KeyRingError {
    /// Whose.
    pub issuer: Arc<str>,
    /// Why.
    #[source]
    pub source: BoxError,
}
