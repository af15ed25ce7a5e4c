//! The authorization server, and what accepts its tokens.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_auth::server::{
    AuthorizationServer, DeviceOptions, DocumentClients, Issuers, RegistrationPolicy, ServerOptions, ServerParts,
};
use mcp_gateway_auth::token::{SigningKeyOptions, SigningKeys, TokenAuthenticator};
use mcp_gateway_core::contract::{AuditSink, Authorizer, Clock, RateLimiter};
use mcp_gateway_core::egress::Fetcher;
use mcp_gateway_core::policy::{SnapshotRules, Visible};
use mcp_gateway_core::record::{Mount, Secret, TenantId};
use mcp_gateway_core::snapshot::Snapshots;

use super::StartError;
use super::issuers::{self, Withheld};
use super::serve::Typed;
use crate::app::Logins;
use crate::config::Config;
use crate::oauth::{Browser, OAuth};

/// What the authorization server is made of, beside the configuration.
pub(super) struct Ingredients<'a> {
    pub(super) mount: &'a Mount,
    pub(super) typed: &'a Typed,
    pub(super) snapshots: &'a Snapshots,
    pub(super) access: &'a Arc<SnapshotRules>,
    pub(super) logins: &'a Logins,
    pub(super) limiter: Arc<dyn RateLimiter>,
    pub(super) sink: Arc<dyn AuditSink>,
    pub(super) clock: &'a Arc<dyn Clock>,
}

/// The server, if there is to be one.
pub(super) async fn build(config: &Config, with: Ingredients<'_>) -> Result<Option<OAuth>, StartError> {
    let settings = &config.oauth;
    if !settings.enabled {
        return Ok(None);
    }
    let Ingredients { mount, typed, snapshots, access, logins, limiter, sink, clock } = with;
    let visible =
        Visible::new(Arc::new(snapshots.clone()), Arc::clone(access) as Arc<dyn Authorizer>, Arc::clone(clock));
    let keys = SigningKeys::open(typed.of(), Arc::clone(clock), SigningKeyOptions::default()).await?;
    let parts = ServerParts {
        mount: mount.clone(),
        tenant: TenantId::default(),
        store: Arc::clone(&typed.store),
        sealer: Arc::clone(&typed.sealer),
        signer: keys.clone(),
        keys: keys.clone(),
        // No token, page or error names a server that the person may not reach.
        resolve: Arc::new(visible),
        standing: Arc::new(snapshots.clone()),
        interaction: Arc::new(Browser {
            logins: logins.clone(),
            snapshots: snapshots.clone(),
            access: Arc::clone(access),
        }),
        clock: Arc::clone(clock),
    };
    let mut options = ServerOptions::default();
    options.issuers = settings.issuer;
    options.access_token = Duration::from_secs(settings.access_token_seconds);
    options.refresh_grace = Duration::from_secs(settings.refresh_grace_seconds);
    options.refresh_idle = Duration::from_secs(settings.grant_idle_seconds);
    options.grant_life = Duration::from_secs(settings.grant_seconds);
    options.consent_life = Duration::from_secs(settings.consent_seconds);
    options.requests_per_minute = settings.requests_per_minute;
    options.registrations_per_minute = settings.registrations_per_minute;
    options.registrations_total_per_minute = settings.registrations_total_per_minute;
    options.documents_per_minute = settings.documents_per_minute;
    let set = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect::<BTreeSet<_>>();
    let mut policy = RegistrationPolicy::default().with_mode(settings.registration);
    policy.tokens_sha256.clone_from(&settings.registration_tokens_sha256);
    policy.hosts = set(&settings.redirect_hosts);
    policy.schemes = set(&settings.redirect_schemes);
    let documents = match settings.client_documents {
        true => {
            let options = DocumentClients::fetch_options().with_policy(config.document_policy()?);
            Some(DocumentClients::with_fetch(Arc::new(Fetcher::new(options)), Arc::clone(clock)))
        }
        false => None,
    };
    let mut server = AuthorizationServer::new(parts)
        .options(options)
        .policy(policy)
        .documents(documents)
        .limit_addresses(Arc::clone(&limiter))
        .audit(sink);
    if settings.device.enabled {
        let mut options = DeviceOptions::default();
        options.life = Duration::from_secs(settings.device.code_seconds);
        options.interval = Duration::from_secs(settings.device.interval_seconds);
        options.requests_per_minute = settings.device.requests_per_minute;
        options.requests_total_per_minute = settings.device.requests_total_per_minute;
        options.tries_per_account = settings.device.tries_per_account;
        options.tries_per_address = settings.device.tries_per_address;
        server = server.devices(options, limiter);
    }
    for provider in issuers::identity_providers(config, &logins.users, clock)? {
        server = server.identity_provider(provider);
    }
    Ok(Some(OAuth { server, keys }))
}

/// What accepts its tokens, and those of other issuers; none where there are neither.
pub(super) fn authenticator(
    config: &Config,
    mount: &Mount,
    oauth: Option<&OAuth>,
    (snapshots, logins): (&Snapshots, &Logins),
    secrets: (&HashMap<String, Secret>, &Withheld),
    clock: &Arc<dyn Clock>,
) -> Result<Option<TokenAuthenticator>, StartError> {
    if oauth.is_none() && config.auth.issuers.is_empty() {
        return Ok(None);
    }
    let mut accepting = TokenAuthenticator::builder(Arc::new(snapshots.clone()), Arc::clone(clock));
    if let Some(oauth) = oauth {
        accepting = accepting.own(mount.origin(), oauth.keys.clone());
        if config.oauth.issuer == Issuers::PerServer {
            accepting = accepting.own_of_servers(oauth.keys.clone());
        }
    }
    Ok(Some(issuers::trust(config, accepting, &logins.users, secrets, clock)?.build()))
}
