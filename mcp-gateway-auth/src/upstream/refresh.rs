//! Renewing tokens: once, however many calls wait for it at however many replicas.

use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::contract::{Revision, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, Route, Stored};
use ulid::Ulid;
use url::Url;

use super::credentials::Held;
use super::error::unfit;
use super::flight::Flight;
use super::{AccountError, AccountLimits, Accounts, Connection, ConnectionState, RefreshLease, client, lock};

/// Between two looks whether another replica is done.
const LOOK: Duration = Duration::from_millis(50);
/// Connections whose last renewal is remembered.
const REMEMBERED: usize = 10_000;

/// What is remembered of the renewals of one connection.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    renewed: Option<Arc<Held>>,
    /// Which version the last attempt was for.
    seen: Option<Revision>,
    /// Tokens that the store did not take: the ones before may be good for nothing any more.
    unsaved: Option<Renewed>,
}

/// Renewed tokens.
#[derive(Debug)]
struct Renewed {
    before: Stored<Connection>,
    next: Connection,
    /// The lease under which they were renewed, as long as it may be there.
    lease: Option<Revision>,
}

impl Accounts {
    /// Renews the tokens of an account, or takes what somebody has renewed since it was read. Whoever waits for an attempt
    /// gets what comes of it.
    ///
    /// # Errors
    /// [`NotYours`](AccountError::NotYours) when it is gone, [`Refused`](AccountError::Refused) when it has to be
    /// connected anew.
    pub(super) async fn renew(&self, seen: &Arc<Held>, route: &Arc<Route>) -> Result<Arc<Held>, Arc<AccountError>> {
        let (this, seen, route) = (self.clone(), Arc::clone(seen), Arc::clone(route));
        // In a task of its own: when its caller hangs up, a token that was rotated must still be kept.
        let renewing = tokio::spawn(async move {
            let flight = this.flight(&seen.stored.id);
            let mut turn = flight.turn().await;
            if let Some(renewed) = turn.kept().renewed.as_ref().filter(|one| one.stored.revision > seen.stored.revision)
            {
                return Ok(Arc::clone(renewed));
            }
            // One that was connected anew since has failed at nothing.
            let is_of = turn.kept().seen.is_some_and(|of| of >= seen.stored.revision);
            if let Some(error) = turn.failure(this.0.clock.monotonic()).filter(|_| is_of) {
                return Err(error);
            }
            let renewed = this.renew_alone(&seen.stored, &route, &mut turn.kept().unsaved).await.map_err(Arc::new);
            // From its end: an issuer that does not answer takes longer than the pause.
            let now = this.0.clock.monotonic();
            turn.kept().renewed = renewed.as_ref().ok().cloned();
            turn.kept().seen = Some(seen.stored.revision);
            turn.land(renewed.as_ref().err().map(|error| {
                let is_asked = !matches!(**error, AccountError::Foreign(_));
                (Arc::clone(error), if is_asked { now } else { now + AccountLimits::RETRY })
            }));
            renewed
        });
        renewing.await.unwrap_or_else(|error| Err(Arc::new(AccountError::Foreign(error.into()))))
    }

    fn flight(&self, id: &str) -> Arc<Flight<Renewals>> {
        let mut flights = lock(&self.0.flights);
        if flights.len() >= REMEMBERED {
            // What is under way is held by others, too; tokens that nobody else has are not forgotten.
            flights.retain(|_, flight| {
                Arc::strong_count(flight) > 1 || flight.peek(|kept| kept.unsaved.is_some()).unwrap_or(true)
            });
        }
        Arc::clone(flights.entry(id.to_owned()).or_default())
    }

