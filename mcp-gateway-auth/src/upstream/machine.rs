//! Servers that know the gateway itself (RFC 6749 §4.4).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{CredentialError, UpstreamCredential};
use mcp_gateway_core::record::{Route, RouteAuth, RouteTarget, StaticClient};
use url::Url;

use super::credentials::{bearer, unavailable};
use super::discovery::canonical;
use super::flight::Flight;
use super::record::{ClientAtIssuer, is_fresh};
use super::{AccountError, AccountLimits, Accounts, client, discovery, lock};

/// One attempt for a route, and the configuration that it is for.
type RouteFlight = Arc<Flight<Option<Arc<RouteAuth>>>>;

/// One token for each server, in memory: a replica that starts asks for its own.
#[derive(Debug, Default)]
pub(super) struct MachineTokens {
    held: Mutex<HashMap<Arc<str>, Machine>>,
    /// By server, with what the entry said when a token was asked for last.
    flights: Mutex<HashMap<Arc<str>, RouteFlight>>,
}

#[derive(Debug)]
struct Machine {
    /// What the entry said when it was given.
    auth: Arc<RouteAuth>,
    origin: String,
    credential: UpstreamCredential,
    made_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl Machine {
    fn is_for(&self, route: &Route) -> bool {
        route.auth() == Some(&self.auth) && origin_of(route).as_deref() == Some(&*self.origin)
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        is_fresh(self.expires_at, self.made_at, now)
    }
}

impl Accounts {
    pub(super) fn machine_ready(&self, route: &Route) -> Option<UpstreamCredential> {
        self.machine_held(route).filter(|(_, _, is_fresh)| *is_fresh).map(|(credential, ..)| credential)
    }

    /// A token for all callers; another one than the `refused`.
    pub(super) async fn of_machine(
        &self,
        route: &Arc<Route>,
        refused: Option<&UpstreamCredential>,
    ) -> Result<UpstreamCredential, CredentialError> {
        let (this, route, refused) = (self.clone(), Arc::clone(route), refused.cloned());
        // In a task of its own, so that who waits gets it though the first has hung up.
        let asking = tokio::spawn(async move {
            let flight = Arc::clone(lock(&this.0.machines.flights).entry(Arc::clone(&route.id)).or_default());
            let mut turn = flight.turn().await;
            let held = this.machine_held(&route);
            if let Some((credential, made_at, is_fresh)) = held.clone()
                && is_fresh
            {
                if refused.as_ref() != Some(&credential) {
                    return Ok(credential);
                }
                let old = SignedDuration::try_from(AccountLimits::REFUSED_ANEW).unwrap_or_default();
                if this.0.clock.now().duration_since(made_at) < old {
                    return Err(CredentialError::Denied("the server refuses the gateway's token"));
                }
            }
            // An entry that was changed since has failed at nothing.
            let is_of = turn.kept().as_ref() == route.auth();
            if let Some(error) = turn.failure(this.0.clock.monotonic()).filter(|_| is_of) {
                return Err(unavailable(error));
            }
            // What was just given is for all who have waited, however short it lives.
            if let Some((credential, ..)) = held.filter(|(one, ..)| turn.waited && refused.as_ref() != Some(one)) {
                return Ok(credential);
            }
            let asked = this.ask_for_machine(&route).await;
            let failed = match &asked {
                Err(CredentialError::Unavailable(error)) => {
                    // From its end: an issuer that does not answer takes longer than the pause.
                    let error = Arc::new(AccountError::Foreign(error.to_string().into()));
                    Some((error, this.0.clock.monotonic() + AccountLimits::RETRY))
                }
                _ => None,
            };
            *turn.kept() = route.auth().cloned();
            turn.land(failed);
            asked
        });
        asking.await.unwrap_or_else(|error| Err(unavailable(error)))
    }

    /// What is held for an entry, since when, and whether it is good for a call that begins now.
    fn machine_held(&self, route: &Route) -> Option<(UpstreamCredential, Timestamp, bool)> {
        let held = lock(&self.0.machines.held);
        let machine = held.get(&route.id).filter(|machine| machine.is_for(route))?;
        Some((machine.credential.clone(), machine.made_at, machine.is_fresh(self.0.clock.now())))
    }

    async fn ask_for_machine(&self, route: &Route) -> Result<UpstreamCredential, CredentialError> {
        let (Some(auth), RouteTarget::Remote { url, .. }) = (route.auth(), &route.target) else {
            return Err(CredentialError::Denied("the server is not remote"));
        };
        let RouteAuth::Machine { scopes, client } = &**auth else {
            return Err(CredentialError::Denied("the entry says something else now"));
        };
        let Ok(server) = Url::parse(&url.to_string()) else {
            return Err(CredentialError::Denied("the server's address is no URL"));
        };
        let now = self.0.clock.now();
        let tokens = self.tokens_of(client, scopes, &server, now).await.map_err(|error| match error {
            AccountError::Refused(word) => unavailable(format!("the gateway gets no token: {word}")),
            error => unavailable(error),
        })?;
        let id = format!("client:{}", client.client_id);
        let Some(credential) = bearer(&tokens.access_token, &id) else {
            return Err(CredentialError::Denied("the token is no text of a header"));
        };
        let machine = Machine {
            auth: Arc::clone(auth),
            origin: server.origin().ascii_serialization(),
            credential: credential.clone(),
            made_at: now,
            expires_at: tokens.expires_at,
        };
        lock(&self.0.machines.held).insert(Arc::clone(&route.id), machine);
        Ok(credential)
    }

    async fn tokens_of(
        &self,
        client: &StaticClient,
        scopes: &[Box<str>],
        server: &Url,
        now: Timestamp,
    ) -> Result<client::Tokens, AccountError> {
        let issuer = discovery::of_issuer(&self.0.fetchers, &client.issuer, server).await?;
        let known = ClientAtIssuer {
            id: client.client_id.to_string(),
            secret: client.client_secret.clone(),
            basic: issuer.basic,
        };
        let (resource, scope) = (canonical(server), scopes.join(" "));
        let mut fields = vec![("grant_type", "client_credentials"), ("resource", &*resource)];
        if !scope.is_empty() {
            fields.push(("scope", &scope));
        }
        let Ok(url) = Url::parse(&issuer.endpoints.token) else {
            return super::error::unfit("the token endpoint is no URL");
        };
        let fetch = self.0.fetchers.of(&url, server);
        client::tokens(fetch, &issuer.endpoints.token, &known, &fields, now).await
    }
}

fn origin_of(route: &Route) -> Option<String> {
    let RouteTarget::Remote { url, .. } = &route.target else { return None };
    Some(Url::parse(&url.to_string()).ok()?.origin().ascii_serialization())
}
