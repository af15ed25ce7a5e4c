//! Which children run, on disk: a gateway that was killed leaves none behind after its next start.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use ulid::Ulid;

/// The variable that marks a child and all its descendants.
pub(super) const MARK: &str = "MCP_GATEWAY_CHILD";

/// The journal is written anew when it holds this many lines.
const COMPACT_AT: usize = 4096;

/// The children of one runtime.
///
/// Lines are `boot ID` once, `+ MARK` before a start, `= MARK PID START` after it, `- MARK` after the end.
pub(super) struct Journal {
    path: PathBuf,
    /// Held locked as long as the runtime lives: two runtimes in one folder would kill each other's children.
    _lock: File,
    state: Mutex<State>,
}

/// A child: its mark, then its pid and start time once they are known.
type Live = (Ulid, Option<(i32, u64)>);

struct State {
    file: File,
    lines: usize,
    live: Vec<Live>,
}

impl Journal {
    /// Opens the journal of a folder and ends what an earlier runtime left behind.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let lock = OpenOptions::new().create(true).append(true).open(dir.join("children.lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!("another process runs children in {}", dir.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let path = dir.join("children.journal");
        let reaped = reap(&fs::read_to_string(&path).unwrap_or_default());
        if reaped > 0 {
            tracing::warn!(processes = reaped, "ended children that an earlier run has left behind");
        }
        let file = rewrite(&path, &[])?;
        Ok(Self { path, _lock: lock, state: Mutex::new(State { file, lines: 1, live: Vec::new() }) })
    }

    /// Notes a child that is about to start.
    pub(super) fn starting(&self, mark: Ulid) -> io::Result<()> {
        let noted = self.change(&format!("+ {mark}\n"), |live| live.push((mark, None)));
        if noted.is_err() {
            // Nothing starts under this mark.
            self.lock().live.retain(|entry| entry.0 != mark);
        }
        noted
    }

    /// Whether no child is left.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().live.is_empty()
    }

    /// Notes its process.
    pub(super) fn started(&self, mark: Ulid, pid: Pid) -> io::Result<()> {
        let pid = pid.as_raw_nonzero().get();
        let start = stat(pid).map_or(0, |stat| stat.start);
        self.change(&format!("= {mark} {pid} {start}\n"), |live| {
            if let Some(entry) = live.iter_mut().find(|entry| entry.0 == mark) {
                entry.1 = Some((pid, start));
            }
        })
    }

    /// Notes its end.
    pub(super) fn ended(&self, mark: Ulid) {
        let noted = self.change(&format!("- {mark}\n"), |live| live.retain(|entry| entry.0 != mark));
        if let Err(error) = noted {
            tracing::warn!(%error, "the journal of children cannot be written");
        }
    }

    /// Kills every child that is alive, with its group.
    pub(super) fn kill_all(&self) {
        let state = self.lock();
        for pid in state.live.iter().filter_map(|entry| Pid::from_raw(entry.1?.0)) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, line: &str, apply: impl FnOnce(&mut Vec<Live>)) -> io::Result<()> {
        let mut state = self.lock();
        apply(&mut state.live);
        state.lines += 1;
        if state.lines >= COMPACT_AT {
            state.file = rewrite(&self.path, &state.live)?;
            state.lines = 1 + 2 * state.live.len();
            return Ok(());
        }
        // A page in the cache survives the end of the process, which is all that is asked for here.
        state.file.write_all(line.as_bytes())
    }
}

fn rewrite(path: &Path, live: &[Live]) -> io::Result<File> {
    let mut text = format!("boot {}\n", boot_id());
    for (mark, process) in live {
        text.push_str(&format!("+ {mark}\n"));
        if let Some((pid, start)) = process {
            text.push_str(&format!("= {mark} {pid} {start}\n"));
        }
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)?;
    OpenOptions::new().append(true).open(path)
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| "-".to_owned(), |id| id.trim().to_owned())
}

/// Ends what a journal says is running, and returns how many processes that were.
///
/// A pid alone says little, since it may have been given to another process. Either the start time is that of the child,
/// or the process carries the child's mark in its environment, as every descendant does.
fn reap(journal: &str) -> usize {
    let mut lines = journal.lines();
    if lines.next() != Some(&format!("boot {}", boot_id())) {
        return 0;
    }
    let mut live: Vec<(&str, Option<(i32, u64)>)> = Vec::new();
    for line in lines {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("+"), Some(mark), ..) => live.push((mark, None)),
            (Some("="), Some(mark), Some(pid), Some(start)) => {
                let process = pid.parse().ok().zip(start.parse().ok());
                live.iter_mut().filter(|entry| entry.0 == mark).for_each(|entry| entry.1 = process);
            }
            (Some("-"), Some(mark), ..) => live.retain(|entry| entry.0 != mark),
            _ => {}
        }
    }
    if live.is_empty() {
        return 0;
    }
    let mut reaped = 0;
    // Twice, because a process may start another while the first pass goes on.
    for _ in 0..2 {
        for pid in pids() {
            let Some(stat) = stat(pid) else { continue };
            let known = live.iter().any(|entry| entry.1 == Some((pid, stat.start)));
            let marked = || marks(pid).is_some_and(|mark| live.iter().any(|entry| *entry.0 == mark));
            if (known || marked())
                && let Some(pid) = Pid::from_raw(pid)
                && kill_process(pid, Signal::KILL).is_ok()
                && stat.alive
            {
                reaped += 1;
            }
        }
    }
    reaped
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The child that a process descends from, by its environment.
fn marks(pid: i32) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environ.split(|&byte| byte == 0);
    let mark = variables.find_map(|variable| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(mark.to_vec()).ok()
}

struct Stat {
    start: u64,
    alive: bool,
}

/// `/proc/PID/stat`: the name in parentheses may hold anything, so the fields are counted from its end.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let alive = !matches!(*fields.first()?, "Z" | "X");
    Some(Stat { start: fields.get(19)?.parse().ok()?, alive })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_cannot_be_noted_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        // Every write to it fails as on a full disk.
        journal.lock().file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        assert!(journal.starting(Ulid::generate()).is_err());
        assert!(journal.is_empty());
    }
}
