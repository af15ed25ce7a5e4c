//! Wrapping of data keys.

use async_trait::async_trait;
use zeroize::Zeroizing;

/// Wraps data keys with a master key that never leaves the provider.
///
/// Called when a data key is made or first used after a start, never per call. Cancel safe.
#[async_trait]
pub trait KeyManagement: Send + Sync + 'static {
    /// Encrypts a data key under the context.
    async fn wrap(&self, key: &[u8], context: &KeyContext) -> Result<WrappedKey, KeyManagementError>;

    /// Decrypts a data key; another context than it was wrapped under is [`KeyManagementError::Mismatch`].
    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &KeyContext,
    ) -> Result<Zeroizing<Vec<u8>>, KeyManagementError>;
}

/// What a wrapped key is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyContext {
    /// Whose data it protects.
    pub tenant: crate::record::TenantId,
    /// What for, for example `resource` or `session`.
    pub purpose: &'static str,
}

/// A data key under a master key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct WrappedKey {
    /// Which master key.
    pub master: String,
    /// The ciphertext, in the provider's own form.
    pub bytes: Vec<u8>,
}

/// Why a key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyManagementError {
    /// The provider does not answer; retried.
    #[error("the key provider cannot be reached")]
    Unavailable(#[source] crate::BoxError),
    /// The master key is not known to this provider.
    #[error("the master key {0:?} is not known")]
    UnknownMaster(String),
    /// The ciphertext does not belong to this context or key.
    #[error("the wrapped key does not belong here")]
    Mismatch,
}
