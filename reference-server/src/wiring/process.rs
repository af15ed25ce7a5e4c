//! The runtime that runs servers as child processes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use mcp_gateway_core::contract::{
    Deployment, LogStream, Observation, Runtime, RuntimeError, RuntimeErrorKind, RuntimeEventStream, Workload,
    WorkloadId,
};
use mcp_gateway_core::snapshot::Snapshots;
use mcp_gateway_deploy::bridge::BridgeOptions;
use mcp_gateway_deploy::process::{Cgroup, ChildLimits, Launcher, ProcessOptions, ProcessRuntime, launcher};

use super::storage::audit_file;
use super::{StartError, StartOptions};
use crate::config::{Config, Database, ProcessRole};
use crate::people::People;

/// The runtime, unless it is turned off.
///
/// Children run as this process's user: what one caller's server does, it can do to another's. So it refuses to start
/// for several people, unless the operator says that every server is to be trusted.
pub(super) fn runtime(
    config: &Config,
    options: &StartOptions,
    snapshots: &Snapshots,
) -> Result<Option<ProcessRuntime>, StartError> {
    let settings = &config.runtime.process;
    // Whoever answers calls runs what they go to.
    if !settings.enabled || !config.does(ProcessRole::Gateway) {
        return Ok(None);
    }
    let people = People::of(&snapshots.load()).count();
    if people > 1 && !settings.i_trust_all_servers {
        anyhow::bail!(
            "runtime.process: there are {people} people, users or by their API keys, and child processes share one user with each other. \
             Set runtime.process.i_trust_all_servers: true if every server is trusted, or \
             runtime.process.enabled: false"
        );
    }
    let mut process = ProcessOptions::new(config.data_dir.join("process"));
    process.hidden = hidden(config, options)?;
    for path in &settings.writable {
        process.writable.push(absolute(path)?);
    }
    process.pass_env.extend(settings.pass_env.iter().cloned());
    process.install_scripts = settings.install_scripts;
    process.require_versions = settings.require_versions.unwrap_or(!config.is_loopback());
    process.user = settings.uid.zip(settings.gid);
    if let Some((_, gid)) = process.user {
        // Their folders are below it. They may pass, and see neither what is in it nor, by its mode, any file.
        let dir = &config.data_dir;
        std::os::unix::fs::chown(dir, None, Some(gid))
            .and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(0o710)))
            .with_context(|| format!("runtime.process.gid: {} cannot be opened to it", dir.display()))?;
    }
    process.cgroup = match settings.cgroup.as_str() {
        "auto" => Cgroup::Auto,
        "off" => Cgroup::Off,
        dir => Cgroup::At(dir.into()),
    };
    process.pids = settings.pids;
    process.default_memory = settings.memory_bytes;
    process.open_files = settings.open_files;
    process.log_lines = settings.log_lines;
    let children = &config.limits.children;
    process.children = ChildLimits {
        per_principal: children.per_principal,
        per_server: children.per_server,
        total: children.total,
        starts_per_minute: children.starts_per_minute,
    };
    process.bridge = bridge(config);
    let as_root = process.user.is_none() && rustix::process::geteuid().is_root();
    if let Some(program) = options.launcher.clone().filter(|_| settings.sandbox) {
        process.launcher = Some(Launcher { program, args: vec!["stdio".into(), "--sandbox".into()] });
    }
    let sandboxed = process.launcher.is_some() && launcher::is_enforced();
    tracing::warn!(
        sandboxed,
        "servers run as child processes of this one: only for servers that you trust, and one operator"
    );
    if !sandboxed {
        tracing::warn!(
            "children are not kept from this server's files: the sandbox is off, or the kernel lacks Landlock"
        );
    }
    if as_root && !config.children_may_be_root() {
        tracing::error!("no child starts: {AS_ROOT}");
    } else if as_root {
        tracing::warn!("children run as root: whatever they escape to, they own this machine. {AS_ROOT}");
    }
    let data_dir = process.data_dir.clone();
    let runtime = ProcessRuntime::new(process).with_context(|| format!("runtime.process: {}", data_dir.display()))?;
    Ok(Some(runtime))
}

