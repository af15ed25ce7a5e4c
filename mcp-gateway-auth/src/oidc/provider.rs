//! Identity providers as an operator describes them.

use std::fmt;
use std::time::Duration;

use mcp_gateway_core::record::Secret;
use url::Url;

/// The bounds of what providers say.
#[derive(Debug)]
pub struct OidcLimits;

impl OidcLimits {
    /// Bytes of an ID token: one of Entra ID names up to 200 groups.
    pub const ID_TOKEN: usize = 64 * 1024;
    /// Bytes of a logout token.
    pub const LOGOUT_TOKEN: usize = 16 * 1024;
    /// Bytes of the query that a provider sends a browser back with.
    pub const CALLBACK: usize = 8 * 1024;
    /// How long a person may take at the provider: 10 minutes.
    pub const TRANSACTION: std::time::Duration = std::time::Duration::from_secs(600);
    /// How long a person may take to agree to what is linked: 10 minutes.
    pub const LINK: std::time::Duration = std::time::Duration::from_secs(600);
    /// Logins about which one provider is asked anew at once.
    pub const ASKED_AT_ONCE: usize = 8;
    /// Bytes of a provider's name.
    pub const NAME: usize = 32;
}

/// What is particular about a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProviderKind {
    /// `OpenID` Connect, as Okta and Keycloak have it.
    OpenIdConnect,
    /// Google: an address is verified for a Workspace domain by `hd`.
    Google,
    /// Microsoft Entra ID: a person is `tid` and `oid`; an address is verified by `xms_edov`.
    Entra,
    /// GitHub, or a GitHub Enterprise Server: OAuth alone, the person is asked of the API.
    GitHub,
}

/// An identity provider that people sign in with.
#[derive(Clone)]
#[non_exhaustive]
pub struct ProviderOptions {
    /// Names it in URLs and in the audit trail: 1 to 32 lowercase letters, digits and `-`.
    pub name: String,
    /// Its name, for people.
    pub title: String,
    /// What is particular about it.
    pub kind: ProviderKind,
    /// Its issuer, byte for byte as its metadata has it.
    pub issuer: String,
    /// This gateway's id there.
    pub client_id: String,
    /// The secret of that; none for a public client.
    pub client_secret: Option<Secret>,
    /// The scopes to ask for; `openid` is always among them, except at GitHub.
    pub scopes: Vec<String>,
    /// The claim that lists a person's groups: a name, or a JSON pointer such as `/realm_access/roles`. `None`: the
    /// provider is not asked, and what is known of a person's groups stays.
    pub groups_claim: Option<String>,
    /// Domains, in lowercase, whose addresses this provider may vouch for. When there are any, only people with a
    /// verified address in one of them may sign in; without, no address of this provider counts as verified.
    pub email_domains: Vec<String>,
    /// Organizations of GitHub, by their numbers: when there are any, only their members may sign in.
    pub organizations: Vec<u64>,
    /// Whether whoever has an account there may sign in, where everybody can have one: at Google and GitHub.
    pub anybody: bool,
    /// Seconds after which a person is to prove anew to the provider who they are; 7 days. Asked for with every login,
    /// since a provider then says when they did.
    pub max_age: i64,
    /// Whether a login counts as fresh of which the provider does not say when the person proved who they are. A browser
    /// that has a session there then renews its session here without anybody being asked.
    pub fresh_without_auth_time: bool,
    /// After how long the provider is asked anew about a login, by a refresh token; zero, the default: not between
    /// logins. Not at GitHub, which has none.
    pub refresh: Duration,
    /// Whether the provider is told to ask the person for consent (`prompt=consent`) when it is to give a refresh token:
    /// `OpenID` Connect Core §11 has it ignore `offline_access` otherwise. Off for Entra ID, Okta and Keycloak, which give
    /// one without.
    pub consent_for_refresh: bool,
}

/// A provider cannot be used as it is described. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct ProviderError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong.
    pub problem: &'static str,
}

