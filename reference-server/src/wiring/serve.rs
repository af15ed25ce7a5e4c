//! A server from its start to its end.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_auth::api_key::{ApiKeys, LastUsed};
use mcp_gateway_auth::bootstrap::{Bootstrap, BootstrapOptions};
use mcp_gateway_auth::login::SessionAuthenticator;
use mcp_gateway_auth::scim::Scim;
use mcp_gateway_core::catalog;
use mcp_gateway_core::contract::{AuditSink, Authenticator, Clock, ResourceStore, Runtime, SystemClock};
use mcp_gateway_core::egress::Connections;
use mcp_gateway_core::memory::MemoryRateLimiter;
use mcp_gateway_core::pin::ToolPinning;
use mcp_gateway_core::policy::{AccessPolicy, SnapshotRules, everybody_at_first};
use mcp_gateway_core::record::{FieldSealer, Mount, Resource, Resources, Secret, TenantId};
#[cfg(feature = "process")]
use mcp_gateway_core::retire::Retirement;
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use mcp_gateway_store::spool::SpoolDriver;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::banner::Banner;
use super::data_plane::{self, Ingredients};
use super::tasks::{Background, Upkeep};
use super::{accounts, issuers, logins, oauth, router, storage};
use crate::app::{App, DataPlaneLoad, Logins};
#[cfg(feature = "process")]
use crate::config::Database;
use crate::config::{Capacity, Config, ProcessRole};
use crate::listen::{Dispatch, Drain, Listener, ListenerOptions, TlsFiles, TlsReloader};
use crate::metrics::{self, MeteredSink, Metrics};
#[cfg(feature = "otel")]
use crate::traces::{TracedSink, Traces};

/// Budgets that are kept at once, over all callers, servers and tools.
const BUDGETS: usize = 100_000;
/// How long what is left after the drain may take to end in peace.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long the audit trail may take for what is left in the spool; the rest waits there for the next start.
const FLUSH: Duration = Duration::from_secs(10);
/// How long a collector may take for the last traces; those that it does not take are lost.
#[cfg(feature = "otel")]
const TRACES: Duration = Duration::from_secs(5);

/// A server cannot start. The message names the setting or file and what to do.
pub type StartError = anyhow::Error;

/// How a server is started, beside its configuration.
#[derive(Debug, Default)]
pub struct StartOptions {
    /// The file that the configuration was read from, which no child may read.
    pub config_file: Option<PathBuf>,
    /// The owner's first token (`MCP_GATEWAY_BOOTSTRAP_TOKEN`).
    pub bootstrap_token: Option<Secret>,
    /// Further secrets, by the names of their variables (`MCP_GATEWAY_LOGIN_SECRET_{PROVIDER}`).
    pub secrets: HashMap<String, Secret>,
    /// Whether the owner's token is good for another day.
    pub reopen_bootstrap: bool,
    /// The limit of open files.
    pub open_files: u64,
    /// What a child is started through, when the sandbox is on: this program with `stdio --sandbox`.
    pub launcher: Option<PathBuf>,
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    ops_address: Option<SocketAddr>,
    banner: String,
    drain: Drain,
    accepting: TaskTracker,
    tasks: Background,
    upkeep: Upkeep,
    spool: SpoolDriver,
    #[cfg(feature = "otel")]
    traces: Option<Arc<Traces>>,
    #[cfg(feature = "process")]
    process: Option<mcp_gateway_deploy::process::ProcessRuntime>,
}

impl Server {
    /// Starts everything and returns when the first request can be answered.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, options: StartOptions) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (started_at, started) = (clock.now(), clock.monotonic());
        let listener = bind("listen", config.listen)?;
        let ops_listener = config.ops_listen.map(|address| bind("ops_listen", address)).transpose()?;
        let (address, ops_address) = (listener.address(), ops_listener.as_ref().map(Listener::address));
        let config = config.listening_on(address, ops_address);
        let mount = config.mount()?;
        let tls = tls(&config)?;
        let capacity = config.capacity(options.open_files);
        tracing::info!(
            open_files = options.open_files,
            streams = capacity.streams,
            connections = capacity.connections,
            "room that the limit of open files leaves"
        );

