//! `/register`: registration by clients themselves (RFC 7591), and what they can do with it later (RFC 7592).

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Response, StatusCode};
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{When, Write};
use mcp_gateway_core::record::{Outcome, Revoked, Stored};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{OAuthError, empty, json as answer};
use super::audit::Act;
use super::client::{ClientMetadata, hex_hash, same_hash};
use super::{ClientAuthentication, Inner, Issuer, KnownBy, OAuthClient, RegistrationMode, paths, random};
use crate::bearer::bearer;
use crate::token::jws::is_object;

/// What registration access tokens begin with, so that they are known for what they are wherever they are brought.
const REGISTRATION_TOKEN: &str = "mcpgwm_";

impl Inner {
    pub(crate) async fn register(
        &self,
        head: &Parts,
        issuer: &Issuer,
        body: &[u8],
    ) -> Result<Response<Body>, OAuthError> {
        match self.policy.mode {
            RegistrationMode::Off => return Ok(empty(StatusCode::NOT_FOUND)),
            RegistrationMode::Token if !token_of(head).is_some_and(|token| self.policy.knows_token(&token)) => {
                return Err(unauthorized("Registration here needs an initial access token."));
            }
            _ => {}
        }
        let accepted = metadata(body)?.accept(KnownBy::Registration, &self.policy, self.clock.now(), random);
        let mut registered = accepted.map_err(|error| OAuthError::bad(error.code, error.why))?;
        self.may_publish_keys(&registered.client)?;
        registered.client.issuer.clone_from(&issuer.server);
        let (id, management) = (random(), format!("{REGISTRATION_TOKEN}{}", random()));
        registered.client.management_sha256 = Some(hex_hash(&management));
        let client = &registered.client;
        // Whoever has no token is a stranger, of whom no trail is kept: a flood would fill it.
        if self.policy.mode == RegistrationMode::Token {
            self.record(head, registration("oauth.register", &id)).await.map_err(OAuthError::unavailable)?;
        }
        let put = self.state.clients.put(&id, client, client.life(), When::Absent).map_err(OAuthError::unavailable)?;
        self.state.commit(vec![put]).await.map_err(OAuthError::unavailable)?;
        tracing::info!(client = id, "a client has registered");
        let mut body = self.describe_client(issuer, &id, client);
        body["registration_access_token"] = management.into();
        if let Some(secret) = registered.secret {
            body["client_secret"] = secret.into();
            body["client_secret_expires_at"] = 0.into();
        }
        Ok(answer(StatusCode::CREATED, &body))
    }

    /// `GET /register/{id}` (RFC 7592 §2.1).
    pub(crate) async fn registration(
        &self,
        head: &Parts,
        issuer: &Issuer,
        id: &str,
    ) -> Result<Response<Body>, OAuthError> {
        let stored = self.managed(head, issuer, id).await?;
        Ok(answer(StatusCode::OK, &self.describe_client(issuer, id, &stored.value)))
    }

    /// `PUT /register/{id}` (RFC 7592 §2.2): replaces what the client says of itself. Whoever agreed to it is asked again.
    pub(crate) async fn reregister(
        &self,
        head: &Parts,
        issuer: &Issuer,
        id: &str,
        body: &[u8],
    ) -> Result<Response<Body>, OAuthError> {
        #[derive(Deserialize)]
        struct Named {
            client_id: String,
            #[serde(default)]
            client_secret: Option<String>,
        }
        let stored = self.managed(head, issuer, id).await?;
        let new = metadata(body)?;
        let named = serde_json::from_slice::<Named>(body).ok().filter(|named| named.client_id == id);
        let named = named.ok_or_else(|| OAuthError::bad("invalid_client_metadata", "client_id must be this one."))?;
        let old = stored.value;
        let accepted = new.accept(KnownBy::Registration, &self.policy, old.created_at, random);
        let mut registered = accepted.map_err(|error| OAuthError::bad(error.code, error.why))?;
        self.may_publish_keys(&registered.client)?;
        if let ClientAuthentication::Secret { sha256 } = &old.authentication {
            if named.client_secret.is_some_and(|secret| !same_hash(&secret, sha256)) {
                return Err(OAuthError::bad("invalid_client_metadata", "client_secret is not the one of this client."));
            }
            // A client that stays as it is keeps its secret.
            if registered.secret.take().is_some() {
                registered.client.authentication = old.authentication;
            }
        }
        // An approval was for what it said then.
        let client = OAuthClient {
            management_sha256: old.management_sha256,
            used_at: old.used_at,
            issuer: old.issuer,
            ..registered.client
        };
        if client.used_at.is_some() {
            self.record(head, registration("oauth.reregister", id)).await.map_err(OAuthError::unavailable)?;
        }
        let put = self.state.clients.put(&stored.id, &client, client.life(), When::At(stored.revision));
        self.state.commit(vec![put.map_err(OAuthError::unavailable)?]).await.map_err(OAuthError::unavailable)?;
        let mut body = self.describe_client(issuer, id, &client);
        if let Some(secret) = registered.secret {
            body["client_secret"] = secret.into();
            body["client_secret_expires_at"] = 0.into();
        }
        Ok(answer(StatusCode::OK, &body))
    }