    async fn renew_alone(
        &self,
        seen: &Stored<Connection>,
        route: &Route,
        unsaved: &mut Option<Renewed>,
    ) -> Result<Arc<Held>, AccountError> {
        if unsaved.is_some() {
            let kept = self.keep_renewed(unsaved, Duration::ZERO).await?;
            if kept.stored.value.is_fresh(self.0.clock.now()) {
                return Ok(kept);
            }
        }
        let until = tokio::time::Instant::now() + AccountLimits::LEASE * 2;
        loop {
            if let Some(renewed) = self.renewed_by_others(seen).await? {
                return Ok(renewed);
            }
            let lease = self.0.leases.put(&seen.id, &RefreshLease {}, Some(AccountLimits::LEASE), When::Absent)?;
            match self.0.leases.store().commit(vec![lease]).await {
                Ok(lease) => {
                    let renewed = self.renew_leased(seen, route, lease, unsaved).await;
                    // Keeping tokens ends it, too. While they are not kept, nobody else is to try the ones before.
                    if unsaved.is_none() {
                        let _ = self.0.leases.delete(&seen.id, When::At(lease)).await;
                    }
                    return renewed;
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
            if tokio::time::Instant::now() >= until {
                return Err(AccountError::Foreign("another replica does not come to an end with it".into()));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What another replica, or the person, has made of it since.
    async fn renewed_by_others(&self, seen: &Stored<Connection>) -> Result<Option<Arc<Held>>, AccountError> {
        let Some(now) = self.0.connections.get(&seen.id).await? else { return Err(AccountError::NotYours) };
        if now.value.state != ConnectionState::Connected {
            return Err(AccountError::Refused("it has to be connected anew".to_owned()));
        }
        let renewed = now.value.access_token != seen.value.access_token && now.value.is_fresh(self.0.clock.now());
        Ok(renewed.then(|| Held::of(now)))
    }

    async fn renew_leased(
        &self,
        seen: &Stored<Connection>,
        route: &Route,
        lease: Revision,
        unsaved: &mut Option<Renewed>,
    ) -> Result<Arc<Held>, AccountError> {
        // Once more: somebody may have come to an end between the look and the lease.
        if let Some(renewed) = self.renewed_by_others(seen).await? {
            return Ok(renewed);
        }
        let Some(current) = self.0.connections.get(&seen.id).await? else { return Err(AccountError::NotYours) };
        let mut next = current.value.clone();
        let Some(token) = next.refresh_token.clone() else {
            // There is nothing by which anybody could renew it.
            self.give_up(&current, "there is no refresh token").await?;
            return Err(AccountError::Refused("there is no refresh token".to_owned()));
        };
        let (Ok(url), Ok(server)) = (Url::parse(&next.token_endpoint), Url::parse(&next.origin)) else {
            return unfit("the token endpoint is no URL");
        };
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token.expose()),
            ("resource", &*current.value.resource),
        ];
        let fetch = self.0.fetchers.of(&url, &server);
        let now = self.0.clock.now();
        let configured = next.client_of(route);
        let client = configured.as_ref().unwrap_or(&next.client);
        let tokens = match client::tokens(fetch, &next.token_endpoint, client, &fields, now).await {
            Err(AccountError::Refused(word)) => {
                let is_of_client = matches!(&*word, "invalid_client" | "unauthorized_client");
                if word == "invalid_client" && configured.is_none() {
                    self.unregister(&next.issuer, client).await;
                }
                // Nothing else says that it is over: `temporarily_unavailable`, for instance, is not.
                return Err(match &*word {
                    // An administrator has to see to it; the person's account is as good as before.
                    _ if is_of_client && configured.is_some() => {
                        AccountError::Foreign(format!("its issuer refuses the entry's client: {word}").into())
                    }
                    "invalid_grant" | "invalid_client" | "unauthorized_client" | "invalid_scope" | "invalid_target" => {
                        self.give_up(&current, &word).await?;
                        AccountError::Refused(word)
                    }
                    _ => AccountError::Foreign(format!("its issuer refuses: {word}").into()),
                });
            }
            tokens => tokens?,
        };
        next.access_token = tokens.access_token;
        next.refresh_token = tokens.refresh_token.or(next.refresh_token);
        next.expires_at = tokens.expires_at;
        next.scopes = tokens.scopes.unwrap_or(next.scopes);
        next.refreshed_at = now;
        *unsaved = Some(Renewed { before: current, next, lease: Some(lease) });
        self.keep_renewed(unsaved, AccountLimits::LEASE).await
    }

    /// Keeps renewed tokens before anybody uses them, trying for so long: the ones before may be good for nothing any more.
    /// They stay `unsaved` when the store takes them not.
    async fn keep_renewed(&self, unsaved: &mut Option<Renewed>, trying: Duration) -> Result<Arc<Held>, AccountError> {
        let until = tokio::time::Instant::now() + trying;
        loop {
            let Some(renewed) = unsaved.as_mut() else { return Err(AccountError::NotYours) };
            match self.keep_once(renewed).await {
                // Somebody has written it, or the lease has run out, which must not keep the tokens from being kept.
                Err(AccountError::Store(error)) if error.kind() == StoreErrorKind::Conflict => renewed.lease = None,
                Err(AccountError::Store(error)) if tokio::time::Instant::now() < until => {
                    tracing::warn!(%error, connection = %renewed.before.id, "renewed tokens are not kept yet; trying again");
                }
                Err(AccountError::Store(error)) => return Err(error.into()),
                done => {
                    *unsaved = None;
                    return done;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One try, from what the record is now: whoever else has written it may have changed other fields, and a commit whose
    /// outcome was unknown may have been done.
    async fn keep_once(&self, renewed: &Renewed) -> Result<Arc<Held>, AccountError> {
        let Renewed { before, next, lease } = renewed;
        let now = match self.0.connections.get(&before.id).await? {
            Some(now) if now.value.access_token == next.access_token => return Ok(Held::of(now)),
            Some(now) if now.value.refresh_token == before.value.refresh_token => now,
            // It was disconnected or connected anew: these tokens are nobody's.
            other => {
                self.give_back(next).await;
                return other.map(Held::of).ok_or(AccountError::NotYours);
            }
        };
        let merged = Connection {
            access_token: next.access_token.clone(),
            refresh_token: next.refresh_token.clone(),
            expires_at: next.expires_at,
            scopes: next.scopes.clone(),
            state: next.state,
            refreshed_at: next.refreshed_at,
            ..now.value
        };
        let mut writes = vec![self.0.connections.put(&now.id, &merged, None, When::At(now.revision))?];
        writes.extend(lease.map(|at| Write::Delete { key: self.0.leases.key(&now.id), when: When::At(at) }));
        let revision = self.0.connections.store().commit(writes).await?;
        Ok(Held::of(Stored { id: now.id, revision, value: merged }))
    }

    /// Its person has to connect it anew.
    async fn give_up(&self, current: &Stored<Connection>, why: &str) -> Result<(), AccountError> {
        let over = Connection { state: ConnectionState::Reconnect, ..current.value.clone() };
        match self.0.connections.save(&current.id, &over, When::At(current.revision)).await {
            Err(error) if error.kind() == StoreErrorKind::Conflict => return Ok(()),
            done => done?,
        };
        let now = self.0.clock.now();
        let mut event = AuditEvent::new(now, Ulid::generate(), Category::Auth, EventKind::Act);
        let subject = current.value.subject.clone();
        event.actor = Some(ActorFacts { id: subject.id.clone(), subject, kind: ActorKind::Custom, name: None });
        event.server = Some(current.value.server.as_str().into());
        event.method = Some("account.refresh".into());
        event.target = Some((&*current.id).into());
        event.outcome = Outcome::Denied;
        event.error = Some(why.into());
        if let Err(error) = self.0.sink.record(event).await {
            tracing::error!(%error, "that an account has to be connected anew is not in the audit trail");
        }
        Ok(())
    }
}
