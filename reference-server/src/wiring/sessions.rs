//! Sealed sessions for the session layer.

use std::sync::Arc;

use http::HeaderValue;
use mcp_gateway_core::context::SessionFacts;
use mcp_gateway_core::contract::{Clock, Incarnation};
use mcp_gateway_core::layer::session::{SessionCodec, SessionError};
use mcp_gateway_core::record::Principal;
use mcp_gateway_core::seal::{self, SessionOwner, SessionPlain, SessionSealer};

/// A [`SessionSealer`] as the codec of the session layer.
pub(super) struct SealedSessions {
    pub(super) sealer: SessionSealer,
    pub(super) clock: Arc<dyn Clock>,
}

impl SessionCodec for SealedSessions {
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
            issued_at: self.clock.now(),
            flags: 0,
        };
        self.sealer.seal(&plain, SessionOwner::new(server, principal)).map_err(|error| match error {
            seal::SessionError::NoKey => SessionError::NoKey,
            _ => SessionError::BadUpstreamId,
        })
    }

    fn open(&self, sealed: &HeaderValue, server: &str, principal: &Principal) -> Option<SessionFacts> {
        let opened = self.sealer.open(sealed.as_bytes(), SessionOwner::new(server, principal))?;
        Some(SessionFacts {
            upstream_id: opened.plain.upstream_id,
            incarnation: opened.plain.incarnation,
            sealed: sealed.clone(),
            hash: opened.hash,
        })
    }
}