impl ProviderOptions {
    /// A provider of `OpenID` Connect.
    pub fn new(name: impl Into<String>, issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            title: name.clone(),
            name,
            kind: ProviderKind::OpenIdConnect,
            issuer: issuer.into(),
            client_id: client_id.into(),
            client_secret: None,
            scopes: ["openid", "profile", "email"].map(str::to_owned).into(),
            groups_claim: None,
            email_domains: Vec::new(),
            organizations: Vec::new(),
            anybody: false,
            max_age: 7 * 24 * 3_600,
            fresh_without_auth_time: false,
            refresh: Duration::ZERO,
            consent_for_refresh: true,
        }
    }

    /// Whether the provider can prove that it has asked a person again, or is believed without: only then is an account
    /// of it linked to somebody.
    #[must_use]
    pub fn proves_anew(&self) -> bool {
        self.knows_max_age() || self.fresh_without_auth_time
    }

    /// Whether it would ask a person again, and say that it has.
    pub(super) fn knows_max_age(&self) -> bool {
        !matches!(self.kind, ProviderKind::GitHub | ProviderKind::Google)
    }

    /// Whether everybody can have an account there.
    fn is_public(&self) -> bool {
        match self.kind {
            ProviderKind::Google => true,
            ProviderKind::GitHub => self.issuer.trim_end_matches('/') == "https://github.com",
            _ => false,
        }
    }

    /// Google: accounts of Workspace domains, when [`email_domains`](Self::email_domains) names them.
    pub fn google(name: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self { kind: ProviderKind::Google, ..Self::new(name, "https://accounts.google.com", client_id) }
    }

    /// A tenant of Microsoft Entra ID, by its id. Every tenant has an issuer of its own, so `common` is none.
    pub fn entra(name: impl Into<String>, tenant: &str, client_id: impl Into<String>) -> Self {
        let issuer = format!("https://login.microsoftonline.com/{tenant}/v2.0");
        let groups_claim = Some("groups".to_owned());
        let new = Self::new(name, issuer, client_id);
        Self { kind: ProviderKind::Entra, groups_claim, consent_for_refresh: false, ..new }
    }

    /// Okta, by the issuer of an authorization server (`https://example.okta.com`, or with `/oauth2/default`), which
    /// must have a `groups` claim.
    pub fn okta(name: impl Into<String>, issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        let mut provider = Self::new(name, issuer, client_id);
        provider.scopes.push("groups".to_owned());
        provider.groups_claim = Some("groups".to_owned());
        provider.consent_for_refresh = false;
        provider
    }

    /// A realm of Keycloak, by its issuer (`https://keycloak.example/realms/NAME`), with the mapper "Group Membership".
    pub fn keycloak(name: impl Into<String>, issuer: impl Into<String>, client_id: impl Into<String>) -> Self {
        let groups_claim = Some("groups".to_owned());
        Self { groups_claim, consent_for_refresh: false, ..Self::new(name, issuer, client_id) }
    }

    /// GitHub. A person's organizations and teams are their groups, by their numbers: `org/123`, `team/456`.
    pub fn github(name: impl Into<String>, client_id: impl Into<String>) -> Self {
        let scopes = ["read:user", "user:email", "read:org"].map(str::to_owned).into();
        let groups_claim = Some("teams".to_owned());
        Self { kind: ProviderKind::GitHub, scopes, groups_claim, ..Self::new(name, "https://github.com", client_id) }
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// [`ProviderError`] names the field.
    pub fn check(&self) -> Result<(), ProviderError> {
        let wrong = |field, problem| Err(ProviderError { field, problem });
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=OidcLimits::NAME).contains(&self.name.len()) || !self.name.bytes().all(label) {
            return wrong("name", "must be 1 to 32 lowercase letters, digits and -");
        }
        if self.title.trim().is_empty() || self.title.len() > 100 || self.title.chars().any(char::is_control) {
            return wrong("title", "must be 1 to 100 bytes of text");
        }
        if !is_issuer(&self.issuer) {
            return wrong(
                "issuer",
                "must be an https URL without query and fragment (http on this machine alone), as the provider's \
                 metadata has it",
            );
        }
        if self.kind == ProviderKind::Entra {
            let tenant = self.issuer.strip_prefix("https://login.microsoftonline.com/");
            let tenant = tenant.and_then(|rest| rest.strip_suffix("/v2.0")).unwrap_or_default();
            if tenant.len() != 36 || !tenant.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
                return wrong("tenant", "must be the id of one tenant, such as 8eaef023-2b34-4da1-9baa-8bc8c9d6a490");
            }
        }
        if self.client_id.is_empty() {
            return wrong("client_id", "must be what the provider calls this gateway");
        }
        if self.scopes.iter().any(|scope| scope.is_empty() || !scope.bytes().all(|byte| byte.is_ascii_graphic())) {
            return wrong("scopes", "must be visible ASCII characters, without spaces");
        }
        if self.groups_claim.as_ref().is_some_and(String::is_empty) {
            return wrong("groups_claim", "must be the name of a claim, or a JSON pointer");
        }
        let domain = |text: &String| {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
            text.contains('.') && text.bytes().all(fits)
        };
        if !self.email_domains.iter().all(domain) {
            return wrong("email_domains", "must be domains in lowercase, such as example.com");
        }
        if !self.organizations.is_empty() && self.kind != ProviderKind::GitHub {
            return wrong("organizations", "are those of GitHub; leave it out");
        }
        if !self.refresh.is_zero() && self.kind == ProviderKind::GitHub {
            return wrong("refresh", "is not for GitHub, which has no refresh tokens; leave it out");
        }
        if self.max_age < 0 {
            return wrong("max_age", "must be seconds, from 0");
        }
        if self.is_public() && self.email_domains.is_empty() && self.organizations.is_empty() && !self.anybody {
            return wrong(
                "email_domains",
                "must name who may sign in, since everybody can have an account there (of GitHub, organizations will do); \
                 set anybody to let everybody in",
            );
        }
        Ok(())
    }
}

