//! As whom servers are called.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use mcp_gateway_auth::token::{SigningKeyOptions, SigningKeys};
use mcp_gateway_auth::upstream::{AccountParts, Accounts, Fetchers, Known};
use mcp_gateway_core::contract::{AuditSink, Clock, StoreError};
use mcp_gateway_core::egress::{EgressPolicy, Fetch, FetchOptions, Fetcher};
use mcp_gateway_core::record::{Mount, Resources, Route, RouteTarget, Subject, TenantId, User, UserState};
use mcp_gateway_core::snapshot::Snapshots;

use super::StartError;
use super::serve::Typed;
use crate::config::Config;

/// The servers and people of this gateway.
pub(crate) struct Servers {
    pub(crate) snapshots: Snapshots,
    pub(crate) users: Resources<User>,
}

#[async_trait]
impl Known for Servers {
    fn route(&self, server: &str) -> Option<Arc<Route>> {
        self.snapshots.load().routes.get(server).cloned()
    }

    fn is_other(&self, server: &str, audience: &str) -> bool {
        let audience = audience.trim_end_matches('/');
        self.snapshots.load().routes.values().any(|route| match &route.target {
            RouteTarget::Remote { url, .. } => {
                *route.id != *server && url.to_string().trim_end_matches('/') == audience
            }
            _ => false,
        })
    }

    async fn may_have(&self, subject: &Subject) -> Result<bool, StoreError> {
        let user = self.users.get(&subject.id).await?;
        Ok(user.is_some_and(|user| user.value.state == UserState::Active))
    }
}

/// What signs tokens for servers: another ring than that of clients' tokens.
pub(super) async fn keys(typed: &Typed, clock: &Arc<dyn Clock>) -> Result<Arc<SigningKeys>, StartError> {
    let mut options = SigningKeyOptions::default();
    "upstream".clone_into(&mut options.name);
    Ok(SigningKeys::open(typed.of(), Arc::clone(clock), options).await?)
}

/// Opens the accounts; with them comes what keeps them in step with the store.
pub(super) async fn open(
    config: &Config,
    mount: &Mount,
    typed: &Typed,
    (snapshots, keys): (&Snapshots, &Arc<SigningKeys>),
    sink: &Arc<dyn AuditSink>,
    clock: &Arc<dyn Clock>,
) -> Result<(Accounts, impl Future<Output = ()> + Send + 'static), StartError> {
    let fetcher = |policy: EgressPolicy, plain: bool| {
        let options = FetchOptions::default().with_policy(policy.with_plain_http_in_holes_alone());
        Arc::new(Fetcher::new(if plain { options.with_plain_http() } else { options })) as Arc<dyn Fetch>
    };
    let (egress, own) = (&config.egress, mount.origin().to_owned());
    let upstream = !egress.allow.is_empty() || !egress.upstream.allow.is_empty();
    let providers = config.login.providers.iter().filter_map(|provider| provider.issuer.clone());
    let others = config.auth.issuers.iter().map(|settings| settings.issuer.clone());
    let parts = AccountParts {
        store: Arc::clone(&typed.store),
        sealer: Arc::clone(&typed.sealer),
        tenant: TenantId::default(),
        origin: own.clone(),
        fetchers: Fetchers {
            servers: fetcher(config.egress_policy()?, upstream),
            issuers: fetcher(config.authorization_policy()?, !egress.oauth.allow.is_empty()),
        },
        signer: Some(keys.clone()),
        issuers: [own].into_iter().chain(others).chain(providers).collect(),
        known: Arc::new(Servers { snapshots: snapshots.clone(), users: typed.of() }),
        sink: Arc::clone(sink),
        clock: Arc::clone(clock),
    };
    Ok(Accounts::open(parts).await?)
}