fn bridge(config: &Config) -> BridgeOptions {
    let limits = &config.limits.bridge;
    let mut bridge = BridgeOptions::default();
    bridge.max_body = usize::try_from(config.limits.body_bytes).unwrap_or(usize::MAX);
    bridge.max_id = config.limits.id_bytes;
    bridge.max_sessions = config.limits.children.per_server;
    bridge.max_line = limits.line_bytes;
    bridge.max_calls = limits.calls;
    bridge.write_queue = limits.queued_lines;
    bridge.buffer_events = limits.kept_events;
    bridge.buffer_bytes = limits.kept_bytes;
    bridge
}

/// What no child may read: keys, records, the audit trail, and catalogs, whose entries hold secrets of other servers.
fn hidden(config: &Config, options: &StartOptions) -> Result<Vec<PathBuf>, StartError> {
    let mut hidden = vec![config.data_dir.clone()];
    hidden.extend(options.config_file.clone());
    hidden.extend(config.tls.key.clone());
    let asked = config.auth.issuers.iter().filter_map(|issuer| issuer.introspection.as_ref());
    hidden.extend(asked.filter_map(|introspection| introspection.client_secret_file.clone()));
    for provider in &config.login.providers {
        hidden.extend(provider.client_secret_file.clone());
        hidden.extend(provider.scim_token_file.clone());
    }
    hidden.extend(config.catalog_paths());
    if let Database::Sqlite(path) = config.database()? {
        hidden.extend(DATABASE_FILES.map(|suffix| with_suffix(&path, suffix)));
        let trail = audit_file(&path);
        hidden.extend(DATABASE_FILES.map(|suffix| with_suffix(&trail, suffix)));
    }
    hidden.iter().map(|path| absolute(path)).collect()
}

/// The files of an SQLite database, by what follows its name.
const DATABASE_FILES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    std::path::absolute(path).with_context(|| format!("{} cannot be made an absolute path", path.display()))
}

const AS_ROOT: &str = "Children of a server that runs as root need a user without rights: set runtime.process.uid and \
                       runtime.process.gid, or start the server as another user. If they are to be root, set \
                       runtime.process.allow_root: true";
const SEVERAL: &str = "There are several people, and child processes share one user with each other. Set \
                       runtime.process.i_trust_all_servers: true if every server is trusted";

/// Starts no child that the operator has not agreed to: as root, or for several people. The rule of the start holds while
/// the server runs: once there is a second person, what runs is stopped, since calls that find it would share it.
pub(super) struct Agreed {
    inner: Arc<dyn Runtime>,
    snapshots: Snapshots,
    trusts_all: bool,
    as_root: bool,
}

impl Agreed {
    pub(super) fn new(inner: Arc<dyn Runtime>, snapshots: Snapshots, config: &Config) -> Self {
        let as_root = config.runtime.process.uid.is_none()
            && rustix::process::geteuid().is_root()
            && !config.children_may_be_root();
        Self { inner, snapshots, trusts_all: config.runtime.process.i_trust_all_servers, as_root }
    }

    fn refuses(&self) -> Option<RuntimeError> {
        let refused = |public: &str, detail: &str| {
            let (public, detail) = (public.to_owned(), Some(format!("{detail}.")));
            Some(RuntimeError { kind: RuntimeErrorKind::Unsupported, public, detail })
        };
        if self.as_root {
            return refused("This gateway does not run servers: it runs as root.", AS_ROOT);
        }
        if self.serves_several() {
            return refused("This gateway runs servers for one person only.", SEVERAL);
        }
        None
    }

    fn serves_several(&self) -> bool {
        !self.trusts_all && People::of(&self.snapshots.load()).count() > 1
    }

    /// Stops what runs as soon as there is a second person.
    pub(super) async fn watch_people(self: Arc<Self>) {
        if self.trusts_all {
            return;
        }
        let (mut swapped, mut changes) = (self.snapshots.swapped(), self.inner.watch());
        loop {
            swapped.mark_unchanged();
            let running = self.inner.list().await.unwrap_or_default().into_iter();
            let running: Vec<Observation> = running.filter(Observation::is_active).collect();
            if !running.is_empty() && self.serves_several() {
                tracing::error!("what runs is stopped: {SEVERAL}");
                for one in running {
                    let _ = self.inner.stop(&one.id).await;
                }
            }
            tokio::select! {
                changed = swapped.changed() => if changed.is_err() { return },
                change = changes.next() => if change.is_none() { return },
            }
        }
    }
}

#[async_trait]
impl Runtime for Agreed {
    async fn ensure(&self, workload: &Arc<Workload>) -> Result<Deployment, RuntimeError> {
        match self.refuses() {
            Some(error) => Err(error),
            None => self.inner.ensure(workload).await,
        }
    }