        let storage = storage::open(&config, &clock, false).await?;
        let tasks = Background::default();
        let typed = Typed { store: Arc::clone(&storage.resources), sealer: Arc::clone(&storage.sealer) };
        if let Some(others) = config.left_to_others() {
            tracing::info!(roles = ?config.process.roles, ?others, "other processes must do the rest of the work");
        }
        if config.does(ProcessRole::Worker) {
            super::catalog::follow(&config, &typed.of(), &mount, &storage.leases, &tasks).await;
        }
        if everybody_at_first(&typed.of()).await?.is_some() {
            tracing::info!(
                policy = AccessPolicy::FIRST,
                "everyone may use every server, as far as their credential goes, until this policy is changed"
            );
        }
        let bootstrap =
            Arc::new(Bootstrap::open(typed.of(), Arc::clone(&clock), bootstrap_options(&config, &options)).await?);
        let snapshots = follow(&config, &typed, &mount, &clock, bootstrap.had_ended(), &tasks).await?;
        let access = Arc::new(SnapshotRules::new(snapshots.clone()));
        let filters = data_plane::filters(&config, &snapshots, &clock)?;
        let (ending, seen) = (Arc::clone(&bootstrap), snapshots.clone());
        tasks.spawn("bootstrap", move || end_bootstrap(Arc::clone(&ending), seen.clone()));
        let last_used = Arc::new(LastUsed::new(typed.of()));
        let key_days = config.auth.key_max_days;
        let longest = (key_days > 0).then(|| Duration::from_secs(key_days.saturating_mul(24 * 3_600)));
        let keys = ApiKeys::new(typed.of(), Arc::clone(&last_used), Arc::clone(&clock)).ending_within(longest);

        let counts = Arc::new(Metrics::new());
        let sink: Arc<dyn AuditSink> = Arc::new(MeteredSink::new(storage.sink(), Arc::clone(&counts)));
        #[cfg(feature = "otel")]
        let traces = Traces::start(&config.telemetry.traces)?;
        #[cfg(feature = "otel")]
        let sink = match &traces {
            Some(traces) => Arc::new(TracedSink::new(sink, Arc::clone(traces))) as Arc<dyn AuditSink>,
            None => sink,
        };
        #[cfg(feature = "process")]
        let process = super::process::runtime(&config, &options, &snapshots)?;
        #[cfg(feature = "process")]
        let runtime = process.clone().map(|runtime| {
            let agreed = Arc::new(super::process::Agreed::new(Arc::new(runtime), snapshots.clone(), &config));
            let watching = Arc::clone(&agreed);
            tasks.spawn("people", move || Arc::clone(&watching).watch_people());
            agreed as Arc<dyn Runtime>
        });
        #[cfg(feature = "process")]
        if let Some(runtime) = &runtime {
            let (seen, kept, runtime) = (snapshots.clone(), typed.of(), Arc::clone(runtime));
            let after = Duration::from_secs(config.runtime.process.forget_after_seconds);
            // What is in memory alone cannot say which servers there were.
            let keeps = !matches!(config.database()?, Database::Memory);
            tasks.spawn("retirement", move || {
                let retirement = Retirement::new(seen.clone(), kept.clone(), Arc::clone(&runtime)).forget_after(after);
                if keeps { retirement } else { retirement.without_left_overs() }.run()
            });
        }
        #[cfg(not(feature = "process"))]
        let runtime: Option<Arc<dyn Runtime>> = None;
        let limiter = MemoryRateLimiter::new(SystemClock, BUDGETS);
        let counted = Arc::clone(&limiter);
        counts.count_limiter_overflows(move || counted.overflows());
        let panics = tasks.panics();
        counts.count_panics(move || panics.load(Ordering::Relaxed));
        let connections = Arc::new(Connections::default());
        let logins = logins::build(
            &config,
            logins::Ingredients {
                mount: &mount,
                typed: &typed,
                snapshots: &snapshots,
                limiter: limiter.clone(),
                clock: &clock,
                secrets: &options.secrets,
            },
        )?;
        let oauth = oauth::build(
            &config,
            oauth::Ingredients {
                mount: &mount,
                typed: &typed,
                snapshots: &snapshots,
                access: &access,
                logins: &logins,
                limiter: limiter.clone(),
                sink: Arc::clone(&sink),
                clock: &clock,
            },
        )
        .await?;
        let who = (&snapshots, &logins);
        let scim_tokens = logins::scim_tokens(&config, &options.secrets)?;
        let secrets = (&options.secrets, &issuers::withheld(&bootstrap, &scim_tokens));
        let tokens = oauth::authenticator(&config, &mount, oauth.as_ref(), who, secrets, &clock)?;
        let upstream_keys = accounts::keys(&typed, &clock).await?;
        let (accounts, driver) =
            accounts::open(&config, &mount, &typed, (&snapshots, &upstream_keys), &sink, &clock).await?;
        tasks.spawn_once("accounts", driver);
        let pinning = ToolPinning::new(
            snapshots.clone(),
            typed.of(),
            Arc::clone(&sink),
            Arc::clone(&clock),
            config.tools.options(),
        );
        let built = data_plane::build(
            &config,
            Ingredients {
                mount: mount.clone(),
                capacity,
                snapshots: snapshots.clone(),
                access: Arc::clone(&access),
                filters: Arc::clone(&filters),
                pinning: pinning.clone(),
                last_used: Arc::clone(&last_used),
                tokens,
                limiter: limiter.clone(),
                sessions: Arc::new(storage.sessions),
                runtime: runtime.clone(),
                sink: Arc::clone(&sink),
                credentials: Arc::new(accounts.clone()),
                connections: Arc::clone(&connections),
                clock: Arc::clone(&clock),
            },
        )?;

