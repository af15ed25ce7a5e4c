//! A master key that is gone with the process.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::contract::{KeyContext, KeyManagement, KeyManagementError, WrappedKey};
use crate::seal::MasterKey;

/// A [`KeyManagement`] with a random master key in memory: for tests and throw-away gateways.
///
/// It can be cut off, to see what a gateway does while its key provider is away.
///
/// ```
/// use mcp_gateway_core::contract::{KeyContext, KeyManagement as _, KeyManagementError};
/// use mcp_gateway_core::memory::MemoryKeys;
/// use mcp_gateway_core::record::TenantId;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let keys = MemoryKeys::new();
/// let context = KeyContext { tenant: TenantId::default(), purpose: "session" };
/// let wrapped = keys.wrap(b"key", &context).await.unwrap();
/// assert_eq!(**keys.unwrap(&wrapped, &context).await.unwrap(), *b"key");
/// keys.cut_off(true);
/// assert!(matches!(keys.unwrap(&wrapped, &context).await, Err(KeyManagementError::Unavailable(_))));
/// # });
/// ```
pub struct MemoryKeys {
    master: MasterKey,
    away: AtomicBool,
}

impl MemoryKeys {
    /// A fresh master key.
    #[must_use]
    pub fn new() -> Self {
        Self { master: MasterKey::random("memory"), away: AtomicBool::new(false) }
    }

    /// While cut off, everything is [`KeyManagementError::Unavailable`].
    pub fn cut_off(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    fn reach(&self) -> Result<&MasterKey, KeyManagementError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(KeyManagementError::Unavailable("cut off".into()));
        }
        Ok(&self.master)
    }
}

impl Default for MemoryKeys {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl KeyManagement for MemoryKeys {
    async fn wrap(&self, key: &[u8], context: &KeyContext) -> Result<WrappedKey, KeyManagementError> {
        self.reach()?.wrap(key, context)
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &KeyContext,
    ) -> Result<Zeroizing<Vec<u8>>, KeyManagementError> {
        self.reach()?.unwrap(wrapped, context)
    }
}

impl fmt::Debug for MemoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKeys").field("master", &self.master.name()).finish_non_exhaustive()
    }
}
