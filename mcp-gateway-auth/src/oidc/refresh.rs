//! What a provider says of a person between two logins.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::{IndexTerm, Query, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::egress::FetchError;
use mcp_gateway_core::record::{Resource as _, Revoked, Secret, Stored};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::task::{JoinHandle, JoinSet};

use super::id_token::{Expected, IdToken};
use super::logout::OTHERS;
use super::{
    Discovery, OidcError, OidcLimits, Provider, ProviderLogin, ProviderOptions, Providers, Way, client, person,
};
use crate::server::Grant;
use crate::user::{Asserted, UserError, Users};

/// What has come of asking anew about a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginChange {
    /// A login of this user has ended: the provider vouches for it no more.
    Ended(String),
    /// What the provider says of this user has left nobody an owner.
    Ownerless(String),
}

/// Is told what has come of it, one by one and before the next one of that login.
pub type OnLoginChange = Arc<dyn Fn(LoginChange) -> BoxFuture<()> + Send + Sync>;

/// What says without any secret whether a login is due.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Due {
    provider: String,
    #[serde(default)]
    asked_at: Option<Timestamp>,
    #[serde(default)]
    refresh_token: Option<IgnoredAny>,
}

/// How it went with a login.
#[derive(Debug)]
pub(super) enum Asked {
    /// It was not to be asked about, or by another replica.
    Not,
    Yes,
    /// The provider cannot be reached.
    Away,
}

impl Providers {
    /// After how long it is worth to look which logins are due: a tenth of the shortest [`ProviderOptions::refresh`];
    /// `None` when no provider is to be asked between logins.
    #[must_use]
    pub fn looks_every(&self) -> Option<Duration> {
        self.list().map(|provider| provider.refresh).filter(|refresh| !refresh.is_zero()).min().map(|least| least / 10)
    }

    /// Asks anew about every login whose provider was not asked for [`ProviderOptions::refresh`]: what it says of name,
    /// address and groups holds from then on, and a login that it vouches for no more ends, with what was agreed to in it.
    /// With the last such login of a person goes what it has said of their groups and address. Says how many were asked
    /// about.
    ///
    /// To be called now and then. At any number of replicas each login is asked about by one of them; with the `fence` of
    /// its [term](mcp_gateway_core::lease::Term::fence), none is begun once another replica has taken over. A provider that
    /// is away ends nothing, and is asked again with the next call; a record that cannot be read is passed over.
    ///
    /// # Errors
    /// As the store's, when logins cannot be listed.
    pub async fn refresh_due(
        &self,
        users: &Users,
        told: &OnLoginChange,
        fence: Option<Write>,
    ) -> Result<usize, StoreError> {
        let mut providers = JoinSet::new();
        for (provider, logins) in self.due().await? {
            let asking = self.clone().ask_one(provider, logins, users.clone(), Arc::clone(told), fence.clone());
            providers.spawn(asking);
        }
        Ok(providers.join_all().await.into_iter().sum())
    }

