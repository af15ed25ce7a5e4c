//! Which clients may be used, and registration by clients themselves (RFC 7591).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::ServerLimits;
use super::authenticate::hex_hash;
use super::{ClientAuthentication, DocumentClients, GrantType, KnownBy, OAuthClient, RedirectKind};
use crate::token::PublicKey;

/// Who may register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationMode {
    /// Anybody, for redirect URIs that the policy allows.
    #[default]
    Policy,
    /// Anybody, for any https host as well.
    Open,
    /// Whoever has an initial access token (RFC 7591 §3): automation. No MCP client can send one.
    Token,
    /// Nobody.
    Off,
}

/// What clients may be used without an operator's act.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistrationPolicy {
    /// Who may register.
    pub mode: RegistrationMode,
    /// SHA-256 of initial access tokens, lowercase hexadecimal; for [`RegistrationMode::Token`].
    pub tokens_sha256: Vec<String>,
    /// `oauth.redirect_hosts`: hosts of web clients.
    pub hosts: BTreeSet<String>,
    /// `oauth.redirect_schemes`: private-use schemes of native clients.
    pub schemes: BTreeSet<String>,
}

impl Default for RegistrationPolicy {
    /// Programs on the user's machine, and the web clients that are widely used.
    fn default() -> Self {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            mode: RegistrationMode::Policy,
            tokens_sha256: Vec::new(),
            hosts: set(&["claude.ai", "claude.com", "chatgpt.com", "vscode.dev", "insiders.vscode.dev", "cursor.com"]),
            schemes: set(&["cursor", "vscode", "vscode-insiders", "claude"]),
        }
    }
}

impl RegistrationPolicy {
    /// The same with this mode.
    #[must_use]
    pub fn with_mode(mut self, mode: RegistrationMode) -> Self {
        self.mode = mode;
        self
    }

    /// Whether a client may be sent back to this place without an operator's act.
    pub(crate) fn allows(&self, kind: &RedirectKind) -> bool {
        match kind {
            RedirectKind::Loopback => true,
            RedirectKind::Scheme(scheme) => self.schemes.contains(scheme),
            RedirectKind::Https(host) => self.mode == RegistrationMode::Open || self.hosts.contains(host),
        }
    }

    /// Whether an operator's list, or the machine that the browser runs on, speaks for this place: not open registration.
    pub(crate) fn lists(&self, kind: &RedirectKind) -> bool {
        match kind {
            RedirectKind::Https(host) => self.hosts.contains(host),
            RedirectKind::Loopback | RedirectKind::Scheme(_) => self.allows(kind),
        }
    }

    /// Whether this initial access token is one of ours.
    pub(crate) fn knows_token(&self, token: &str) -> bool {
        // All are compared: how long it takes does not say which one.
        self.tokens_sha256.iter().filter(|hash| super::authenticate::same_hash(token, hash)).count() > 0
    }
}

/// What a client asks to be registered as (RFC 7591 §2). Members that we do not know are ignored.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ClientMetadata {
    #[serde(default)]
    pub(crate) client_name: Option<String>,
    #[serde(default)]
    pub(crate) redirect_uris: Vec<String>,
    #[serde(default)]
    pub(crate) token_endpoint_auth_method: Option<String>,
    #[serde(default)]
    grant_types: Option<Vec<String>>,
    #[serde(default)]
    response_types: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) jwks: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) jwks_uri: Option<String>,
}

/// Why a client is not registered (RFC 7591 §3.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistrationError {
    pub(crate) code: &'static str,
    pub(crate) why: String,
}

impl RegistrationError {
    fn metadata(why: impl Into<String>) -> Self {
        Self { code: "invalid_client_metadata", why: why.into() }
    }

    fn redirect(why: impl Into<String>) -> Self {
        Self { code: "invalid_redirect_uri", why: why.into() }
    }
}

/// Whether a character lets a name, which a page shows in quotation marks, look like something else: it ends the
/// quotation, turns the direction of what follows (UAX #9), or is not seen at all.
fn misleads(char: char) -> bool {
    char.is_control()
        || matches!(char, '"' | '\u{ab}' | '\u{bb}' | '\u{201c}'..='\u{201f}' | '\u{2033}' | '\u{ff02}')
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(char, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{feff}')
        || matches!(char, '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{e0000}'..='\u{e007f}')
}

/// A client that was just registered.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) client: OAuthClient,
    /// Its secret, if it has one: shown once.
    pub(crate) secret: Option<String>,
}