    /// `DELETE /register/{id}` (RFC 7592 §2.3): everything that the client has ends with it.
    pub(crate) async fn deregister(
        &self,
        head: &Parts,
        issuer: &Issuer,
        id: &str,
    ) -> Result<Response<Body>, OAuthError> {
        let stored = self.managed(head, issuer, id).await?;
        let used = stored.value.used_at.is_some();
        // As it was read: nobody has agreed to it or blocked it meanwhile.
        let delete = Write::Delete { key: self.state.clients.key(&stored.id), when: When::At(stored.revision) };
        let mut writes = vec![delete];
        // To which nobody has agreed has nothing that could be ended.
        if used {
            let revoke = self.state.revoke(Revoked::Client(id), "the client has deregistered", &*self.clock);
            writes.push(revoke.map_err(OAuthError::unavailable)?);
        }
        self.state.commit(writes).await.map_err(OAuthError::unavailable)?;
        if used {
            // Ended whether it is recorded or not.
            let _ = self.record(head, registration("oauth.deregister", id)).await;
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Where nothing is fetched for clients, none can have its keys fetched.
    fn may_publish_keys(&self, client: &OAuthClient) -> Result<(), OAuthError> {
        match client.authentication {
            ClientAuthentication::PrivateKeyJwtAt { .. } if self.documents.is_none() => {
                Err(OAuthError::bad("invalid_client_metadata", "jwks_uri is not fetched here; send jwks."))
            }
            _ => Ok(()),
        }
    }

    /// The registration whose token the request brings. One answer for whatever is wrong: ids are not told apart.
    async fn managed(&self, head: &Parts, issuer: &Issuer, id: &str) -> Result<Stored<OAuthClient>, OAuthError> {
        let wrong = || unauthorized("The registration access token is not good for this client.");
        let token = token_of(head).ok_or_else(wrong)?;
        if id.is_empty() || id.len() > 64 {
            return Err(wrong());
        }
        let stored = self.state.clients.get(id).await.map_err(OAuthError::unavailable)?.ok_or_else(wrong)?;
        let good = stored.value.management_sha256.as_deref().is_some_and(|hash| same_hash(&token, hash));
        if good && !stored.value.blocked && stored.value.is_of(issuer) { Ok(stored) } else { Err(wrong()) }
    }

    fn describe_client(&self, issuer: &Issuer, id: &str, client: &OAuthClient) -> Value {
        let method = match &client.authentication {
            ClientAuthentication::None => "none",
            ClientAuthentication::Secret { .. } => "client_secret_basic",
            ClientAuthentication::PrivateKeyJwt { .. } | ClientAuthentication::PrivateKeyJwtAt { .. } => {
                "private_key_jwt"
            }
        };
        let mut body = json!({
            "client_id": id,
            "client_id_issued_at": client.created_at.as_second(),
            "redirect_uris": client.redirect_uris,
            "grant_types": client.grants,
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
            "registration_client_uri": format!("{}{}/{id}", issuer.base, paths::REGISTER),
        });
        if let Some(name) = &client.name {
            body["client_name"] = name.as_str().into();
        }
        body
    }
}

fn metadata(body: &[u8]) -> Result<ClientMetadata, OAuthError> {
    let metadata = Some(body).filter(|body| is_object(body)).and_then(|body| serde_json::from_slice(body).ok());
    metadata.ok_or_else(|| OAuthError::bad("invalid_client_metadata", "The body is not client metadata in JSON."))
}

fn registration<'a>(name: &'static str, id: &'a str) -> Act<'a> {
    Act { name, subject: None, client: id, server: None, target: id, outcome: Outcome::Ok, why: None }
}

fn unauthorized(why: &str) -> OAuthError {
    OAuthError { status: StatusCode::UNAUTHORIZED, code: "invalid_token", why: why.to_owned(), retry_after: None }
}

fn token_of(head: &Parts) -> Option<String> {
    let mut fields = head.headers.get_all(AUTHORIZATION).iter();
    let token = bearer(fields.next()?.as_bytes())?;
    if fields.next().is_some() {
        return None;
    }
    std::str::from_utf8(token).ok().map(str::to_owned)
}
