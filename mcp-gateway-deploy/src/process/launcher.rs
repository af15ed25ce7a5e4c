//! The sandbox that a child enters before it becomes the server.
//!
//! Children run as the gateway's user unless another is configured, so file modes do not keep them from its keys. A
//! small launcher stands between: the runtime starts it, it gives up rights that it can never get back, and then turns
//! into the server (`execve`). The binary runs it as `mcp-gateway stdio --sandbox [--in-cgroup] [--hide PATH]…
//! [--write PATH]… -- COMMAND [ARGUMENT]…`.
//!
//! - **`no_new_privs`**: no set-uid program raises its rights.
//! - **Landlock** (Linux 5.13): everything may be read and run except what is hidden, and only what is named may be
//!   written. Signals and abstract sockets stay within the sandbox (Linux 6.12).
//! - **`/proc`**: a process of the same user may read another's `environ` there, and Landlock's own check does not
//!   prevent it. So of `/proc` the server sees the general files that Node.js and Python read (`meminfo`, `cpuinfo`,
//!   `stat`, `sys`), and its own folder; no other process's, be it the gateway's or a sibling's. Processes that the
//!   server starts have no folder of their own there: `/proc/self` fails for them, which both languages bear.
//!
//! Files are matched when the sandbox is made: what is put beside a hidden folder later cannot be read either, and the
//! folders above a hidden one cannot be listed. A kernel without Landlock is said so on standard error, and the server
//! starts without it; `no_new_privs` always holds.
//!
//! It must run before the process has a second thread, so not within an asynchronous runtime.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::journal::MARK;

/// The newest set of rights that is asked for; an older kernel enforces those that it knows.
const RIGHTS: ABI = ABI::V6;

/// A sandbox and the command that enters it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Files and folders that cannot be read, with all beneath.
    pub hidden: Vec<PathBuf>,
    /// Files and folders that can be written, with all beneath, even beneath a hidden one.
    pub writable: Vec<PathBuf>,
    /// Whether it is put into a control group of its own, which is waited for: what it starts earlier would stay outside.
    pub in_cgroup: bool,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

impl Sandbox {
    /// Reads the arguments after `--sandbox`.
    ///
    /// # Errors
    /// An option that is not known or lacks its value, or no command.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, LauncherError> {
        let mut sandbox = Self::default();
        let mut args = args.into_iter();
        loop {
            let arg = args.next().ok_or(LauncherError::Usage("no command after --"))?;
            let list = match arg.to_str() {
                Some("--") => break,
                Some("--in-cgroup") => {
                    sandbox.in_cgroup = true;
                    continue;
                }
                Some("--hide") => &mut sandbox.hidden,
                Some("--write") => &mut sandbox.writable,
                _ => {
                    return Err(LauncherError::Usage(
                        "only --in-cgroup, --hide PATH and --write PATH may stand before --",
                    ));
                }
            };
            list.push(args.next().ok_or(LauncherError::Usage("a path is missing"))?.into());
        }
        sandbox.command = args.collect();
        if sandbox.command.is_empty() {
            return Err(LauncherError::Usage("no command after --"));
        }
        Ok(sandbox)
    }

    /// The arguments that [`Sandbox::parse`] reads.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let option = |name: &'static str| move |path: &PathBuf| [OsString::from(name), path.clone().into_os_string()];
        let mut args: Vec<OsString> = self.in_cgroup.then(|| "--in-cgroup".into()).into_iter().collect();
        args.extend(self.hidden.iter().flat_map(option("--hide")));
        args.extend(self.writable.iter().flat_map(option("--write")));
        args.push("--".into());
        args.extend(self.command.iter().cloned());
        args
    }

    /// Enters the sandbox and becomes the command. Returns only if that failed.
    #[must_use]
    #[allow(clippy::print_stderr, reason = "standard error is the child's log")]
    pub fn exec(&self) -> LauncherError {
        let Some((program, args)) = self.command.split_first() else {
            return LauncherError::Usage("no command after --");
        };
        if self.in_cgroup && !is_in_group() {
            return LauncherError::Sandbox("it was not put into its control group in time".to_owned());
        }
        if let Err(error) = rustix::thread::set_no_new_privs(true) {
            return LauncherError::Sandbox(error.to_string());
        }
        match self.restrict() {
            Ok(RulesetStatus::NotEnforced) => {
                eprintln!("mcp-gateway: this kernel has no Landlock; the server is started without a file sandbox");
            }
            Ok(_) => {}
            Err(error) => return LauncherError::Sandbox(error.to_string()),
        }
        LauncherError::Exec(program.clone(), Command::new(program).args(args).exec())
    }

    fn restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let hidden: Vec<PathBuf> = self.hidden.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let mut readable = Vec::new();
        grant(Path::new("/"), &hidden, &mut readable);
        let written = self.writable.iter().map(PathBuf::as_path).chain([Path::new("/dev")]);
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))?
            .scope(Scope::Signal)?
            .scope(Scope::AbstractUnixSocket)?
            .create()?
            .add_rules(path_beneath_rules(&readable, AccessFs::from_read(RIGHTS)))?
            .add_rules(path_beneath_rules(written, AccessFs::from_all(RIGHTS)))?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

