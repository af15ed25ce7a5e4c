//! As whom the gateway calls servers: accounts that people have connected, clients of its own, and tokens that it makes.
//!
//! What a call gets is decided by one function, [`UpstreamCredentials::credential`]: by the subject and the server's entry
//! alone, from memory in the steady state. Tokens are sealed, per subject and server; nobody but the server's own origin
//! sees one.
//!
//! People connect accounts with their browser: [`Accounts::prepare`] finds out who gives tokens for a server and what is
//! to be shown, [`Accounts::confirm`] says where the browser goes when the person agrees, and [`Accounts::finish`] takes
//! what it brings back. All three are bound to the person and session of the browser.

mod challenge;
mod client;
mod connect;
mod credentials;
mod discovery;
mod error;
mod flight;
mod machine;
mod minted;
mod record;
mod refresh;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mcp_gateway_core::contract::{AuditSink, Clock, ResourceStore, Revision, Signer, StoreError, StoreErrorKind, When};
use mcp_gateway_core::egress::Fetch;
use mcp_gateway_core::record::{FieldSealer, Resource, Resources, Route, Stored, Subject, TenantId};
use mcp_gateway_core::snapshot::Cache;
use url::Url;

pub use self::connect::{AtBrowser, Finished, Going, Prepared};
pub use self::error::AccountError;
pub use self::minted::UpstreamIssuer;
pub use self::record::{
    ClientAtIssuer, ConnectAttempt, Connection, ConnectionState, Endpoints, RefreshLease, Registration,
};

use self::credentials::Held;
use self::flight::Flight;
use self::machine::MachineTokens;
use self::minted::MintedTokens;
use self::record::tag;
use self::refresh::Renewals;

/// Bounds of what is kept and asked.
#[derive(Debug)]
pub struct AccountLimits;

impl AccountLimits {
    /// A token is renewed when it ends within this time.
    pub const RENEWED_BEFORE: Duration = Duration::from_secs(30);
    /// A token that a server refuses is renewed only if it is at least so old: a server that refuses every token would
    /// have it renewed with every call.
    pub const REFUSED_ANEW: Duration = Duration::from_secs(10);
    /// After an issuer could not be asked, it is not asked again for so long.
    pub const RETRY: Duration = Duration::from_secs(5);
    /// How long one replica may take to renew a token, while the others wait.
    pub const LEASE: Duration = Duration::from_secs(30);
    /// How long a person may take to agree, and again at the issuer.
    pub const ATTEMPT: Duration = Duration::from_secs(600);
    /// How often a call may ask for more rights before one is made with what there is.
    pub const STEP_UPS: u32 = 3;
    /// Bytes of a token.
    pub const TOKEN: usize = 16 << 10;
    /// Accounts and minted tokens that are held in memory, each.
    pub const HELD: usize = 20_000;
    /// How long a token that the gateway makes is good; at most 5 minutes.
    pub const MINTED: Duration = Duration::from_secs(300);
}

/// Accounts at servers, and everything else that goes into `Authorization`. Clones share it.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

/// What [`Accounts`] are made of.
pub struct AccountParts {
    /// Where they are kept.
    pub store: Arc<dyn ResourceStore>,
    /// What seals tokens.
    pub sealer: Arc<dyn FieldSealer>,
    /// Whose they are.
    pub tenant: TenantId,
    /// The gateway's origin: `https://gateway.example`.
    pub origin: String,
    /// What calls servers and issuers.
    pub fetchers: Fetchers,
    /// Signs what the gateway makes for servers that trust it; `None`: it makes nothing.
    pub signer: Option<Arc<dyn Signer>>,
    /// Issuers for whom no token is made.
    pub issuers: Vec<String>,
    /// What else is known.
    pub known: Arc<dyn Known>,
    /// Where failures are recorded.
    pub sink: Arc<dyn AuditSink>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What is true of servers and people now.
#[async_trait]
pub trait Known: Send + Sync {
    /// The entry of a server.
    fn route(&self, server: &str) -> Option<Arc<Route>>;

    /// Whether another server than this one is called at what an audience names.
    fn is_other(&self, server: &str, audience: &str) -> bool;

