//! Renewing tokens: once, however many calls wait for it at however many replicas.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_gateway_core::contract::{Revision, StoreError, StoreErrorKind, When, Write};
use mcp_gateway_core::record::{ActorFacts, ActorKind, AuditEvent, Category, EventKind, Outcome, Stored};
use tokio::sync::Mutex;
use ulid::Ulid;
use url::Url;

use super::credentials::Held;
use super::error::unfit;
use super::{AccountError, AccountLimits, Accounts, Connection, ConnectionState, RefreshLease, client, lock};

/// Between two looks whether another replica is done.
const LOOK: Duration = Duration::from_millis(50);
/// How often tokens that were renewed are tried to be kept.
const KEPT: usize = 5;
/// Connections whose last renewal is remembered.
const REMEMBERED: usize = 10_000;

/// The renewals of one connection in this process: one at a time.
#[derive(Debug, Default)]
pub(super) struct Flight(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    renewed: Option<Arc<Held>>,
    failed: Option<Instant>,
}

impl Accounts {
    /// Renews the tokens of an account, or takes what somebody has renewed since it was read.
    ///
    /// # Errors
    /// [`NotYours`](AccountError::NotYours) when it is gone, [`Refused`](AccountError::Refused) when it has to be
    /// connected anew.
    pub(super) async fn renew(&self, seen: &Arc<Held>) -> Result<Arc<Held>, AccountError> {
        let (this, seen) = (self.clone(), Arc::clone(seen));
        // In a task of its own: when its caller hangs up, a token that was rotated must still be kept.
        let renewing = tokio::spawn(async move {
            let flight = this.flight(&seen.stored.id);
            let mut last = flight.0.lock().await;
            if let Some(renewed) = last.renewed.as_ref().filter(|one| one.stored.revision > seen.stored.revision) {
                return Ok(Arc::clone(renewed));
            }
            let now = this.0.clock.monotonic();
            if last.failed.is_some_and(|at| now.saturating_duration_since(at) < AccountLimits::RETRY) {
                return Err(AccountError::Foreign("its issuer could not be asked a moment ago".into()));
            }
            let renewed = this.renew_alone(&seen.stored).await;
            last.failed = match &renewed {
                Err(AccountError::Foreign(_)) => Some(now),
                _ => None,
            };
            last.renewed = renewed.as_ref().ok().cloned();
            renewed
        });
        renewing.await.unwrap_or_else(|error| Err(AccountError::Foreign(error.into())))
    }

    fn flight(&self, id: &str) -> Arc<Flight> {
        let mut flights = lock(&self.0.flights);
        if flights.len() >= REMEMBERED {
            // What is under way is held by others, too.
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        }
        Arc::clone(flights.entry(id.to_owned()).or_default())
    }

    async fn renew_alone(&self, seen: &Stored<Connection>) -> Result<Arc<Held>, AccountError> {
        let until = tokio::time::Instant::now() + AccountLimits::LEASE * 2;
        loop {
            if let Some(renewed) = self.renewed_by_others(seen).await? {
                return Ok(renewed);
            }
            let lease = self.0.leases.put(&seen.id, &RefreshLease {}, Some(AccountLimits::LEASE), When::Absent)?;
            match self.0.leases.store().commit(vec![lease]).await {
                Ok(lease) => {
                    let renewed = self.renew_leased(seen, lease).await;
                    // What was kept has ended it already.
                    let _ = self.0.leases.delete(&seen.id, When::At(lease)).await;
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

    async fn renew_leased(&self, seen: &Stored<Connection>, lease: Revision) -> Result<Arc<Held>, AccountError> {
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
        let tokens = match client::tokens(fetch, &next.token_endpoint, &next.client, &fields, now).await {
            Err(AccountError::Refused(word)) => {
                if word == "invalid_client" {
                    self.unregister(&next.issuer, &next.client).await;
                }
                // Nothing else says that it is over: `temporarily_unavailable`, for instance, is not.
                return Err(match &*word {
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
        self.keep_renewed(&current, next, lease).await
    }

    /// Keeps renewed tokens before anybody uses them: the ones before may be good for nothing any more.
    async fn keep_renewed(
        &self,
        current: &Stored<Connection>,
        next: Connection,
        lease: Revision,
    ) -> Result<Arc<Held>, AccountError> {
        let mut tries = 0;
        loop {
            let put = self.0.connections.put(&current.id, &next, None, When::At(current.revision))?;
            let done = Write::Delete { key: self.0.leases.key(&current.id), when: When::At(lease) };
            // A lease that has run out must not keep the tokens from being kept.
            let writes = if tries == 0 { vec![put, done] } else { vec![put] };
            match self.0.connections.store().commit(writes).await {
                Ok(revision) => {
                    return Ok(Held::of(Stored { id: current.id.clone(), revision, value: next }));
                }
                Err(error) if error.kind() == StoreErrorKind::Conflict => match self.is_unchanged(current).await {
                    Ok(true) if tries < KEPT => {}
                    // It was disconnected or connected anew: these tokens are nobody's.
                    _ => {
                        self.give_back(&next).await;
                        return Err(AccountError::NotYours);
                    }
                },
                Err(error) if tries < KEPT => {
                    tracing::warn!(%error, connection = %current.id, "renewed tokens are not kept yet; trying again");
                    if let Ok(Some(kept)) = self.0.connections.get(&current.id).await
                        && kept.value.access_token == next.access_token
                    {
                        return Ok(Held::of(kept));
                    }
                    tokio::time::sleep(LOOK * 4).await;
                }
                Err(error) => return Err(error.into()),
            }
            tries += 1;
        }
    }

    async fn is_unchanged(&self, current: &Stored<Connection>) -> Result<bool, StoreError> {
        let now = self.0.connections.get(&current.id).await?;
        Ok(now.is_some_and(|now| now.revision == current.revision))
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