        let drain = Drain::default();
        let starter_key = bootstrap.starter_key(&keys, config.is_loopback()).await?;
        if let Some(created) = &starter_key {
            // Whoever pastes it must not be faster than the feed.
            snapshots.wait_for(created.revision).await;
        }
        let banner = banner(&config, &mount, &snapshots, &bootstrap, starter_key.as_ref());
        let (unled, nobodys) = watch::channel(Vec::new());
        let leases = storage.leases.clone();
        let upkeep = Upkeep {
            strangers: Arc::clone(&built.strangers),
            last_used: Arc::clone(&last_used),
            ring: Arc::clone(&storage.ring),
            data_keys: storage.data_keys,
            logins: logins.clone(),
            signing: oauth.as_ref().map(|oauth| oauth.keys.clone()),
            upstream: Arc::clone(&upstream_keys),
            audit_store: Arc::clone(&storage.audit_store),
            audit_keys: storage.audit_keys,
            sink: Arc::clone(&sink),
            clock: Arc::clone(&clock),
            leases: storage.leases,
            sweep: storage.sweep,
            retention_days: config.audit.retention_days,
            unled,
        };
        upkeep.spawn(&tasks);
        if config.does(ProcessRole::Worker) {
            upkeep.spawn_worker(&tasks);
        }
        let spool = storage.spool;
        let app = Arc::new(App {
            mount: mount.clone(),
            resources: storage.resources,
            sealer: storage.sealer,
            audit_store: storage.audit_store,
            audit_sink: sink,
            snapshots: snapshots.clone(),
            access,
            filters,
            pinning,
            runtime,
            keys,
            last_used,
            session_keys: storage.ring,
            admin_authenticators: admin_authenticators(&mount, &snapshots, &logins, &bootstrap, &clock),
            scim: Scim::new(
                logins.users.clone(),
                logins.sessions.clone(),
                Arc::new(config.group_presets()?),
                Arc::clone(&clock),
                format!("{}/scim/v2", mount.origin()),
            )
            .with_accounts(accounts.clone()),
            scim_tokens,
            logins,
            oauth,
            accounts,
            upstream_keys,
            limiter,
            spool_stats: Some(Arc::new(move || spool.stats())),
            strangers: built.strangers,
            load: DataPlaneLoad { calls: built.calls, streams: built.streams, connections },
            metrics: counts,
            leases,
            unled: nobodys,
            clock,
            started_at,
            started,
            draining: drain.begun.clone(),
            config: Arc::new(config),
        });

