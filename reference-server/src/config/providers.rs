//! Identity providers in the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mcp_gateway_auth::oidc::{ProviderKind, ProviderOptions};
use mcp_gateway_auth::user::group_id;
use mcp_gateway_core::egress::EgressPolicy;
use mcp_gateway_core::record::Roles;
use mcp_gateway_core::snapshot::{RolePresets, Vouching};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError};

/// One of `login.providers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSettings {
    /// Names it in URLs: 1 to 32 lowercase letters, digits and `-`. Its redirect URI is
    /// `{public_url}/login/callback/{name}`.
    pub name: String,
    /// Its name on the login page; `name` when it is not set.
    #[serde(default)]
    pub title: Option<String>,
    /// What is particular about it.
    #[serde(default)]
    pub preset: ProviderPreset,
    /// Its issuer. Google and Entra ID have theirs.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The id of the tenant of Entra ID.
    #[serde(default)]
    pub tenant: Option<String>,
    /// This gateway's id there.
    pub client_id: String,
    /// The file with the client's secret. Not set: the variable `MCP_GATEWAY_LOGIN_SECRET_{NAME}`, or a public client.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The scopes to ask for; those of the preset by default.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// The claim with a person's groups, as name or JSON pointer; that of the preset by default, empty for none.
    #[serde(default)]
    pub groups_claim: Option<String>,
    /// Domains whose addresses it may vouch for; when there are any, only people with a verified one may sign in.
    #[serde(default)]
    pub email_domains: Vec<String>,
    /// Organizations of GitHub, by their numbers: when there are any, only their members may sign in.
    #[serde(default)]
    pub organizations: Vec<u64>,
    /// Whether whoever has an account at Google or GitHub may sign in.
    #[serde(default)]
    pub anybody: bool,
    /// Whether a login counts as fresh of which the provider does not say when the person proved who they are.
    #[serde(default)]
    pub fresh_without_auth_time: bool,
    /// After how many minutes the provider is asked anew about a login, by a refresh token (`offline_access`): groups follow,
    /// and a login that it vouches for no more ends. 0: not between logins. Not at GitHub.
    #[serde(default)]
    pub refresh_minutes: u32,
    /// Whether `prompt=consent` goes with `offline_access`, without which a provider may give no refresh token; by default
    /// of the presets `oidc` and `google`.
    #[serde(default)]
    pub consent_for_refresh: Option<bool>,
    /// The file with the token of its SCIM client, at least 32 characters. Not set: the variable
    /// `MCP_GATEWAY_SCIM_TOKEN_{NAME}`, or no SCIM.
    #[serde(default)]
    pub scim_token_file: Option<PathBuf>,
    /// Roles of the members of its groups, by its own ids of them.
    #[serde(default)]
    pub group_roles: BTreeMap<String, Vec<String>>,
}

/// `preset` of a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderPreset {
    /// `OpenID` Connect and nothing else.
    #[default]
    Oidc,
    /// Google, with Workspace.
    Google,
    /// Microsoft Entra ID.
    Entra,
    /// Okta.
    Okta,
    /// Keycloak.
    Keycloak,
    /// GitHub, or a GitHub Enterprise Server as `issuer`.
    GitHub,
}

impl ProviderSettings {
    /// What it means; without the client's secret.
    ///
    /// # Errors
    /// Names the field below `login.providers[n]`.
    fn options(&self, place: &str) -> Result<ProviderOptions, ConfigError> {
        let wrong = |field: &str, problem: &str| ConfigError::value(format!("{place}.{field}"), problem);
        let required = |value: &Option<String>, field: &str| {
            value.clone().ok_or_else(|| wrong(field, "is needed for this preset"))
        };
        let (name, id) = (&self.name, &self.client_id);
        let mut options = match self.preset {
            ProviderPreset::Oidc => ProviderOptions::new(name, required(&self.issuer, "issuer")?, id),
            ProviderPreset::Okta => ProviderOptions::okta(name, required(&self.issuer, "issuer")?, id),
            ProviderPreset::Keycloak => ProviderOptions::keycloak(name, required(&self.issuer, "issuer")?, id),
            ProviderPreset::Google => ProviderOptions::google(name, id),
            ProviderPreset::Entra => ProviderOptions::entra(name, &required(&self.tenant, "tenant")?, id),
            ProviderPreset::GitHub => {
                let mut options = ProviderOptions::github(name, id);
                options.issuer.clone_from(self.issuer.as_ref().unwrap_or(&options.issuer.clone()));
                options
            }
        };
        let fixed = matches!(options.kind, ProviderKind::Google | ProviderKind::Entra);
        if self.issuer.is_some() && fixed {
            return Err(wrong("issuer", "is that of the preset; leave it out"));
        }
        if self.tenant.is_some() && self.preset != ProviderPreset::Entra {
            return Err(wrong("tenant", "is for the preset entra alone"));
        }
        if let Some(title) = &self.title {
            options.title.clone_from(title);
        }
        if let Some(scopes) = &self.scopes {
            options.scopes.clone_from(scopes);
        }
        match self.groups_claim.as_deref() {
            None => {}
            Some("") => options.groups_claim = None,
            Some(claim) => options.groups_claim = Some(claim.to_owned()),
        }
        options.email_domains.clone_from(&self.email_domains);
        options.organizations.clone_from(&self.organizations);
        options.anybody = self.anybody;
        options.fresh_without_auth_time = self.fresh_without_auth_time;
        options.refresh = Duration::from_secs(u64::from(self.refresh_minutes) * 60);
        if let Some(consent) = self.consent_for_refresh {
            options.consent_for_refresh = consent;
        }
        options.check().map_err(|error| wrong(error.field, error.problem))?;
        Ok(options)
    }

