//! Sessions that are sealed with the ring of session keys.

use http::HeaderValue;

use super::{SessionCodec, SessionError};
use crate::context::SessionFacts;
use crate::contract::Incarnation;
use crate::record::Principal;
use crate::seal::{self, EventIds, SessionOwner, SessionPlain, SessionSealer};

/// A session begins when it is sealed first, on the clock of the sealer's ring.
impl SessionCodec for SessionSealer {
    fn seal(
        &self,
        upstream_id: &str,
        incarnation: &Incarnation,
        server: &str,
        principal: &Principal,
    ) -> Result<HeaderValue, SessionError> {
        let plain = SessionPlain {
            upstream_id: upstream_id.into(),
            incarnation: incarnation.clone(),
            issued_at: self.now(),
            flags: 0,
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
            sealed: sealed.clone(),
            hash: opened.hash,
        })
    }

    fn event_ids(&self, sealed: &HeaderValue) -> Option<EventIds> {
        Self::event_ids(self, sealed.as_bytes())
    }
}