    async fn stop(&self, id: &WorkloadId) -> Result<(), RuntimeError> {
        self.inner.stop(id).await
    }

    async fn update(&self, workload: &Arc<Workload>) -> Result<(), RuntimeError> {
        self.inner.update(workload).await
    }

    async fn kept(&self) -> Result<Vec<WorkloadId>, RuntimeError> {
        self.inner.kept().await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<bool, RuntimeError> {
        self.inner.remove(id).await
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, RuntimeError> {
        self.inner.observe(id).await
    }

    async fn list(&self) -> Result<Vec<Observation>, RuntimeError> {
        self.inner.list().await
    }

    async fn logs(&self, id: &WorkloadId, tail: usize, follow: bool) -> Result<LogStream, RuntimeError> {
        self.inner.logs(id, tail, follow).await
    }

    fn watch(&self) -> RuntimeEventStream {
        self.inner.watch()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mcp_gateway_core::Body;
    use mcp_gateway_core::BoxFuture;
    use mcp_gateway_core::contract::{Program, ResourceStore, SystemClock, Upstream, UpstreamError, When};
    use mcp_gateway_core::memory::{MemoryKeys, MemoryRuntime, MemoryStore};
    use mcp_gateway_core::record::{FieldSealer, Resources, Roles, Route, TenantId, User, UserState};
    use mcp_gateway_core::seal::Sealer;
    use mcp_gateway_core::snapshot::SnapshotOptions;

    use super::*;

    struct Uncalled;

    impl Upstream for Uncalled {
        fn call(&self, _: http::Request<Body>) -> BoxFuture<Result<http::Response<Body>, UpstreamError>> {
            unreachable!("nobody calls")
        }
    }

    async fn snapshots() -> (Snapshots, Resources<User>) {
        let clock = Arc::new(SystemClock);
        let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(clock.clone()));
        let sealer: Arc<dyn FieldSealer> =
            Sealer::open(Arc::clone(&store), Arc::new(MemoryKeys::new()), clock).await.unwrap();
        let compile = Arc::new(|_: &_| unreachable!("there is no entry"));
        let options = SnapshotOptions::new(Arc::clone(&sealer), compile);
        let (snapshots, driver) = Snapshots::follow(Arc::clone(&store), options).await.unwrap();
        tokio::spawn(driver);
        (snapshots, Resources::new(store, sealer, TenantId::default()))
    }

    async fn add(snapshots: &Snapshots, users: &Resources<User>, id: &str) {
        let user = User {
            name: id.to_owned(),
            email: None,
            roles: Roles::OWNER,
            groups: Vec::new(),
            state: UserState::Active,
            epoch: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        snapshots.wait_for(users.save(id, &user, When::Any).await.unwrap()).await;
    }

    fn workload() -> Arc<Workload> {
        let program = Program::Command { command: "none".to_owned(), args: Vec::new() };
        Arc::new(Route::template("a", program, Vec::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_second_person_what_runs_ends_and_nothing_starts() {
        for trusts_all in [false, true] {
            let (snapshots, users) = snapshots().await;
            let inner: Arc<dyn Runtime> = Arc::new(MemoryRuntime::new(Arc::new(Uncalled)));
            let agreed = Arc::new(Agreed { inner, snapshots: snapshots.clone(), trusts_all, as_root: false });
            tokio::spawn(Arc::clone(&agreed).watch_people());
            add(&snapshots, &users, "ada").await;
            let workload = workload();
            let deployment = agreed.ensure(&workload).await.unwrap();
            add(&snapshots, &users, "eve").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(deployment.endpoints.has_changed().is_ok(), trusts_all, "whoever finds it would share it");
            let again = agreed.ensure(&workload).await;
            assert_eq!(again.err().map(|error| error.kind), (!trusts_all).then_some(RuntimeErrorKind::Unsupported));
        }
    }

    #[tokio::test]
    async fn no_child_starts_as_root_without_a_word() {
        let (snapshots, _) = snapshots().await;
        let inner: Arc<dyn Runtime> = Arc::new(MemoryRuntime::new(Arc::new(Uncalled)));
        let agreed = Agreed { inner, snapshots, trusts_all: false, as_root: true };
        let error = agreed.ensure(&workload()).await.err().unwrap();
        assert_eq!(error.kind, RuntimeErrorKind::Unsupported);
        assert!(error.detail.unwrap().contains("runtime.process.uid") && !error.public.contains("uid"));
    }
}