impl fmt::Debug for ProviderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderOptions")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Issuers are https (`OpenID` Connect Discovery §3); a provider on the machine itself may do without.
fn is_issuer(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    url.query().is_none() && url.fragment().is_none() && is_safe(&url)
}

/// https, or http to this machine; without user information.
pub(super) fn is_safe(url: &Url) -> bool {
    let local = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => return false,
    };
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && local);
    scheme && url.username().is_empty() && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_names_its_field() {
        let good = || ProviderOptions::new("company", "https://login.example.com", "gateway");
        assert_eq!(good().check(), Ok(()));
        let tenant = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";
        assert_eq!(ProviderOptions::entra("e", tenant, "x").check(), Ok(()));
        let open = [ProviderOptions::github("hub", "x"), ProviderOptions::google("g", "x")];
        for open in open {
            assert_eq!(open.check().unwrap_err().field, "email_domains", "{open:?}");
            let domains = vec!["example.com".into()];
            assert_eq!(ProviderOptions { email_domains: domains, ..open.clone() }.check(), Ok(()));
            assert_eq!(ProviderOptions { anybody: true, ..open }.check(), Ok(()));
        }
        let hub = || ProviderOptions::github("hub", "x");
        assert_eq!(ProviderOptions { organizations: vec![1], ..hub() }.check(), Ok(()));
        assert_eq!(ProviderOptions { issuer: "https://git.example.com".into(), ..hub() }.check(), Ok(()));
        assert_eq!(ProviderOptions { issuer: "http://127.0.0.1:3000".into(), ..good() }.check(), Ok(()));
        let with_issuer = |issuer: &str| ProviderOptions { issuer: issuer.into(), ..good() };
        for (field, wrong) in [
            ("name", ProviderOptions { name: "A".into(), ..good() }),
            ("name", ProviderOptions { name: "a/b".into(), ..good() }),
            ("name", ProviderOptions { name: "a".repeat(OidcLimits::NAME + 1), ..good() }),
            ("title", ProviderOptions { title: " ".into(), ..good() }),
            ("issuer", with_issuer("http://login.example.com")),
            ("issuer", with_issuer("https://user@login.example.com")),
            ("issuer", with_issuer("https://login.example.com/?x=1")),
            ("issuer", with_issuer("login.example.com")),
            ("tenant", ProviderOptions::entra("e", "common", "x")),
            ("client_id", ProviderOptions { client_id: String::new(), ..good() }),
            ("scopes", ProviderOptions { scopes: vec!["a b".into()], ..good() }),
            ("groups_claim", ProviderOptions { groups_claim: Some(String::new()), ..good() }),
            ("email_domains", ProviderOptions { email_domains: vec!["@example.com".into()], ..good() }),
            ("organizations", ProviderOptions { organizations: vec![1], ..good() }),
            ("max_age", ProviderOptions { max_age: -1, ..good() }),
        ] {
            assert_eq!(wrong.check().unwrap_err().field, field, "{wrong:?}");
        }
    }
}
