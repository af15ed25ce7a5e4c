//! What administrators do.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mcp_gateway_core::contract::{Revision, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{Revoked, Secret, Stored, Subject};

use super::client::hex_hash;
use super::consent::Consent;
use super::state::won;
use super::{
    AuthorizationServer, ClientAuthentication, Grant, GrantType, KnownBy, OAuthClient, RedirectKind, ServerLimits,
    client_key, random,
};
use crate::token::PublicKey;

/// Rounds that are tried when a client's record changes at the same time.
const ATTEMPTS: usize = 3;

/// A client that an administrator makes.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct NewClient {
    /// Its name, for people.
    pub name: String,
    /// Where browsers may be sent back to: none for a client that calls for itself alone.
    pub redirect_uris: Vec<String>,
    /// Whether it gets a secret; one that has [keys](Self::keys) needs none.
    pub secret: bool,
    /// A JWK Set, for a client that proves who it is by signatures.
    pub keys: Option<String>,
    /// What it may do; for people's rights when it has redirect URIs, for itself when it has none.
    pub grants: BTreeSet<GrantType>,
    /// The server that it is, when it may introspect the tokens that are for it.
    pub resource_server: Option<String>,
}

/// A client that was just made.
#[derive(Debug)]
pub struct CreatedClient {
    /// Its id.
    pub id: String,
    /// Its secret, if it has one: shown once.
    pub secret: Option<Secret>,
    /// The client.
    pub client: OAuthClient,
    /// From when on it is known.
    pub revision: Revision,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// What was asked for cannot be.
    #[error("{field} {problem}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such client or grant.
    #[error("there is none of this id")]
    Missing,
    /// The client is blocked: without its record it could come again. Unblock it first.
    #[error("the client is blocked; unblock it before it is deleted")]
    Blocked,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NewClient {
    /// A public client of this name, without anything else yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    fn accept(self, now: Timestamp) -> Result<(OAuthClient, Option<Secret>), AdminError> {
        let wrong = |field, problem: &str| Err(AdminError::Invalid { field, problem: problem.to_owned() });
        if self.name.is_empty() || self.name.len() > ServerLimits::CLIENT_NAME || self.name.contains(char::is_control) {
            return wrong("name", "must be 1 to 128 bytes of text without control characters");
        }
        if self.redirect_uris.len() > ServerLimits::REDIRECT_URIS {
            return wrong("redirect_uris", "must be at most 20");
        }
        for uri in &self.redirect_uris {
            if let Err(why) = RedirectKind::of(uri) {
                return wrong("redirect_uris", &format!("must be safe places: {uri:?} {why}"));
            }
        }
        let secret = (self.secret && self.keys.is_none()).then(|| Secret::new(random()));
        let authentication = match (&secret, self.keys) {
            (Some(secret), _) => ClientAuthentication::Secret { sha256: hex_hash(secret.expose()) },
            (None, Some(keys)) => {
                let usable = keys.len() <= ServerLimits::CLIENT_KEYS
                    && PublicKey::read_set(keys.as_bytes()).is_ok_and(|keys| !keys.is_empty());
                if !usable {
                    return wrong("jwks", "must be a JWK Set of up to 16 KiB with a key that can be used");
                }
                ClientAuthentication::PrivateKeyJwt { keys }
            }
            (None, None) => ClientAuthentication::None,
        };
        let grants: Vec<GrantType> = match (self.grants.is_empty(), self.redirect_uris.is_empty()) {
            (false, _) => self.grants.into_iter().collect(),
            (true, false) => vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            (true, true) => vec![GrantType::ClientCredentials],
        };
        let for_people = grants.contains(&GrantType::AuthorizationCode);
        if for_people && self.redirect_uris.is_empty() {
            return wrong("redirect_uris", "must have an entry for a client that sends people to log in");
        }
        let needs_proof = [GrantType::ClientCredentials, GrantType::JwtBearer];
        let proves = authentication != ClientAuthentication::None;
        if !proves && (grants.iter().any(|grant| needs_proof.contains(grant)) || self.resource_server.is_some()) {
            return wrong("secret", "must be true, or jwks given, for a client that calls for itself or introspects");
        }
        let client = OAuthClient {
            client_id: None,
            name: Some(self.name),
            known_by: KnownBy::Operator,
            redirect_uris: self.redirect_uris,
            authentication,
            grants,
            resource_server: self.resource_server,
            management_sha256: None,
            blocked: false,
            approved: false,
            issuer: None,
            created_at: now,
            used_at: None,
        };
        Ok((client, secret))
    }
}

