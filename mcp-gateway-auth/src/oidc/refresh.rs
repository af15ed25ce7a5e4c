//! What a provider says of a person between two logins.

use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{IndexTerm, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{Revoked, Secret, Stored};

use super::id_token::{Expected, IdToken};
use super::{Discovery, OidcError, Provider, ProviderLogin, ProviderOptions, Providers, Way, client, person};
use crate::server::Grant;
use crate::user::{Asserted, UserError, Users};

/// Logins of a page.
const PAGE: usize = 100;

/// What has come of asking anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshedLogins {
    /// Of how many logins the provider was asked.
    pub asked: usize,
    /// The users of whom a login has ended: the provider vouches for it no more.
    pub ended: Vec<String>,
    /// Users whose groups at the provider have left nobody an owner.
    pub ownerless: Vec<String>,
}

impl Providers {
    /// Whether any provider is to be asked between logins.
    #[must_use]
    pub fn asks_anew(&self) -> bool {
        self.list().any(|provider| !provider.refresh.is_zero())
    }

    /// Asks anew about every login whose provider was not asked for [`ProviderOptions::refresh`]: what it says of name,
    /// address and groups holds from then on, and a login that it vouches for no more ends, with what was agreed to in it.
    ///
    /// To be called now and then, at any number of replicas: each login is asked about by one of them. A provider that is
    /// away ends nothing, and is asked again after as long.
    ///
    /// # Errors
    /// As the store's; some may have been asked about.
    pub async fn refresh_due(&self, users: &Users) -> Result<RefreshedLogins, StoreError> {
        let (mut refreshed, mut after) = (RefreshedLogins::default(), None);
        loop {
            let (page, more) = self.0.logins.list(None, after.as_deref(), PAGE).await?;
            for login in page {
                self.refresh(users, login, &mut refreshed).await?;
            }
            after = match more {
                Some(more) => Some(more),
                None => return Ok(refreshed),
            };
        }
    }

    async fn refresh(
        &self,
        users: &Users,
        login: Stored<ProviderLogin>,
        refreshed: &mut RefreshedLogins,
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let Ok(Provider { options, way: Way::Discovered(discovery) }) = self.find(&login.value.provider) else {
            return Ok(());
        };
        let (Some(token), Some(asked_at)) = (login.value.refresh_token.clone(), login.value.asked_at) else {
            return Ok(());
        };
        let interval = SignedDuration::try_from(options.refresh).unwrap_or(SignedDuration::MAX);
        if options.refresh.is_zero() || now.duration_since(asked_at) < interval {
            return Ok(());
        }
        if !self.is_used(&login.id).await? {
            self.0.logins.delete(&login.id, When::At(login.revision)).await.or_else(lost)?;
            return Ok(());
        }
        // Whoever writes this asks: a refresh token that two use is one that was stolen.
        let Some(login) = self.keep(&login, ProviderLogin { asked_at: Some(now), ..login.value.clone() }).await? else {
            return Ok(());
        };
        refreshed.asked += 1;
        let gone = match self.ask_anew(options, discovery, &login, &token, now).await {
            Ok(asserted) => match users.of_identity(&asserted.identity).await.map_err(into_store)? {
                None => true,
                Some(_) => match users.sign_in(&asserted).await {
                    Ok(signed_in) => {
                        refreshed.ownerless.extend(signed_in.ownerless.then(|| signed_in.id.into()));
                        false
                    }
                    Err(UserError::Store(error)) => return Err(error),
                    Err(UserError::Disabled) => true,
                    Err(error) => {
                        tracing::warn!(provider = options.name, %error, "what a provider says of a person cannot be kept");
                        false
                    }
                },
            },
            Err(OidcError::Denied(_) | OidcError::NotAllowed(_)) => true,
            Err(OidcError::Store(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(provider = options.name, %error, "a provider cannot be asked anew about a login");
                false
            }
        };
        if gone && let Some(user) = self.end_login(&login.id).await? {
            tracing::info!(provider = options.name, user, "a provider vouches for a login no more");
            refreshed.ended.push(user);
        }
        Ok(())
    }

    /// Whether a session, or something that was agreed to in it, is still there.
    async fn is_used(&self, session: &str) -> Result<bool, StoreError> {
        if self.0.sessions.get(session).await?.is_some() {
            return Ok(true);
        }
        let term: Option<IndexTerm> = Grant::ended_with(Revoked::Session(session));
        Ok(!self.0.grants.list(term, None, 1).await?.0.is_empty())
    }

    /// Writes a login for as long as it was to be kept; `None` when somebody else has written it.
    async fn keep(
        &self,
        old: &Stored<ProviderLogin>,
        new: ProviderLogin,
    ) -> Result<Option<Stored<ProviderLogin>>, StoreError> {
        let left = new.ends_at.and_then(|at| at.duration_since(self.0.clock.now()).try_into().ok());
        let put = self.0.logins.put(&old.id, &new, left, When::At(old.revision))?;
        match self.0.logins.store().commit(vec![put]).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
            done => Ok(Some(Stored { revision: done?, value: new, id: old.id.clone() })),
        }
    }

