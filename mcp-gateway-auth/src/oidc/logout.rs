//! The end of a login, by the person or by the provider.

use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::{IndexTerm, Revision, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{Revocation, Revoked, Stored};
use url::Url;

use super::logout_token::{LONGEST, LogoutToken};
use super::{OidcError, OidcLimits, Provider, ProviderLogin, Providers, UsedLogoutToken, Way, client, id_token};
use crate::server::Grant;
use crate::token::TokenLimits;
use crate::token::jws::Jws;
use crate::user::IdentityKey;

/// Logins of a page; each session ends with three writes.
const PAGE: usize = 50;
/// Logins of one person that are looked through for another one that its provider vouches for.
pub(super) const OTHERS: usize = 100;
/// How long the end of a session is remembered: as long as a token that depends on it may live.
const ENDED: Duration = TokenLimits::LIFETIME.saturating_add(TokenLimits::CLOCK_SKEW);

/// What a logout at the provider has ended here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedLogins {
    /// How many sessions.
    pub sessions: usize,
    /// The users whose they were.
    pub users: Vec<String>,
    /// The last commit; `None` when there was nothing to end.
    pub revision: Option<Revision>,
}

impl Providers {
    /// Remembers what a session came of, for as long as it may last: without, the provider could not end it.
    ///
    /// # Errors
    /// As the store's.
    pub async fn remember(&self, session: &str, login: &ProviderLogin, lasts: Duration) -> Result<(), StoreError> {
        let logins = &self.0.logins;
        let ends_at = self.0.clock.now().saturating_add(lasts).ok();
        let login = ProviderLogin { ends_at, ..login.clone() };
        logins.store().commit(vec![logins.put(session, &login, Some(lasts), When::Any)?]).await.map(drop)
    }

    /// Where a browser goes whose session has ended here, to end the provider's too (RP-Initiated Logout 1.0); `None`
    /// when the session came of no provider that knows how. What is remembered of it is forgotten.
    ///
    /// # Errors
    /// As the store's.
    pub async fn sign_out(&self, session: &str) -> Result<Option<String>, StoreError> {
        let Some(login) = self.0.logins.get(session).await? else { return Ok(None) };
        self.0.logins.delete(session, When::Any).await?;
        self.give_back(&login.value);
        let Ok(Provider { options, way: Way::Discovered(discovery) }) = self.find(&login.value.provider) else {
            return Ok(None);
        };
        // A provider that is away keeps nobody from signing out here.
        let Ok(known) = discovery.get().await else { return Ok(None) };
        let Some(mut url) = known.metadata.end_session_endpoint.as_deref().and_then(|url| Url::parse(url).ok()) else {
            return Ok(None);
        };
        let mut query = url.query_pairs_mut();
        query.append_pair("client_id", &options.client_id);
        query.append_pair("post_logout_redirect_uri", &format!("{}/login", self.0.origin));
        // In a URL, which has less room than a form.
        if let Some(hint) = login.value.id_token.as_ref().filter(|token| token.expose().len() <= TokenLimits::BYTES) {
            query.append_pair("id_token_hint", hint.expose());
        }
        drop(query);
        Ok(Some(url.into()))
    }

