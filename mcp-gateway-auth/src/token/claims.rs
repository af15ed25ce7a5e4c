//! What an access token says.

use std::sync::Arc;

use jiff::Timestamp;
use mcp_gateway_core::contract::Resource;
use mcp_gateway_core::record::{
    Actor, ActorKind, Dependence, Principal, Revoked, Scope, ServerList, Subject, TenantId,
};
use serde::{Deserialize, Serialize};

use super::TokenLimits;
use super::verified::Verified;

/// The header's `typ` of an access token (RFC 9068 §2.1).
pub const ACCESS_TOKEN: &str = "at+jwt";

/// The claims of an access token of our own (RFC 9068 §2.2).
///
/// Every member but the marked ones is there: a token without one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Who issued it: byte for byte what the metadata says.
    pub iss: String,
    /// Whose rights: the id of the subject.
    pub sub: String,
    /// Who vouches for `sub`; absent for subjects that the gateway itself knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_iss: Option<String>,
    /// The tenant of the subject.
    pub tenant: String,
    /// The canonical URL of the one resource it is for (RFC 8707).
    pub aud: String,
    /// The id of the server behind `aud`, which does not change when names do; absent for the admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srv: Option<String>,
    /// Which client got it.
    pub client_id: String,
    /// What it is good for; scopes with blanks between.
    pub scope: String,
    /// Unique.
    pub jti: String,
    /// When it was made; seconds.
    pub iat: i64,
    /// When it ends; seconds.
    pub exp: i64,
    /// From when on it is good, if not from `iat` on; seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// When the standing of subject, client and grant was looked at last; milliseconds. Whatever of them ended later
    /// ends the token.
    pub epoch: i64,
    /// The epoch of the person that it was issued under.
    #[serde(default)]
    pub person_epoch: u64,
    /// The grant that it came of, if it came of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// The login that the grant came of, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

impl AccessClaims {
    /// The claims that must hold before a signature is worth its cost.
    pub(crate) fn check(&self, issuer: &str, resource: &Resource, now: Timestamp) -> Result<(), &'static str> {
        if self.iss != issuer {
            return Err("the token is of another issuer");
        }
        if *self.aud != *resource.url || self.srv.as_deref() != resource.server.as_deref() {
            return Err("the token is for another resource");
        }
        if self.exp.saturating_sub(self.iat) > limit(TokenLimits::LIFETIME) {
            return Err("the token lives longer than any of ours");
        }
        check_times(now, self.exp, self.nbf, Some(self.iat))
    }

    /// What is remembered of them once the signature is good.
    pub(crate) fn into_verified(self) -> Result<Verified, &'static str> {
        let subject = Subject {
            tenant: TenantId::new(self.tenant),
            issuer: self.sub_iss.as_deref().unwrap_or(Subject::LOCAL).into(),
            id: self.sub.into(),
        };
        let mut depends_on = vec![
            Revoked::Subject(&subject).id(),
            Revoked::Client(&self.client_id).id(),
            Revoked::Token(&self.jti).id(),
        ];
        depends_on.extend(self.grant.as_deref().map(|grant| Revoked::Grant(grant).id()));
        depends_on.extend(self.sid.as_deref().map(|session| Revoked::Session(session).id()));
        let epoch = Timestamp::from_millisecond(self.epoch).map_err(|_| "the token's epoch is no time")?;
        let expires_at = seconds(self.exp)?;
        let actor = Actor { kind: ActorKind::Client, id: self.client_id.into(), name: None };
        let servers: Vec<Box<str>> = self.srv.iter().map(|server| server.as_str().into()).collect();
        let principal = Principal::new(Arc::clone(&subject.issuer), Arc::clone(&subject.id))
            .with_tenant(subject.tenant.clone())
            .with_actor(actor)
            .with_scopes(scopes(&self.scope))
            .with_servers(ServerList::Only(servers.into()))
            .with_expiry(Some(expires_at))
            .with_dependence(Dependence { epoch, on: depends_on.into() });
        Ok(Verified {
            principal: Arc::new(principal),
            audience: self.aud.into(),
            person_epoch: Some(self.person_epoch),
            good_until: expires_at,
            signed_by: None,
        })
    }
}

/// The scopes that the gateway knows; others are ignored.
pub(crate) fn scopes(text: &str) -> Vec<Scope> {
    const ALL: [Scope; 4] = [Scope::Mcp, Scope::ApiRead, Scope::ApiWrite, Scope::Registry];
    let mut known = Vec::new();
    for name in text.split(' ') {
        known.extend(ALL.into_iter().find(|scope| scope.as_str() == name && !known.contains(scope)));
    }
    known
}

/// `exp`, `nbf` and `iat` with the tolerance of [`TokenLimits::CLOCK_SKEW`].
pub(crate) fn check_times(now: Timestamp, exp: i64, nbf: Option<i64>, iat: Option<i64>) -> Result<(), &'static str> {
    let (now, skew) = (now.as_second(), limit(TokenLimits::CLOCK_SKEW));
    if exp.saturating_add(skew) <= now {
        return Err("the token has expired");
    }
    if nbf.is_some_and(|from| from > now.saturating_add(skew)) {
        return Err("the token is not good yet");
    }
    if iat.is_some_and(|made| made > now.saturating_add(skew)) {
        return Err("the token is from the future");
    }
    Ok(())
}

pub(crate) fn seconds(time: i64) -> Result<Timestamp, &'static str> {
    Timestamp::from_second(time).map_err(|_| "the token ends at no time")
}

pub(crate) fn limit(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
