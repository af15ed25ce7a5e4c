//! The bounds of the authorization server.

use std::time::Duration;

/// The bounds of what clients and browsers send.
#[derive(Debug)]
pub struct ServerLimits;

impl ServerLimits {
    /// People who may have documents of one host fetched at the same time, each as many as one person may.
    pub const PEOPLE_AT_A_HOST: u32 = 10;
    /// Bytes of a form.
    pub const BODY: usize = 64 * 1024;
    /// Bytes of a registration.
    pub const REGISTRATION: usize = 8 * 1024;
    /// How long the first byte of a body is waited for.
    pub const FIRST_BYTE: Duration = Duration::from_secs(10);
    /// How long a whole body is waited for.
    pub const WHOLE_BODY: Duration = Duration::from_secs(30);
    /// Bytes of a query.
    pub const QUERY: usize = 16 * 1024;
    /// Parameters of a form or query.
    pub const PARAMETERS: usize = 64;
    /// Bytes of `state`: it is kept and given back.
    pub const STATE: usize = 4 * 1024;
    /// Bytes of a redirect URI.
    pub const REDIRECT_URI: usize = 2_048;
    /// Redirect URIs of a client.
    pub const REDIRECT_URIS: usize = 20;
    /// Bytes of a client's id; a longer URL is no client.
    pub const CLIENT_ID: usize = 2_048;
    /// Bytes of a client's name.
    pub const CLIENT_NAME: usize = 128;
    /// Bytes of a client's key set.
    pub const CLIENT_KEYS: usize = 16 * 1024;
    /// Bytes of a Client ID Metadata Document.
    pub const DOCUMENT: usize = 5 * 1024;
    /// How long a request waits for login and consent.
    pub const REQUEST: Duration = Duration::from_secs(600);
    /// How long a code is good.
    pub const CODE: Duration = Duration::from_secs(60);
    /// How much longer than it is good the request of a device is kept, so that it hears that it is too late.
    pub const DEVICE_KEPT: Duration = Duration::from_secs(600);
    /// How long an access token lives that an identity provider's decision gave.
    pub const IDENTITY_TOKEN: Duration = Duration::from_secs(600);
    /// How far ahead a client's assertion may end.
    pub const ASSERTION: Duration = Duration::from_secs(600);
}
