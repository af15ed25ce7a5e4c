//! The suite of [`KeyManagement`].

use crate::contract::{KeyContext, KeyManagement, KeyManagementError, WrappedKey};
use crate::record::TenantId;

/// Runs every rule.
///
/// ```
/// use mcp_gateway_core::conformance::key_management;
/// use mcp_gateway_core::memory::MemoryKeys;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// key_management::suite(&MemoryKeys::new()).await;
/// # });
/// ```
///
/// # Panics
/// When a rule does not hold.
pub async fn suite(keys: &dyn KeyManagement) {
    keys_come_back(keys).await;
    a_wrapped_key_does_not_show_the_key(keys).await;
    another_context_is_a_mismatch(keys).await;
    a_changed_ciphertext_is_a_mismatch(keys).await;
    another_master_key_is_unknown(keys).await;
}

fn context(tenant: &str, purpose: &'static str) -> KeyContext {
    KeyContext { tenant: TenantId::new(tenant), purpose }
}

async fn wrap(keys: &dyn KeyManagement, key: &[u8]) -> WrappedKey {
    keys.wrap(key, &context("default", "resource")).await.expect("a provider that is there wraps")
}

async fn open(keys: &dyn KeyManagement, wrapped: &WrappedKey) -> Result<Vec<u8>, KeyManagementError> {
    keys.unwrap(wrapped, &context("default", "resource")).await.map(|key| key.to_vec())
}

async fn keys_come_back(keys: &dyn KeyManagement) {
    for length in [16_u8, 32, 64] {
        let key: Vec<u8> = (0..length).collect();
        let wrapped = wrap(keys, &key).await;
        assert_eq!(open(keys, &wrapped).await.expect("it opens"), key, "{length} bytes come back");
        // As it is kept in a record.
        let text = serde_json::to_string(&wrapped).expect("a wrapped key is JSON");
        let kept: WrappedKey = serde_json::from_str(&text).expect("and is read from it");
        assert_eq!(open(keys, &kept).await.expect("it opens after a restart"), key);
    }
}

async fn a_wrapped_key_does_not_show_the_key(keys: &dyn KeyManagement) {
    let key = [0xa5; 32];
    let wrapped = wrap(keys, &key).await;
    assert!(!wrapped.bytes.windows(8).any(|part| part == &key[..8]), "the key stands in the ciphertext");
}

async fn another_context_is_a_mismatch(keys: &dyn KeyManagement) {
    let wrapped = wrap(keys, &[7; 32]).await;
    for other in [context("default", "session"), context("other", "resource")] {
        let opened = keys.unwrap(&wrapped, &other).await;
        assert!(matches!(opened, Err(KeyManagementError::Mismatch)), "under {other:?}: {opened:?}");
    }
}

async fn a_changed_ciphertext_is_a_mismatch(keys: &dyn KeyManagement) {
    let wrapped = wrap(keys, &[7; 32]).await;
    let length = wrapped.bytes.len();
    let flipped = (0..length).map(|at| {
        let mut bytes = wrapped.bytes.clone();
        bytes[at] ^= 1;
        bytes
    });
    let cut = [Vec::new(), wrapped.bytes[..length / 2].to_vec(), wrapped.bytes[..length - 1].to_vec()];
    for bytes in flipped.chain(cut) {
        let opened = open(keys, &WrappedKey { bytes, ..wrapped.clone() }).await;
        assert!(matches!(opened, Err(KeyManagementError::Mismatch)), "a changed ciphertext: {opened:?}");
    }
}

async fn another_master_key_is_unknown(keys: &dyn KeyManagement) {
    let wrapped = WrappedKey { master: "no-such-master-key".to_owned(), ..wrap(keys, &[7; 32]).await };
    let opened = open(keys, &wrapped).await;
    assert!(matches!(opened, Err(KeyManagementError::UnknownMaster(_))), "{opened:?}");
}
