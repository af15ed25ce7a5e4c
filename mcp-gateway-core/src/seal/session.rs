//! Legacy sessions, sealed: the gateway remembers none.

use std::sync::Arc;

use aes_gcm_siv::Nonce;
use aes_gcm_siv::aead::{Aead, Payload};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

use super::aead::{Secret256, associated};
use super::event_id::EventIds;
use super::ring::{RingKey, SessionKeyRing};
use crate::context::hex_of;
use crate::contract::Incarnation;
use crate::record::{Actor, ActorKind, Principal, Subject};

/// The first byte of every sealed session.
const VERSION: u8 = 1;
/// Version and key id.
const HEAD: usize = 1 + 4;
/// Time, flags, length of the incarnation.
const FIXED: usize = 8 + 2 + 2;
const TAG: usize = 16;
/// The same for every session: AES-GCM-SIV (RFC 8452) then is deterministic, so that a session always reads the same,
/// and tells an observer nothing but that two equal ids are equal. It bears far more than 2³² sessions a key.
const NONCE: [u8; 12] = *b"mcp-gw-sess1";

/// Turns an upstream's session id into one that only this gateway reads, and back.
///
/// The text is `base64url(version | key id | AES-256-GCM-SIV(issued at, flags, incarnation, upstream id))`. It is bound
/// to tenant, server and principal (subject and actor, never a token): in other hands, or at another server, it does
/// not open. Any replica opens what any other sealed. Nothing expires before the longest life of a session.
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::{Clock as _, Incarnation, SystemClock};
/// use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
/// use mcp_gateway_core::record::Principal;
/// use mcp_gateway_core::seal::{RingOptions, SessionKeyRing, SessionOwner, SessionPlain, SessionSealer};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let clock = Arc::new(SystemClock);
/// let store = Arc::new(MemoryStore::new(clock.clone()));
/// let keys = Arc::new(MemoryKeys::new());
/// let ring = SessionKeyRing::open(store, keys, clock.clone(), RingOptions::default()).await.unwrap();
/// let sealer = SessionSealer::new(ring);
///
/// let (ada, bob) = (Principal::new("local", "ada"), Principal::new("local", "bob"));
/// let session = SessionPlain {
///     upstream_id: "5f2c".into(),
///     incarnation: Incarnation("everything~1".into()),
///     issued_at: clock.now(),
///     flags: 0,
/// };
/// let id = sealer.seal(&session, SessionOwner::new("everything", &ada)).unwrap();
/// let opened = sealer.open(id.as_bytes(), SessionOwner::new("everything", &ada)).unwrap();
/// assert_eq!(&*opened.plain.upstream_id, "5f2c");
/// assert!(sealer.open(id.as_bytes(), SessionOwner::new("everything", &bob)).is_none());
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct SessionSealer {
    ring: Arc<SessionKeyRing>,
}

/// What a sealed session holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPlain {
    /// The upstream's own session id: 1 to 1,024 visible ASCII characters (0x21-0x7E, as MCP demands).
    pub upstream_id: Arc<str>,
    /// Which life of which workload it belongs to.
    pub incarnation: Incarnation,
    /// When it began, whole seconds.
    pub issued_at: Timestamp,
    /// Bits that the session layer gives a meaning: the negotiated version, what the client can do.
    pub flags: u16,
}

/// To whom and what a session is bound.
#[derive(Debug, Clone, Copy)]
pub struct SessionOwner<'a> {
    /// The resolved server's id, never an alias.
    pub server: &'a str,
    /// Whose session, with its tenant.
    pub subject: &'a Subject,
    /// With which credential: its kind and id, so that a token's refresh keeps the session.
    pub actor: &'a Actor,
}

impl<'a> SessionOwner<'a> {
    /// This principal at this server.
    #[must_use]
    pub fn new(server: &'a str, principal: &'a Principal) -> Self {
        Self { server, subject: &principal.subject, actor: &principal.actor }
    }

