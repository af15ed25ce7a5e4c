//! Who calls with a session.

use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuthError, Authenticator, Effort, Resource};
use mcp_gateway_core::record::{Actor, ActorKind, Principal, Scope, TenantId, User};

use super::cookie::{CookieNames, read_cookie};
use super::{Sessions, csrf};
use crate::user::UserDirectory;

/// Authenticates requests of browsers by the cookie of their session, for the admin API alone.
///
/// A request that is not a read must come from a page of the gateway's own origin (`Sec-Fetch-Site`, else `Origin`) and
/// carry the session's [token](super::csrf_token) in [`X-CSRF-Token`](super::CSRF_HEADER): 403 otherwise. A bearer beside
/// the cookie wins, since no other site can make a browser send one. On the data plane the cookie is not looked at.
///
/// Each request reads the session's record; roles and epoch are those that the directory has now.
pub struct SessionAuthenticator {
    shared: Arc<Shared>,
}

struct Shared {
    sessions: Sessions,
    users: Arc<dyn UserDirectory>,
    tenant: TenantId,
    cookies: CookieNames,
    origin: Box<str>,
}

impl SessionAuthenticator {
    /// For a gateway at this origin, `https://gateway.example`.
    pub fn new(sessions: Sessions, users: Arc<dyn UserDirectory>, tenant: TenantId, origin: &str) -> Self {
        let cookies = CookieNames::for_url(origin);
        Self { shared: Arc::new(Shared { sessions, users, tenant, cookies, origin: origin.into() }) }
    }
}

impl Shared {
    async fn principal(&self, token: &str) -> Result<Option<Arc<Principal>>, AuthError> {
        let found = self.sessions.find(token).await.map_err(|error| AuthError::Unavailable(error.into()))?;
        let session = found.ok_or(AuthError::Invalid("the session has ended"))?;
        if self.users.refuses() {
            return Err(AuthError::Unavailable("the directory of users has been cut off for too long".into()));
        }
        let Some(user) = self.users.user(&session.value.user) else {
            // Made a moment ago at another replica, and not heard of here.
            return Err(AuthError::Unavailable("the user of the session is not known here yet".into()));
        };
        if !user.enabled || user.epoch != session.value.epoch {
            return Err(AuthError::Invalid("the session was ended, or its user is disabled"));
        }
        let subject = User::subject(self.tenant.clone(), &user.id);
        let actor = Actor { kind: ActorKind::Session, id: session.id[..32].into(), name: None };
        let principal = Principal::new(subject.issuer, subject.id)
            .with_tenant(subject.tenant)
            .with_actor(actor)
            .with_scopes([Scope::ApiRead, Scope::ApiWrite])
            .with_roles(user.roles)
            .with_expiry(Some(self.sessions.end_of(&session.value)))
            .with_authentication(session.value.authenticated_at);
        Ok(Some(Arc::new(principal)))
    }
}

impl Authenticator for SessionAuthenticator {
    fn authenticate(
        &self,
        parts: &Parts,
        resource: &Resource,
    ) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        if resource.server.is_some() || parts.headers.contains_key(AUTHORIZATION) {
            return Ok(None).into();
        }
        let token = match read_cookie(&parts.headers, self.shared.cookies.session()) {
            Ok(Some(token)) => token.to_owned(),
            Ok(None) => return Ok(None).into(),
            Err(_) => return Err(AuthError::Malformed("the session's cookie is there twice, or is broken")).into(),
        };
        if let Err(error) = csrf::check(parts, &token, &self.shared.origin) {
            return Err(error).into();
        }
        let shared = Arc::clone(&self.shared);
        MaybeReady::wait(async move { shared.principal(&token).await })
    }

    /// Whatever is in a header is somebody else's.
    fn effort(&self, _: &Parts, _: &Resource) -> Effort {
        Effort::Nothing
    }
}

impl fmt::Debug for SessionAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionAuthenticator").field("origin", &self.shared.origin).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;