    /// Whether somebody may have accounts, by the store and not from memory: who is gone or blocked may not.
    ///
    /// # Errors
    /// Those of the store.
    async fn may_have(&self, subject: &Subject) -> Result<bool, StoreError>;
}

/// What calls servers and issuers. Clients of the egress, whatever a server says of where its issuer is.
#[derive(Clone)]
pub struct Fetchers {
    /// Calls servers' own origins, with the holes of remote servers.
    pub servers: Arc<dyn Fetch>,
    /// Calls whatever a server names, with holes of its own.
    pub issuers: Arc<dyn Fetch>,
}

impl Fetchers {
    /// The one for a URL that a server has named.
    fn of(&self, url: &Url, server: &Url) -> &dyn Fetch {
        if url.origin() == server.origin() { &*self.servers } else { &*self.issuers }
    }
}

struct Inner {
    connections: Resources<Connection>,
    attempts: Resources<ConnectAttempt>,
    registrations: Resources<Registration>,
    leases: Resources<RefreshLease>,
    cache: Cache<Arc<Held>>,
    flights: Mutex<HashMap<String, Arc<Flight<Renewals>>>>,
    machines: MachineTokens,
    minted: MintedTokens,
    issuer: Option<UpstreamIssuer>,
    origin: String,
    fetchers: Fetchers,
    known: Arc<dyn Known>,
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
}

impl Accounts {
    /// Opens what is kept; with it comes the future that keeps memory in step with the store, to be spawned.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(parts: AccountParts) -> Result<(Self, impl Future<Output = ()> + Send + 'static), StoreError> {
        let AccountParts { store, sealer, tenant, origin, fetchers, signer, issuers, known, sink, clock } = parts;
        fn of<T: Resource>(
            (store, sealer, tenant): (&Arc<dyn ResourceStore>, &Arc<dyn FieldSealer>, &TenantId),
        ) -> Resources<T> {
            Resources::new(Arc::clone(store), Arc::clone(sealer), tenant.clone())
        }
        let kinds = vec![Connection::KIND];
        let (cache, driver) = Cache::follow(Arc::clone(&store), kinds, AccountLimits::HELD, Arc::clone(&clock)).await?;
        let parts = (&store, &sealer, &tenant);
        let issuer = signer.map(|signer| UpstreamIssuer::new(&origin, signer, issuers));
        let inner = Inner {
            connections: of(parts),
            attempts: of(parts),
            registrations: of(parts),
            leases: of(parts),
            cache,
            flights: Mutex::default(),
            machines: MachineTokens::default(),
            minted: MintedTokens::default(),
            issuer,
            origin,
            fetchers,
            known,
            sink,
            clock,
        };
        Ok((Self(Arc::new(inner)), driver))
    }

    /// A page of accounts: somebody's, or everybody's. Whoever gets them shows no token.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(
        &self,
        of: Option<&Subject>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<Connection>>, Option<Box<str>>), StoreError> {
        self.0.connections.list(of.map(Connection::of), after, limit).await
    }

    /// One account.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn find(&self, id: &str) -> Result<Option<Stored<Connection>>, StoreError> {
        self.0.connections.get(id).await
    }

    /// Forgets an account, then gives its tokens back to the issuer (RFC 7009). When a replica
    /// [has applied](Self::wait_for) the revision, it sends no token of it. `None`: there is none. Whether the issuer took
    /// them comes with the revision.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn disconnect(&self, id: &str) -> Result<Option<(Revision, bool)>, StoreError> {
        let Some((revision, gone)) = self.remove(id).await? else { return Ok(None) };
        Ok(Some((revision, self.give_back(&gone).await)))
    }

    /// Forgets everything of a subject who is gone for good, at once; the issuers get the tokens back afterwards.
    ///
    /// # Errors
    /// Those of the store; what was forgotten until then is.
    pub async fn forget(&self, subject: &Subject) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        let forgotten = self.remove_all(subject, &mut gone).await;
        if !gone.is_empty() {
            let this = self.clone();
            // An issuer that does not answer keeps nobody from being gone.
            tokio::spawn(async move {
                for connection in gone {
                    this.give_back(&connection).await;
                }
            });
        }
        forgotten
    }

    async fn remove_all(&self, subject: &Subject, gone: &mut Vec<Connection>) -> Result<(), StoreError> {
        loop {
            let (found, _) = self.list(Some(subject), None, 100).await?;
            if found.is_empty() {
                return Ok(());
            }
            for one in found {
                gone.extend(self.remove(&one.id).await?.map(|(_, connection)| connection));
            }
        }
    }

    async fn remove(&self, id: &str) -> Result<Option<(Revision, Connection)>, StoreError> {
        loop {
            let Some(found) = self.0.connections.get(id).await? else { return Ok(None) };
            match self.0.connections.delete(id, When::At(found.revision)).await {
                // Its tokens were renewed in between: those are to be given back.
                Err(error) if error.kind() == StoreErrorKind::Conflict => {}
                revision => return Ok(Some((revision?, found.value))),
            }
        }
    }

    /// Waits until this replica knows everything up to a revision. For ever when the store is away.
    pub async fn wait_for(&self, revision: Revision) {
        self.0.cache.wait_for(revision).await;
    }

    /// Gives tokens back; with the refresh token goes what came of it.
    async fn give_back(&self, connection: &Connection) -> bool {
        let Some(endpoint) = &connection.revocation_endpoint else { return false };
        let (Ok(url), Ok(server)) = (Url::parse(endpoint), Url::parse(&connection.origin)) else { return false };
        let fetch = self.0.fetchers.of(&url, &server);
        let (token, kind) = match &connection.refresh_token {
            Some(token) => (token, "refresh_token"),
            None => (&connection.access_token, "access_token"),
        };
        let configured = self.0.known.route(&connection.server).and_then(|route| connection.client_of(&route));
        let client = configured.as_ref().unwrap_or(&connection.client);
        match client::revoke(fetch, endpoint, client, token, kind).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    server = connection.server,
                    error = &error as &dyn std::error::Error,
                    "an issuer does not take tokens back"
                );
                false
            }
        }
    }

    /// Where a person connects an account. It names the person, so that nobody does so for somebody else by mistake, and
    /// holds no secret.
    #[must_use]
    pub fn connect_url(&self, server: &str, subject: &Subject) -> String {
        format!("{}/connect/{server}?for={}", self.0.origin, Self::name_of(subject))
    }

    /// What a [`connect_url`](Self::connect_url) calls a person.
    #[must_use]
    pub fn name_of(subject: &Subject) -> String {
        tag(subject)[..16].to_owned()
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("origin", &self.0.origin).finish_non_exhaustive()
    }
}

impl fmt::Debug for AccountParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountParts").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl fmt::Debug for Fetchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetchers(..)")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