    fn associated(&self) -> Vec<u8> {
        let kind = match self.actor.kind {
            ActorKind::ApiKey => "api-key",
            ActorKind::Client => "client",
            ActorKind::Bootstrap => "bootstrap",
            ActorKind::Session => "session",
            ActorKind::Custom => "custom",
        };
        let Subject { tenant, issuer, id } = self.subject;
        associated("mcp-gateway session v1", &[tenant.as_str(), self.server, issuer, id, kind, &self.actor.id])
    }
}

/// A session that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// What it holds.
    pub plain: SessionPlain,
    /// A keyed hash of the sealed id, for logs and the audit trail: 32 hexadecimal digits.
    pub hash: Arc<str>,
}

/// Why a session cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// 502: the server broke the protocol.
    #[error("the server's session id is not 1 to 1,024 visible ASCII characters")]
    UpstreamId,
    /// The incarnation's name is longer than 512 bytes.
    #[error("the name of the incarnation is longer than 512 bytes")]
    Incarnation,
    /// 503: the ring is empty.
    #[error("there is no session key")]
    NoKey,
}

impl SessionSealer {
    /// Bytes of an upstream's session id.
    pub const UPSTREAM_ID: usize = 1_024;
    /// Bytes of an incarnation's name.
    pub const INCARNATION: usize = 512;
    /// Bytes of the longest sealed id.
    pub const LONGEST: usize = (HEAD + FIXED + Self::INCARNATION + Self::UPSTREAM_ID + TAG) * 4 / 3 + 4;

    /// Seals and opens with the keys of this ring.
    #[must_use]
    pub fn new(ring: Arc<SessionKeyRing>) -> Self {
        Self { ring }
    }

    /// Seals a session. Equal sessions of equal owners read the same until the ring turns.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn seal(&self, session: &SessionPlain, owner: SessionOwner<'_>) -> Result<HeaderValue, SessionError> {
        let key = self.ring.sealing_key().ok_or(SessionError::NoKey)?;
        seal(&key, session, owner)
    }

    /// Opens a session id as a client sent it; `None` when it was not sealed here for this owner, or is too old. All
    /// of these look alike to the caller: 404.
    #[must_use]
    pub fn open(&self, sealed: &[u8], owner: SessionOwner<'_>) -> Option<OpenedSession> {
        let bytes = decode(sealed)?;
        let key = self.ring.key(key_id(&bytes)?)?;
        let plain = open(&key, &bytes, owner)?;
        let max_age = SignedDuration::try_from(self.ring.max_age()).unwrap_or(SignedDuration::MAX);
        if self.ring.now().duration_since(plain.issued_at) > max_age {
            return None;
        }
        Some(OpenedSession { plain, hash: hash(&key, &bytes) })
    }

    /// What tags the event ids of a session that [opened](Self::open) or was sealed here; `None` when its key is not known.
    #[must_use]
    pub fn event_ids(&self, sealed: &[u8]) -> Option<EventIds> {
        let bytes = decode(sealed)?;
        let key = self.ring.key(key_id(&bytes)?)?;
        Some(EventIds::new(&mac(&key.event_key, &bytes)[..]))
    }

    /// The time on the ring's clock, by which sessions begin and end.
    pub(crate) fn now(&self) -> Timestamp {
        self.ring.now()
    }

    /// The keyed hash of a sealed id, the same that [`open`](Self::open) gives; `None` when its key is not known.
    #[must_use]
    pub fn hash(&self, sealed: &[u8]) -> Option<Arc<str>> {
        let bytes = decode(sealed)?;
        let key = self.ring.key(key_id(&bytes)?)?;
        Some(hash(&key, &bytes))
    }
}

/// Opens arbitrary bytes; for fuzz targets and property tests. Must not panic, and must not open.
#[doc(hidden)]
pub fn check(data: &[u8]) {
    let key = RingKey::new(7, Timestamp::UNIX_EPOCH, &[7; 32]);
    let principal = Principal::new("local", "fuzz");
    let owner = SessionOwner::new("server", &principal);
    if let Some(bytes) = decode(data) {
        // Without the key nobody makes something that opens.
        assert!(open(&key, &bytes, owner).is_none(), "a forged session opened");
    }
    // What lies behind the cipher must not trust its text either.
    if let Some(plain) = unpack(data) {
        assert_eq!(pack(&plain).as_deref(), Ok(data), "a session reads back as it was written");
    }
}

