//! OAuth clients: who they are, and how they prove it.

mod authenticate;
mod document;
mod redirect;
mod registration;

use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::Kind;
use mcp_gateway_core::record::{Resource, Stored};
use serde::{Deserialize, Serialize};

pub(crate) use self::authenticate::{ClientProof, hex_hash, same_hash};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::document::read as read_document;
pub use self::document::{DocumentClients, DocumentError};
pub use self::redirect::RedirectKind;
pub(crate) use self::redirect::matches;
pub(crate) use self::registration::ClientMetadata;
pub use self::registration::{RegistrationMode, RegistrationPolicy};
use super::Issuer;

/// A client as it is kept; see [`id_of`](Self::id_of) for its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthClient {
    /// Its id, where that is a URL too long for the id of a record.
    #[serde(default)]
    pub client_id: Option<String>,
    /// What it says its name is.
    #[serde(default)]
    pub name: Option<String>,
    /// How it is known.
    pub known_by: KnownBy,
    /// Where browsers may be sent back to.
    pub redirect_uris: Vec<String>,
    /// How it proves who it is.
    pub authentication: ClientAuthentication,
    /// What it may ask the token endpoint for.
    pub grants: Vec<GrantType>,
    /// The server that it is, when it may introspect the tokens that are for it.
    #[serde(default)]
    pub resource_server: Option<String>,
    /// SHA-256 of the token by which a registered client manages itself (RFC 7592), lowercase hexadecimal.
    #[serde(default)]
    pub management_sha256: Option<String>,
    /// Blocked by an administrator: good for nothing.
    #[serde(default)]
    pub blocked: bool,
    /// Approved by an administrator: good although the policy does not allow where it sends browsers.
    #[serde(default)]
    pub approved: bool,
    /// The server whose own issuer it has registered with; absent for the shared one.
    #[serde(default)]
    pub issuer: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a person last agreed to it; a registration that nobody ever agreed to expires.
    #[serde(default)]
    pub used_at: Option<Timestamp>,
}

impl OAuthClient {
    /// How long a registration lives that nobody has agreed to.
    pub const UNUSED: Duration = Duration::from_secs(24 * 3_600);
    /// How long one lives after it was used last.
    pub const USED: Duration = Duration::from_secs(400 * 24 * 3_600);

    /// The id of a client as it names itself and tokens name it: the record's, unless that could not hold it.
    #[must_use]
    pub fn id_of(stored: &Stored<Self>) -> &str {
        stored.value.client_id.as_deref().unwrap_or(&stored.id)
    }

    /// The same, kept under the key of this id.
    pub(crate) fn named(self, id: &str) -> Self {
        Self { client_id: Some(id).filter(|id| super::client_key(id) != **id).map(str::to_owned), ..self }
    }

    /// How long it is kept from now on; those that an operator made stay.
    pub(crate) fn life(&self) -> Option<Duration> {
        match (self.known_by, self.used_at) {
            (KnownBy::Operator, _) => None,
            // An administrator's word is kept.
            _ if self.blocked || self.approved => None,
            (KnownBy::Registration | KnownBy::Document, None) => Some(Self::UNUSED),
            (KnownBy::Registration | KnownBy::Document, Some(_)) => Some(Self::USED),
        }
    }

    /// Whether it can be used with this issuer: a registration is one issuer's, other clients are everybody's.
    pub(crate) fn is_of(&self, issuer: &Issuer) -> bool {
        self.known_by != KnownBy::Registration || self.issuer == issuer.server
    }

    pub(crate) fn may(&self, grant: GrantType) -> bool {
        self.grants.contains(&grant)
    }

    /// Whether it can keep a secret.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.authentication == ClientAuthentication::None
    }
}

impl Resource for OAuthClient {
    const KIND: Kind = Kind::quiet("oauth-client");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// How a client is known, for the person who is asked to trust it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KnownBy {
    /// An operator made it.
    Operator,
    /// It has registered itself: nothing that it says has been checked.
    Registration,
    /// By the document at the URL that is its id: whoever holds that host vouches for it. The token endpoint fetches it
    /// only for a client that somebody has agreed to.
    Document,
}

/// How a client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientAuthentication {
    /// It does not: a public client, which PKCE protects.
    None,
    /// By a secret; SHA-256, lowercase hexadecimal.
    Secret {
        /// Never the secret itself: that was shown once.
        sha256: String,
    },
    /// By a signature (RFC 7523 §2.2).
    PrivateKeyJwt {
        /// Its public keys: a JWK Set.
        keys: String,
    },
    /// The same, with keys that it publishes.
    PrivateKeyJwtAt {
        /// Where: an https URL of the form of [`DocumentClients::is_url`].
        jwks_uri: String,
    },
}

/// What the token endpoint is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GrantType {
    /// A code that a person's consent gave.
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    /// A refresh token.
    #[serde(rename = "refresh_token")]
    RefreshToken,
    /// The client for itself.
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    /// What a company's identity provider has decided.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:jwt-bearer")]
    JwtBearer,
    /// The code of a device, which a person has entered elsewhere.
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
}