    /// Who it is by the provider's word of now. The refresh token that follows, if another one does, is kept first of all:
    /// the one before is good for nothing any more.
    async fn ask_anew(
        &self,
        options: &ProviderOptions,
        discovery: &Discovery,
        kept: &Stored<ProviderLogin>,
        token: &Secret,
        now: Timestamp,
    ) -> Result<Asserted, OidcError> {
        let login = &kept.value;
        let fetch = &*self.0.fetch;
        let known = discovery.get().await?;
        let metadata = &known.metadata;
        let tokens = client::refresh(fetch, options, &metadata.token_endpoint, metadata.takes_basic(), token).await?;
        if let Some(token) = &tokens.refresh_token {
            self.keep(kept, ProviderLogin { refresh_token: Some(token.clone()), ..login.clone() }).await?;
        }
        let mut claims = person::Claims::default();
        if let Some(id_token) = &tokens.id_token {
            let expected = |nonce| Expected {
                issuer: &options.issuer,
                client_id: &options.client_id,
                nonce,
                access_token: tokens.access_token.expose(),
                after: None,
                may_omit_auth_time: true,
                now,
            };
            // Core §12.2: without a nonce, or with that of the login.
            let read = match IdToken::verify(id_token.expose(), &known.keys, &expected("")).await {
                Err(OidcError::Invalid(_)) => {
                    let nonce = login.nonce.as_deref().unwrap_or_default();
                    IdToken::verify(id_token.expose(), &known.keys, &expected(nonce)).await?
                }
                read => read?,
            };
            if read.subject != login.subject {
                return Err(OidcError::Invalid("the provider speaks of another person"));
            }
            claims = read.claims;
        }
        let absent = |claim: &str| person::at(&claims, claim).is_none();
        let lacks = absent("email") || absent("name") || options.groups_claim.as_deref().is_some_and(absent);
        match metadata.userinfo_endpoint.as_deref().filter(|_| lacks) {
            Some(url) => {
                client::add_userinfo(fetch, url, &tokens.access_token, &login.subject, &mut claims).await?;
            }
            None if tokens.id_token.is_none() => {
                return Err(OidcError::Invalid(
                    "the provider says nothing between logins: it has no userinfo endpoint",
                ));
            }
            None => {}
        }
        person::person(options, &login.subject, &claims)
    }

    /// Ends one login: the user whose session it was.
    async fn end_login(&self, session: &str) -> Result<Option<String>, StoreError> {
        let inner = &*self.0;
        let user = inner.sessions.get(session).await?.map(|found| found.value.user);
        let term = Grant::ended_with(Revoked::Session(session));
        let of_grant = inner.grants.list(term, None, 1).await?.0.pop().map(|grant| grant.value.subject.id.to_string());
        self.end_grants(session).await?;
        let writes = vec![
            Write::Delete { key: inner.sessions.key(session), when: When::Any },
            Write::Delete { key: inner.logins.key(session), when: When::Any },
            self.revocation(session)?,
        ];
        inner.logins.store().commit(writes).await?;
        Ok(user.or(of_grant))
    }
}

fn into_store(error: UserError) -> StoreError {
    match error {
        UserError::Store(error) => error,
        error => StoreError::new(StoreErrorKind::Corrupt, "identity").because(error),
    }
}

/// Somebody else was first.
fn lost<T: Default>(error: StoreError) -> Result<T, StoreError> {
    if error.kind() == StoreErrorKind::Conflict { Ok(T::default()) } else { Err(error) }
}
