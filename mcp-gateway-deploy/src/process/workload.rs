//! The children of one workload.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::{
    RuntimeError, RuntimeErrorKind, UpstreamError, UpstreamErrorKind, Workload, WorkloadId,
};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::time::Instant;
use ulid::Ulid;

use super::cgroup::{Cgroups, Group, GroupLimits};
use super::child::{Exit, Launch, Process, launch};
use super::command::{add_env, check_pinned, command_line};
use super::journal::{Journal, MARK};
use super::launcher::Sandbox;
use super::limits::{Children, Counted};
use super::log::RingLog;
use super::options::{Backoff, ProcessOptions};
use crate::bridge::{ChildControl as _, Purpose, Spawned, Spawner};

/// Starts the children of one workload, within its limits and with back-off.
#[derive(Clone)]
pub(super) struct WorkloadSpawner(Arc<Inner>);

struct Inner {
    workload: Arc<Workload>,
    launch: Launch,
    limits: Limits,
    log: RingLog,
    children: Children,
    journal: Arc<Journal>,
    cgroups: Option<Cgroups>,
    history: Arc<History>,
}

/// How a workload's children fared, over all its lives.
#[derive(Default)]
pub(super) struct History {
    /// Children that have not ended yet, also those of other digests before this one.
    pub(super) alive: Arc<AtomicU32>,
    pub(super) restarts: AtomicU32,
    ends: Mutex<Ends>,
}

#[derive(Default)]
struct Ends {
    in_a_row: u32,
    last: Option<Instant>,
}

impl History {
    /// That of what replaces it, whose children may share a folder with those that are still ending.
    pub(super) fn replaced(&self) -> Self {
        Self { alive: Arc::clone(&self.alive), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the next start must wait.
    fn wait(&self, backoff: &Backoff) -> std::time::Duration {
        let ends = self.lock();
        let Some(last) = ends.last else { return std::time::Duration::ZERO };
        (last + backoff.wait(ends.in_a_row)).saturating_duration_since(Instant::now())
    }

    fn ended(&self, exit: Exit, lived: std::time::Duration, backoff: &Backoff) {
        if exit.stopped {
            return;
        }
        self.restarts.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut ends = self.lock();
        let rested = ends.last.is_none_or(|last| now - last > backoff.wait(ends.in_a_row) + backoff.stable);
        ends.in_a_row = if lived >= backoff.stable || rested { 1 } else { ends.in_a_row.saturating_add(1) };
        ends.last = Some(now);
    }
}

struct Limits {
    group: GroupLimits,
    open_files: u64,
    backoff: Backoff,
}

impl WorkloadSpawner {
    /// Prepares a workload: its command line, environment and folders.
    pub(super) fn prepare(
        workload: &Arc<Workload>,
        options: &ProcessOptions,
        log: RingLog,
        children: Children,
        journal: Arc<Journal>,
        cgroups: Option<Cgroups>,
        history: Arc<History>,
    ) -> Result<Self, RuntimeError> {
        if options.require_versions {
            check_pinned(&workload.program)?;
        }
        let line = command_line(&workload.program, &options.path)?;
        let dirs = Dirs::of(&options.data_dir, &workload.id)?;
        let mut env = environment(options, &dirs);
        add_env(&mut env, &workload.env)?;
        dirs.create(options.user).map_err(|error| RuntimeError {
            kind: RuntimeErrorKind::Unavailable,
            public: "The server cannot be started.".to_owned(),
            detail: Some(format!("its folder {} cannot be made: {error}", dirs.own.display())),
        })?;
        let (program, args) = match &options.launcher {
            None => (line.program.into_os_string(), line.args),
            Some(launcher) => {
                let mut hidden = options.hidden.clone();
                hidden.push(options.data_dir.clone());
                let mut writable = options.writable.clone();
                writable.extend([dirs.own.clone(), dirs.cache.clone()]);
                let command = std::iter::once(line.program.into_os_string()).chain(line.args).collect();
                let sandbox = Sandbox { hidden, writable, in_cgroup: cgroups.is_some(), command };
                let args = launcher.args.iter().cloned().chain(sandbox.to_args()).collect();
                (launcher.program.clone().into_os_string(), args)
            }
        };
        let launch = Launch { program, args, env, dir: Some(dirs.home), grace: options.grace, user: options.user };
        let limits = Limits {
            group: GroupLimits {
                memory: workload.limits.memory.or(options.default_memory),
                cpu_millis: workload.limits.cpu_millis,
                pids: options.pids,
            },
            open_files: options.open_files,
            backoff: options.backoff,
        };
        let workload = Arc::clone(workload);
        Ok(Self(Arc::new(Inner { workload, launch, limits, log, children, journal, cgroups, history })))
    }
}

impl Spawner for WorkloadSpawner {
    fn spawn(&self, purpose: Purpose) -> BoxFuture<Result<Spawned, UpstreamError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.spawn(purpose).await })
    }
}

