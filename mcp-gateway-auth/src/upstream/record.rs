//! What is kept of accounts at servers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use mcp_gateway_core::contract::{IndexTerm, Kind};
use mcp_gateway_core::record::{OAuthClientSource, Resource, Route, RouteAuth, Secret, Subject};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// An account that somebody has connected: what one subject has at one server.
///
/// It says to where it belongs: the origin of the server and the issuer. If the entry comes to say something else, it is
/// not sent, and has to be connected anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The server's id.
    pub server: String,
    /// Whose it is.
    pub subject: Subject,
    /// The origin of the server that it was connected for.
    pub origin: String,
    /// What the tokens are for (RFC 8707).
    pub resource: String,
    /// Who gave them.
    pub issuer: String,
    /// Where they are renewed.
    pub token_endpoint: String,
    /// Where they are given back.
    #[serde(default)]
    pub revocation_endpoint: Option<String>,
    /// As which client.
    pub client: ClientAtIssuer,
    /// What goes into `Authorization`; sealed.
    pub access_token: Secret,
    /// What renews it; sealed.
    #[serde(default)]
    pub refresh_token: Option<Secret>,
    /// When the access token ends, where the issuer says so.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// What was agreed to.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What a call has needed beyond that: asked for when it is connected anew.
    #[serde(default)]
    pub wanted: Vec<String>,
    /// How often more was asked for since a call was last possible with what there was.
    #[serde(default)]
    pub step_ups: u32,
    /// Whether it can be used.
    pub state: ConnectionState,
    /// When the person connected it.
    pub connected_at: Timestamp,
    /// When its tokens were made.
    pub refreshed_at: Timestamp,
}

/// Whether an account can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectionState {
    /// It can.
    Connected,
    /// Its issuer renews its tokens no more: the person has to connect it anew.
    Reconnect,
}

/// The gateway as a client of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAtIssuer {
    /// Its id.
    pub id: String,
    /// Its secret; sealed.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Whether the secret goes into the header (`client_secret_basic`), else the body (`client_secret_post`).
    #[serde(default)]
    pub basic: bool,
}

impl Resource for Connection {
    const KIND: Kind = Kind::logged("upstream-connection");
    const INDEXES: &'static [&'static str] = &["subject"];
    const SEALED: &'static [&'static str] = &["/accessToken", "/refreshToken", "/client/secret"];

    fn terms(&self) -> Vec<IndexTerm> {
        vec![Self::of(&self.subject)]
    }
}

impl Connection {
    /// The id of a subject's account at a server.
    #[must_use]
    pub fn id_of(server: &str, subject: &Subject) -> String {
        format!("{server}.{}", &tag(subject)[..22])
    }

    pub(super) fn of(subject: &Subject) -> IndexTerm {
        IndexTerm { name: "subject", value: tag(subject).into() }
    }

    /// Whether the access token is good for a call that begins now.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        is_fresh(self.expires_at, self.refreshed_at, now)
    }

    /// The client that the entry names, if this was connected as that one: what the entry says of its secret counts, not
    /// what it has said before.
    pub(super) fn client_of(&self, route: &Route) -> Option<ClientAtIssuer> {
        let Some(RouteAuth::Account { client: OAuthClientSource::Static(client), .. }) =
            route.auth().map(|auth| &**auth)
        else {
            return None;
        };
        let is_same = *client.issuer == *self.issuer && *client.client_id == *self.client.id;
        is_same.then(|| ClientAtIssuer { secret: client.client_secret.clone(), ..self.client.clone() })
    }
}

/// Whether a token made at one time and ending at another is good for a call that begins now.
pub(super) fn is_fresh(expires_at: Option<Timestamp>, made_at: Timestamp, now: Timestamp) -> bool {
    let margin = SignedDuration::try_from(super::AccountLimits::RENEWED_BEFORE).unwrap_or_default();
    // One that lives hardly longer is used for most of its life all the same.
    expires_at.is_none_or(|at| at.duration_since(now) > margin.min(at.duration_since(made_at) / 4))
}

/// A hash that names a subject; 43 characters.
pub(super) fn tag(subject: &Subject) -> String {
    let mut hash = Sha256::new();
    for part in [subject.tenant.as_str(), &subject.issuer, &subject.id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// A hash of a text; 43 characters.
pub(super) fn hashed(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

/// Somebody on the way to connecting an account, by the hash of what the browser holds: of the page's field before they
/// have agreed, of `state` after. Each is used once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectAttempt {
    /// Whether the person has agreed, and the browser is at the issuer.
    pub confirmed: bool,
    /// The server's id.
    pub server: String,
    /// Whose account it is to be.
    pub subject: Subject,
    /// The session of the browser.
    pub session: String,
    /// The origin of the server.
    pub origin: String,
    /// What the tokens are to be for.
    pub resource: String,
    /// Where the browser goes.
    pub issuer: String,
    /// What the issuer said of itself.
    pub endpoints: Endpoints,
    /// As which client.
    pub client: ClientAtIssuer,
    /// Where the browser comes back to: its last part names the issuer, unless an administrator has registered the client.
    pub redirect_uri: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The secret of PKCE; sealed.
    pub verifier: Secret,
}

/// Where an issuer does what, by its metadata.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// Where browsers go.
    pub authorization: String,
    /// Where codes are exchanged.
    pub token: String,
    /// Where tokens are given back.
    #[serde(default)]
    pub revocation: Option<String>,
    /// Whether its answers name it (RFC 9207).
    #[serde(default)]
    pub names_itself: bool,
}

impl Resource for ConnectAttempt {
    const KIND: Kind = Kind::quiet("upstream-connect");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/verifier", "/client/secret"];
}

/// What an issuer has registered the gateway as (RFC 7591), by the hash of the issuer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Which issuer.
    pub issuer: String,
    /// With which address to come back to.
    pub redirect_uri: String,
    /// As which client.
    pub client: ClientAtIssuer,
    /// When the secret ends, if it does.
    #[serde(default)]
    pub ends_at: Option<Timestamp>,
}

impl Resource for Registration {
    const KIND: Kind = Kind::quiet("upstream-registration");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/client/secret"];
}

/// That some replica renews a connection's tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefreshLease {}

impl Resource for RefreshLease {
    const KIND: Kind = Kind::quiet("upstream-refresh");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}
