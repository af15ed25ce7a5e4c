//! What tokens of others say.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_gateway_core::contract::Resource;
use mcp_gateway_core::record::{Actor, ActorKind, Dependence, Principal, Revoked, ServerList, Subject};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::TokenLimits;
use super::super::claims::{check_times, limit, seconds};
use super::super::verified::Verified;
use super::TrustedIssuer;

/// The claims of a token of another issuer (RFC 9068 §2.2), or its introspection (RFC 7662 §2.2).
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ForeignClaims {
    #[serde(default)]
    pub(crate) iss: Option<String>,
    sub: String,
    aud: Audience,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    /// Without it nobody could say whether a revocation came later.
    iat: i64,
    /// The token is bound to a key that its caller would have to prove (RFC 7800).
    #[serde(default)]
    cnf: Option<IgnoredAny>,
    #[serde(default)]
    jti: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    azp: Option<String>,
    /// What only ID tokens have (OpenID Connect Core §2, §3.3.2.11); the nonce, where a token is not called otherwise.
    #[serde(default)]
    nonce: Option<IgnoredAny>,
    #[serde(default)]
    at_hash: Option<IgnoredAny>,
    #[serde(default)]
    c_hash: Option<IgnoredAny>,
    /// What only security events have, logout tokens among them (RFC 8417 §2.2).
    #[serde(default)]
    events: Option<IgnoredAny>,
    /// Keycloak's word for what a token is.
    #[serde(default)]
    typ: Option<String>,
    /// Amazon Cognito's.
    #[serde(default)]
    token_use: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl ForeignClaims {
    /// Whether an issuer that gives its access tokens no type of their own means something else by this one (RFC 8725
    /// §3.11, §3.12).
    pub(crate) fn is_something_else(&self) -> bool {
        let marked = [&self.at_hash, &self.c_hash, &self.events].iter().any(|mark| mark.is_some());
        let names = [
            self.typ.as_deref().map(|typ| typ.eq_ignore_ascii_case("bearer")),
            self.token_use.as_deref().map(|used| used == "access"),
        ];
        // Keycloak before 25 has the nonce of the login in all its tokens, each of which it calls by its name.
        let nameless = names.iter().all(Option::is_none);
        marked || names.contains(&Some(false)) || nameless && self.nonce.is_some()
    }

    /// What must hold before a signature is worth its cost.
    pub(crate) fn check(
        &self,
        issuer: &TrustedIssuer,
        resource: &Resource,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        if self.iss.as_deref().is_some_and(|iss| *iss != *issuer.issuer) {
            return Err("the token is of another issuer");
        }
        let id = resource.server.as_deref();
        let listed = |servers: &ServerList| id.is_some_and(|id| servers.contains(id));
        let fits = self.aud.as_slice().iter().any(|audience| {
            *audience == *resource.url || issuer.audiences.iter().any(|(name, of)| name == audience && listed(of))
        });
        if !fits {
            return Err("the token is for another resource");
        }
        if self.cnf.is_some() {
            return Err("the token is bound to a key, and nobody here can check that its caller has it");
        }
        check_times(now, self.exp, self.nbf, Some(self.iat))?;
        if self.forgotten() <= now.as_second() {
            return Err("the token is so old that its revocation may be forgotten");
        }
        Ok(())
    }

    /// When a revocation of the token need not be known any more: as long as for our own, which live no longer.
    fn forgotten(&self) -> i64 {
        self.iat.saturating_add(limit(TokenLimits::LIFETIME)).saturating_add(limit(TokenLimits::CLOCK_SKEW))
    }

    /// What is remembered; `resource` is what it was checked for.
    pub(crate) fn into_verified(self, issuer: &TrustedIssuer, resource: &Resource) -> Result<Verified, &'static str> {
        let subject =
            Subject { tenant: issuer.tenant.clone(), issuer: Arc::clone(&issuer.issuer), id: self.sub.as_str().into() };
        let epoch = seconds(self.iat)?;
        let expires_at = seconds(self.exp.min(self.forgotten()))?;
        // Qualified: no client of ours has a blank in its id, so no issuer can name one.
        let client = self.client_id.or(self.azp).unwrap_or(self.sub);
        let client: Arc<str> = format!("{} {client}", issuer.issuer).into();
        let mut depends_on = vec![Revoked::Subject(&subject).id(), Revoked::Client(&client).id()];
        depends_on.extend(self.jti.as_deref().map(|id| Revoked::Token(id).id()));
        // For another server of its audience, the same token is checked like a new one.
        let servers = resource.server.iter().map(|server| Box::from(&**server)).collect::<Vec<Box<str>>>();
        let principal = Principal::new(Arc::clone(&subject.issuer), Arc::clone(&subject.id))
            .with_tenant(subject.tenant.clone())
            .with_actor(Actor { kind: ActorKind::Client, id: client, name: None })
            .with_scopes(issuer.scopes.iter().copied())
            .with_servers(ServerList::Only(servers.into()))
            .with_expiry(Some(expires_at))
            .with_dependence(Dependence { epoch, on: depends_on.into() });
        Ok(Verified {
            principal: Arc::new(principal),
            audience: Arc::clone(&resource.url),
            person_epoch: None,
            good_until: expires_at,
            signed_by: None,
        })
    }
}
