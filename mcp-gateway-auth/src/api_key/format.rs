//! The text of a key.

use std::fmt;

use mcp_gateway_core::record::Secret;
use rand::RngExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const PREFIX: &str = "mcpgw_";
const ID: usize = 26;
const SECRET: usize = 43;
const CRC: usize = 6;

/// The alphabet of ids: RFC 4648 base32, lowered, so that an id is a valid file name, label and log word.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The alphabet of secrets and checksums: letters and digits, so that a double click selects a whole key.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Which bytes they have: asked for 69 bytes of every call.
static IN_BASE32: [bool; 256] = members(BASE32);
static IN_BASE62: [bool; 256] = members(BASE62);

const fn members(alphabet: &[u8]) -> [bool; 256] {
    let mut members = [false; 256];
    let mut at = 0;
    while at < alphabet.len() {
        members[alphabet[at] as usize] = true;
        at += 1;
    }
    members
}

/// A key as a caller sent it: the right form, its checksum right, its secret not yet compared.
///
/// `mcpgw_<id>_<secret><crc>`: the prefix lets secret scanners find keys that leaked; the id (26 characters of base32,
/// 128 bits) finds the record; the secret (43 characters of base62, over 256 bits) proves it; the checksum (CRC-32, 6
/// characters of base62) tells a typing error from a revoked key without a lookup. Every part has a fixed length.
///
/// ```
/// use mcp_gateway_auth::api_key::{KeyText, NewKeyText};
///
/// let key = NewKeyText::generate();
/// let sent = KeyText::parse(key.text.expose().as_bytes()).unwrap();
/// assert_eq!(sent.id(), &*key.id);
/// assert!(sent.matches(&key.secret_sha256));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyText<'a> {
    id: &'a str,
    secret: &'a str,
}

impl<'a> KeyText<'a> {
    /// Bytes of every key.
    pub const LENGTH: usize = PREFIX.len() + ID + 1 + SECRET + CRC;

    /// Whether this is meant to be a key: it begins like one.
    #[must_use]
    pub fn is_meant(bytes: &[u8]) -> bool {
        bytes.starts_with(PREFIX.as_bytes())
    }

    /// Reads a key. Allocates nothing.
    ///
    /// # Errors
    /// [`KeyFormatError`] when it is cut, has a character too many, or was mistyped.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, KeyFormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| KeyFormatError)?;
        if text.len() != Self::LENGTH || !text.is_ascii() || !text.starts_with(PREFIX) {
            return Err(KeyFormatError);
        }
        let (body, crc) = text.split_at(text.len() - CRC);
        let (id, rest) = body[PREFIX.len()..].split_at(ID);
        let secret = rest.strip_prefix('_').ok_or(KeyFormatError)?;
        let of = |alphabet: &[bool; 256], text: &str| text.bytes().all(|byte| alphabet[usize::from(byte)]);
        if !of(&IN_BASE32, id) || !of(&IN_BASE62, secret) || checksum(body.as_bytes()) != crc.as_bytes() {
            return Err(KeyFormatError);
        }
        Ok(Self { id, secret })
    }

    /// The id, by which the record is found.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Whether the secret is the one of this hash; takes the same time wherever they differ.
    #[must_use]
    pub fn matches(&self, secret_sha256: &[u8; 32]) -> bool {
        Sha256::digest(self.secret).as_slice().ct_eq(secret_sha256).into()
    }
}

impl fmt::Debug for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyText").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key that was just made. Only its parts may be kept, never its text.
#[derive(Debug, Clone)]
pub struct NewKeyText {
    /// The id part.
    pub id: Box<str>,
    /// The SHA-256 of the secret part.
    pub secret_sha256: [u8; 32],
    /// The whole key, to be shown once.
    pub text: Secret,
}

impl NewKeyText {
    /// Makes a key from the operating system's seeded CSPRNG.
    #[must_use]
    pub fn generate() -> Self {
        let mut random = rand::rng();
        let mut text = String::with_capacity(KeyText::LENGTH);
        text.push_str(PREFIX);
        // 26 characters hold 130 bits: two more than promised.
        text.extend((0..ID).map(|_| char::from(BASE32[random.random_range(0..BASE32.len())])));
        text.push('_');
        text.extend((0..SECRET).map(|_| char::from(BASE62[random.random_range(0..BASE62.len())])));
        let crc = checksum(text.as_bytes());
        let id = text[PREFIX.len()..][..ID].into();
        let secret_sha256 = Sha256::digest(&text[PREFIX.len() + ID + 1..]).into();
        text.extend(crc.map(char::from));
        Self { id, secret_sha256, text: Secret::new(text) }
    }
}

/// The text is not a key of this gateway: cut, extended or mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API key is incomplete or mistyped")]
pub struct KeyFormatError;

/// CRC-32 (ISO-HDLC) in base62, most significant digit first.
fn checksum(body: &[u8]) -> [u8; CRC] {
    let mut rest = crc32fast::hash(body) as usize;
    let mut text = [0; CRC];
    for place in text.iter_mut().rev() {
        *place = BASE62[rest % BASE62.len()];
        rest /= BASE62.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_have_the_published_form() {
        let key = NewKeyText::generate();
        let text = key.text.expose();
        assert_eq!((text.len(), KeyText::LENGTH), (82, 82));
        assert!(text.starts_with(&format!("mcpgw_{}_", key.id)));
        assert_ne!(text, NewKeyText::generate().text.expose());
        assert!(!format!("{key:?}{:?}", KeyText::parse(text.as_bytes())).contains(&text[33..]));
    }

    #[test]
    fn the_form_never_changes() {
        // Keys in the field must stay readable: one that was written down.
        let fixed = "mcpgw_abcdefghijklmnopqrstuvwxyz_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg";
        let text = format!("{fixed}{}", std::str::from_utf8(&checksum(fixed.as_bytes())).unwrap());
        assert_eq!(&text[76..], "31nJzU");
        assert_eq!(KeyText::parse(text.as_bytes()).unwrap().id(), "abcdefghijklmnopqrstuvwxyz");
    }

    #[test]
    fn lengths_are_exact() {
        let key = NewKeyText::generate();
        let text = key.text.expose();
        assert_eq!(KeyText::parse(&text.as_bytes()[..81]), Err(KeyFormatError));
        assert_eq!(KeyText::parse(format!("{text}0").as_bytes()), Err(KeyFormatError));
        assert_eq!(KeyText::parse(b""), Err(KeyFormatError));
    }

    proptest! {
        #[test]
        fn every_single_mistake_is_noticed(at in 0..KeyText::LENGTH, byte in 0x21_u8..0x7f) {
            let key = NewKeyText::generate();
            let mut text = key.text.expose().as_bytes().to_vec();
            prop_assume!(text[at] != byte);
            text[at] = byte;
            prop_assert_eq!(KeyText::parse(&text), Err(KeyFormatError));
        }

        #[test]
        fn another_secret_never_matches(_ in 0..16) {
            let (one, other) = (NewKeyText::generate(), NewKeyText::generate());
            let sent = KeyText::parse(one.text.expose().as_bytes()).unwrap();
            prop_assert!(sent.matches(&one.secret_sha256));
            prop_assert!(!sent.matches(&other.secret_sha256));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = KeyText::parse(&bytes);
        }
    }
}
