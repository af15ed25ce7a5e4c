//! People, and how they sign in.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_auth::login::{CookieNames, LocalLogins, Passwords, SessionOptions, Sessions, Throttle};
use mcp_gateway_auth::oidc::Providers;
use mcp_gateway_auth::user::{UserOptions, Users};
use mcp_gateway_core::contract::{Clock, RateLimiter};
use mcp_gateway_core::egress::{FetchOptions, Fetcher};
use mcp_gateway_core::record::{Mount, Secret, TenantId};
use mcp_gateway_core::snapshot::Snapshots;

use super::StartError;
use super::serve::Typed;
use crate::app::Logins;
use crate::config::Config;
use crate::scim::ScimToken;

/// What the parts of a login are made of, beside the configuration.
pub(super) struct Ingredients<'a> {
    pub(super) mount: &'a Mount,
    pub(super) typed: &'a Typed,
    pub(super) snapshots: &'a Snapshots,
    pub(super) limiter: Arc<dyn RateLimiter>,
    pub(super) clock: &'a Arc<dyn Clock>,
    /// Secrets of the environment, by the name of the variable.
    pub(super) secrets: &'a HashMap<String, Secret>,
}

pub(super) fn build(config: &Config, with: Ingredients<'_>) -> Result<Logins, StartError> {
    let Ingredients { mount, typed, snapshots, limiter, clock, secrets } = with;
    let login = &config.login;
    let users = Users::new(
        Arc::clone(&typed.store),
        Arc::clone(&typed.sealer),
        TenantId::default(),
        Arc::clone(clock),
        Arc::new(snapshots.clone()),
        UserOptions::default()
            .with_default_roles(config.default_roles()?)
            .with_heard_for(Duration::from_secs(login.session_seconds)),
    );
    let hashes = Passwords::new(login.hashes_at_once).waiting(Duration::from_millis(login.hash_wait_ms));
    let throttle =
        Throttle::per_period(login.attempts_per_account, login.attempts_from_strangers, login.attempts_per_address);
    let local = LocalLogins::new(users.clone(), typed.of(), hashes, limiter, Arc::clone(clock)).with_throttle(throttle);
    let lasting = SessionOptions::lasting(
        Duration::from_secs(login.session_idle_seconds),
        Duration::from_secs(login.session_seconds),
    );
    let sessions = Sessions::new(typed.of(), Arc::clone(clock), lasting);
    let providers = providers(config, mount, typed, clock, secrets)?;
    Ok(Logins { users, local, providers, sessions, cookies: CookieNames::for_url(mount.origin()) })
}

fn providers(
    config: &Config,
    mount: &Mount,
    typed: &Typed,
    clock: &Arc<dyn Clock>,
    secrets: &HashMap<String, Secret>,
) -> Result<Providers, StartError> {
    let mut all = config.providers()?;
    for (n, (options, settings)) in all.iter_mut().zip(&config.login.providers).enumerate() {
        let place = format!("login.providers[{n}].client_secret_file");
        options.client_secret =
            secret(settings.client_secret_file.as_deref(), &place, secrets.get(&settings.secret_variable()))?;
    }
    let plain = all.iter().any(|provider| provider.issuer.starts_with("http://"));
    let mut options = FetchOptions::default().with_policy(config.identity_policy()?);
    if plain {
        options = options.with_plain_http();
    }
    let fetch = Arc::new(Fetcher::new(options));
    let (store, sealer) = (Arc::clone(&typed.store), Arc::clone(&typed.sealer));
    Ok(Providers::new(all, mount.origin(), store, sealer, TenantId::default(), fetch, Arc::clone(clock))?)
}

/// The tokens of SCIM clients.
pub(super) fn scim_tokens(config: &Config, secrets: &HashMap<String, Secret>) -> Result<Vec<ScimToken>, StartError> {
    let mut tokens = Vec::new();
    for (n, (options, settings)) in config.providers()?.iter().zip(&config.login.providers).enumerate() {
        let place = format!("login.providers[{n}].scim_token_file");
        let token = secret(settings.scim_token_file.as_deref(), &place, secrets.get(&settings.scim_variable()))?;
        let Some(token) = token else { continue };
        anyhow::ensure!(
            token.expose().len() >= ScimToken::SHORTEST,
            "{place}: the token must have at least {} characters; `openssl rand -hex 32` makes one",
            ScimToken::SHORTEST
        );
        let token = ScimToken::new(&options.issuer, token.expose());
        anyhow::ensure!(
            tokens.iter().all(|other: &ScimToken| other.sha256 != token.sha256),
            "{place}: the token is that of another provider; each client needs its own"
        );
        tokens.push(token);
    }
    Ok(tokens)
}

/// A secret from its file, else from its variable.
pub(super) fn secret(
    file: Option<&Path>,
    place: &str,
    variable: Option<&Secret>,
) -> Result<Option<Secret>, StartError> {
    match file {
        Some(path) => secret_of(path).map(Some).with_context(|| format!("{place}: {}", path.display())),
        None => Ok(variable.cloned()),
    }
}

/// The first line of a file.
fn secret_of(path: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().next().unwrap_or_default().trim();
    anyhow::ensure!(!line.is_empty(), "holds nothing; its first line must be the secret");
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scim_token_is_of_one_provider() {
        let providers = "[{name: a, client_id: x, issuer: 'https://a.example'}, \
                         {name: b, client_id: y, issuer: 'https://b.example'}]";
        let variables =
            [("MCP_GATEWAY__RUNTIME__PROCESS__ENABLED", "false"), ("MCP_GATEWAY__LOGIN__PROVIDERS", providers)];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = crate::config::load(None, variables).unwrap();
        let tokens = |b: &str| {
            let secret = |(name, letter): (&str, &str)| {
                (format!("MCP_GATEWAY_SCIM_TOKEN_{name}"), Secret::new(letter.repeat(ScimToken::SHORTEST)))
            };
            scim_tokens(&config, &[("A", "a"), ("B", b)].map(secret).into())
        };
        assert_eq!(tokens("b").unwrap().len(), 2);
        let refused = tokens("a").unwrap_err().to_string();
        assert!(refused.starts_with("login.providers[1].scim_token_file"), "{refused}");
    }
}
