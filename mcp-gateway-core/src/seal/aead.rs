//! The few cryptographic shapes that the rest of this folder is made of.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use rand::RngExt;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::contract::{KeyContext, KeyManagementError, WrappedKey};

/// A 256-bit secret, overwritten on drop.
pub(crate) type Secret256 = Zeroizing<[u8; 32]>;

/// A fresh secret from the thread's CSPRNG, which the operating system seeds.
pub(crate) fn random_secret() -> Secret256 {
    let mut secret = Zeroizing::new([0; 32]);
    rand::rng().fill(&mut secret[..]);
    secret
}

/// A sub-key for one purpose (HKDF-SHA-256, RFC 5869): keys of different labels tell nothing about each other.
pub(crate) fn derive(secret: &[u8; 32], label: &str) -> Secret256 {
    let mut key = Zeroizing::new([0; 32]);
    let hkdf = Hkdf::<Sha256>::new(None, secret);
    hkdf.expand(label.as_bytes(), &mut key[..]).expect("32 bytes are less than 255 blocks of SHA-256");
    key
}

/// Associated data: a label and parts, each preceded by its length, so that no two lists of parts read alike.
pub(crate) fn associated(label: &str, parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(label.len() + parts.iter().map(|part| part.len() + 4).sum::<usize>() + 4);
    for part in std::iter::once(&label).chain(parts) {
        // Parts are ids and names: far below 4 GiB, and a longer one would only repeat a length.
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

/// AES-256-GCM under a random nonce, which precedes the ciphertext.
#[derive(Clone)]
pub(crate) struct RandomNonceCipher(Aes256Gcm);

const NONCE: usize = 12;

impl RandomNonceCipher {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }

    /// `None` only for texts beyond 64 GiB.
    pub(crate) fn seal(&self, plain: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE] = rand::random();
        let sealed = self.0.encrypt(&Nonce::from(nonce), Payload { msg: plain, aad }).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    pub(crate) fn open(&self, sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        self.0.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad }).ok().map(Zeroizing::new)
    }
}

/// A master key in this process: wraps and unwraps keys under a context.
pub(crate) struct MasterKey {
    secret: Secret256,
    name: String,
}

impl MasterKey {
    /// The name is `{prefix}:` and eight bytes derived from the secret: it tells keys apart and nothing else.
    pub(crate) fn new(prefix: &str, secret: Secret256) -> Self {
        let id = derive(&secret, "mcp-gateway master key id v1");
        let name: String = id[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { secret, name: format!("{prefix}:{name}") }
    }

    pub(crate) fn random(prefix: &str) -> Self {
        Self::new(prefix, random_secret())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn wrap(&self, key: &[u8], context: &KeyContext) -> Result<WrappedKey, KeyManagementError> {
        let bytes = self.cipher(context).seal(key, &aad(context)).ok_or(KeyManagementError::Mismatch)?;
        Ok(WrappedKey { master: self.name.clone(), bytes })
    }

    pub(crate) fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &KeyContext,
    ) -> Result<Zeroizing<Vec<u8>>, KeyManagementError> {
        if wrapped.master != self.name {
            return Err(KeyManagementError::UnknownMaster(wrapped.master.clone()));
        }
        self.cipher(context).open(&wrapped.bytes, &aad(context)).ok_or(KeyManagementError::Mismatch)
    }

    fn cipher(&self, context: &KeyContext) -> RandomNonceCipher {
        RandomNonceCipher::new(&derive(&self.secret, &format!("mcp-gateway wrap v1 {}", context.purpose)))
    }
}

fn aad(context: &KeyContext) -> Vec<u8> {
    associated("mcp-gateway wrapped key v1", &[context.tenant.as_str(), context.purpose])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TenantId;

    fn context(tenant: &str, purpose: &'static str) -> KeyContext {
        KeyContext { tenant: TenantId::new(tenant), purpose }
    }

    #[test]
    fn wrapped_keys_open_under_their_context_and_master_alone() {
        let master = MasterKey::random("test");
        let wrapped = master.wrap(b"key", &context("a", "resource")).unwrap();
        assert_eq!(**master.unwrap(&wrapped, &context("a", "resource")).unwrap(), *b"key");
        for other in [context("b", "resource"), context("a", "session")] {
            assert!(matches!(master.unwrap(&wrapped, &other), Err(KeyManagementError::Mismatch)));
        }
        let stranger = MasterKey::random("test");
        let unknown = stranger.unwrap(&wrapped, &context("a", "resource"));
        assert!(matches!(unknown, Err(KeyManagementError::UnknownMaster(name)) if name == master.name()));
        for length in 0..wrapped.bytes.len() {
            let cut = WrappedKey { bytes: wrapped.bytes[..length].to_vec(), ..wrapped.clone() };
            assert!(matches!(master.unwrap(&cut, &context("a", "resource")), Err(KeyManagementError::Mismatch)));
        }
    }

    #[test]
    fn associated_data_is_unambiguous() {
        assert_ne!(associated("x", &["ab", "c"]), associated("x", &["a", "bc"]));
        assert_ne!(associated("x", &["a"]), associated("x", &["a", ""]));
    }

    #[test]
    fn derived_keys_follow_rfc_5869() {
        // Computed with an independent implementation (Python's hmac, RFC 5869 §2).
        let key = derive(&[7; 32], "mcp-gateway wrap v1 resource");
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "e0aa8b087b0ac382c3e6dafffbcb2519714746be775cf26af895e20178bf0930");
    }
}