impl ClientMetadata {
    /// The client that these metadata describe. With several redirect URIs each is judged alone, and one that may not
    /// be used is left out of none: the client would wait for it.
    pub(crate) fn accept(
        self,
        known_by: KnownBy,
        policy: &RegistrationPolicy,
        now: Timestamp,
        secret: impl FnOnce() -> String,
    ) -> Result<Registered, RegistrationError> {
        if self.client_name.as_deref().is_some_and(|name| name.len() > ServerLimits::CLIENT_NAME) {
            return Err(RegistrationError::metadata("client_name is longer than 128 bytes"));
        }
        if self.client_name.as_deref().is_some_and(|name| name.contains(misleads)) {
            let why = "client_name has quotation marks or characters that cannot be seen";
            return Err(RegistrationError::metadata(why));
        }
        if self.redirect_uris.is_empty() || self.redirect_uris.len() > ServerLimits::REDIRECT_URIS {
            return Err(RegistrationError::redirect("redirect_uris must have 1 to 20 entries"));
        }
        for uri in &self.redirect_uris {
            let kind =
                RedirectKind::of(uri).map_err(|why| RegistrationError::redirect(format!("a redirect URI {why}")))?;
            // A web client of another host waits for an operator; a scheme that nobody listed is refused at once.
            if matches!(kind, RedirectKind::Scheme(_)) && !policy.allows(&kind) {
                return Err(RegistrationError::redirect("a redirect URI has a scheme that is not allowed here"));
            }
        }
        if self.response_types.as_ref().is_some_and(|types| types.iter().any(|it| it != "code")) {
            return Err(RegistrationError::metadata("the only response type is code"));
        }
        let mut grants = vec![GrantType::AuthorizationCode, GrantType::RefreshToken];
        if let Some(asked) = &self.grant_types {
            let has = |name: &str| asked.iter().any(|it| it == name);
            if !has("authorization_code") {
                return Err(RegistrationError::metadata("grant_types must include authorization_code"));
            }
            // RFC 7591 leaves refresh_token out by default, so its absence says little; only a list that names other
            // grants beside the code was made with thought.
            if !has("refresh_token") && asked.len() > 1 {
                grants.pop();
            }
        }
        let mut shown = None;
        let authentication = match self.token_endpoint_auth_method.as_deref() {
            None | Some("none") => ClientAuthentication::None,
            Some("client_secret_basic" | "client_secret_post") if known_by != KnownBy::Document => {
                let secret = secret();
                let sha256 = hex_hash(&secret);
                shown = Some(secret);
                ClientAuthentication::Secret { sha256 }
            }
            Some("private_key_jwt") if self.jwks_uri.is_some() => {
                let jwks_uri = self.jwks_uri.filter(|uri| self.jwks.is_none() && DocumentClients::is_url(uri));
                let why = "private_key_jwt needs either jwks or a jwks_uri: https at the default port, with a path";
                let jwks_uri = jwks_uri.ok_or_else(|| RegistrationError::metadata(why))?;
                ClientAuthentication::PrivateKeyJwtAt { jwks_uri }
            }
            Some("private_key_jwt") => {
                let keys =
                    self.jwks.map(|keys| keys.to_string()).filter(|keys| keys.len() <= ServerLimits::CLIENT_KEYS);
                let keys = keys.ok_or_else(|| {
                    RegistrationError::metadata("private_key_jwt needs jwks of up to 16 KiB, or jwks_uri")
                })?;
                if PublicKey::read_set(keys.as_bytes()).is_ok_and(|keys| keys.is_empty()) {
                    return Err(RegistrationError::metadata("jwks has no key that can be used"));
                }
                ClientAuthentication::PrivateKeyJwt { keys }
            }
            Some(_) => return Err(RegistrationError::metadata("this token_endpoint_auth_method is not supported")),
        };
        let client = OAuthClient {
            client_id: None,
            name: self.client_name,
            known_by,
            redirect_uris: self.redirect_uris,
            authentication,
            grants,
            resource_server: None,
            management_sha256: None,
            blocked: false,
            approved: false,
            issuer: None,
            created_at: now,
            used_at: None,
        };
        Ok(Registered { client, secret: shown })
    }
}