        let accepting = TaskTracker::new();
        let router = router::public(&app);
        let dispatch = match app.config.does(ProcessRole::Gateway) {
            true => Dispatch::new(mount.path(), built.gateway, router, drain.clone()),
            false => Dispatch::without_gateway(router, drain.clone()),
        };
        let listening = listener_options(&app.config, capacity);
        if let Some(tls) = &tls {
            let tls = tls.clone();
            tasks.spawn("tls", move || tls.clone().follow());
        }
        accepting.spawn(listener.serve(dispatch, listening.clone(), tls));
        if let Some(listener) = ops_listener {
            let dispatch = Dispatch::without_gateway(metrics::router(Arc::clone(&app)), drain.clone());
            accepting.spawn(listener.serve(dispatch, listening, None));
        }
        let took = started.elapsed();
        tracing::info!(%address, url = mount.origin(), took_ms = took.as_millis(), "ready");
        Ok(Self {
            app,
            address,
            ops_address,
            banner,
            drain,
            accepting,
            tasks,
            upkeep,
            spool: storage.spool_driver,
            #[cfg(feature = "otel")]
            traces,
            #[cfg(feature = "process")]
            process,
        })
    }

    /// What the parts share.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Where the public listener is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where probes and scrapers go, when that is elsewhere.
    #[must_use]
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops_address
    }

    /// For standard output: URLs, and on the first start a key. Holds a secret then.
    #[must_use]
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Serves until `stop` is ready, then ends in order: nothing new, calls, streams, children, audit trail.
    ///
    /// When `at_once` is ready, what is under way is cut; the audit trail is written in any case.
    pub async fn run(self, stop: impl Future<Output = ()>, at_once: impl Future<Output = ()>) {
        stop.await;
        tracing::info!(seconds = self.app.config.drain_seconds, "draining");
        let Drain { begun, streams, cut, connections } = self.drain;
        begun.cancel();
        self.accepting.close();
        self.accepting.wait().await;
        connections.close();
        let in_peace = async {
            let deadline = tokio::time::Instant::now() + self.app.config.drain();
            let calls = calls_ended(&self.app, &connections);
            if tokio::time::timeout_at(deadline, calls).await.is_err() {
                tracing::warn!(calls = self.app.load.calls.current(), "calls are cut: drain_seconds are over");
            }
            streams.cancel();
            let _ = tokio::time::timeout(LAST_WORDS, connections.wait()).await;
        };
        tokio::select! {
            () = in_peace => {}
            () = at_once => tracing::warn!("ending at once"),
        }
        streams.cancel();
        cut.cancel();
        connections.wait().await;
        #[cfg(feature = "process")]
        if let Some(process) = &self.process {
            process.shutdown().await;
        }
        self.tasks.end().await;
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            traces.finish(TRACES).await;
        }
        if tokio::time::timeout(FLUSH, self.upkeep.finish()).await.is_err() {
            tracing::warn!("the audit store does not take events; they stay in the spool for the next start");
        }
        drop(self.upkeep);
        drop(self.app);
        if tokio::time::timeout(FLUSH, self.spool.close()).await.is_err() {
            tracing::warn!("the audit spool did not close in time");
        }
        // What followed the store for the keys that sign the trail goes at its next turn, and with it the store's lock.
        tokio::task::yield_now().await;
        tracing::info!("stopped");
    }
}

