//! The device asks whether somebody has agreed (RFC 8628 §3.4).

use std::time::Duration;

use http::Response;
use http::request::Parts;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::Body;
use mcp_gateway_core::contract::{StoreError, When};
use mcp_gateway_core::record::{Secret, Stored};

use super::super::answer::OAuthError;
use super::super::client::hex_hash;
use super::super::form::Form;
use super::super::grant::RefreshToken;
use super::super::state::won;
use super::super::{Grant, GrantType, Inner, Issuer, OAuthClient, ServerLimits, random};
use super::{DeviceOptions, DevicePoll, DeviceRequest, DeviceState, may_ask};
use crate::token::TokenLimits;

/// How much longer a device that asks too often has to wait from then on (RFC 8628 §3.5).
const SLOWER: u64 = 5;

/// The longest that a device has to wait, in seconds: one that asks too often is slowed down, not lost.
pub(super) const SLOWEST: u64 = 60;

/// How much too early a question may come: replicas' clocks are apart, and what the network delays differs.
const EARLY: SignedDuration = SignedDuration::from_millis(500);

impl Inner {
    /// `grant_type=urn:ietf:params:oauth:grant-type:device_code`.
    pub(crate) async fn poll_device(
        &self,
        head: &Parts,
        issuer: &Issuer,
        (client_id, client): (&str, &OAuthClient),
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        let Some(options) = self.devices.as_ref().filter(|_| may_ask(client)) else {
            return Err(OAuthError::bad("unauthorized_client", "The client may not use this grant_type."));
        };
        let wrong = || OAuthError::bad("invalid_grant", "The device code is not good, or not any more.");
        let code = form.find("device_code");
        let code = code.ok_or_else(|| OAuthError::bad("invalid_request", "device_code is missing."))?;
        let id = hex_hash(code);
        let stored = self.state.devices.get(&id).await.map_err(OAuthError::unavailable)?.ok_or_else(wrong)?;
        let request = &stored.value;
        if request.client_id != client_id || request.issuer != issuer.server {
            return Err(wrong());
        }
        if let DeviceState::Used(grant_id, grant) = &request.state {
            self.reused(head, grant_id, grant, "a device code was used twice").await?;
            return Err(wrong());
        }
        let now = self.clock.now();
        if now >= request.ends_at {
            return Err(OAuthError::bad("expired_token", "Nobody has entered the code in time; ask for a new one."));
        }
        if !self.may_poll(&id, options, now).await.map_err(OAuthError::unavailable)? {
            return Err(OAuthError::bad("slow_down", "Wait 5 seconds longer between two requests."));
        }
        match &request.state {
            DeviceState::Allowed(grant) => {
                let target = issuer.target(&self.mount, form.all("resource")).ok();
                if target.is_none_or(|server| server.is_some_and(|server| server != grant.server)) {
                    return Err(OAuthError::bad("invalid_target", "The person has agreed to another resource."));
                }
                self.redeem_device(head, issuer, &stored, grant, client).await
            }
            DeviceState::Denied => Err(OAuthError::bad("access_denied", "Access was not given.")),
            DeviceState::Waiting | DeviceState::Used(..) => {
                Err(OAuthError::bad("authorization_pending", "Nobody has answered yet."))
            }
        }
    }

    /// Whether a device has waited long enough; of two questions at the same time, one has not.
    async fn may_poll(&self, id: &str, options: &DeviceOptions, now: Timestamp) -> Result<bool, StoreError> {
        let before = self.state.polls.get(id).await?;
        let usual = options.interval.as_secs();
        let (interval, waited, when) = match &before {
            None => (usual, true, When::Absent),
            Some(Stored { value: DevicePoll { at, interval_seconds }, revision, .. }) => {
                let least = SignedDuration::from_secs(i64::try_from(*interval_seconds).unwrap_or(i64::MAX));
                let waited = now.duration_since(*at) >= least - EARLY;
                let interval = if waited {
                    *interval_seconds
                } else {
                    interval_seconds.saturating_add(SLOWER).min(SLOWEST.max(usual))
                };
                (interval, waited, When::At(*revision))
            }
        };
        let poll = DevicePoll { at: now, interval_seconds: interval };
        let put = self.state.polls.put(id, &poll, Some(options.life), when)?;
        Ok(won(self.state.commit(vec![put]).await)? && waited)
    }

    async fn redeem_device(
        &self,
        head: &Parts,
        issuer: &Issuer,
        stored: &Stored<DeviceRequest>,
        allowed: &Grant,
        client: &OAuthClient,
    ) -> Result<Response<Body>, OAuthError> {
        let wrong = || OAuthError::bad("invalid_grant", "The device code is not good, or not any more.");
        let now = self.clock.now();
        let refresh_key = client.may(GrantType::RefreshToken).then(|| Secret::new(random()));
        let (id, grant) = (random(), Grant { refresh_key, rotated_at: now, ..allowed.clone() });
        let state = DeviceState::Used(id.clone(), Box::new(allowed.clone()));
        let used = DeviceRequest { state, ..stored.value.clone() };
        let remember = TokenLimits::LIFETIME.saturating_add(TokenLimits::CLOCK_SKEW);
        let put = self.state.devices.put(&stored.id, &used, Some(remember), When::At(stored.revision));
        let mut writes = vec![put.map_err(OAuthError::unavailable)?];
        let put = self.state.grants.put(&id, &grant, Some(self.options.refresh_idle), When::Absent);
        writes.push(put.map_err(OAuthError::unavailable)?);
        let stands = self.state.standing(&id, &grant).await.map_err(OAuthError::unavailable)?;
        writes.extend(stands.ok_or_else(wrong)?);
        // Before the code is used up: when something does not answer, the device can come again.
        let refresh = RefreshToken::make(&id, &grant, 0);
        let answer = self.respond(head, issuer, Some(&id), &grant, refresh, now).await?;
        if won(self.state.commit(writes).await).map_err(OAuthError::unavailable)? {
            return Ok(answer);
        }
        Err(OAuthError::unavailable("a device code, or what it depends on, changed while it was redeemed"))
    }

    /// How long an answered request is kept.
    pub(super) fn kept_device(&self, request: &DeviceRequest) -> Duration {
        let left = Duration::try_from(request.ends_at.duration_since(self.clock.now())).unwrap_or_default();
        left.saturating_add(ServerLimits::DEVICE_KEPT)
    }
}