    /// Ends what a provider says has ended: `body` is the form that it posts (Back-Channel Logout 1.0 §2.5). A token
    /// that was used before ends nothing.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn back_channel(&self, provider: &str, body: &[u8]) -> Result<EndedLogins, OidcError> {
        let Provider { options, way: Way::Discovered(discovery) } = self.find(provider)? else {
            return Err(OidcError::NoProvider);
        };
        let mut tokens = form_urlencoded::parse(body).filter(|(name, _)| name == "logout_token");
        let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
            return Err(OidcError::Invalid("the form has not one logout_token"));
        };
        // Anybody can send one: the provider is asked for its keys only when all else holds.
        let jws = Jws::parse_within(token.as_bytes(), OidcLimits::LOGOUT_TOKEN).map_err(OidcError::Invalid)?;
        let read = LogoutToken::read(&jws.claims, &options.issuer, &options.client_id, self.0.clock.now());
        let unsigned = read.map_err(OidcError::Invalid)?;
        let known = discovery.get().await?;
        let types = &["logout+jwt", "JWT"];
        id_token::signed(&token, OidcLimits::LOGOUT_TOKEN, &known.logout_keys, types).await?;
        let token = unsigned;
        let of = match (&token.sid, &token.sub) {
            (Some(session), _) => ProviderLogin::of_session(&options.issuer, session),
            (None, subject) => ProviderLogin::of_person(&options.issuer, subject.as_deref().unwrap_or_default()),
        };
        let id = IdentityKey::new(&options.issuer, &token.jti).id();
        let life = LONGEST + 2 * TokenLimits::CLOCK_SKEW;
        let used = self.0.used.put(&id, &UsedLogoutToken {}, Some(life), When::Absent)?;
        match self.0.used.store().commit(vec![used]).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                return Err(OidcError::Invalid("the logout token was used before"));
            }
            done => drop(done?),
        }
        match self.end(of, token.sub.as_deref()).await {
            Ok(ended) => Ok(ended),
            Err(error) => {
                // The provider tries again with the same token.
                let _ = self.0.used.delete(&id, When::Any).await;
                Err(error.into())
            }
        }
    }

    /// Ends the sessions of these logins, and whatever was agreed to in them.
    async fn end(&self, of: IndexTerm, subject: Option<&str>) -> Result<EndedLogins, StoreError> {
        let inner = &*self.0;
        let (mut ended, mut after) = (EndedLogins::default(), None);
        loop {
            let (logins, more) = inner.logins.list(Some(of.clone()), after.as_deref(), PAGE).await?;
            let mut writes = Vec::new();
            // A session is of one person: one that the token does not name stays.
            let is_named =
                |login: &&Stored<ProviderLogin>| subject.is_none_or(|subject| subject == login.value.subject);
            for login in logins.iter().filter(is_named) {
                if let Some(session) = inner.sessions.get(&login.id).await? {
                    ended.sessions += 1;
                    if !ended.users.contains(&session.value.user) {
                        ended.users.push(session.value.user);
                    }
                }
                self.end_grants(&login.id, None).await?;
                writes.push(Write::Delete { key: inner.sessions.key(&login.id), when: When::Any });
                writes.push(Write::Delete { key: inner.logins.key(&login.id), when: When::Any });
                writes.push(self.revocation(&login.id)?);
            }
            if !writes.is_empty() {
                ended.revision = Some(inner.logins.store().commit(writes).await?);
            }
            logins.iter().filter(|login| is_named(login)).for_each(|login| self.give_back(&login.value));
            after = match more {
                Some(more) => Some(more),
                None => return Ok(ended),
            };
        }
    }

    /// Gives a login's refresh token back to its provider, where that takes it: beside whatever is done, and once. What it
    /// is good for here has ended already, and it is not given back while the provider is asked by another login of the
    /// same person: some end by one token all that the client has of a person.
    pub(super) fn give_back(&self, login: &ProviderLogin) {
        let (Some(token), name) = (login.refresh_token.clone(), login.provider.clone()) else { return };
        let providers = self.clone();
        let of_person = ProviderLogin::of_person(&login.issuer, &login.subject);
        tokio::spawn(async move {
            let Ok(Provider { options, way: Way::Discovered(discovery) }) = providers.find(&name) else { return };
            let done = async {
                let (others, more) = providers.0.logins.list(Some(of_person), None, OTHERS).await?;
                if more.is_some() || others.iter().any(|other| other.value.refresh_token.is_some()) {
                    return Ok(());
                }
                let known = discovery.get().await?;
                let Some(endpoint) = &known.metadata.revocation_endpoint else { return Ok(()) };
                let basic = known.metadata.takes_basic();
                client::revoke(&*providers.0.fetch, options, endpoint, basic, &token).await
            };
            if let Err(error) = done.await {
                tracing::warn!(provider = name, %error, "a refresh token cannot be given back to a provider");
            }
        });
    }

    /// Access tokens of the login end at every replica that hears of this.
    pub(super) fn revocation(&self, session: &str) -> Result<Write, StoreError> {
        let until = self.0.clock.now().saturating_add(ENDED).unwrap_or(Timestamp::MAX);
        let reason = "the identity provider has ended the login".to_owned();
        let revocation = Revocation { reason, before: None, until };
        self.0.revocations.put(&Revoked::Session(session).id(), &revocation, Some(ENDED), When::Any)
    }

    /// Its refresh tokens end with the grants, as long as `holds` does.
    pub(super) async fn end_grants(&self, session: &str, holds: Option<&Write>) -> Result<(), StoreError> {
        let grants = &self.0.grants;
        let Some(term) = Grant::ended_with(Revoked::Session(session)) else { return Ok(()) };
        loop {
            let (page, more) = grants.list(Some(term.clone()), None, PAGE).await?;
            let gone = |id: &str| Write::Delete { key: grants.key(id), when: When::Any };
            let mut writes: Vec<Write> = page.iter().map(|grant| gone(&grant.id)).collect();
            if !writes.is_empty() {
                writes.extend(holds.cloned());
                grants.store().commit(writes).await?;
            }
            if more.is_none() {
                return Ok(());
            }
        }
    }
}

/// The form of a logout token, for tests and for who ends a login by hand.
#[cfg(test)]
pub(super) fn form(token: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("logout_token", token).finish()
}
