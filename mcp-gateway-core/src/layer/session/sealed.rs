//! Sessions that are sealed with the ring of session keys.

use http::HeaderValue;

use super::{SessionCodec, SessionError};
use crate::context::{Agreed, Elicitation, SessionFacts};
use crate::contract::Incarnation;
use crate::record::Principal;
use crate::seal::{self, EventIds, SessionOwner, SessionPlain, SessionSealer};
use crate::wire::version::ProtocolVersion;

/// A session begins when it is sealed first, on the clock of the sealer's ring.
impl SessionCodec for SessionSealer {
    fn seal(
        &self,
        upstream_id: &str,
        incarnation: &Incarnation,
        agreed: Agreed,
        server: &str,
        principal: &Principal,
    ) -> Result<HeaderValue, SessionError> {
        let plain = SessionPlain {
            upstream_id: upstream_id.into(),
            incarnation: incarnation.clone(),
            issued_at: self.now(),
            flags: flags(agreed),
        };
        Self::seal(self, &plain, SessionOwner::new(server, principal)).map_err(|error| match error {
            seal::SessionError::NoKey => SessionError::NoKey,
            _ => SessionError::BadUpstreamId,
        })
    }

    fn open(&self, sealed: &HeaderValue, server: &str, principal: &Principal) -> Option<SessionFacts> {
        let opened = Self::open(self, sealed.as_bytes(), SessionOwner::new(server, principal))?;
        Some(SessionFacts {
            upstream_id: opened.plain.upstream_id,
            incarnation: opened.plain.incarnation,
            agreed: agreed(opened.plain.flags),
            sealed: sealed.clone(),
            hash: opened.hash,
        })
    }

    fn event_ids(&self, sealed: &HeaderValue) -> Option<EventIds> {
        Self::event_ids(self, sealed.as_bytes())
    }
}

/// Set when the client can show a form.
const FORM: u16 = 1 << 8;
/// Set when the client can send its user to an address.
const URL: u16 = 1 << 9;

/// The low byte is the version's place in the list, which only grows at its end, plus one; 0 is none that is known.
fn flags(agreed: Agreed) -> u16 {
    let known = |version| ProtocolVersion::ALL.iter().position(|&known| known == version);
    let version = agreed.version.and_then(known).and_then(|at| u8::try_from(at + 1).ok()).unwrap_or_default();
    let set = |is: bool, flag: u16| if is { flag } else { 0 };
    u16::from(version) | set(agreed.elicitation.form, FORM) | set(agreed.elicitation.url, URL)
}

fn agreed(flags: u16) -> Agreed {
    let [_, version] = flags.to_be_bytes();
    Agreed {
        version: usize::from(version).checked_sub(1).and_then(|at| ProtocolVersion::ALL.get(at)).copied(),
        elicitation: Elicitation { form: flags & FORM != 0, url: flags & URL != 0 },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::contract::SystemClock;
    use crate::memory::{MemoryKeys, MemoryStore};
    use crate::seal::{RingOptions, SessionKeyRing};

    #[tokio::test]
    async fn a_session_keeps_what_was_agreed_on() {
        let clock = Arc::new(SystemClock);
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let ring =
            SessionKeyRing::open(store, Arc::new(MemoryKeys::new()), clock, RingOptions::default()).await.unwrap();
        let codec: &dyn SessionCodec = &SessionSealer::new(ring);
        let (incarnation, ada) = (Incarnation("a~1".into()), Principal::new("local", "ada"));
        for version in ProtocolVersion::ALL.iter().copied().map(Some).chain([None]) {
            for (form, url) in [(false, false), (true, false), (false, true), (true, true)] {
                let agreed = Agreed { version, elicitation: Elicitation { form, url } };
                let sealed = codec.seal("s", &incarnation, agreed, "a", &ada).unwrap();
                assert_eq!(codec.open(&sealed, "a", &ada).unwrap().agreed, agreed);
            }
        }
        // A version that a later program knows.
        assert_eq!(agreed(0xff).version, None);
    }
}
