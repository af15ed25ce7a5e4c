//! GitHub: OAuth without `OpenID` Connect, so the API says who it is.

use mcp_gateway_core::BoxError;
use mcp_gateway_core::egress::Fetch;
use mcp_gateway_core::record::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::ask;
use super::error::invalid;
use super::person::{allowed, believed};
use super::{OidcError, ProviderOptions};
use crate::user::{Asserted, AssertedGroup, IdentityKey, UserLimits};

/// Entries of a page of the API, which is its most.
const PAGE: usize = 100;

/// Where GitHub, or a GitHub Enterprise Server, is asked.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// What its answers name as their issuer (RFC 9207); its people keep the issuer of the provider.
    pub(super) issuer: String,
    pub(super) authorize: String,
    pub(super) token: String,
    api: String,
}

impl Endpoints {
    pub(super) fn of(issuer: &str) -> Self {
        let base = issuer.trim_end_matches('/');
        let api =
            if base == "https://github.com" { "https://api.github.com".to_owned() } else { format!("{base}/api/v3") };
        Self {
            issuer: format!("{base}/login/oauth"),
            authorize: format!("{base}/login/oauth/authorize"),
            token: format!("{base}/login/oauth/access_token"),
            api,
        }
    }

    /// Who has this access token. Names can be given up and taken by others; the numbers cannot.
    pub(super) async fn person(
        &self,
        fetch: &dyn Fetch,
        provider: &ProviderOptions,
        token: &Secret,
    ) -> Result<Asserted, OidcError> {
        let user: User = read(ask(fetch, &format!("{}/user", self.api), token).await?)?;
        let emails: Vec<Address> = read(ask(fetch, &format!("{}/user/emails", self.api), token).await?)?;
        let primary = emails.iter().find(|email| email.primary);
        let email = primary.and_then(|email| believed(provider, &email.email, email.verified));
        allowed(provider, email.as_ref())?;
        let name = user.name.filter(|name| !name.is_empty()).unwrap_or(user.login);
        let identity = IdentityKey::new(&provider.issuer, user.id.to_string());
        let asserted = Asserted::new(identity, name).with_email(email);
        if provider.groups_claim.is_none() && provider.organizations.is_empty() {
            return Ok(asserted);
        }
        let orgs: Vec<Organization> = self.pages(fetch, "/user/orgs", token).await?;
        if !provider.organizations.is_empty() && !orgs.iter().any(|org| provider.organizations.contains(&org.id)) {
            return Err(OidcError::NotAllowed("the person is in none of the allowed organizations"));
        }
        if provider.groups_claim.is_none() {
            return Ok(asserted);
        }
        let teams: Vec<Team> = self.pages(fetch, "/user/teams", token).await?;
        let orgs = orgs.into_iter().map(|org| AssertedGroup { id: format!("org/{}", org.id), name: org.login });
        let teams = teams.into_iter().map(|team| AssertedGroup {
            id: format!("team/{}", team.id),
            name: format!("{}/{}", team.organization.login, team.slug),
        });
        Ok(asserted.in_groups(orgs.chain(teams).collect()))
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        fetch: &dyn Fetch,
        path: &str,
        token: &Secret,
    ) -> Result<Vec<T>, OidcError> {
        let mut all: Vec<T> = Vec::new();
        for page in 1_usize.. {
            let url = format!("{}{path}?per_page={PAGE}&page={page}", self.api);
            let found: Vec<T> = read(ask(fetch, &url, token).await?)?;
            let last = found.len() < PAGE;
            all.extend(found);
            if last {
                break;
            }
            if all.len() > UserLimits::GROUPS {
                return invalid("the person is in more than 500 organizations or teams");
            }
        }
        Ok(all)
    }
}

#[derive(Deserialize)]
struct User {
    id: u64,
    login: String,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    email: String,
    primary: bool,
    verified: bool,
}

#[derive(Deserialize)]
struct Organization {
    id: u64,
    login: String,
}

#[derive(Deserialize)]
struct Team {
    id: u64,
    slug: String,
    organization: Organization,
}

fn read<T: DeserializeOwned>(answer: serde_json::Value) -> Result<T, OidcError> {
    serde_json::from_value(answer).map_err(|error| OidcError::Provider(BoxError::from(error)))
}
