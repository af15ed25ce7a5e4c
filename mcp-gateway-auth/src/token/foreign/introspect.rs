//! Opaque tokens, read by asking their issuer (RFC 7662).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode};
use jiff::Timestamp;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{AuthError, Resource};
use mcp_gateway_core::egress::Fetch;
use mcp_gateway_core::record::Secret;
use serde::Deserialize;

use super::super::verified::Verified;
use super::{ForeignClaims, TrustedIssuer};

/// Asks an issuer what its opaque tokens say.
#[derive(Clone)]
pub struct Introspection {
    issuer: TrustedIssuer,
    endpoint: String,
    client_id: String,
    secret: Secret,
    fetch: Arc<dyn Fetch>,
    remember: Duration,
    withheld: Option<Withheld>,
}

/// Which tokens are never shown to the issuer.
type Withheld = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// What all credentials begin with that are made here and show it.
const OWN: &[u8] = b"mcpgw";

impl Introspection {
    /// How long an answer is remembered: an issuer's revocation is noticed after so long, by what is open too.
    pub const REMEMBER: Duration = Duration::from_secs(60);

    /// How long what is open goes on while the issuer does not answer whether its token still is good: 15 minutes.
    pub const AWAY: Duration = Duration::from_secs(900);

    /// How long an issuer may take to answer; then the call gets 503.
    pub const TIMEOUT: Duration = Duration::from_secs(3);

    /// Asks this endpoint as this client (`client_secret_basic`).
    pub fn new(
        issuer: TrustedIssuer,
        endpoint: impl Into<String>,
        client_id: impl Into<String>,
        secret: Secret,
        fetch: Arc<dyn Fetch>,
    ) -> Self {
        let (endpoint, client_id) = (endpoint.into(), client_id.into());
        Self { issuer, endpoint, client_id, secret, fetch, remember: Self::REMEMBER, withheld: None }
    }

    /// The same, remembering answers for so long.
    #[must_use]
    pub fn remember_for(mut self, remember: Duration) -> Self {
        self.remember = remember;
        self
    }

    /// The same, never asking about credentials that are for something else here, for example the admin API: they are
    /// refused, and the issuer does not see them. Those that the gateway makes are known by their form without this.
    #[must_use]
    pub fn withhold(mut self, own: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.withheld = Some(Arc::new(own));
        self
    }

    /// Whether a credential must not be shown to the issuer.
    pub(crate) fn withholds(&self, token: &[u8]) -> bool {
        token.starts_with(OWN) || self.withheld.as_ref().is_some_and(|own| own(token))
    }

    pub(crate) async fn ask(&self, token: &[u8], resource: &Resource, now: Timestamp) -> Result<Verified, AuthError> {
        let unavailable = |error: BoxError| {
            tracing::warn!(endpoint = self.endpoint, %error, "a token cannot be introspected");
            AuthError::Unavailable(error)
        };
        let token = std::str::from_utf8(token).map_err(|_| AuthError::Invalid("the token is not text"))?;
        let request = self.request(token).map_err(|error| unavailable(error.into()))?;
        let answer = tokio::time::timeout(Self::TIMEOUT, self.fetch.fetch(request)).await;
        let answer = answer.map_err(|late| unavailable(late.into()))?.map_err(|error| unavailable(error.into()))?;
        if answer.status != StatusCode::OK {
            return Err(unavailable(format!("status {}", answer.status).into()));
        }
        if !is_active(&answer.body).map_err(|error| unavailable(error.into()))? {
            return Err(AuthError::Invalid("the issuer says that the token is not active"));
        }
        let claims: ForeignClaims = serde_json::from_slice(&answer.body)
            .map_err(|_| AuthError::Invalid("the introspection lacks sub, aud, exp or iat"))?;
        claims.check(&self.issuer, resource, now).map_err(AuthError::Invalid)?;
        let mut verified = claims.into_verified(&self.issuer, resource).map_err(AuthError::Invalid)?;
        if let Some(people) = &self.issuer.people {
            let mapped = verified.of_people(&**people, now).await.map_err(unavailable)?;
            verified = mapped.ok_or(AuthError::Invalid("the subject of the token is nobody here"))?;
        }
        let until = now.saturating_add(self.remember).unwrap_or(now);
        verified.good_until = verified.good_until.min(until);
        Ok(verified)
    }

    fn request(&self, token: &str) -> Result<Request<Bytes>, http::Error> {
        let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // RFC 6749 §2.3.1: both parts are form-encoded before they are joined.
        let basic = format!("{}:{}", encode(&self.client_id), encode(self.secret.expose()));
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        Request::post(&self.endpoint)
            .header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(basic)))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Bytes::from(body))
    }
}

/// Whether an answer says that the token is good (RFC 7662 §2.2).
pub(crate) fn is_active(answer: &[u8]) -> Result<bool, serde_json::Error> {
    #[derive(Deserialize)]
    struct Active {
        active: bool,
    }
    // An object, also in what is not looked at here: a list would be read as one, and broken texts be skipped.
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(answer)?;
    Ok(serde_json::from_slice::<Active>(answer)?.active)
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection")
            .field("issuer", &self.issuer)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
