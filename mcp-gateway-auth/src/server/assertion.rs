//! Access that a company's identity provider has decided on: Identity Assertion Authorization Grants (ID-JAG).
//!
//! The client has exchanged its user's login at the identity provider for a grant that names us, the client and the
//! server (draft-ietf-oauth-identity-assertion-authz-grant). Nobody is asked for consent: the provider's administrators
//! have given it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::request::Parts;
use jiff::Timestamp;
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::KeyRing;
use mcp_gateway_core::record::{Outcome, Scope, Subject};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::answer::OAuthError;
use super::audit::Act;
use super::form::Form;
use super::{Grant, Inner, Issuer, ServerLimits};
use crate::token::jws::Jws;
use crate::token::{SubjectMap, TokenLimits, check_times, limit};

/// The `typ` of such a grant.
const ID_JAG: &str = "oauth-id-jag+jwt";

/// An identity provider whose decisions are accepted, and by which clients.
#[derive(Clone)]
pub struct IdentityProvider {
    issuer: Arc<str>,
    keys: Arc<dyn KeyRing>,
    clients: BTreeSet<String>,
    people: Option<Arc<dyn SubjectMap>>,
}

impl IdentityProvider {
    /// Accepts grants of this issuer, checked with these keys, and of no client yet.
    pub fn new(issuer: impl Into<Arc<str>>, keys: Arc<dyn KeyRing>) -> Self {
        Self { issuer: issuer.into(), keys, clients: BTreeSet::new(), people: None }
    }

    /// The same, presented by this client too: one that an operator made, which proves who it is.
    #[must_use]
    pub fn with_client(mut self, client_id: impl Into<String>) -> Self {
        self.clients.insert(client_id.into());
        self
    }

    /// The same, whose people are looked up here; those who are not known get nothing.
    #[must_use]
    pub fn with_people(mut self, people: Arc<dyn SubjectMap>) -> Self {
        self.people = Some(people);
        self
    }
}

impl fmt::Debug for IdentityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityProvider")
            .field("issuer", &self.issuer)
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct IdentityClaims {
    iss: String,
    sub: String,
    aud: String,
    client_id: String,
    jti: String,
    exp: i64,
    iat: i64,
    #[serde(default)]
    nbf: Option<i64>,
    resource: String,
    /// For what it was given; without it, for all that the client may ask for.
    #[serde(default)]
    scope: Option<String>,
    /// Bound to a key that the client would have to prove (RFC 7800).
    #[serde(default)]
    cnf: Option<IgnoredAny>,
}

impl IdentityClaims {
    /// What must hold for this issuer of ours and this client before anybody is asked for a key.
    pub(crate) fn check(&self, issuer: &str, client_id: &str, now: Timestamp) -> Result<(), &'static str> {
        let lives_long = self.exp > now.as_second().saturating_add(limit(ServerLimits::ASSERTION));
        if *self.aud != *issuer || self.client_id != client_id || self.jti.len() > 255 || lives_long {
            return Err("its audience, client, jti or life is not right");
        }
        if self.cnf.is_some() {
            return Err("it is bound to a key, which nobody here checks");
        }
        check_times(now, self.exp, self.nbf, Some(self.iat))
    }

    /// Whether it is for the one scope of the data plane; without any, it is for all that the client may ask for.
    pub(crate) fn is_for_mcp(&self) -> bool {
        self.scope.as_deref().is_none_or(|scope| scope.split(' ').any(|one| one == Scope::Mcp.as_str()))
    }
}

