//! `POST /device_authorization` (RFC 8628 §3.1).

use http::request::Parts;
use http::{Response, StatusCode};
use mcp_gateway_core::Body;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Limited, StoreError, When};
use mcp_gateway_core::record::Scope;
use serde_json::json;

use super::super::answer::{OAuthError, json as answer};
use super::super::client::hex_hash;
use super::super::form::Form;
use super::super::state::won;
use super::super::{Inner, Issuer, ServerLimits, paths, random};
use super::{DeviceOptions, DeviceRequest, DeviceState, UserCode, UserCodeRecord, may_ask};

/// Codes that are drawn before it is said that there are too many.
const ATTEMPTS: usize = 3;

impl Inner {
    /// Gives a device its two codes.
    pub(crate) async fn device_authorization(
        &self,
        head: &Parts,
        issuer: &Issuer,
        options: &DeviceOptions,
        form: &Form,
    ) -> Result<Response<Body>, OAuthError> {
        let (client_id, client) = self.authenticated(head, issuer, form).await?;
        if !may_ask(&client) {
            let why = "Only a client that an administrator has made for it may ask for device codes.";
            return Err(OAuthError::bad("unauthorized_client", why));
        }
        let target = || OAuthError::bad("invalid_target", "The resource is not one server of this gateway.");
        let server = issuer.target(&self.mount, form.all("resource")).map_err(|_| target())?;
        self.limit_devices(head, options).await.map_err(|limited: Limited| OAuthError::too_many(limited))?;

        let now = self.clock.now();
        let mut request = DeviceRequest {
            client_id,
            server,
            issuer: issuer.server.clone(),
            // Scopes that we do not know are ignored; the data plane has one.
            scope: Scope::Mcp.as_str().to_owned(),
            user_code: String::new(),
            from: McpContext::of(&head.extensions).and_then(McpContext::address).map(ToString::to_string),
            ends_at: now.saturating_add(options.life).unwrap_or(now),
            asked: None,
            state: DeviceState::Waiting,
        };
        for _ in 0..ATTEMPTS {
            let (device_code, user_code) = (random(), UserCode::random());
            if self
                .keep_device(&device_code, &user_code, options, &mut request)
                .await
                .map_err(OAuthError::unavailable)?
            {
                let uri = format!("{}{}", self.mount.origin(), paths::DEVICE);
                let body = json!({
                    "device_code": device_code,
                    "user_code": user_code.to_string(),
                    "verification_uri_complete": format!("{uri}?user_code={user_code}"),
                    "verification_uri": uri,
                    "expires_in": options.life.as_secs(),
                    "interval": options.interval.as_secs(),
                });
                return Ok(answer(StatusCode::OK, &body));
            }
        }
        Err(OAuthError::unavailable("too many user codes are in use"))
    }

    /// `false`: the user code is somebody else's at the moment.
    async fn keep_device(
        &self,
        device_code: &str,
        user_code: &UserCode,
        options: &DeviceOptions,
        request: &mut DeviceRequest,
    ) -> Result<bool, StoreError> {
        let id = hex_hash(device_code);
        request.user_code = self.state.user_code_id(user_code).await?;
        // Longer than it is good, so that the device hears that it is too late.
        let kept = options.life.saturating_add(ServerLimits::DEVICE_KEPT);
        let device = self.state.devices.put(&id, request, Some(kept), When::Absent)?;
        let code = UserCodeRecord { device: id };
        let code = self.state.user_codes.put(&request.user_code, &code, Some(options.life), When::Absent)?;
        won(self.state.commit(vec![device, code]).await)
    }
}
