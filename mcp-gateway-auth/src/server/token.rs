//! `POST /token`: codes, refresh tokens and client credentials become access tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{When, Write};
use mcp_gateway_core::record::{Outcome, Principal, Scope, Secret, Stored, Subject};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq as _;

use super::answer::{OAuthError, json as answer};
use super::audit::Act;
use super::client::hex_hash;
use super::form::Form;
use super::grant::RefreshToken;
use super::state::won;
use super::target::server_id;
use super::{AuthorizationCode, Grant, GrantType, Inner, Issuer, OAuthClient, device};
use crate::token::{NewToken, TokenLimits};

/// Rounds that are tried when a refresh token is used in several places at the same time.
const ATTEMPTS: usize = 3;

/// Who calls for itself: the issuer of such subjects.
pub const CLIENT_SUBJECT: &str = "client";

impl Inner {
    pub(crate) async fn token(&self, head: &Parts, issuer: &Issuer, form: &Form) -> Result<Response<Body>, OAuthError> {
        let (id, client) = self.authenticated(head, issuer, form).await?;
        let grant =
            form.find("grant_type").ok_or_else(|| OAuthError::bad("invalid_request", "grant_type is missing."))?;
        let wanted = match grant {
            "authorization_code" => GrantType::AuthorizationCode,
            "refresh_token" => GrantType::RefreshToken,
            "client_credentials" => GrantType::ClientCredentials,
            "urn:ietf:params:oauth:grant-type:jwt-bearer" => GrantType::JwtBearer,
            device::GRANT if self.devices.is_some() => GrantType::DeviceCode,
            _ => return Err(OAuthError::bad("unsupported_grant_type", "This grant_type is not supported.")),
        };
        if !client.may(wanted) {
            return Err(OAuthError::bad("unauthorized_client", "The client may not use this grant_type."));
        }
        match wanted {
            GrantType::AuthorizationCode => self.redeem(head, issuer, &id, form).await,
            GrantType::RefreshToken => self.refresh(head, issuer, &id, form).await,
            GrantType::ClientCredentials => self.client_credentials(head, issuer, &id, &client, form).await,
            GrantType::DeviceCode => self.poll_device(head, issuer, (&id, &client), form).await,
            // Whoever can copy an assertion must not be able to use it.
            GrantType::JwtBearer if client.is_public() => {
                Err(OAuthError::bad("unauthorized_client", "A client without a secret cannot present assertions."))
            }
            GrantType::JwtBearer => self.identity_grant(head, issuer, &id, form).await,
        }
    }

    async fn redeem(
        &self,
        head: &Parts,
        issuer: &Issuer,
        client_id: &str,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        // One answer whatever is wrong with a code: its holder learns nothing.
        let wrong = || OAuthError::bad("invalid_grant", "The code is not good, or not any more.");
        let missing = |name| OAuthError::bad("invalid_request", format!("{name} is missing."));
        let code = form.find("code").ok_or_else(|| missing("code"))?;
        let verifier = form.find("code_verifier").ok_or_else(|| missing("code_verifier"))?;
        let key = hex_hash(code);
        let stored = self.state.codes.get(&key).await.map_err(OAuthError::unavailable)?.ok_or_else(wrong)?;
        if stored.value.used {
            self.reused(head, &stored.value.grant_id, &stored.value.grant, "a code was used twice").await?;
            return Err(wrong());
        }
        let epoch = self.clock.now();
        let good =
            stored.value.grant.issuer == issuer.server && self.fits(&stored.value, client_id, verifier, form, epoch);
        let used = AuthorizationCode { used: true, ..stored.value.clone() };
        let when = When::At(stored.revision);
        let remember = TokenLimits::LIFETIME.saturating_add(TokenLimits::CLOCK_SKEW);
        let mut writes =
            vec![self.state.codes.put(&key, &used, Some(remember), when).map_err(OAuthError::unavailable)?];
        let (id, grant) = (&stored.value.grant_id, &stored.value.grant);
        // Before the code is used up: when something does not answer, the client can come again.
        let mut answer = Err(wrong());
        if good {
            let put = self.state.grants.put(id, grant, Some(self.options.refresh_idle), When::Absent);
            writes.push(put.map_err(OAuthError::unavailable)?);
            let stands = self.state.standing(id, grant).await.map_err(OAuthError::unavailable)?;
            writes.extend(stands.ok_or_else(wrong)?);
            answer = Ok(self.respond(head, issuer, Some(id), grant, RefreshToken::make(id, grant, 0), epoch).await?);
        }
        // A code that somebody tried with the wrong verifier is in wrong hands: it is used up as well.
        if !won(self.state.commit(writes).await).map_err(OAuthError::unavailable)? {
            let now = self.state.codes.get(&key).await.map_err(OAuthError::unavailable)?;
            if now.is_some_and(|now| !now.value.used) {
                return Err(OAuthError::unavailable("what a code depends on changed while it was redeemed"));
            }
            self.reused(head, id, grant, "a code was used twice at the same time").await?;
            return Err(wrong());
        }
        answer
    }

