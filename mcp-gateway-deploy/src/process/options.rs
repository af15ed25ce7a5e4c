//! The settings and limits of the process runtime.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::cgroup::Cgroup;
use super::child::Grace;
use crate::bridge::BridgeOptions;

/// Settings and limits of a [`ProcessRuntime`](super::ProcessRuntime).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessOptions {
    /// Where the runtime keeps the children's folders, the shared package caches and its journal. One runtime at a time.
    pub data_dir: PathBuf,
    /// What every child is started through; `None` starts them unsandboxed. See [`launcher`](super::launcher).
    pub launcher: Option<Launcher>,
    /// Files and folders that no child may read, beside `data_dir`: the configuration, other state of the gateway.
    /// Enforced by the launcher only.
    pub hidden: Vec<PathBuf>,
    /// Files and folders that children may write, beside their own folder and the package caches. Enforced by the
    /// launcher only.
    pub writable: Vec<PathBuf>,
    /// User and group that children run as; needs a gateway that runs as root. The group may then traverse `data_dir`; what
    /// is above must let it pass.
    pub user: Option<(u32, u32)>,
    /// Where programs are looked up, for the runtime and for its children. Default: this process's `PATH`.
    pub path: OsString,
    /// Variables of this process that every child gets when they are set: proxies, certificates, package indexes, locale.
    pub pass_env: Vec<String>,
    /// Whether packages may run code when they are installed: scripts of npm, builds of source distributions of PyPI.
    pub install_scripts: bool,
    /// Whether packages without an exact version are refused.
    pub require_versions: bool,
    /// How many children there may be, and how often they may start.
    pub children: ChildLimits,
    /// How long a child waits that ended by itself before it is started again.
    pub backoff: Backoff,
    /// How long a child has for each step of its end.
    pub grace: Grace,
    /// Lines of standard error that are kept a workload.
    pub log_lines: usize,
    /// Whether children are limited by control groups, or else by what the kernel knows of single processes: memory, but
    /// neither processor time nor the number of processes.
    pub cgroup: Cgroup,
    /// Most processes and threads of a child, with all that it starts; enforced by control groups only.
    pub pids: u64,
    /// Memory of a child without a limit of its own, in bytes; `None` for no limit.
    pub default_memory: Option<u64>,
    /// Most open files of a child.
    pub open_files: u64,
    /// Limits and times of the bridges.
    pub bridge: BridgeOptions,
}

/// How children are started: this program with these arguments, then those of [`launcher`](super::launcher).
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// What makes it the launcher: `stdio --sandbox` for the reference server.
    pub args: Vec<OsString>,
}

/// How many children there may be. At the edge a start is refused with
/// [`Exhausted`](mcp_gateway_core::contract::RuntimeErrorKind::Exhausted).
#[derive(Debug, Clone, Copy)]
pub struct ChildLimits {
    /// Of one subject, over all servers.
    pub per_principal: usize,
    /// Of one server.
    pub per_server: usize,
    /// In all.
    pub total: usize,
    /// Starts of one subject within a minute; of one server where no subject is known.
    pub starts_per_minute: usize,
}

impl Default for ChildLimits {
    fn default() -> Self {
        Self { per_principal: 5, per_server: 50, total: 200, starts_per_minute: 60 }
    }
}

/// How a server that keeps ending by itself is slowed down. The first end costs nothing; each further one within
/// `stable` doubles the wait.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The shortest wait.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// A child that lived this long counts as healthy.
    pub stable: Duration,
    /// A wait up to this long is waited out by the caller; for a longer one it is refused.
    pub patience: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(250),
            max: Duration::from_secs(30),
            stable: Duration::from_secs(5),
            patience: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The wait after so many ends in a row.
    #[must_use]
    pub fn wait(&self, ends: u32) -> Duration {
        match ends.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => self.max.min(self.min.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))),
        }
    }
}

/// Variables that a child gets when this process has them.
const PASSED: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "PIP_INDEX_URL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
];

impl ProcessOptions {
    /// The defaults, with this folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            launcher: None,
            hidden: Vec::new(),
            writable: Vec::new(),
            user: None,
            path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            pass_env: PASSED.iter().map(|&name| name.to_owned()).collect(),
            install_scripts: false,
            require_versions: false,
            children: ChildLimits::default(),
            backoff: Backoff::default(),
            grace: Grace::default(),
            log_lines: 1000,
            cgroup: Cgroup::default(),
            pids: 512,
            default_memory: None,
            open_files: 4096,
            bridge: BridgeOptions::default(),
        }
    }
}
