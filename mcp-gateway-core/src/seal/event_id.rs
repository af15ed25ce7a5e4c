//! Event ids, bound to the session that they were issued in.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Between an upstream's event id and its tag.
const SEPARATOR: u8 = b'~';
/// Bytes of the authenticator, and of its text.
const MAC: usize = 16;
const MAC_TEXT: usize = 22;

/// Tags the event ids of one session, so that nobody resumes with an id that another session was given.
///
/// A server may keep the events of all its sessions in one place and look them up by id alone. The id that a client
/// gets is the server's own, `~`, and a tag that only this session's ids have; any replica checks it, and none remembers
/// ids.
///
/// ```
/// use mcp_gateway_core::seal::EventIds;
///
/// let (one, other) = (EventIds::new(b"a secret of one session"), EventIds::new(b"a secret of another"));
/// let issued = [&b"0/7"[..], &one.tag(b"0/7")].concat();
/// assert_eq!(one.open(&issued), Some(&b"0/7"[..]));
/// assert_eq!(other.open(&issued), None);
/// ```
#[derive(Clone)]
pub struct EventIds(Hmac<Sha256>);

impl EventIds {
    /// Bytes by which a tag makes an id longer.
    pub const TAG: usize = 1 + MAC_TEXT;

    /// Tags with a secret that belongs to one session and is the same on every replica; at least 16 bytes.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of every length"))
    }

    /// What is to be put behind this id.
    #[must_use]
    pub fn tag(&self, id: &[u8]) -> [u8; Self::TAG] {
        let mut tag = self.begin();
        tag.update(id);
        tag.finish()
    }

    /// The same for an id that comes in pieces.
    pub(crate) fn begin(&self) -> EventTag {
        EventTag(self.0.clone())
    }

    /// The upstream's id, of one that was issued in this session; `None` for every other.
    #[must_use]
    pub fn open<'a>(&self, issued: &'a [u8]) -> Option<&'a [u8]> {
        let (id, tag) = issued.split_at_checked(issued.len().checked_sub(Self::TAG)?)?;
        let (&SEPARATOR, text) = tag.split_first()? else { return None };
        let claimed = URL_SAFE_NO_PAD.decode(text).ok().filter(|claimed| claimed.len() == MAC)?;
        let mut mac = self.0.clone();
        mac.update(id);
        mac.verify_truncated_left(&claimed).ok()?;
        (!id.is_empty()).then_some(id)
    }
}

impl fmt::Debug for EventIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventIds(..)")
    }
}

/// A tag to be.
pub(crate) struct EventTag(Hmac<Sha256>);

impl EventTag {
    pub(crate) fn update(&mut self, id: &[u8]) {
        self.0.update(id);
    }

    pub(crate) fn finish(self) -> [u8; EventIds::TAG] {
        let mac = self.0.finalize().into_bytes();
        let mut tag = [SEPARATOR; EventIds::TAG];
        URL_SAFE_NO_PAD.encode_slice(&mac[..MAC], &mut tag[1..]).expect("16 bytes are 22 characters");
        tag
    }
}
