//! Other issuers in the configuration: those whose tokens are accepted, and those whose decisions are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mcp_gateway_auth::token::{ACCESS_TOKEN, Introspection};
use mcp_gateway_core::record::ServerList;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Config, ConfigError, ProviderPreset};

/// One of `auth.issuers`: its access tokens are good here, beside the gateway's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSettings {
    /// Its name in tokens (`iss`), byte for byte.
    pub issuer: String,
    /// Where its public keys are: for tokens that are JWTs. Without it and `introspection`, the issuer's metadata say
    /// where (RFC 8414, OpenID Connect Discovery).
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// How it is asked about opaque tokens. One issuer may have it.
    #[serde(default)]
    pub introspection: Option<IntrospectionSettings>,
    /// The issuer's audiences for this gateway, and the ids of the servers that each is good for; `*` for all. A server's
    /// own URL is good for that server without being named.
    #[serde(default)]
    pub audiences: BTreeMap<String, Vec<String>>,
    /// The `typ` of its JWTs: `at+jwt` (RFC 9068), or `JWT` for issuers that do not follow it: then tokens may have that
    /// type, none, or `at+jwt`, and what its claims show to be an ID token (`nonce`, `at_hash`) or something else is refused.
    #[serde(default = "access_token")]
    pub typ: String,
    /// Whether its subjects are the people who have signed in with the provider of `login.providers` of this issuer, with
    /// the rights that they have here; whoever has not is refused. Else they are subjects of their own, without a role.
    #[serde(default = "yes")]
    pub people: bool,
}

/// `introspection` of an issuer (RFC 7662).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionSettings {
    /// The endpoint.
    pub endpoint: String,
    /// This gateway's id there (`client_secret_basic`).
    pub client_id: String,
    /// The file with the secret. Not set: the variable `MCP_GATEWAY_INTROSPECTION_SECRET`.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// How long an answer is believed: a revocation there is noticed after so long. At most 3600; 0: every call asks.
    #[serde(default = "remember")]
    pub remember_seconds: u64,
}

/// One of `oauth.identity_providers`: what it decides for its people is done (ID-JAG).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityProviderSettings {
    /// Its name in its grants (`iss`), byte for byte.
    pub issuer: String,
    /// Where its public keys are.
    pub jwks_uri: String,
    /// Ids of the clients that may present its grants: made by an administrator, with a secret or keys, and with the
    /// grant type `urn:ietf:params:oauth:grant-type:jwt-bearer`.
    pub clients: Vec<String>,
    /// As with `auth.issuers`.
    #[serde(default = "yes")]
    pub people: bool,
}

/// The variable that may hold the secret for introspection.
pub const INTROSPECTION_SECRET: &str = "MCP_GATEWAY_INTROSPECTION_SECRET";

/// How long an introspection may be believed.
const LONGEST_REMEMBERED: u64 = 3_600;

fn access_token() -> String {
    ACCESS_TOKEN.to_owned()
}

fn yes() -> bool {
    true
}

fn remember() -> u64 {
    Introspection::REMEMBER.as_secs()
}

impl IssuerSettings {
    /// What each audience is good for.
    #[must_use]
    pub fn audiences(&self) -> Vec<(String, ServerList)> {
        let list = |ids: &Vec<String>| match ids.iter().any(|id| id == "*") {
            true => ServerList::All,
            false => ServerList::Only(ids.iter().map(|id| Box::from(&**id)).collect()),
        };
        self.audiences.iter().map(|(name, ids)| (name.clone(), list(ids))).collect()
    }

    fn check(&self, place: &str, mount: &str) -> Result<(), ConfigError> {
        let wrong = |field: &str, problem: &str| Err(ConfigError::value(format!("{place}.{field}"), problem));
        if let Some(url) = &self.jwks_uri {
            check_url(&format!("{place}.jwks_uri"), url)?;
        }
        if self.typ.is_empty() {
            return wrong("typ", "must be at+jwt or what else the issuer writes, for example JWT");
        }
        for (name, servers) in &self.audiences {
            let place = format!("{place}.audiences.{name}");
            if servers.is_empty() {
                return Err(ConfigError::value(place, "must name servers, or * for all"));
            }
            if name.is_empty() || name.starts_with(mount) {
                let problem = "must be the issuer's own name for this gateway; a server's URL is good for that server \
                               without being named, and for no other";
                return Err(ConfigError::value(place, problem));
            }
        }
        let Some(introspection) = &self.introspection else { return Ok(()) };
        check_url(&format!("{place}.introspection.endpoint"), &introspection.endpoint)?;
        if introspection.client_id.is_empty() {
            return wrong("introspection.client_id", "must be what the issuer calls this gateway");
        }
        if introspection.remember_seconds > LONGEST_REMEMBERED {
            return wrong("introspection.remember_seconds", "must be at most 3600");
        }
        Ok(())
    }
}