impl Inner {
    async fn spawn(&self, purpose: Purpose) -> Result<Spawned, UpstreamError> {
        let wait = self.history.wait(&self.limits.backoff);
        if wait > self.limits.backoff.patience {
            let public = "The server keeps ending. It is started again in a while.";
            let detail = format!("the next start waits for {} s\n{}", wait.as_secs(), last_lines(&self.log));
            return Err(UpstreamError::new(UpstreamErrorKind::Unavailable, public).with_detail(detail));
        }
        tokio::time::sleep(wait).await;
        let subject = purpose.subject.as_ref().or(self.workload.subject.as_ref());
        let counted = self.children.take(&self.workload.server, subject).map_err(|reached| {
            UpstreamError::new(UpstreamErrorKind::Exhausted, reached.public()).with_detail(reached.setting())
        })?;
        let failed = |error: io::Error| {
            let program = Path::new(&self.launch.program).display().to_string();
            UpstreamError::new(UpstreamErrorKind::Unavailable, "The server could not be started.")
                .with_detail(format!("{program}: {error}"))
        };
        let mark = Ulid::generate();
        // Noted before it starts: a child whose start nobody lived to note is found by its mark.
        self.journal.starting(mark).map_err(failed)?;
        let group = self.cgroups.as_ref().map(|cgroups| cgroups.make(&mark.to_string(), &self.limits.group));
        let group = group.transpose().map_err(|error| {
            self.journal.ended(mark);
            failed(error)
        });
        let group = group?.map(Arc::new);
        let kept = Kept {
            mark,
            journal: Arc::clone(&self.journal),
            alive: Arc::clone(&self.history.alive),
            _group: group.clone(),
            _counted: counted,
        };
        self.history.alive.fetch_add(1, Ordering::Relaxed);
        let mut own = self.launch.clone();
        own.env.insert(MARK.into(), mark.to_string().into());
        let (process, stdin, stdout) = launch(&own, &self.log, kept).map_err(failed)?;
        if let Err(error) = self.journal.started(mark, process.pid) {
            tracing::warn!(%error, "the journal of children cannot be written");
        }
        if let Some(group) = group
            && let Err(error) = group.add(process.pid)
            && error.raw_os_error() != Some(Errno::SRCH.raw_os_error())
        {
            process.stop();
            return Err(failed(error));
        }
        self.restrict(process.pid);
        self.watch(process.clone());
        Ok(Spawned { stdin: Box::new(stdin), stdout: Box::new(stdout), control: Arc::new(process) })
    }

    /// Memory by RLIMIT_DATA: RLIMIT_AS counts address space, of which V8 reserves far more than it uses.
    fn restrict(&self, pid: Pid) {
        let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
        let mut limits = vec![(Resource::Core, both(0)), (Resource::Nofile, both(self.limits.open_files))];
        let memory = self.limits.group.memory.filter(|_| self.cgroups.is_none());
        limits.extend(memory.map(|bytes| (Resource::Data, both(bytes))));
        for (resource, limit) in limits {
            if let Err(error) = prlimit(Some(pid), resource, limit) {
                // It may have ended already.
                tracing::debug!(?resource, %error, "a child's limit cannot be set");
            }
        }
    }

    fn watch(&self, process: Process) {
        let history = Arc::clone(&self.history);
        let backoff = self.limits.backoff;
        let started = Instant::now();
        tokio::spawn(async move {
            let exit = process.ended().await;
            history.ended(exit, started.elapsed(), &backoff);
        });
    }
}

/// What is held for a child as long as it lives.
struct Kept {
    mark: Ulid,
    journal: Arc<Journal>,
    alive: Arc<AtomicU32>,
    _group: Option<Arc<Group>>,
    _counted: Counted,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
        self.journal.ended(self.mark);
    }
}

/// The folders of a workload's children.
pub(super) struct Dirs {
    pub(super) own: PathBuf,
    home: PathBuf,
    tmp: PathBuf,
    cache: PathBuf,
}

/// The folder with the workloads' folders.
const CHILDREN: &str = "children";
/// Longest name of a workload's folder, in bytes.
const MAX_NAME: usize = 200;