    /// The variable that may hold the client's secret.
    #[must_use]
    pub fn secret_variable(&self) -> String {
        format!("MCP_GATEWAY_LOGIN_SECRET_{}", self.in_variables())
    }

    /// The variable that may hold the token of the SCIM client.
    #[must_use]
    pub fn scim_variable(&self) -> String {
        format!("MCP_GATEWAY_SCIM_TOKEN_{}", self.in_variables())
    }

    fn in_variables(&self) -> String {
        self.name.to_ascii_uppercase().replace('-', "_")
    }
}

impl Config {
    /// `login.providers`, without their secrets.
    ///
    /// # Errors
    /// Names the field that cannot be used.
    pub fn providers(&self) -> Result<Vec<ProviderOptions>, ConfigError> {
        let all = self.login.providers.iter().enumerate();
        let mut all: Vec<_> =
            all.map(|(n, settings)| settings.options(&format!("login.providers[{n}]"))).collect::<Result<_, _>>()?;
        for one in &mut all {
            one.max_age = i64::try_from(self.login.session_seconds).unwrap_or(i64::MAX);
        }
        for (n, one) in all.iter().enumerate() {
            if all[..n].iter().any(|other| other.name == one.name || other.issuer == one.issuer) {
                let place = format!("login.providers[{n}]");
                return Err(ConfigError::value(place, "has the name or the issuer of another provider"));
            }
        }
        if all.is_empty() && !self.login.passwords {
            return Err(ConfigError::value("login.passwords", "is the only way to sign in; set login.providers first"));
        }
        Ok(all)
    }

    /// Roles of people by verified address: `roles.owners`, `roles.admins`, `roles.auditors`.
    ///
    /// # Errors
    /// Names an address that is none, or that no provider may vouch for.
    pub fn role_presets(&self) -> Result<RolePresets, ConfigError> {
        let mut presets = RolePresets::new();
        let lists = [
            ("roles.owners", &self.roles.owners, Roles::OWNER),
            ("roles.admins", &self.roles.admins, Roles::ADMIN),
            ("roles.auditors", &self.roles.auditors, Roles::AUDITOR),
        ];
        for (name, list, roles) in lists {
            for (n, address) in list.iter().enumerate() {
                let address = address.trim().to_lowercase();
                let vouched = |domain: &str| {
                    self.login.providers.iter().any(|one| one.email_domains.iter().any(|known| known == domain))
                };
                if !address.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && vouched(domain)) {
                    let problem = "must be an address of one of login.providers[].email_domains: nobody else's address \
                                   is ever verified";
                    return Err(ConfigError::value(format!("{name}[{n}]"), problem));
                }
                let held = presets.entry(address.into()).or_default();
                *held = held.union(roles);
            }
        }
        Ok(presets)
    }

    /// Which provider may vouch for the addresses of which domains: `login.providers[].email_domains`.
    ///
    /// # Errors
    /// As [`providers`](Self::providers).
    pub fn vouching(&self) -> Result<Vouching, ConfigError> {
        let of = |options: ProviderOptions| {
            (options.issuer.into(), options.email_domains.into_iter().map(String::into_boxed_str).collect())
        };
        Ok(self.providers()?.into_iter().map(of).collect())
    }

    /// Roles of the members of groups, by the id of the group: `login.providers[].group_roles`.
    ///
    /// # Errors
    /// Names what is no role.
    pub fn group_presets(&self) -> Result<RolePresets, ConfigError> {
        let mut presets = RolePresets::new();
        for (n, (settings, options)) in self.login.providers.iter().zip(self.providers()?).enumerate() {
            for (group, names) in &settings.group_roles {
                let place = format!("login.providers[{n}].group_roles.{group}");
                let roles = names.iter().try_fold(Roles::NONE, |roles, name| {
                    let role = Roles::named(name).ok_or_else(|| {
                        let problem = format!(
                            "{name} is no role; they are owner, admin, power_user_plus, power_user, basic, auditor"
                        );
                        ConfigError::value(&place, problem)
                    });
                    Ok(roles.union(role?))
                })?;
                presets.insert(group_id(&options.issuer, group).into(), roles);
            }
        }
        Ok(presets)
    }

    /// Where calls to identity providers may go.
    ///
    /// # Errors
    /// As [`egress_policy`](Self::egress_policy).
    pub fn identity_policy(&self) -> Result<EgressPolicy, ConfigError> {
        self.policy_of(&[("egress.identity.allow", &self.egress.identity.allow)])
    }

    /// Where calls to the authorization servers of remote servers may go.
    ///
    /// # Errors
    /// As [`egress_policy`](Self::egress_policy).
    pub fn authorization_policy(&self) -> Result<EgressPolicy, ConfigError> {
        self.policy_of(&[("egress.oauth.allow", &self.egress.oauth.allow)])
    }

    /// Where calls to services that filters ask may go.
    ///
    /// # Errors
    /// As [`egress_policy`](Self::egress_policy).
    pub fn filter_policy(&self) -> Result<EgressPolicy, ConfigError> {
        self.policy_of(&[("egress.filter.allow", &self.egress.filter.allow)])
    }
}