    /// The ids of the logins that are due, by provider; no secret is opened for it.
    async fn due(&self) -> Result<HashMap<String, Vec<Box<str>>>, StoreError> {
        let (mut all, now) = (HashMap::<String, Vec<Box<str>>>::new(), self.0.clock.now());
        let key = self.0.logins.key("");
        let mut query = Query { tenant: Some(key.tenant), ..Query::all(ProviderLogin::KIND) };
        loop {
            let page = self.0.logins.store().list(&query).await?;
            for record in page.records {
                match serde_json::from_slice::<Due>(&record.value) {
                    Ok(due) if due.refresh_token.is_some() && self.is_due(&due.provider, due.asked_at, now) => {
                        all.entry(due.provider).or_default().push(record.key.id);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(login = %record.key.id, %error, "a login cannot be read"),
                }
            }
            query.after = match page.next {
                Some(next) => Some(next),
                None => return Ok(all),
            };
        }
    }

    fn is_due(&self, provider: &str, asked_at: Option<Timestamp>, now: Timestamp) -> bool {
        let Ok(Provider { options, way: Way::Discovered(_) }) = self.find(provider) else { return false };
        let interval = SignedDuration::try_from(options.refresh).unwrap_or(SignedDuration::MAX);
        !options.refresh.is_zero() && asked_at.is_some_and(|at| now.duration_since(at) >= interval)
    }

    /// Asks one provider about these logins, several at once, until it cannot be reached.
    async fn ask_one(
        self,
        provider: String,
        logins: Vec<Box<str>>,
        users: Users,
        told: OnLoginChange,
        fence: Option<Write>,
    ) -> usize {
        let Ok(Provider { way: Way::Discovered(discovery), .. }) = self.find(&provider) else { return 0 };
        if let Err(error) = discovery.get().await {
            tracing::warn!(provider, %error, "a provider cannot be asked anew about logins");
            return 0;
        }
        let mut asked = 0;
        let mut under_way: VecDeque<JoinHandle<Asked>> = VecDeque::new();
        let mut logins = logins.into_iter();
        let mut away = false;
        loop {
            while !away
                && under_way.len() < OidcLimits::ASKED_AT_ONCE
                && let Some(login) = logins.next()
            {
                let (providers, users, told) = (self.clone(), users.clone(), Arc::clone(&told));
                let fence = fence.clone();
                // In a task of its own, so that it comes to its end when nobody waits for it any more: a refresh token
                // that was rotated and not kept is lost.
                under_way.push_back(tokio::spawn(async move {
                    providers.refresh(&users, &login, &told, fence).await.unwrap_or_else(|error| {
                        tracing::warn!(login = %login, %error, "a provider cannot be asked anew about a login");
                        Asked::Not
                    })
                }));
            }
            match under_way.pop_front() {
                None => break,
                Some(one) => match one.await {
                    Ok(Asked::Yes) => asked += 1,
                    Ok(Asked::Away) => (asked, away) = (asked + 1, true),
                    Ok(Asked::Not) => {}
                    Err(error) => tracing::error!(provider, %error, "asking a provider anew broke off"),
                },
            }
        }
        asked
    }

    async fn refresh(
        &self,
        users: &Users,
        id: &str,
        told: &OnLoginChange,
        fence: Option<Write>,
    ) -> Result<Asked, StoreError> {
        let now = self.0.clock.now();
        let Some(login) = self.0.logins.get(id).await? else { return Ok(Asked::Not) };
        let Ok(Provider { options, way: Way::Discovered(discovery) }) = self.find(&login.value.provider) else {
            return Ok(Asked::Not);
        };
        let Some(token) = login.value.refresh_token.clone() else { return Ok(Asked::Not) };
        if !self.is_due(&login.value.provider, login.value.asked_at, now) {
            return Ok(Asked::Not);
        }
        if !self.is_used(&login.id).await? {
            match self.0.logins.delete(&login.id, When::At(login.revision)).await {
                Ok(_) => self.give_back(&login.value),
                Err(error) => lost(error)?,
            }
            return Ok(Asked::Not);
        }
        // Whoever writes this asks: a refresh token that two use is one that was stolen.
        let claimed = ProviderLogin { asked_at: Some(now), ..login.value.clone() };
        let Some(mut login) = self.keep(&login, claimed, fence).await? else {
            return Ok(Asked::Not);
        };
        let asked = self.ask_anew(options, discovery, &mut login, &token, now).await;
        // What has come of it counts as long as nobody else has written the login: another replica that has taken over.
        match self.believe(users, options, &login, asked, told).await {
            Err(error) => lost(error).map(|()| Asked::Yes),
            done => done,
        }
    }

    /// Does what follows from what a provider has said of a login, or has not.
    pub(super) async fn believe(
        &self,
        users: &Users,
        options: &ProviderOptions,
        login: &Stored<ProviderLogin>,
        asked: Result<Option<Asserted>, OidcError>,
        told: &OnLoginChange,
    ) -> Result<Asked, StoreError> {
        let gone = match asked {
            Ok(None) => return Ok(Asked::Yes),
            Ok(Some(asserted)) => match users.of_identity(&asserted.identity).await.map_err(into_store)? {
                None => true,
                Some(_) => match users.sign_in_while(&asserted, Some(self.unwritten(login))).await {
                    Ok(signed_in) => {
                        if signed_in.ownerless {
                            told(LoginChange::Ownerless(signed_in.id.into())).await;
                        }
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
                let away = matches!(&error, OidcError::Provider(error) if error.is::<FetchError>());
                return Ok(if away { Asked::Away } else { Asked::Yes });
            }
        };
        if gone {
            self.end_unvouched(users, login, told).await?;
        }
        Ok(Asked::Yes)
    }

    /// Ends a login that its provider vouches for no more. With the last one that it is asked about goes what it has said
    /// of the person.
    async fn end_unvouched(
        &self,
        users: &Users,
        login: &Stored<ProviderLogin>,
        told: &OnLoginChange,
    ) -> Result<(), StoreError> {
        let ProviderLogin { provider, issuer, subject, .. } = &login.value;
        let user = self.user_of(&login.id).await?;
        if let Some(user) = &user {
            let of_person = ProviderLogin::of_person(issuer, subject);
            let (logins, _) = self.0.logins.list(Some(of_person), None, OTHERS).await?;
            let vouches = |one: &Stored<ProviderLogin>| one.id != login.id && one.value.refresh_token.is_some();
            // First of all: when the rest fails, the login is asked about again.
            let last = !logins.iter().any(vouches);
            if last && users.disavow(user, issuer, Some(self.unwritten(login))).await.map_err(into_store)? {
                told(LoginChange::Ownerless(user.clone())).await;
            }
        }
        self.end_login(login).await?;
        self.give_back(&login.value);
        if let Some(user) = user {
            tracing::info!(provider, user, "a provider vouches for a login no more");
            told(LoginChange::Ended(user)).await;
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

    /// Writes a login for as long as it was to be kept; `None` when somebody else has written it, the fence does not hold,
    /// or that time is over.
    pub(super) async fn keep(
        &self,
        old: &Stored<ProviderLogin>,
        new: ProviderLogin,
        fence: Option<Write>,
    ) -> Result<Option<Stored<ProviderLogin>>, StoreError> {
        let left = match new.ends_at {
            None => None,
            Some(at) => match Duration::try_from(at.duration_since(self.0.clock.now())) {
                Ok(left) if !left.is_zero() => Some(left),
                _ => return Ok(None),
            },
        };
        let put = self.0.logins.put(&old.id, &new, left, When::At(old.revision))?;
        match self.0.logins.store().commit([put].into_iter().chain(fence).collect()).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
            done => Ok(Some(Stored { revision: done?, value: new, id: old.id.clone() })),
        }
    }

    /// Who it is by the provider's word of now. The refresh token that follows, if another one does, is kept in the login
    /// first of all: the one before is good for nothing any more. `None`: the login is somebody else's now, or over.
    pub(super) async fn ask_anew(
        &self,
        options: &ProviderOptions,
        discovery: &Discovery,
        kept: &mut Stored<ProviderLogin>,
        token: &Secret,
        now: Timestamp,
    ) -> Result<Option<Asserted>, OidcError> {
        let fetch = &*self.0.fetch;
        let known = discovery.get().await?;
        let metadata = &known.metadata;
        let tokens = client::refresh(fetch, options, &metadata.token_endpoint, metadata.takes_basic(), token).await?;
        if let Some(token) = &tokens.refresh_token {
            let followed = ProviderLogin { refresh_token: Some(token.clone()), ..kept.value.clone() };
            let Some(known) = self.keep(kept, followed.clone(), None).await? else {
                self.give_back(&followed);
                return Ok(None);
            };
            *kept = known;
        }
        let login = &kept.value;
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
        match person::person(options, &login.subject, &claims) {
            // Not that the person has another address, but nothing about any.
            Err(OidcError::NotAllowed(_)) if person::at(&claims, "email").is_none() => {
                Err(OidcError::Invalid("the provider tells no address between logins"))
            }
            person => person.map(Some),
        }
    }

    /// The user whose login it is.
    async fn user_of(&self, session: &str) -> Result<Option<String>, StoreError> {
        if let Some(found) = self.0.sessions.get(session).await? {
            return Ok(Some(found.value.user));
        }
        let of_session = Grant::ended_with(Revoked::Session(session));
        let grant = self.0.grants.list(of_session, None, 1).await?.0.pop();
        Ok(grant.map(|grant| grant.value.subject.id.to_string()))
    }

    /// Holds as long as nobody else has written a login.
    fn unwritten(&self, login: &Stored<ProviderLogin>) -> Write {
        Write::Check { key: self.0.logins.key(&login.id), when: When::At(login.revision) }
    }

    /// Ends one login as it was read, with what was agreed to in it.
    async fn end_login(&self, login: &Stored<ProviderLogin>) -> Result<(), StoreError> {
        let (inner, session) = (&*self.0, &*login.id);
        self.end_grants(session, Some(&self.unwritten(login))).await?;
        let writes = vec![
            Write::Delete { key: inner.sessions.key(session), when: When::Any },
            Write::Delete { key: inner.logins.key(session), when: When::At(login.revision) },
            self.revocation(session)?,
        ];
        inner.logins.store().commit(writes).await.map(drop)
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