/// Waits until the runtime has put this process into the group that has its mark for a name.
fn is_in_group() -> bool {
    let Some(mark) = std::env::var(MARK).ok().filter(|mark| !mark.is_empty()) else { return false };
    let begun = Instant::now();
    loop {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if groups.lines().any(|line| line.starts_with("0::") && line.ends_with(&mark)) {
            return true;
        }
        if begun.elapsed() > MOVE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How long that may take.
const MOVE: Duration = Duration::from_secs(5);

/// Whether this kernel enforces the file rules of a sandbox.
#[must_use]
pub fn is_enforced() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::ReadFile);
    // Making a rule set restricts nothing yet.
    rules.and_then(Ruleset::create).is_ok()
}

/// Hides this process's environment and memory from other processes of its user, and forbids it core dumps.
///
/// For the gateway itself, early in `main`: children without Landlock cannot read its secrets from `/proc` then.
///
/// # Errors
/// As `prctl(PR_SET_DUMPABLE)`.
pub fn hide_process() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Collects what may be read: a folder as a whole if nothing hidden lies in it, else its entries one by one.
///
/// Symbolic links are passed over: following one costs no right of its own, and what it leads to is granted or not by
/// its real name.
fn grant(path: &Path, hidden: &[PathBuf], into: &mut Vec<PathBuf>) {
    if hidden.iter().any(|hidden| path.starts_with(hidden)) {
        return;
    }
    let above = |hidden: &Path| hidden.starts_with(path);
    if path != Path::new(PROC) && !above(Path::new(PROC)) && !hidden.iter().any(|hidden| above(hidden)) {
        into.push(path.to_owned());
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if is_process(path, &entry.file_name()) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            grant(&entry.path(), hidden, into);
        }
    }
}

const PROC: &str = "/proc";

/// Whether an entry of `/proc` is the folder of another process. This one's stays its own when it becomes the server.
fn is_process(dir: &Path, name: &OsStr) -> bool {
    let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
    dir == Path::new(PROC) && pid.is_some_and(|pid| pid != std::process::id())
}

/// Why a command was not started.
#[derive(Debug)]
#[non_exhaustive]
pub enum LauncherError {
    /// The arguments cannot be read.
    Usage(&'static str),
    /// The sandbox cannot be entered.
    Sandbox(String),
    /// The program cannot be run.
    Exec(OsString, io::Error),
}

impl fmt::Display for LauncherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => write!(f, "the launcher's arguments: {what}"),
            Self::Sandbox(error) => write!(f, "the sandbox cannot be entered: {error}"),
            Self::Exec(program, error) => write!(f, "{}: {error}", program.display()),
        }
    }
}

impl std::error::Error for LauncherError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_come_back_as_they_were() {
        let sandbox = Sandbox {
            hidden: vec!["/a".into(), "--".into()],
            writable: vec!["/b c".into()],
            in_cgroup: true,
            command: vec!["cmd".into(), "--hide".into(), "--".into()],
        };
        assert_eq!(Sandbox::parse(sandbox.to_args()).unwrap(), sandbox);
        for bad in [&["--hide"][..], &["--"], &["x"], &["--hide", "/a"], &[]] {
            assert!(Sandbox::parse(bad.iter().map(OsString::from)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn everything_but_the_hidden_is_granted() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        for dir in ["a/keys", "a/open", "b"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("a/keys"), root.join("a/link")).unwrap();
        let mut granted = Vec::new();
        grant(Path::new(PROC), &[], &mut granted);
        let processes =
            granted.iter().filter(|path| path.file_name().unwrap().to_str().unwrap().parse::<u32>().is_ok());
        assert_eq!(processes.count(), 1, "only its own");
        assert!(granted.contains(&PathBuf::from("/proc/meminfo")));
        let mut granted = Vec::new();
        grant(&root, &[root.join("a/keys")], &mut granted);
        granted.sort();
        assert_eq!(granted, [root.join("a/open"), root.join("b")]);
    }
}
