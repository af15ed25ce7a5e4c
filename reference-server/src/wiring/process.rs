//! The runtime that runs servers as child processes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
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
    if settings.uid.is_none() && rustix::process::geteuid().is_root() {
        tracing::warn!(
            "children run as root: whatever they escape to, they own this machine. Set runtime.process.uid and \
             runtime.process.gid to a user without rights, or start the server as one"
        );
    }
    let data_dir = process.data_dir.clone();
    let runtime = ProcessRuntime::new(process).with_context(|| format!("runtime.process: {}", data_dir.display()))?;
    Ok(Some(runtime))
}

fn bridge(config: &Config) -> BridgeOptions {
    let limits = &config.limits.bridge;
    let mut bridge = BridgeOptions::default();
    bridge.max_body = usize::try_from(config.limits.body_bytes).unwrap_or(usize::MAX);
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

/// Keeps the rule of the start while the server runs: no child starts once there is a second person.
pub(super) struct OnePerson {
    inner: ProcessRuntime,
    snapshots: Snapshots,
    trusts_all: bool,
}

impl OnePerson {
    pub(super) fn new(inner: ProcessRuntime, snapshots: Snapshots, config: &Config) -> Self {
        Self { inner, snapshots, trusts_all: config.runtime.process.i_trust_all_servers }
    }
}

#[async_trait]
impl Runtime for OnePerson {
    async fn ensure(&self, workload: &Arc<Workload>) -> Result<Deployment, RuntimeError> {
        if !self.trusts_all && People::of(&self.snapshots.load()).count() > 1 {
            return Err(RuntimeError {
                kind: RuntimeErrorKind::Unsupported,
                public: "This gateway runs servers for one person only.".into(),
                detail: Some(
                    "There are several people, and child processes share one user with each other. Set \
                     runtime.process.i_trust_all_servers: true if every server is trusted."
                        .into(),
                ),
            });
        }
        self.inner.ensure(workload).await
    }

    async fn stop(&self, id: &WorkloadId) -> Result<(), RuntimeError> {
        self.inner.stop(id).await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), RuntimeError> {
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
