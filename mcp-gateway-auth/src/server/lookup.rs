//! Which client a request is of, as it is kept and as it is now.

use std::time::Duration;

use http::request::Parts;
use mcp_gateway_core::contract::{Revision, StoreError};

use super::answer::OAuthError;
use super::client::{ClientProof, hex_hash};
use super::form::Form;
use super::{
    ClientAuthentication, DocumentClients, DocumentError, Inner, Issuer, KnownBy, LoggedIn, OAuthClient, Problem,
    ServerLimits, authorize, paths,
};

impl Inner {
    /// The client that sends a request, proven.
    pub(super) async fn authenticated(
        &self,
        head: &Parts,
        issuer: &Issuer,
        form: &Form,
    ) -> Result<(String, OAuthClient), OAuthError> {
        let proof = ClientProof::read(&head.headers, form).map_err(|why| OAuthError::bad("invalid_request", why))?;
        let id = proof.client_id().to_owned();
        // One answer for an unknown, a blocked and an unproven client: ids are not told apart.
        let wrong = || OAuthError::client("The client is not known, or did not prove who it is; register again.");
        let client = match self.find_client(&id, issuer).await.map_err(OAuthError::unavailable)? {
            ClientLookup::Found(client, _) => *client,
            ClientLookup::Blocked | ClientLookup::Unknown => return Err(wrong()),
        };
        let endpoint = format!("{}{}", issuer.base, paths::TOKEN);
        let (audiences, now) = ([&*issuer.url, &*endpoint], self.clock.now());
        // What cannot hold is refused by what is kept: for that, nobody's host is asked.
        let current = match proof.may_hold(&client, &audiences, now) {
            true => self.brought_up_to_date(&id, client, &proof).await?,
            false => Ok(client),
        };
        let client = match current {
            Ok(client) => client,
            Err(error) => {
                tracing::info!(client = id, %error, "a client cannot prove who it is");
                return Err(wrong());
            }
        };
        let used = proof.check(&client, &audiences, now).map_err(|why| {
            tracing::debug!(client = id, why, "a client did not prove who it is");
            wrong()
        })?;
        if let Some(used) = used {
            let left = used.expires_at.saturating_sub(now.as_second()).max(0).unsigned_abs();
            let life = Duration::from_secs(left).saturating_add(crate::token::TokenLimits::CLOCK_SKEW * 2);
            let first = self.state.use_assertion(&id, &used.id, life).await.map_err(OAuthError::unavailable)?;
            if !first {
                return Err(wrong());
            }
        }
        Ok((id, client))
    }

    /// The same client with the keys that its document or its `jwks_uri` has now, so that one that was withdrawn is good
    /// for nothing; once more for a key that is not among those that are remembered. Only of a client that somebody has
    /// agreed to: strangers make us fetch nothing. Without an answer a public client is what is kept of it, since it proves
    /// nothing; another one has to come again.
    async fn brought_up_to_date(
        &self,
        id: &str,
        client: OAuthClient,
        proof: &ClientProof,
    ) -> Result<Result<OAuthClient, DocumentError>, OAuthError> {
        let Some(documents) = self.documents.as_ref().filter(|_| client.used_at.is_some()) else {
            return Ok(Ok(client));
        };
        let mut client = client;
        if client.known_by == KnownBy::Document {
            let ask = |anew| documents.client_now(id, &self.policy, anew, self.limit_refetch(id));
            let mut now = ask(false).await;
            if let Ok(OAuthClient { authentication: ClientAuthentication::PrivateKeyJwt { keys }, .. }) = &now
                && proof.lacks_key(keys)
            {
                now = ask(true).await;
            }
            client = match now {
                Ok(now) => OAuthClient { authentication: now.authentication, grants: now.grants, ..client },
                Err(error) if error.unanswered && client.is_public() => client,
                Err(error) if error.unanswered => return Err(OAuthError::unavailable(error)),
                Err(error) => return Ok(Err(error)),
            };
        }
        if let ClientAuthentication::PrivateKeyJwtAt { jwks_uri } = &client.authentication {
            let ask = |anew| documents.keys_now(jwks_uri, anew, self.limit_keys(id));
            let mut keys = ask(false).await;
            if keys.as_ref().is_ok_and(|keys| proof.lacks_key(keys)) {
                keys = ask(true).await;
            }
            match keys {
                Ok(keys) => client.authentication = ClientAuthentication::PrivateKeyJwt { keys },
                Err(error) if error.unanswered => return Err(OAuthError::unavailable(error)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(client))
    }

    /// The client of this id as it is kept: one that has a document is what it was when somebody last agreed to it.
    pub(super) async fn find_client(&self, id: &str, issuer: &Issuer) -> Result<ClientLookup, StoreError> {
        if id.is_empty() || id.len() > ServerLimits::CLIENT_ID {
            return Ok(ClientLookup::Unknown);
        }
        Ok(match self.state.clients.get(&client_key(id)).await? {
            Some(kept) if kept.value.blocked => ClientLookup::Blocked,
            Some(kept) if kept.value.is_of(issuer) => ClientLookup::Found(Box::new(kept.value), Some(kept.revision)),
            _ => ClientLookup::Unknown,
        })
    }

    /// The same, from the document where it has one. Only for somebody who has logged in: strangers make us fetch
    /// nothing.
    pub(super) async fn fetch_client(
        &self,
        id: &str,
        issuer: &Issuer,
        who: &LoggedIn,
    ) -> Result<ClientLookup, Problem> {
        let kept = self.find_client(id, issuer).await.map_err(authorize::unavailable)?;
        let (kept, revision) = match kept {
            ClientLookup::Blocked => return Ok(ClientLookup::Blocked),
            ClientLookup::Found(client, revision) => (Some(client), revision),
            ClientLookup::Unknown => (None, None),
        };
        let by_document = kept.as_ref().is_none_or(|client| client.known_by == KnownBy::Document);
        let documents = self.documents.as_ref().filter(|_| by_document && DocumentClients::is_url(id));
        let Some(documents) = documents else {
            return Ok(kept.map_or(ClientLookup::Unknown, |client| ClientLookup::Found(client, revision)));
        };
        let client = match documents.remembered(id) {
            Some(client) => client,
            None => {
                self.limit_document(id, who).await.map_err(|_| Problem::TooMany)?;
                match documents.load(id, &self.policy).await {
                    Ok(client) => client,
                    Err(error) => {
                        tracing::info!(client = id, %error, "a client's document cannot be used");
                        return Ok(ClientLookup::Unknown);
                    }
                }
            }
        };
        // What an administrator has approved is what was kept then, not whatever the document says later.
        let (used_at, approved) = kept.map_or((None, false), |kept| {
            let as_approved =
                kept.redirect_uris == client.redirect_uris && kept.authentication == client.authentication;
            (kept.used_at, kept.approved && as_approved)
        });
        Ok(ClientLookup::Found(Box::new(OAuthClient { used_at, approved, ..client }), revision))
    }
}

/// What is known of a client's id.
pub(super) enum ClientLookup {
    /// The client, and the revision of what is kept of it.
    Found(Box<OAuthClient>, Option<Revision>),
    Blocked,
    Unknown,
}

/// Under which id a client's record is kept: ids that are URLs may be longer than those of records.
pub(crate) fn client_key(id: &str) -> String {
    if id.len() <= 200 { id.to_owned() } else { format!("sha256-{}", hex_hash(id)) }
}