fn seal(key: &RingKey, session: &SessionPlain, owner: SessionOwner<'_>) -> Result<HeaderValue, SessionError> {
    let plain = pack(session)?;
    let payload = Payload { msg: &plain, aad: &owner.associated() };
    let sealed = key.cipher.encrypt(&Nonce::from(NONCE), payload);
    let sealed = sealed.expect("AES-GCM-SIV takes 64 GiB, and a session has less than 2 KiB");
    let bytes = [&[VERSION], &key.id().to_be_bytes()[..], &sealed].concat();
    let text = URL_SAFE_NO_PAD.encode(bytes);
    Ok(HeaderValue::try_from(text).expect("base64url is visible ASCII"))
}

fn open(key: &RingKey, bytes: &[u8], owner: SessionOwner<'_>) -> Option<SessionPlain> {
    let sealed = bytes.get(HEAD..)?;
    let payload = Payload { msg: sealed, aad: &owner.associated() };
    let plain = key.cipher.decrypt(&Nonce::from(NONCE), payload).ok()?;
    unpack(&plain)
}

fn decode(sealed: &[u8]) -> Option<Vec<u8>> {
    if sealed.len() > SessionSealer::LONGEST {
        return None;
    }
    URL_SAFE_NO_PAD.decode(sealed).ok()
}

fn key_id(bytes: &[u8]) -> Option<u32> {
    let (&[VERSION, a, b, c, d], _) = bytes.split_first_chunk::<HEAD>()? else { return None };
    Some(u32::from_be_bytes([a, b, c, d]))
}

fn hash(key: &RingKey, bytes: &[u8]) -> Arc<str> {
    hex_of(mac(&key.hash_key, bytes).first_chunk().expect("32 bytes have 16"))
}

fn mac(key: &Secret256, bytes: &[u8]) -> Secret256 {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("HMAC takes keys of every length");
    mac.update(bytes);
    Secret256::new(mac.finalize().into_bytes().into())
}

fn pack(session: &SessionPlain) -> Result<Vec<u8>, SessionError> {
    let SessionPlain { upstream_id, incarnation, issued_at, flags } = session;
    if !is_session_id(upstream_id.as_bytes()) {
        return Err(SessionError::UpstreamId);
    }
    let name = incarnation.0.as_bytes();
    let length = u16::try_from(name.len()).ok().filter(|length| usize::from(*length) <= SessionSealer::INCARNATION);
    let length = length.ok_or(SessionError::Incarnation)?;
    let mut bytes = Vec::with_capacity(FIXED + name.len() + upstream_id.len());
    bytes.extend_from_slice(&issued_at.as_second().to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(upstream_id.as_bytes());
    Ok(bytes)
}

fn unpack(bytes: &[u8]) -> Option<SessionPlain> {
    let (time, rest) = bytes.split_first_chunk()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length > SessionSealer::INCARNATION {
        return None;
    }
    let (name, upstream_id) = rest.split_at_checked(length)?;
    if !is_session_id(upstream_id) {
        return None;
    }
    Some(SessionPlain {
        upstream_id: std::str::from_utf8(upstream_id).ok()?.into(),
        incarnation: Incarnation(std::str::from_utf8(name).ok()?.into()),
        issued_at: Timestamp::from_second(i64::from_be_bytes(*time)).ok()?,
        flags: u16::from_be_bytes(*flags),
    })
}

/// MCP 2025-11-25, transports: visible ASCII.
fn is_session_id(bytes: &[u8]) -> bool {
    (1..=SessionSealer::UPSTREAM_ID).contains(&bytes.len()) && bytes.iter().all(|byte| (0x21..=0x7e).contains(byte))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
