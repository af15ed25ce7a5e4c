//! The decision: as whom a call is made.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{
    ConnectReason, CredentialAsk, CredentialError, StoreErrorKind, UpstreamCredential, UpstreamCredentials,
    UpstreamRefusal, When,
};
use mcp_gateway_core::record::{OAuthClientSource, Route, RouteAuth, RouteTarget, Secret, Stored, Subject};
use mcp_gateway_core::{BoxError, BoxFuture, MaybeReady};
use url::Url;

use super::challenge::Challenge;
use super::{AccountError, AccountLimits, Accounts, Connection, ConnectionState};

/// An account in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) stored: Stored<Connection>,
    credential: Option<UpstreamCredential>,
}

impl Held {
    pub(super) fn of(stored: Stored<Connection>) -> Arc<Self> {
        let credential = bearer(&stored.value.access_token, &stored.id);
        Arc::new(Self { stored, credential })
    }

    /// The credential, if a call that begins now may be made with it.
    fn usable(&self, route: &Route, now: Timestamp) -> Option<UpstreamCredential> {
        let connection = &self.stored.value;
        let usable = connection.state == ConnectionState::Connected && connection.is_fresh(now) && self.fits(route);
        self.credential.clone().filter(|_| usable)
    }

    /// Whether the account was connected for what the entry says now: its tokens go nowhere else.
    fn fits(&self, route: &Route) -> bool {
        let RouteTarget::Remote { url, .. } = &route.target else { return false };
        let Some(RouteAuth::Account { client, .. }) = route.auth().map(|auth| &**auth) else { return false };
        let connection = &self.stored.value;
        let origin = Url::parse(&url.to_string()).map(|url| url.origin().ascii_serialization());
        let same_client = match client {
            OAuthClientSource::Static(client) => {
                *client.issuer == *connection.issuer && *client.client_id == *connection.client.id
            }
            _ => true,
        };
        origin.is_ok_and(|origin| origin == connection.origin) && same_client
    }
}

/// A token as a field's value; `None` when it is no text of one.
pub(super) fn bearer(token: &Secret, id: &str) -> Option<UpstreamCredential> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).ok()?;
    value.set_sensitive(true);
    Some(UpstreamCredential { value, id: id.into() })
}

impl UpstreamCredentials for Accounts {
    fn credential(&self, ask: &CredentialAsk) -> MaybeReady<Result<UpstreamCredential, CredentialError>> {
        match ask.route.auth().map(|auth| &**auth) {
            Some(RouteAuth::Account { .. }) => {
                let id = Connection::id_of(&ask.route.id, &ask.subject);
                let held =
                    self.0.cache.peek(&self.0.connections.key(&id)).flatten().filter(|_| !self.0.cache.is_stale());
                if let Some(ready) = held.and_then(|held| held.usable(&ask.route, self.0.clock.now())) {
                    return Ok(ready).into();
                }
                let (this, ask) = (self.clone(), ask.clone());
                MaybeReady::wait(async move { this.of_account(&ask, &id).await })
            }
            Some(RouteAuth::Machine { .. }) => {
                if let Some(ready) = self.machine_ready(&ask.route) {
                    return Ok(ready).into();
                }
                let (this, ask) = (self.clone(), ask.clone());
                MaybeReady::wait(async move { this.of_machine(&ask.route, None).await })
            }
            Some(RouteAuth::Minted { audience }) => self.minted(ask, audience),
            _ => Err(CredentialError::Denied("the entry says nothing that is known here")).into(),
        }
    }

    fn refused(
        &self,
        ask: &CredentialAsk,
        used: &UpstreamCredential,
        refusal: &UpstreamRefusal,
    ) -> BoxFuture<Result<UpstreamCredential, CredentialError>> {
        let (this, ask, used, refusal) = (self.clone(), ask.clone(), used.clone(), refusal.clone());
        Box::pin(async move {
            match ask.route.auth().map(|auth| &**auth) {
                Some(RouteAuth::Account { .. }) => this.account_refused(&ask, &used, &refusal).await,
                Some(RouteAuth::Machine { .. }) if refusal.status == StatusCode::UNAUTHORIZED => {
                    this.of_machine(&ask.route, Some(&used)).await
                }
                Some(RouteAuth::Minted { audience }) if refusal.status == StatusCode::UNAUTHORIZED => {
                    this.minted_anew(&ask, audience, &used).await
                }
                _ => Err(CredentialError::Denied("the server refuses the credential")),
            }
        })
    }
}