/// Waits until no call is under way; streams that wait for events do not count.
async fn calls_ended(app: &App, connections: &TaskTracker) {
    let mut quiet = 0;
    // Twice, because a request that has just been read is not counted yet.
    while quiet < 2 && !connections.is_empty() {
        quiet = if app.load.calls.current() == 0 { quiet + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn bind(setting: &str, address: SocketAddr) -> Result<Listener, StartError> {
    Listener::bind(address).with_context(|| format!("{setting}: {address} cannot be bound; is another server there?"))
}

fn tls(config: &Config) -> Result<Option<TlsReloader>, StartError> {
    let (Some(cert), Some(key)) = (config.tls.cert.clone(), config.tls.key.clone()) else { return Ok(None) };
    Ok(Some(TlsReloader::load(TlsFiles { cert, key, client_ca: config.tls.client_ca.clone() })?))
}

fn listener_options(config: &Config, capacity: Capacity) -> ListenerOptions {
    ListenerOptions {
        connections: capacity.connections,
        head_timeout: Duration::from_secs(config.limits.head_timeout_seconds),
        keep_alive: Duration::from_secs(config.limits.keep_alive_seconds),
        write_timeout: Duration::from_secs(config.limits.write_timeout_seconds),
        header_count: config.limits.header_count,
        header_bytes: config.limits.header_bytes,
        streams_per_connection: config.limits.streams_per_connection,
    }
}

/// Typed access to the records of the one tenant.
pub(super) struct Typed {
    pub(super) store: Arc<dyn ResourceStore>,
    pub(super) sealer: Arc<dyn FieldSealer>,
}

impl Typed {
    pub(super) fn of<T: Resource>(&self) -> Resources<T> {
        Resources::new(Arc::clone(&self.store), Arc::clone(&self.sealer), TenantId::default())
    }
}

async fn follow(
    config: &Config,
    typed: &Typed,
    mount: &Mount,
    clock: &Arc<dyn Clock>,
    owned: bool,
    tasks: &Background,
) -> Result<Snapshots, StartError> {
    let compiled_for = mount.clone();
    let compile = Arc::new(move |entry: &_| catalog::compile(entry, &compiled_for));
    let mut options = SnapshotOptions::new(Arc::clone(&typed.sealer), compile);
    options.clock = Arc::clone(clock);
    options.max_staleness = Duration::from_secs(config.auth.max_staleness_seconds);
    options.presets = Arc::new(config.role_presets()?);
    options.group_presets = Arc::new(config.group_presets()?);
    options.vouching = Some(Arc::new(config.vouching()?));
    options.owned = owned;
    let (snapshots, driver) = Snapshots::follow(Arc::clone(&typed.store), options).await?;
    tasks.spawn_once("snapshots", driver);
    Ok(snapshots)
}

/// Ends the bootstrap for good as soon as a person is an owner, however they came to be one.
async fn end_bootstrap(bootstrap: Arc<Bootstrap>, snapshots: Snapshots) {
    let mut swapped = snapshots.swapped();
    while !snapshots.load().owned {
        if swapped.changed().await.is_err() {
            return;
        }
    }
    while let Err(error) = bootstrap.end().await {
        tracing::warn!(%error, "that there is an owner cannot be noted; the bootstrap token is void here all the same");
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn bootstrap_options(config: &Config, options: &StartOptions) -> BootstrapOptions {
    match &options.bootstrap_token {
        Some(token) => BootstrapOptions::supplied(token.clone()),
        None if config.does(ProcessRole::Api) => BootstrapOptions::generated(config.data_dir.join("bootstrap-token")),
        // It is good for nothing else.
        None => BootstrapOptions::default(),
    }
    .reopened(options.reopen_bootstrap)
}

fn admin_authenticators(
    mount: &Mount,
    snapshots: &Snapshots,
    logins: &Logins,
    bootstrap: &Bootstrap,
    clock: &Arc<dyn Clock>,
) -> Vec<Arc<dyn Authenticator>> {
    let keys = mcp_gateway_auth::api_key::ApiKeyAuthenticator::new(Arc::new(snapshots.clone()), Arc::clone(clock));
    let users = Arc::new(snapshots.clone());
    let sessions =
        SessionAuthenticator::new(logins.sessions.clone(), users.clone(), TenantId::default(), mount.origin());
    let mut chain: Vec<Arc<dyn Authenticator>> = vec![Arc::new(keys), Arc::new(sessions)];
    if let Some(token) = bootstrap.authenticator() {
        chain.push(Arc::new(token.until_owned(users)));
    }
    chain
}

fn banner(
    config: &Config,
    mount: &Mount,
    snapshots: &Snapshots,
    bootstrap: &Bootstrap,
    starter_key: Option<&mcp_gateway_auth::api_key::CreatedKey>,
) -> String {
    let mut servers: Vec<String> = snapshots.load().routes.keys().map(ToString::to_string).collect();
    servers.sort_unstable();
    let bootstrap_token = bootstrap.generated().map(|(path, _)| path);
    let roles = config.left_to_others().map(|_| &*config.process.roles);
    Banner { mount, roles, servers: &servers, starter_key, bootstrap_token }.text()
}
