//! What administrators do.

use mcp_gateway_core::contract::{StoreError, When, Write};
use mcp_gateway_core::record::Revoked;

use super::state::won;
use super::{AuthorizationServer, ClientAuthentication, Grant, KnownBy, OAuthClient, client_key};

/// Rounds that are tried when a client's record changes at the same time.
const ATTEMPTS: usize = 3;
/// Grants that end in one commit.
const PAGE: usize = 100;

impl AuthorizationServer {
    /// Blocks a client: it gets nothing any more, and what it has ends at every replica as soon as that has applied the
    /// commit. A client that is known by its document alone can be blocked too.
    ///
    /// # Errors
    /// Those of the store; then the client may not be blocked.
    pub async fn block_client(&self, id: &str) -> Result<(), StoreError> {
        self.set_blocked(id, true).await
    }

    /// Lets a blocked client in again. Its grants are as they were; access tokens of before the block are good again
    /// until their end.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unblock_client(&self, id: &str) -> Result<(), StoreError> {
        self.set_blocked(id, false).await
    }

    /// Ends all that a person, a client or a login has: its grants for ever, its access tokens at every replica as soon
    /// as that has applied the commits. Returns how many grants there were.
    ///
    /// # Errors
    /// Those of the store; then call it again, for some may have ended.
    pub async fn end_grants(&self, of: Revoked<'_>) -> Result<usize, StoreError> {
        let inner = &self.0;
        // First, so that no token is made of a grant that is about to go.
        let revoke = inner.state.revoke(of, "ended by an administrator or a logout", &*inner.clock)?;
        inner.state.commit(vec![revoke]).await?;
        let Some(term) = Grant::ended_with(of) else { return Ok(0) };
        let (mut count, mut after) = (0, None);
        loop {
            let (page, next) = inner.state.grants.list(Some(term.clone()), after.as_deref(), PAGE).await?;
            let key = |id: &str| inner.state.grants.key(id);
            let writes: Vec<Write> =
                page.iter().map(|grant| Write::Delete { key: key(&grant.id), when: When::Any }).collect();
            count += writes.len();
            if !writes.is_empty() {
                inner.state.commit(writes).await?;
            }
            let Some(next) = next else { return Ok(count) };
            after = Some(next);
        }
    }

    async fn set_blocked(&self, id: &str, blocked: bool) -> Result<(), StoreError> {
        let inner = &self.0;
        let key = client_key(id);
        for attempt in 1.. {
            let kept = inner.state.clients.get(&key).await?;
            let when = kept.as_ref().map_or(When::Absent, |kept| When::At(kept.revision));
            let client = kept.map_or_else(|| self.unknown(), |kept| kept.value);
            let client = OAuthClient { blocked, ..client };
            // A block does not expire.
            let life = client.life().filter(|_| !blocked);
            let put = inner.state.clients.put(&key, &client, life, when)?;
            let end = if blocked {
                inner.state.revoke(Revoked::Client(id), "the client is blocked", &*inner.clock)?
            } else {
                Write::Delete { key: inner.state.revocation_key(Revoked::Client(id)), when: When::Any }
            };
            let committed = inner.state.commit(vec![put, end]).await;
            if attempt == ATTEMPTS {
                return committed;
            }
            if won(committed)? {
                break;
            }
        }
        Ok(())
    }

    /// A client of which nothing is kept: it stands for a document.
    fn unknown(&self) -> OAuthClient {
        OAuthClient {
            name: None,
            known_by: KnownBy::Document,
            redirect_uris: Vec::new(),
            authentication: ClientAuthentication::None,
            grants: Vec::new(),
            resource_server: None,
            management_sha256: None,
            blocked: false,
            created_at: self.0.clock.now(),
            used_at: None,
        }
    }
}
