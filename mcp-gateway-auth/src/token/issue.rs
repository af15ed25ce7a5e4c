//! Making access tokens.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use mcp_gateway_core::contract::{Clock, KeyRingError, Resource, Signer};
use mcp_gateway_core::record::{Secret, Subject};

use super::claims::limit;
use super::{ACCESS_TOKEN, AccessClaims, TokenLimits};

/// Makes the access tokens of one issuer.
#[derive(Clone)]
pub struct TokenIssuer {
    issuer: Arc<str>,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    lifetime: Duration,
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    /// Whose rights.
    pub subject: &'a Subject,
    /// Who gets it.
    pub client_id: &'a str,
    /// What it is for.
    pub resource: &'a Resource,
    /// What it is good for; scopes with blanks between.
    pub scope: &'a str,
    /// When the standing of subject, client and grant was read: before the token was decided on.
    pub epoch: Timestamp,
    /// The epoch of the person whose rights these are.
    pub person_epoch: u64,
    /// The grant, if there is one.
    pub grant: Option<&'a str>,
    /// The login, if there was one.
    pub session: Option<&'a str>,
}

/// A token that was just made.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token: kept nowhere.
    pub token: Secret,
    /// Its unique id.
    pub id: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How long it lives.
    pub lifetime: Duration,
}

impl TokenIssuer {
    /// The life of a token unless told otherwise: one hour. Revocation does not wait for it.
    pub const LIFETIME: Duration = Duration::from_secs(3_600);

    /// Issues in the name of `issuer`, which the metadata document repeats byte for byte.
    pub fn new(issuer: impl Into<Arc<str>>, signer: Arc<dyn Signer>, clock: Arc<dyn Clock>) -> Self {
        Self { issuer: issuer.into(), signer, clock, lifetime: Self::LIFETIME }
    }

    /// The same with tokens that live so long; at most [`TokenLimits::LIFETIME`].
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime.min(TokenLimits::LIFETIME);
        self
    }

    /// The same, in another name.
    #[must_use]
    pub fn in_name_of(mut self, issuer: Arc<str>) -> Self {
        self.issuer = issuer;
        self
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Makes a token.
    ///
    /// # Errors
    /// The signing key cannot be used now.
    pub async fn issue(&self, new: &NewToken<'_>) -> Result<IssuedToken, KeyRingError> {
        let now = self.clock.now();
        let iat = now.as_second();
        let claims = AccessClaims {
            iss: self.issuer.to_string(),
            sub: new.subject.id.to_string(),
            sub_iss: Some(new.subject.issuer.to_string()).filter(|issuer| issuer != Subject::LOCAL),
            tenant: new.subject.tenant.to_string(),
            aud: new.resource.url.to_string(),
            srv: new.resource.server.as_deref().map(str::to_owned),
            client_id: new.client_id.to_owned(),
            scope: new.scope.to_owned(),
            jti: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>()),
            iat,
            exp: iat.saturating_add(limit(self.lifetime)),
            nbf: None,
            epoch: new.epoch.as_millisecond(),
            person_epoch: new.person_epoch,
            grant: new.grant.map(str::to_owned),
            sid: new.session.map(str::to_owned),
        };
        let failed = |source: mcp_gateway_core::BoxError| KeyRingError { issuer: Arc::clone(&self.issuer), source };
        let json = serde_json::to_vec(&claims).map_err(|error| failed(error.into()))?;
        let token = self.signer.sign(ACCESS_TOKEN, &json).await?;
        let expires_at = Timestamp::from_second(claims.exp).map_err(|error| failed(error.into()))?;
        Ok(IssuedToken { token: Secret::new(token), id: claims.jti, expires_at, lifetime: self.lifetime })
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}
