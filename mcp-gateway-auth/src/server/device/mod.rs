//! The device authorization grant (RFC 8628): a program without a browser shows a code, which a person enters in one.
//!
//! Codes that somebody else sent are what phishers use (RFC 8628 §5.4). So only clients that an operator made may ask for
//! them, the page says from where it was asked and what to beware of, and consent is never remembered.

mod browser;
mod poll;
mod request;
mod user_code;

use std::time::Duration;

use jiff::Timestamp;
use mcp_gateway_core::contract::Kind;
use mcp_gateway_core::record::{Resource, Secret, Subject};
use serde::{Deserialize, Serialize};

use super::metadata::add_grant;
use super::{Grant, GrantType, Issuer, KnownBy, OAuthClient, paths};

pub(crate) use self::user_code::UserCode;

/// How the token endpoint is asked for it (RFC 8628 §3.4).
pub(crate) const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// The times and bounds of device codes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceOptions {
    /// `oauth.device.code_seconds`: how long a code may be entered and asked about; 10 minutes.
    pub life: Duration,
    /// `oauth.device.interval_seconds`: how long a device waits between two questions; 5 s.
    pub interval: Duration,
    /// `oauth.device.requests_per_minute`: codes that one address may ask for; 10.
    pub requests_per_minute: u32,
    /// `oauth.device.requests_total_per_minute`: codes that all addresses together may ask for; 100.
    pub requests_total_per_minute: u32,
    /// `oauth.device.tries_per_account`: codes that one person may enter within any [`life`](Self::life) of a code; 5,
    /// so that guessing one of the 20^8 succeeds with less than 2^-32 for each that waits (RFC 8628 §5.1). Whoever has
    /// used them up gets one back after each life.
    pub tries_per_account: u32,
    /// `oauth.device.tries_per_address`: codes that may be entered from one address at once; 20, and as many again
    /// spread over each life of a code.
    pub tries_per_address: u32,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(600),
            interval: Duration::from_secs(5),
            requests_per_minute: 10,
            requests_total_per_minute: 100,
            tries_per_account: 5,
            tries_per_address: 20,
        }
    }
}

/// Says that devices may ask for codes (RFC 8628 §4).
pub(crate) fn describe(metadata: &mut serde_json::Value, issuer: &Issuer) {
    metadata["device_authorization_endpoint"] = format!("{}{}", issuer.base, paths::DEVICE_AUTHORIZATION).into();
    add_grant(metadata, GRANT);
}

/// Whether a client may use the grant: nobody who registered by themselves gets people to type codes.
fn may_ask(client: &OAuthClient) -> bool {
    client.known_by == KnownBy::Operator && client.may(GrantType::DeviceCode)
}

/// What a device asked for; its id is the SHA-256 of the device code. Kept for a while after its use, so that a second
/// use is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceRequest {
    /// The client.
    pub(crate) client_id: String,
    /// The server's id, if the client named one.
    pub(crate) server: Option<String>,
    /// The server whose own issuer was asked; absent for the shared one.
    pub(crate) issuer: Option<String>,
    /// The scopes that are known.
    pub(crate) scope: String,
    /// The id of the record of its user code.
    pub(crate) user_code: String,
    /// The address that asked.
    pub(crate) from: Option<String>,
    /// When it ends unused.
    pub(crate) ends_at: Timestamp,
    /// To whom the question was shown last; nobody else may answer it.
    pub(crate) asked: Option<Asked>,
    /// How far it has come.
    pub(crate) state: DeviceState,
}

/// A question that a browser shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// Who is asked.
    pub(crate) subject: Subject,
    /// SHA-256 of the nonce in the browser.
    pub(crate) browser_sha256: String,
    /// SHA-256 of the token that the page sends back.
    pub(crate) csrf_sha256: String,
}

/// How far a device's request has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DeviceState {
    /// Nobody has answered.
    Waiting,
    /// Somebody said no.
    Denied,
    /// Somebody agreed; the grant gets the key of its refresh tokens with its first.
    Allowed(Box<Grant>),
    /// The device has its tokens: the id of the grant, and what it is.
    Used(String, Box<Grant>),
}

impl Resource for DeviceRequest {
    const KIND: Kind = Kind::quiet("oauth-device");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// When a device asked last; apart from the request, so that its questions are in nobody's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DevicePoll {
    pub(crate) at: Timestamp,
    pub(crate) interval_seconds: u64,
}

impl Resource for DevicePoll {
    const KIND: Kind = Kind::quiet("oauth-device-poll");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// A user code that waits to be entered; its id is the code under [`UserCodeKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserCodeRecord {
    /// The id of the request.
    pub(crate) device: String,
}

impl Resource for UserCodeRecord {
    const KIND: Kind = Kind::quiet("oauth-user-code");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

/// What hides user codes in the store: they are short, and whoever reads a plain hash of one finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserCodeKey {
    pub(crate) secret: Secret,
}

impl Resource for UserCodeKey {
    const KIND: Kind = Kind::quiet("oauth-user-code-key");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/secret"];
}