impl Inner {
    /// `grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer`: a short access token and no refresh token.
    pub(crate) async fn identity_grant(
        &self,
        head: &Parts,
        issuer: &Issuer,
        client_id: &str,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        // One answer whatever is wrong: its holder learns nothing.
        let wrong = || OAuthError::bad("invalid_grant", "The assertion is not good for this client and server.");
        let missing = || OAuthError::bad("invalid_request", "assertion is missing.");
        let assertion = form.find("assertion").ok_or_else(missing)?;
        let Some((provider, claims, server)) = self.check_identity(issuer, client_id, form, assertion).await? else {
            self.not_taken(head, client_id, None).await;
            return Err(wrong());
        };
        // The data plane has one scope: a grant that names others alone is for nothing that is here.
        if !claims.is_for_mcp() {
            self.not_taken(head, client_id, Some(&server)).await;
            return Err(OAuthError::bad("invalid_scope", "The assertion is for no scope of this server."));
        }
        let now = self.clock.now();
        let left = Duration::from_secs(claims.exp.saturating_sub(now.as_second()).max(0).unsigned_abs());
        let remember = left.saturating_add(TokenLimits::CLOCK_SKEW * 2);
        let first = self.state.use_assertion(&claims.iss, &claims.jti, remember).await;
        if !first.map_err(OAuthError::unavailable)? {
            self.not_taken(head, client_id, Some(&server)).await;
            return Err(wrong());
        }
        let subject = Subject { tenant: self.tenant.clone(), issuer: claims.iss.into(), id: claims.sub.into() };
        let subject = match &provider.people {
            None => subject,
            Some(people) => {
                let known = people.subject(&subject).await.map_err(OAuthError::unavailable)?;
                let Some(known) = known else {
                    self.not_taken(head, client_id, Some(&server)).await;
                    return Err(wrong());
                };
                known
            }
        };
        let grant = Grant {
            person_epoch: self.standing.person(&subject).unwrap_or_default().epoch,
            subject,
            client_id: client_id.to_owned(),
            server,
            issuer: issuer.server.clone(),
            scope: Scope::Mcp.as_str().to_owned(),
            session: None,
            created_at: now,
            ends_at: now.saturating_add(ServerLimits::IDENTITY_TOKEN).unwrap_or(now),
            refresh_key: None,
            generation: 0,
            rotated_at: now,
        };
        let act = exchange(client_id, Some(&grant.subject), Some(&grant.server), Outcome::Ok);
        self.record(head, act).await.map_err(OAuthError::unavailable)?;
        self.respond(head, issuer, None, &grant, None, now).await
    }

    /// Records an assertion that is not taken. Nothing is given: the answer does not depend on the trail.
    async fn not_taken(&self, head: &Parts, client: &str, server: Option<&str>) {
        let _ = self.record(head, exchange(client, None, server, Outcome::Denied)).await;
    }

    /// What a good assertion says, and the server it is for.
    async fn check_identity(
        &self,
        issuer: &Issuer,
        client_id: &str,
        form: &Form,
        assertion: &str,
    ) -> Result<Option<(&IdentityProvider, IdentityClaims, String)>, OAuthError> {
        let refused = |why: &str| {
            tracing::debug!(client = client_id, why, "an identity assertion is not good");
            Ok(None)
        };
        let Ok(jws) = Jws::parse(assertion.as_bytes()) else { return refused("it is no JWT") };
        let Ok(claims) = serde_json::from_slice::<IdentityClaims>(&jws.claims) else {
            return refused("it lacks a claim");
        };
        let Some(provider) = self.identity_providers.iter().find(|provider| *provider.issuer == *claims.iss) else {
            return refused("its issuer is not one that is accepted");
        };
        if !jws.header.is(ID_JAG) || !provider.clients.contains(client_id) {
            return refused("its type is another, or the client is not on the list");
        }
        if let Err(why) = claims.check(&issuer.url, client_id, self.clock.now()) {
            return refused(why);
        }
        let named = std::iter::once(&*claims.resource);
        let server = issuer.target(&self.mount, named).ok().flatten();
        let Ok(asked) = issuer.target(&self.mount, form.all("resource")) else {
            return refused("the resource that is asked for is none of ours");
        };
        let Some(server) = server.filter(|server| asked.is_none_or(|asked| asked == *server)) else {
            return refused("its resource is not the one server that is asked for");
        };
        let Some(kid) = &jws.header.kid else { return refused("it does not name its key") };
        let key = provider.keys.key(kid).await.map_err(OAuthError::unavailable)?;
        match key.map(|key| jws.verify(&*key)) {
            Some(Ok(())) => Ok(Some((provider, claims, server))),
            Some(Err(why)) => refused(why),
            None => refused("its key is not known"),
        }
    }
}

fn exchange<'a>(client: &'a str, subject: Option<&'a Subject>, server: Option<&'a str>, outcome: Outcome) -> Act<'a> {
    Act { name: "oauth.exchange", subject, client, server, target: client, outcome, why: None }
}