impl AuthorizationServer {
    /// Makes a client that needs no approval.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn create_client(&self, new: NewClient) -> Result<CreatedClient, AdminError> {
        let inner = &self.0;
        let (client, secret) = new.accept(inner.clock.now())?;
        let id = random();
        let revision = inner.state.clients.save(&id, &client, When::Absent).await?;
        Ok(CreatedClient { id, secret, client, revision })
    }

    /// Whether the policy, an administrator or its maker lets a client be used.
    #[must_use]
    pub fn may_be_used(&self, client: &OAuthClient) -> bool {
        let allowed = |uri: &String| RedirectKind::of(uri).is_ok_and(|kind| self.0.approves(client, &kind));
        !client.blocked && (client.redirect_uris.is_empty() || client.redirect_uris.iter().any(allowed))
    }

    /// Reads a client.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn client(&self, id: &str) -> Result<Option<Stored<OAuthClient>>, StoreError> {
        if id.is_empty() || id.len() > ServerLimits::CLIENT_ID {
            return Ok(None);
        }
        self.0.state.clients.get(&client_key(id)).await
    }

    /// Reads a page of clients, in the order of ids, and where the next begins.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn clients(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<OAuthClient>>, Option<Box<str>>), StoreError> {
        self.0.state.clients.list(None, after, limit).await
    }

    /// Deletes a client, and ends what it has at every replica. One that is known by its document may come again, and
    /// people are asked again; one that is to stay away is blocked.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn delete_client(&self, id: &str) -> Result<(), AdminError> {
        let inner = &self.0;
        for attempt in 1.. {
            let kept = self.client(id).await?.ok_or(AdminError::Missing)?;
            if kept.value.blocked {
                return Err(AdminError::Blocked);
            }
            let client = Revoked::Client(OAuthClient::id_of(&kept));
            let delete = Write::Delete { key: inner.state.clients.key(&kept.id), when: When::At(kept.revision) };
            // A client that is known by its document can come again.
            let revoke = inner.state.revoke_past(client, "the client was deleted", &*inner.clock)?;
            match inner.state.commit(vec![delete, revoke]).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && attempt < ATTEMPTS => continue,
                done => done?,
            }
            self.forget(client).await.map_err(StoreError::halfway)?;
            break;
        }
        Ok(())
    }

    /// Approves a client that the policy lets wait: it may be used, wherever it sends browsers, as long as it says the
    /// same of itself. With `shown`, only if it is still what was shown then.
    ///
    /// # Errors
    /// [`AdminError`]; a `shown` that does not hold is a conflict.
    pub async fn approve_client(&self, id: &str, shown: Option<Revision>) -> Result<(), AdminError> {
        let inner = &self.0;
        for attempt in 1.. {
            let kept = self.client(id).await?.ok_or(AdminError::Missing)?;
            let approved = OAuthClient { approved: true, ..kept.value };
            let when = When::At(shown.unwrap_or(kept.revision));
            match inner.state.clients.save(&kept.id, &approved, when).await {
                Err(error) if error.kind() == StoreErrorKind::Conflict && shown.is_none() && attempt < ATTEMPTS => {}
                done => return Ok(done.map(drop)?),
            }
        }
        Ok(())
    }

    /// Reads a page of grants, of everybody or of one person, and where the next begins.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn grants(
        &self,
        of: Option<&Subject>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<Grant>>, Option<Box<str>>), StoreError> {
        self.0.state.grants.list(of.map(Grant::of), after, limit).await
    }

    /// Reads a grant.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn grant(&self, id: &str) -> Result<Option<Stored<Grant>>, StoreError> {
        if id.is_empty() || id.len() > 64 {
            return Ok(None);
        }
        self.0.state.grants.get(id).await
    }

    /// Ends a grant: its refresh tokens at once, its access tokens at every replica as soon as that has applied the
    /// commit. The person is asked again.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn end_grant(&self, id: &str) -> Result<Revision, AdminError> {
        let inner = &self.0;
        let Grant { subject, client_id, server, scope, .. } = self.grant(id).await?.ok_or(AdminError::Missing)?.value;
        let consent = super::consent::id(&subject, &client_id, &server, &scope);
        let writes = vec![
            Write::Delete { key: inner.state.grants.key(id), when: When::Any },
            Write::Delete { key: inner.state.consents.key(&consent), when: When::Any },
            inner.state.revoke(Revoked::Grant(id), "ended by a person", &*inner.clock)?,
        ];
        Ok(inner.state.clients.store().commit(writes).await?)
    }

    /// Reads a page of remembered consents, of everybody or of one person, and where the next begins.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn consents(
        &self,
        of: Option<&Subject>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<Consent>>, Option<Box<str>>), StoreError> {
        self.0.state.consents.list(of.map(Consent::of), after, limit).await
    }

    /// Reads a remembered consent.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn consent(&self, id: &str) -> Result<Option<Stored<Consent>>, StoreError> {
        if id.is_empty() || id.len() > 64 {
            return Ok(None);
        }
        self.0.state.consents.get(id).await
    }

    /// When a remembered consent ends.
    #[must_use]
    pub fn consent_ends_at(&self, consent: &Consent) -> Timestamp {
        consent.ends_at(self.0.options.consent_life)
    }

    /// Forgets a consent: the person is asked again. What the client has by it goes on, see
    /// [`end_grant`](Self::end_grant).
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn forget_consent(&self, id: &str) -> Result<(), AdminError> {
        self.consent(id).await?.ok_or(AdminError::Missing)?;
        self.0.state.consents.delete(id, When::Any).await?;
        Ok(())
    }

    /// Blocks a client: it gets nothing any more, and what it has ends at every replica as soon as that has applied the
    /// commit: grants and remembered consents for good. A client that is known by its document alone can be blocked too.
    ///
    /// # Errors
    /// Those of the store; then the client may not be blocked, or its grants not all be gone: call it again.
    pub async fn block_client(&self, id: &str) -> Result<(), StoreError> {
        self.set_blocked(id, true).await
    }

    /// Lets a blocked client in again. What it had before is gone for good: people are asked anew.
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
        self.forget(of).await.map_err(StoreError::halfway)
    }

    /// Removes the grants of somebody or something that has ended, and what was remembered of consents.
    async fn forget(&self, of: Revoked<'_>) -> Result<usize, StoreError> {
        super::consent::forget(&self.0.state.grants, of).await
    }

    async fn set_blocked(&self, id: &str, blocked: bool) -> Result<(), StoreError> {
        let inner = &self.0;
        let key = client_key(id);
        let mut named = id.to_owned();
        for attempt in 1.. {
            let kept = inner.state.clients.get(&key).await?;
            if !blocked && !kept.as_ref().is_some_and(|kept| kept.value.blocked) {
                // There is no block to lift, nor one whose rest would have to go.
                return Ok(());
            }
            let when = kept.as_ref().map_or(When::Absent, |kept| When::At(kept.revision));
            let (id, client) = match kept {
                Some(kept) => (OAuthClient::id_of(&kept).to_owned(), kept.value),
                None => (id.to_owned(), self.unknown()),
            };
            named.clone_from(&id);
            if !blocked {
                // What a block that was cut short has left.
                self.forget(Revoked::Client(&id)).await?;
            }
            let client = OAuthClient { blocked, ..client }.named(&id);
            // A block does not expire.
            let life = client.life().filter(|_| !blocked);
            let put = inner.state.clients.put(&key, &client, life, when)?;
            let what = Revoked::Client(&id);
            let end = if blocked {
                inner.state.revoke(what, "the client is blocked", &*inner.clock)?
            } else {
                inner.state.revoke_past(what, "the client was blocked", &*inner.clock)?
            };
            let committed = inner.state.commit(vec![put, end]).await;
            if attempt == ATTEMPTS {
                committed?;
                break;
            }
            if won(committed)? {
                break;
            }
        }
        if blocked {
            self.forget(Revoked::Client(&named)).await?;
        }
        Ok(())
    }

    /// A client of which nothing is kept: it stands for a document.
    fn unknown(&self) -> OAuthClient {
        OAuthClient {
            client_id: None,
            name: None,
            known_by: KnownBy::Document,
            redirect_uris: Vec::new(),
            authentication: ClientAuthentication::None,
            grants: Vec::new(),
            resource_server: None,
            management_sha256: None,
            blocked: false,
            approved: false,
            issuer: None,
            created_at: self.0.clock.now(),
            used_at: None,
        }
    }
}