    fn fits(&self, code: &AuthorizationCode, client_id: &str, verifier: &str, form: &Form, now: Timestamp) -> bool {
        // RFC 7636 §4.1.
        let form_of_verifier = (43..=128).contains(&verifier.len())
            && verifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        let same: bool = challenge.as_bytes().ct_eq(code.challenge.as_bytes()).into();
        let redirect = form.find("redirect_uri").is_none_or(|uri| uri == code.redirect_uri);
        let target = match server_id(&self.mount, form.all("resource")) {
            Ok(server) => server.is_none_or(|server| server == code.grant.server),
            Err(_) => false,
        };
        form_of_verifier && same && redirect && target && code.grant.client_id == client_id && now < code.ends_at
    }

    async fn refresh(
        &self,
        head: &Parts,
        issuer: &Issuer,
        client_id: &str,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        let wrong =
            || OAuthError::bad("invalid_grant", "The refresh token is not good, or not any more; connect again.");
        let text = form.find("refresh_token");
        let text = text.ok_or_else(|| OAuthError::bad("invalid_request", "refresh_token is missing."))?;
        let token = RefreshToken::parse(text).ok_or_else(wrong)?;
        for _ in 0..ATTEMPTS {
            let epoch = self.clock.now();
            let stored =
                self.state.grants.get(token.grant).await.map_err(OAuthError::unavailable)?.ok_or_else(wrong)?;
            let grant = &stored.value;
            let ours = grant.client_id == client_id && grant.issuer == issuer.server;
            if !token.is_genuine(grant) || !ours || epoch >= grant.ends_at {
                return Err(wrong());
            }
            match server_id(&self.mount, form.all("resource")) {
                Ok(server) if server.as_ref().is_none_or(|server| *server == grant.server) => {}
                _ => return Err(OAuthError::bad("invalid_target", "The grant is for another resource.")),
            }
            let since = epoch.duration_since(grant.rotated_at);
            let grace = SignedDuration::try_from(self.options.refresh_grace).unwrap_or(SignedDuration::MAX);
            if token.generation == grant.generation {
                let rotated = Grant { generation: grant.generation + 1, rotated_at: epoch, ..grant.clone() };
                let refresh = RefreshToken::make(&stored.id, &rotated, rotated.generation);
                let stands = self.state.standing(&stored.id, grant).await.map_err(OAuthError::unavailable)?;
                let stands = stands.ok_or_else(wrong)?;
                let answer = self.respond(head, issuer, Some(&stored.id), &rotated, refresh, epoch).await?;
                if self.replace(&stored, &rotated, stands, epoch).await? {
                    return Ok(answer);
                }
                // Somebody else was faster with the same token, which is now the one before, or something has ended.
                continue;
            }
            if token.generation.checked_add(1) == Some(grant.generation) && since < grace {
                // A lost answer, or several processes that share one token: the same successor again.
                tracing::debug!(grant = &*stored.id, "a refresh token came again within its grace");
                let refresh = RefreshToken::make(&stored.id, grant, grant.generation);
                return self.respond(head, issuer, Some(&stored.id), grant, refresh, epoch).await;
            }
            self.reused(head, &stored.id, grant, "a refresh token was used again after its grace").await?;
            return Err(wrong());
        }
        Err(OAuthError::unavailable("a grant is refreshed in too many places at once"))
    }

    /// `false`: somebody else changed the grant meanwhile, or what it depends on.
    async fn replace(
        &self,
        stored: &Stored<Grant>,
        by: &Grant,
        mut writes: Vec<Write>,
        now: Timestamp,
    ) -> Result<bool, OAuthError> {
        let left = Duration::try_from(by.ends_at.duration_since(now)).unwrap_or_default();
        let life = Some(left.min(self.options.refresh_idle));
        let put = self.state.grants.put(&stored.id, by, life, When::At(stored.revision));
        writes.push(put.map_err(OAuthError::unavailable)?);
        won(self.state.commit(writes).await).map_err(OAuthError::unavailable)
    }