impl Dirs {
    pub(super) fn of(data_dir: &Path, id: &WorkloadId) -> Result<Self, RuntimeError> {
        let mut name = String::new();
        for byte in id.0.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.') && !name.is_empty() {
                name.push(char::from(byte));
            } else {
                name.push_str(&format!("_{byte:02x}"));
            }
        }
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(RuntimeError {
                kind: RuntimeErrorKind::Unsupported,
                public: "The server cannot be started: its configuration is not accepted.".to_owned(),
                detail: Some(format!("the workload's id must have 1 to {MAX_NAME} characters")),
            });
        }
        let own = data_dir.join(CHILDREN).join(name);
        let cache = data_dir.join("cache");
        Ok(Self { home: own.join("home"), tmp: own.join("tmp"), own, cache })
    }

    /// Renames the workload's folder, if there is one, to one that no workload has, for it to be removed.
    pub(super) fn give_up(&self) -> io::Result<()> {
        let name = format!("{}{}", given_up(&self.own), Ulid::generate());
        match fs::rename(&self.own, self.own.with_file_name(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn create(&self, user: Option<(u32, u32)>) -> io::Result<()> {
        for dir in [&self.home, &self.tmp, &self.cache] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        if let Some((uid, gid)) = user {
            for dir in [&self.own, &self.home, &self.tmp, &self.cache] {
                chown(dir, Some(uid), Some(gid))?;
            }
        }
        Ok(())
    }
}

/// What begins the name of a folder that is being removed. No workload's does.
const GONE: &str = ".gone-";

/// What begins the names of those that this workload's folder was given up as: its own name, and what no name has.
fn given_up(own: &Path) -> String {
    format!("{GONE}{}~", own.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes every folder that this one was given up as.
pub(super) fn remove_given_up(own: &Path) -> io::Result<()> {
    let (prefix, children) = (given_up(own), own.parent().unwrap_or(own));
    for name in names(children)?.iter().filter(|name| name.starts_with(&prefix)) {
        remove_folder(&children.join(name))?;
    }
    Ok(())
}

/// Removes a folder, also when a child has taken away the right to write in it.
fn remove_folder(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mut folders = vec![dir.to_owned()];
            while let Some(folder) = folders.pop() {
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        folders.push(entry.path());
                    }
                }
            }
            fs::remove_dir_all(dir)
        }
        removed => removed,
    }
}

/// The workloads that have a folder.
pub(super) fn kept(data_dir: &Path) -> io::Result<Vec<WorkloadId>> {
    Ok(folders(data_dir)?.iter().filter_map(|name| id_of(name)).collect())
}

/// Removes what an earlier runtime was about to remove.
pub(super) fn finish_removals(data_dir: &Path) -> io::Result<()> {
    for name in folders(data_dir)?.iter().filter(|name| name.starts_with(GONE)) {
        let dir = data_dir.join(CHILDREN).join(name);
        if let Err(error) = remove_folder(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "the folder of a removed server cannot be removed");
        }
    }
    Ok(())
}

fn folders(data_dir: &Path) -> io::Result<Vec<String>> {
    names(&data_dir.join(CHILDREN))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// The workload whose folder has this name; see [`Dirs::of`].
fn id_of(name: &str) -> Option<WorkloadId> {
    if name.starts_with('.') {
        return None;
    }
    let mut parts = name.split('_');
    let mut id = parts.next()?.as_bytes().to_vec();
    for part in parts {
        id.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        id.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(WorkloadId(String::from_utf8(id).ok()?.into()))
}

/// Lets the children's group, and nobody else, pass through the runtime's folders to their own.
pub(super) fn open_to(data_dir: &Path, (_, gid): (u32, u32)) -> io::Result<()> {
    let children = data_dir.join(CHILDREN);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&children)?;
    for dir in [data_dir, &children] {
        chown(dir, None, Some(gid))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o710))?;
    }
    Ok(())
}

fn environment(options: &ProcessOptions, dirs: &Dirs) -> BTreeMap<OsString, OsString> {
    let mut env = BTreeMap::new();
    for name in &options.pass_env {
        if let Some(value) = std::env::var_os(name) {
            env.insert(name.into(), value);
        }
    }
    let mut set = |name: &str, value: OsString| drop(env.insert(name.into(), value));
    set("PATH", options.path.clone());
    set("HOME", dirs.home.clone().into());
    set("TMPDIR", dirs.tmp.clone().into());
    set("npm_config_cache", dirs.cache.join("npm").into());
    set("npm_config_update_notifier", "false".into());
    set("npm_config_fund", "false".into());
    set("npm_config_audit", "false".into());
    if !options.install_scripts {
        set("npm_config_ignore_scripts", "true".into());
        set("UV_NO_BUILD", "1".into());
    }
    set("UV_CACHE_DIR", dirs.cache.join("uv").into());
    set("UV_PYTHON_INSTALL_DIR", dirs.cache.join("python").into());
    set("UV_NO_PROGRESS", "1".into());
    set("PYTHONUNBUFFERED", "1".into());
    env
}

/// The last lines of a log as one text.
pub(super) fn last_lines(log: &RingLog) -> String {
    let lines: Vec<String> = log.tail(super::child::LAST_LINES).into_iter().map(|line| line.text).collect();
    lines.join("\n")
}