impl Accounts {
    async fn of_account(&self, ask: &CredentialAsk, id: &str) -> Result<UpstreamCredential, CredentialError> {
        let held = self.held(ask, id).await?;
        let now = self.0.clock.now();
        if let Some(ready) = held.usable(&ask.route, now) {
            return Ok(ready);
        }
        if held.stored.value.state != ConnectionState::Connected || !held.fits(&ask.route) {
            return Err(self.connect(ask, ConnectReason::Reconnect));
        }
        self.renewed(ask, &held).await
    }

    /// What there is of an account, from memory or the store.
    async fn held(&self, ask: &CredentialAsk, id: &str) -> Result<Arc<Held>, CredentialError> {
        let connections = &self.0.connections;
        let read = async { connections.get(id).await.map(|found| found.map(Held::of)) };
        // What is in memory may have been disconnected while nothing was heard.
        let held = match self.0.cache.is_stale() {
            true => read.await,
            false => self.0.cache.get_or_read(&connections.key(id), read).await,
        };
        let held = held.map_err(unavailable)?;
        held.ok_or_else(|| self.connect(ask, ConnectReason::NotConnected))
    }

    async fn renewed(&self, ask: &CredentialAsk, held: &Arc<Held>) -> Result<UpstreamCredential, CredentialError> {
        let renewed = self.renew(held, &ask.route).await.map_err(|error| match &*error {
            AccountError::NotYours => self.connect(ask, ConnectReason::NotConnected),
            AccountError::Refused(_) => self.connect(ask, ConnectReason::Reconnect),
            _ => unavailable(error),
        })?;
        let ready = renewed.usable(&ask.route, self.0.clock.now());
        ready.ok_or_else(|| self.connect(ask, ConnectReason::Reconnect))
    }

    async fn account_refused(
        &self,
        ask: &CredentialAsk,
        used: &UpstreamCredential,
        refusal: &UpstreamRefusal,
    ) -> Result<UpstreamCredential, CredentialError> {
        let id = Connection::id_of(&ask.route.id, &ask.subject);
        let held = self.held(ask, &id).await?;
        let now = self.0.clock.now();
        // Somebody has renewed it in the meantime.
        if let Some(ready) = held.usable(&ask.route, now).filter(|ready| ready.value != used.value) {
            return Ok(ready);
        }
        let challenge = refusal.challenge.as_deref().map(Challenge::read).unwrap_or_default();
        if challenge.error.as_deref() == Some("insufficient_scope") && !challenge.scopes().is_empty() {
            return Err(self.step_up(ask, &held, challenge.scopes()).await);
        }
        if refusal.status != StatusCode::UNAUTHORIZED {
            return Err(CredentialError::Denied("the server refuses the person's token"));
        }
        let old = SignedDuration::try_from(AccountLimits::REFUSED_ANEW).unwrap_or_default();
        let is_new = now.duration_since(held.stored.value.refreshed_at) < old;
        if is_new || held.stored.value.refresh_token.is_none() {
            return Err(self.connect(ask, ConnectReason::Reconnect));
        }
        self.renewed(ask, &held).await
    }

    /// Notes what more a call needs, for the page on which the person agrees to it.
    async fn step_up(&self, ask: &CredentialAsk, held: &Held, needed: Vec<String>) -> CredentialError {
        let connection = &held.stored.value;
        if connection.step_ups >= AccountLimits::STEP_UPS {
            return CredentialError::Denied("the server has asked for more rights too often");
        }
        let more: Vec<String> = needed.into_iter().filter(|scope| !connection.scopes.contains(scope)).collect();
        if more.iter().any(|scope| !connection.wanted.contains(scope)) {
            let mut wanted = connection.clone();
            for scope in more {
                if !wanted.wanted.contains(&scope) && wanted.wanted.len() < 32 {
                    wanted.wanted.push(scope);
                }
            }
            wanted.step_ups += 1;
            let when = When::At(held.stored.revision);
            match self.0.connections.save(&held.stored.id, &wanted, when).await {
                // Whoever was first has written what is there now; the next call notes it.
                Err(error) if error.kind() != StoreErrorKind::Conflict => return unavailable(error),
                _ => {}
            }
        } else if connection.wanted.is_empty() {
            return CredentialError::Denied("the server asks for rights that the token has");
        }
        self.connect(ask, ConnectReason::MoreScopes)
    }

    pub(super) fn connect(&self, ask: &CredentialAsk, why: ConnectReason) -> CredentialError {
        // Nobody but a person who can sign in here can connect anything.
        if *ask.subject.issuer != *Subject::LOCAL {
            return CredentialError::Denied("the caller is nobody who can connect an account");
        }
        CredentialError::Connect { url: self.connect_url(&ask.route.id, &ask.subject).into(), why }
    }
}

pub(super) fn unavailable(error: impl Into<BoxError>) -> CredentialError {
    CredentialError::Unavailable(error.into())
}