impl Config {
    /// `auth.issuers` and `oauth.identity_providers`.
    pub(super) fn check_issuers(&self) -> Result<(), ConfigError> {
        let mount = self.mount()?;
        let (issuers, deciders) = (&self.auth.issuers, &self.oauth.identity_providers);
        let place = |n: usize| format!("auth.issuers[{n}]");
        for (n, one) in issuers.iter().enumerate() {
            self.check_issuer(&place(n), &one.issuer, one.people, issuers[..n].iter().map(|other| &*other.issuer))?;
            one.check(&place(n), &mount.resource("").url)?;
            if one.introspection.is_some() && issuers[..n].iter().any(|other| other.introspection.is_some()) {
                let problem = "is of another issuer already: an opaque token does not say whose it is";
                return Err(ConfigError::value(format!("{}.introspection", place(n)), problem));
            }
        }
        let place = |n: usize| format!("oauth.identity_providers[{n}]");
        for (n, one) in deciders.iter().enumerate() {
            self.check_issuer(&place(n), &one.issuer, one.people, deciders[..n].iter().map(|other| &*other.issuer))?;
            check_url(&format!("{}.jwks_uri", place(n)), &one.jwks_uri)?;
            if one.clients.is_empty() || one.clients.iter().any(String::is_empty) {
                let problem = "must name the clients that may present its grants, by their ids";
                return Err(ConfigError::value(format!("{}.clients", place(n)), problem));
            }
        }
        if !deciders.is_empty() && !self.oauth.enabled {
            return Err(ConfigError::value("oauth.identity_providers", "needs oauth.enabled: true"));
        }
        let process = &self.runtime.process;
        let many = if issuers.is_empty() { "oauth.identity_providers" } else { "auth.issuers" };
        if !(issuers.is_empty() && deciders.is_empty()) && process.enabled && !process.i_trust_all_servers {
            let problem = "let several people in, and child processes share one user with each other. Set \
                           runtime.process.enabled: false, or runtime.process.i_trust_all_servers: true if every \
                           server is trusted";
            return Err(ConfigError::value(many, problem));
        }
        Ok(())
    }

    fn check_issuer<'a>(
        &self,
        place: &str,
        issuer: &str,
        people: bool,
        mut before: impl Iterator<Item = &'a str>,
    ) -> Result<(), ConfigError> {
        check_url(&format!("{place}.issuer"), issuer)?;
        let own = self.mount()?;
        let ours = Url::parse(issuer).is_ok_and(|url| url.origin().ascii_serialization() == own.origin());
        if ours {
            return Err(ConfigError::value(format!("{place}.issuer"), "is this gateway itself"));
        }
        if before.any(|other| other == issuer) {
            return Err(ConfigError::value(format!("{place}.issuer"), "is there twice"));
        }
        // An unknown person is refused: without a way to become known, everybody would be.
        let known = self.providers()?.iter().position(|provider| provider.issuer == issuer);
        let preset = known.map(|n| self.login.providers[n].preset);
        if people && matches!(preset, Some(ProviderPreset::Entra | ProviderPreset::GitHub)) {
            let problem = "cannot be true for a provider of the preset entra or github, which knows people by another \
                           id than the sub of tokens: everybody would be refused. Set people: false";
            return Err(ConfigError::value(format!("{place}.people"), problem));
        }
        if people && known.is_none() {
            let problem = "needs a provider of login.providers with this very issuer, by which people become known; set \
                           people: false if its subjects are no people of this gateway";
            return Err(ConfigError::value(format!("{place}.people"), problem));
        }
        Ok(())
    }
}

/// https, or http to this machine; nothing in it that is a secret or a place within.
fn check_url(place: &str, text: &str) -> Result<(), ConfigError> {
    let usable = Url::parse(text).is_ok_and(|url| {
        let local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        (url.scheme() == "https" || url.scheme() == "http" && local) && plain
    });
    if usable {
        return Ok(());
    }
    Err(ConfigError::value(place, "must be a whole https URL (http on this machine alone), without user and fragment"))
}