    async fn client_credentials(
        &self,
        head: &Parts,
        issuer: &Issuer,
        client_id: &str,
        client: &OAuthClient,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        if client.is_public() {
            return Err(OAuthError::bad("unauthorized_client", "A client without a secret cannot call for itself."));
        }
        let target = || OAuthError::bad("invalid_target", "Name the one server to call by `resource`.");
        let server = issuer.target(&self.mount, form.all("resource")).ok().flatten().ok_or_else(target)?;
        let now = self.clock.now();
        let subject = Subject { tenant: self.tenant.clone(), issuer: CLIENT_SUBJECT.into(), id: client_id.into() };
        let grant = Grant {
            person_epoch: self.standing.person(&subject).unwrap_or_default().epoch,
            subject,
            client_id: client_id.to_owned(),
            server,
            issuer: issuer.server.clone(),
            scope: Scope::Mcp.as_str().to_owned(),
            session: None,
            created_at: now,
            ends_at: now.saturating_add(TokenLimits::LIFETIME).unwrap_or(now),
            refresh_key: None,
            generation: 0,
            rotated_at: now,
        };
        self.respond(head, issuer, None, &grant, None, now).await
    }

    /// The answer of RFC 6749 §5.1, if the subject may still use the server.
    pub(super) async fn respond(
        &self,
        head: &Parts,
        issuer: &Issuer,
        id: Option<&str>,
        grant: &Grant,
        refresh: Option<Secret>,
        epoch: Timestamp,
    ) -> Result<Response<Body>, OAuthError> {
        self.limit_subject(&grant.subject, &grant.client_id).await.map_err(OAuthError::too_many)?;
        let gone = || OAuthError::bad("invalid_grant", "There is no access to this server any more.");
        let person = self.standing.person(&grant.subject).filter(|person| person.epoch == grant.person_epoch);
        let person = person.ok_or_else(gone)?;
        if self.standing.ended(&grant.dependence()) {
            return Err(gone());
        }
        let principal = Principal::new(grant.subject.issuer.clone(), grant.subject.id.clone())
            .with_tenant(grant.subject.tenant.clone())
            .with_roles(person.roles);
        let route = self.resolve.resolve(&grant.server, &principal).await.map_err(OAuthError::unavailable)?;
        route.ok_or_else(gone)?;
        let act = act("oauth.token", id.unwrap_or_default(), grant, Outcome::Ok);
        self.record(head, act).await.map_err(OAuthError::unavailable)?;
        let new = NewToken {
            subject: &grant.subject,
            client_id: &grant.client_id,
            resource: &self.mount.resource(&grant.server),
            scope: &grant.scope,
            epoch,
            person_epoch: person.epoch,
            grant: id,
            session: grant.session.as_deref(),
        };
        // No token outlives what it came of.
        let left = Duration::try_from(grant.ends_at.duration_since(epoch)).unwrap_or_default();
        let tokens =
            self.tokens.clone().in_name_of(Arc::clone(&issuer.url)).with_lifetime(left.min(self.options.access_token));
        let issued = tokens.issue(&new).await.map_err(OAuthError::unavailable)?;
        let mut body = json!({
            "access_token": issued.token.expose(),
            "token_type": "Bearer",
            "expires_in": issued.lifetime.as_secs(),
            "scope": grant.scope,
        });
        if let Some(refresh) = refresh {
            body["refresh_token"] = refresh.expose().into();
        }
        Ok(answer(StatusCode::OK, &body))
    }

    pub(super) async fn reused(&self, head: &Parts, id: &str, grant: &Grant, how: &str) -> Result<(), OAuthError> {
        tracing::warn!(grant = id, how, "the grant has ended: somebody else has its tokens");
        let ended = self.state.end_grant(id, how, &*self.clock).await;
        // Ended whether it is recorded or not.
        let why = format!("{how}: somebody else may have what this client was given, so all of it has ended");
        let _ = self.record(head, Act { why: Some(&why), ..act("oauth.reuse", id, grant, Outcome::Denied) }).await;
        ended.map_err(OAuthError::unavailable)
    }
}

fn act<'a>(name: &'static str, id: &'a str, grant: &'a Grant, outcome: Outcome) -> Act<'a> {
    let (subject, client, server) = (Some(&grant.subject), &*grant.client_id, Some(&*grant.server));
    Act { name, subject, client, server, target: id, outcome, why: None }
}
