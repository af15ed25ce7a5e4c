//! Other issuers: what accepts their tokens and decisions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_auth::bootstrap::Bootstrap;
use mcp_gateway_auth::server::IdentityProvider;
use mcp_gateway_auth::token::{
    Introspection, RemoteKeys, RemoteKeysOptions, SubjectMap, TokenAuthenticatorBuilder, TrustedIssuer,
};
use mcp_gateway_auth::user::Users;
use mcp_gateway_core::contract::Clock;
use mcp_gateway_core::egress::{Fetch, FetchOptions, Fetcher};
use mcp_gateway_core::record::Secret;
use sha2::{Digest as _, Sha256};

use super::StartError;
use super::logins::secret;
use crate::config::{Config, INTROSPECTION_SECRET, IssuerSettings};
use crate::scim::ScimToken;

/// Tells credentials that no issuer may see: of bootstrap and SCIM.
pub(super) type Withheld = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// See [`Withheld`].
pub(super) fn withheld(bootstrap: &Bootstrap, scim: &[ScimToken]) -> Withheld {
    let bootstrap = bootstrap.authenticator();
    let scim: Vec<[u8; 32]> = scim.iter().map(|token| token.sha256).collect();
    Arc::new(move |token: &[u8]| {
        let hash: [u8; 32] = Sha256::digest(token).into();
        bootstrap.as_ref().is_some_and(|own| own.is_token(token)) || scim.contains(&hash)
    })
}

/// Adds `auth.issuers` to what is accepted.
pub(super) fn trust(
    config: &Config,
    mut accepting: TokenAuthenticatorBuilder,
    users: &Users,
    (secrets, withheld): (&HashMap<String, Secret>, &Withheld),
    clock: &Arc<dyn Clock>,
) -> Result<TokenAuthenticatorBuilder, StartError> {
    for (n, settings) in config.auth.issuers.iter().enumerate() {
        let keys = match (&settings.jwks_uri, &settings.introspection) {
            (Some(url), _) => Some(keys(config, url, clock)?),
            (None, None) => Some(discovered_keys(config, &settings.issuer, clock)?),
            (None, Some(_)) => None,
        };
        if let Some(keys) = keys {
            let keys = Arc::new(keys);
            accepting = accepting.trust(about(settings, users, TrustedIssuer::new(&*settings.issuer, keys)));
        }
        let Some(asking) = &settings.introspection else { continue };
        let place = format!("auth.issuers[{n}].introspection.client_secret_file");
        let found = secret(asking.client_secret_file.as_deref(), &place, secrets.get(INTROSPECTION_SECRET))?;
        let found = found.with_context(|| format!("{place}: set it, or the variable {INTROSPECTION_SECRET}"))?;
        let issuer = about(settings, users, TrustedIssuer::opaque(&*settings.issuer));
        let fetch = fetch(config, &asking.endpoint)?;
        let introspection = Introspection::new(issuer, &*asking.endpoint, &*asking.client_id, found, fetch);
        let introspection = introspection.remember_for(Duration::from_secs(asking.remember_seconds));
        let withheld = Arc::clone(withheld);
        accepting = accepting.introspect(introspection.withhold(move |token| withheld(token)));
    }
    Ok(accepting)
}

/// `oauth.identity_providers`.
pub(super) fn identity_providers(
    config: &Config,
    users: &Users,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<IdentityProvider>, StartError> {
    let mut all = Vec::new();
    for settings in &config.oauth.identity_providers {
        let keys = Arc::new(keys(config, &settings.jwks_uri, clock)?);
        let mut provider = IdentityProvider::new(&*settings.issuer, keys);
        for client in &settings.clients {
            provider = provider.with_client(client);
        }
        if settings.people {
            provider = provider.with_people(people(users));
        }
        all.push(provider);
    }
    Ok(all)
}

fn about(settings: &IssuerSettings, users: &Users, issuer: TrustedIssuer) -> TrustedIssuer {
    let mut issuer = issuer.with_typ(&*settings.typ);
    for (audience, servers) in settings.audiences() {
        issuer = issuer.with_audience(audience, servers);
    }
    if settings.people { issuer.with_people(people(users)) } else { issuer }
}

fn people(users: &Users) -> Arc<dyn SubjectMap> {
    Arc::new(users.clone())
}

fn keys(config: &Config, url: &str, clock: &Arc<dyn Clock>) -> Result<RemoteKeys, StartError> {
    Ok(RemoteKeys::new(url, fetch(config, url)?, Arc::clone(clock), RemoteKeysOptions::default()))
}

fn discovered_keys(config: &Config, issuer: &str, clock: &Arc<dyn Clock>) -> Result<RemoteKeys, StartError> {
    let fetch = fetch(config, issuer)?;
    Ok(RemoteKeys::discovered(issuer, fetch, Arc::clone(clock), RemoteKeysOptions::default()))
}

/// What goes to this address, under the rules for identity providers.
fn fetch(config: &Config, url: &str) -> Result<Arc<dyn Fetch>, StartError> {
    let options = FetchOptions::default().with_policy(config.identity_policy()?);
    // The configuration permits it for this machine alone.
    let options = if url.starts_with("http://") { options.with_plain_http() } else { options };
    Ok(Arc::new(Fetcher::new(options)))
}
