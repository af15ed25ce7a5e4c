//! What the parts of the running server share.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use mcp_gateway_auth::api_key::{ApiKeys, LastUsed};
use mcp_gateway_auth::login::{CookieNames, LocalLogins, Sessions};
use mcp_gateway_auth::oidc::Providers;
use mcp_gateway_auth::scim::Scim;
use mcp_gateway_auth::token::SigningKeys;
use mcp_gateway_auth::upstream::Accounts;
use mcp_gateway_auth::user::{IdentityKey, Users};
use mcp_gateway_core::contract::{
    AuditSink, AuditStore, Authenticator, Clock, RateLimiter, ResourceStore, Runtime, StoreError,
};
use mcp_gateway_core::egress::Connections;
use mcp_gateway_core::filter::SnapshotFilters;
use mcp_gateway_core::layer::admit::Load;
use mcp_gateway_core::layer::refusals::Strangers;
use mcp_gateway_core::lease::Leases;
use mcp_gateway_core::pin::ToolPinning;
use mcp_gateway_core::policy::SnapshotRules;
use mcp_gateway_core::record::{FieldSealer, Mount, Revoked, Subject};
use mcp_gateway_core::seal::SessionKeyRing;
use mcp_gateway_core::snapshot::Snapshots;
use mcp_gateway_store::spool::SpoolStats;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::oauth::OAuth;
use crate::scim::ScimToken;

/// The running server, as the admin API and the metrics see it.
///
/// Made once, when everything in it runs; shared as `Arc<App>`.
pub struct App {
    /// The effective configuration.
    pub config: Arc<Config>,
    /// Where clients reach the data plane.
    pub mount: Mount,
    /// Every durable record but the audit trail.
    pub resources: Arc<dyn ResourceStore>,
    /// Seals and opens fields of records.
    pub sealer: Arc<dyn FieldSealer>,
    /// The audit trail, to be read.
    pub audit_store: Arc<dyn AuditStore>,
    /// The audit trail, to be written: the same sink that the data plane writes to.
    pub audit_sink: Arc<dyn AuditSink>,
    /// Routes, entries, keys and people, in memory.
    pub snapshots: Snapshots,
    /// Who may use what.
    pub access: Arc<SnapshotRules>,
    /// What messages are judged by.
    pub filters: Arc<SnapshotFilters>,
    /// What tools servers have shown.
    pub pinning: ToolPinning,
    /// Runs servers; `None` when this server runs none.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// Makes, lists and revokes API keys.
    pub keys: ApiKeys,
    /// When keys were used.
    pub last_used: Arc<LastUsed>,
    /// The keys that seal legacy sessions.
    pub session_keys: Arc<SessionKeyRing>,
    /// People, and how they sign in.
    pub logins: Logins,
    /// What identity providers do to users and groups by themselves.
    pub scim: Scim,
    /// Their tokens; none where no provider does.
    pub scim_tokens: Vec<ScimToken>,
    /// What gives tokens to MCP clients; `None` when it is off.
    pub oauth: Option<OAuth>,
    /// As whom servers are called.
    pub accounts: Accounts,
    /// What signs tokens for servers.
    pub upstream_keys: Arc<SigningKeys>,
    /// Who calls the admin API, asked in order: API keys, sessions, then the bootstrap token while there is one.
    pub admin_authenticators: Vec<Arc<dyn Authenticator>>,
    /// Budgets, shared with the data plane: failures of authentication count together.
    pub limiter: Arc<dyn RateLimiter>,
    /// Figures of the audit spool; `None` when there is no spool.
    pub spool_stats: Option<SpoolFigures>,
    /// Refusals of callers whom nobody knows, counted for the audit trail.
    pub strangers: Arc<Strangers>,
    /// What is under way on the data plane.
    pub load: DataPlaneLoad,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What this process does for all.
    pub leases: Leases,
    /// What some process should do for all, and none has done for a minute; names of leases.
    pub unled: watch::Receiver<Vec<&'static str>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When the process started.
    pub started_at: Timestamp,
    /// The same on the monotonic clock.
    pub started: Instant,
    /// Cancelled when the server begins to drain: `/readyz` answers 503 from then on, and open log streams end.
    pub draining: CancellationToken,
}

/// People, and how they sign in.
#[derive(Debug, Clone)]
pub struct Logins {
    /// Who there is, and what they may do.
    pub users: Users,
    /// Those with a password of this gateway.
    pub local: LocalLogins,
    /// Those whom an identity provider knows.
    pub providers: Providers,
    /// Browsers that are signed in.
    pub sessions: Sessions,
    /// The names of their cookies.
    pub cookies: CookieNames,
}

/// Reads the figures of the audit spool.
pub type SpoolFigures = Arc<dyn Fn() -> SpoolStats + Send + Sync>;

/// What the data plane is doing.
#[derive(Debug, Clone)]
pub struct DataPlaneLoad {
    /// POSTs under way.
    pub calls: Arc<Load>,
    /// GET and listen streams under way.
    pub streams: Arc<Load>,
    /// Connections to servers.
    pub connections: Arc<Connections>,
}

impl App {
    /// Whether anybody can still sign in with an identity of this issuer.
    pub(crate) fn can_sign_in(&self, identity: &IdentityKey) -> bool {
        match identity.issuer == Subject::LOCAL {
            true => self.config.login.passwords,
            false => self.logins.providers.list().any(|provider| provider.issuer == identity.issuer),
        }
    }

    /// Ends what clients have got of a person or login: grants for ever, tokens at every replica.
    ///
    /// # Errors
    /// Those of the store; what ends a person's access for good is in the person's own record.
    pub(crate) async fn end_grants(&self, of: Revoked<'_>) -> Result<(), StoreError> {
        match &self.oauth {
            Some(oauth) => oauth.server.end_grants(of).await.map(drop),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("mount", &self.mount).field("started_at", &self.started_at).finish_non_exhaustive()
    }
}
