//! One child process and its group.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::{UpstreamError, UpstreamErrorKind};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::sync::{Notify, watch};

use super::log::RingLog;
use crate::bridge::{ChildControl, Epitaph, Purpose, Spawned, Spawner};

/// A program with all it gets; nothing is inherited from this process.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: BTreeMap<OsString, OsString>,
    pub(super) dir: Option<PathBuf>,
    pub(super) grace: Grace,
    /// User and group, if not this process's own.
    pub(super) user: Option<(u32, u32)>,
}

/// How long a child has for each step of its end.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// From the end of its standard input to SIGTERM.
    pub close: Duration,
    /// From SIGTERM to SIGKILL.
    pub term: Duration,
}

impl Default for Grace {
    fn default() -> Self {
        Self { close: Duration::from_secs(2), term: Duration::from_secs(3) }
    }
}

/// A child that runs, in a process group of its own.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) pid: Pid,
    log: RingLog,
    stop: Arc<Notify>,
    exit: watch::Receiver<Option<Exit>>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit {
    pub(super) status: Option<ExitStatus>,
    /// It was told to.
    pub(super) stopped: bool,
}

/// Starts a child. `kept` is dropped when the last process of the group that this process can see has ended.
pub(super) fn launch(
    launch: &Launch,
    log: &RingLog,
    kept: impl Send + 'static,
) -> std::io::Result<(Process, tokio::process::ChildStdin, tokio::process::ChildStdout)> {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .envs(&launch.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(dir) = &launch.dir {
        command.current_dir(dir);
    }
    if let Some((uid, gid)) = launch.user {
        command.uid(uid).gid(gid);
    }
    let mut child = command.spawn()?;
    let (Some(id), Some(stdin), Some(stdout), Some(stderr)) =
        (child.id(), child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(std::io::Error::other("the child has no pipes"));
    };
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        return Err(std::io::Error::other("the child has no pid"));
    };
    let stderr = tokio::spawn(log.clone().drain(id, stderr));
    let stop = Arc::new(Notify::new());
    let (sender, exit) = watch::channel(None);
    let grace = launch.grace;
    let ordered = Arc::clone(&stop);
    tokio::spawn(async move {
        let group = Group(pid);
        let (status, stopped) = tokio::select! {
            status = child.wait() => (status, false),
            () = ordered.notified() => (end(&mut child, pid, grace).await, true),
        };
        // Grandchildren of the group end with it; npx and uvx start the server as one.
        drop(group);
        // Most of what it wrote last; a grandchild that left the group may hold the pipe open.
        let _ = tokio::time::timeout(Duration::from_millis(200), stderr).await;
        sender.send_replace(Some(Exit { status: status.ok(), stopped }));
        drop(kept);
    });
    Ok((Process { pid, log: log.clone(), stop, exit }, stdin, stdout))
}

async fn end(child: &mut tokio::process::Child, pid: Pid, grace: Grace) -> std::io::Result<ExitStatus> {
    if let Ok(status) = tokio::time::timeout(grace.close, child.wait()).await {
        return status;
    }
    let _ = kill_process_group(pid, Signal::TERM);
    if let Ok(status) = tokio::time::timeout(grace.term, child.wait()).await {
        return status;
    }
    let _ = kill_process_group(pid, Signal::KILL);
    child.wait().await
}

/// Kills a process group when it is dropped, also when the task that waits for it is.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Process {
    /// Waits for its end.
    pub(super) async fn ended(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| *exit).unwrap_or(Exit { status: None, stopped: true })
    }
}

impl ChildControl for Process {
    fn stray(&self, line: &[u8]) {
        self.log.push(u32::try_from(self.pid.as_raw_nonzero().get()).ok(), line);
    }

    fn stop(&self) {
        self.stop.notify_one();
    }

    fn epitaph(&self) -> BoxFuture<Epitaph> {
        let process = self.clone();
        Box::pin(async move {
            // Standard output has ended; the process itself mostly follows at once.
            let exit = tokio::time::timeout(Duration::from_secs(2), process.ended()).await;
            let mut detail = match exit.ok().and_then(|exit| exit.status) {
                Some(status) => format!("the child ended with {status}"),
                None => "the child closed its standard output".to_owned(),
            };
            let child = u32::try_from(process.pid.as_raw_nonzero().get()).unwrap_or_default();
            for line in process.log.tail_of(child, LAST_LINES) {
                detail.push('\n');
                detail.push_str(&line.text);
            }
            Epitaph { detail: Some(detail) }
        })
    }
}

/// Lines of standard error that explain a failure to an owner.
pub(super) const LAST_LINES: usize = 20;

/// Starts one command again and again, with the environment of this process: `mcp-gateway stdio -- CMD…`.
#[derive(Clone)]
pub struct CommandSpawner {
    launch: Launch,
    log: RingLog,
    /// Each child that has not ended keeps a receiver.
    children: Arc<watch::Sender<()>>,
}

impl CommandSpawner {
    /// A command with its arguments, found in `PATH`, never through a shell.
    pub fn new(program: impl Into<OsString>, args: impl IntoIterator<Item = OsString>, log: RingLog) -> Self {
        let env = std::env::vars_os().collect();
        let args = args.into_iter().collect();
        Self {
            launch: Launch { program: program.into(), args, env, dir: None, grace: Grace::default(), user: None },
            log,
            children: Arc::new(watch::Sender::new(())),
        }
    }

    /// Ready when no child runs: one that is told to stop has [its time](Grace) to.
    pub async fn ended(&self) {
        self.children.closed().await;
    }
}

impl Spawner for CommandSpawner {
    fn spawn(&self, _: Purpose) -> BoxFuture<Result<Spawned, UpstreamError>> {
        let spawned = launch(&self.launch, &self.log, self.children.subscribe());
        let program = self.launch.program.clone();
        Box::pin(async move {
            let (process, stdin, stdout) = spawned.map_err(|error| {
                UpstreamError::new(UpstreamErrorKind::Unavailable, "The server could not be started.")
                    .with_detail(format!("{}: {error}", program.display()))
            })?;
            Ok(Spawned { stdin: Box::new(stdin), stdout: Box::new(stdout), control: Arc::new(process) })
        })
    }
}

impl std::fmt::Debug for CommandSpawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommandSpawner").field("program", &self.launch.program).finish_non_exhaustive()
    }
}
