//! `POST /revoke` (RFC 7009) and `POST /introspect` (RFC 7662).

use http::request::Parts;
use http::{Response, StatusCode};
use mcp_gateway_core::Body;
use mcp_gateway_core::record::{Outcome, Revoked, ServerList};
use serde_json::{Value, json};

use super::answer::{OAuthError, empty, json as answer};
use super::audit::Act;
use super::form::Form;
use super::grant::RefreshToken;
use super::{Inner, Issuer, OAuthClient};
use crate::token::jws::Jws;
use crate::token::{ACCESS_TOKEN, AccessClaims};

impl Inner {
    /// Ends a refresh token with everything that came of its grant, or an access token alone. The answer is the same
    /// for tokens that nobody knows (RFC 7009 §2.2).
    pub(crate) async fn revoke(
        &self,
        head: &Parts,
        issuer: &Issuer,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        let (client_id, _) = self.authenticated(head, issuer, form).await?;
        let token = form.find("token").ok_or_else(|| OAuthError::bad("invalid_request", "token is missing."))?;
        if let Some(refresh) = RefreshToken::parse(token) {
            let stored = self.state.grants.get(refresh.grant).await.map_err(OAuthError::unavailable)?;
            if stored.is_some_and(|it| it.value.client_id == client_id && refresh.is_genuine(&it.value)) {
                let ended = self.state.end_grant(refresh.grant, "revoked by its client", &*self.clock).await;
                ended.map_err(OAuthError::unavailable)?;
                self.revoked(head, &client_id, refresh.grant).await;
            }
        } else if let Some(claims) = self.own_token(issuer, token).await?
            && claims.client_id == client_id
        {
            let write = self.state.revoke(Revoked::Token(&claims.jti), "revoked by its client", &*self.clock);
            let write = write.map_err(OAuthError::unavailable)?;
            self.state.commit(vec![write]).await.map_err(OAuthError::unavailable)?;
            self.revoked(head, &client_id, &claims.jti).await;
        }
        Ok(empty(StatusCode::OK))
    }

    async fn revoked(&self, head: &Parts, client: &str, target: &str) {
        let outcome = Outcome::Ok;
        let act = Act { name: "oauth.revoke", subject: None, client, server: None, target, outcome, why: None };
        // Ended whether it is recorded or not.
        let _ = self.record(head, act).await;
    }

    /// Says what an access token is, to the server it is for and to nobody else.
    pub(crate) async fn introspect(
        &self,
        head: &Parts,
        issuer: &Issuer,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        let (_, client) = self.authenticated(head, issuer, form).await?;
        let OAuthClient { resource_server: Some(server), .. } = &client else {
            return Err(OAuthError::bad("unauthorized_client", "The client is not a server of this gateway."));
        };
        if client.is_public() {
            return Err(OAuthError::client("A client without a secret cannot introspect."));
        }
        let token = form.find("token").ok_or_else(|| OAuthError::bad("invalid_request", "token is missing."))?;
        let inactive = json!({ "active": false });
        let body = match self.own_token(issuer, token).await? {
            Some(claims) if claims.srv.as_deref() == Some(server) => self.active(claims).unwrap_or(inactive),
            _ => inactive,
        };
        Ok(answer(StatusCode::OK, &body))
    }

    fn active(&self, claims: AccessClaims) -> Option<Value> {
        let body = json!({
            "active": true,
            "scope": claims.scope, "client_id": claims.client_id, "token_type": "Bearer",
            "exp": claims.exp, "iat": claims.iat, "sub": claims.sub, "aud": claims.aud, "iss": claims.iss,
            "jti": claims.jti,
        });
        let verified = claims.into_verified().ok()?;
        let stands = verified.judge(&self.mount.resource(only(&verified.principal.servers)?), &*self.standing);
        stands.is_ok().then_some(body)
    }

    /// The claims of an access token that we signed and that has not ended; `None` for anything else.
    async fn own_token(&self, issuer: &Issuer, token: &str) -> Result<Option<AccessClaims>, OAuthError> {
        let Ok(jws) = Jws::parse(token.as_bytes()) else { return Ok(None) };
        let Ok(claims) = serde_json::from_slice::<AccessClaims>(&jws.claims) else { return Ok(None) };
        let Some(server) = &claims.srv else { return Ok(None) };
        let cheap = claims.check(&issuer.url, &self.mount.resource(server), self.clock.now());
        let (Ok(()), true, Some(kid)) = (cheap, jws.header.is(ACCESS_TOKEN), &jws.header.kid) else { return Ok(None) };
        let key = self.keys.key(kid).await.map_err(OAuthError::unavailable)?;
        Ok(key.filter(|key| jws.verify(&**key).is_ok()).map(|_| claims))
    }
}

fn only(servers: &ServerList) -> Option<&str> {
    match servers {
        ServerList::Only(ids) => ids.first().map(|id| &**id),
        ServerList::All => None,
    }
}
