//! Postgres servers for tests: private, in a folder of their own, gone when the test process is.
//!
//! A server listens on a Unix socket in its folder and on a port of loopback. It runs as another user where tests run as
//! root, which Postgres refuses to be.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where to look for Postgres's programs beside `PATH`: a folder. Not set: the newest of Debian's.
pub const PROGRAMS: &str = "MCP_GATEWAY_TEST_POSTGRES";
/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a guard does: waits until its standard input ends, as it does when the test process does, however it ends.
const GUARD: &str = "trap '' INT TERM HUP; read -r _; pid=$(head -n1 \"$0/data/postmaster.pid\") && kill -QUIT \"$pid\" 2>/dev/null && kill -CONT \"$pid\"; sleep 0.2; rm -rf \"$0\"";

/// A running server; stopped, its folder removed, when dropped.
#[derive(Debug)]
pub struct Cluster {
    programs: PathBuf,
    port: u16,
    databases: AtomicU32,
    /// Its standard input is what it waits for.
    guard: Mutex<Child>,
    folder: TempDir,
}

impl Cluster {
    /// The server that all tests of this binary share; started by whoever asks first.
    ///
    /// # Panics
    /// When Postgres is not installed or does not start: a test that needs it fails.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// A server of one's own, to stop, kill or set up otherwise (`ssl=on`).
    ///
    /// # Panics
    /// When Postgres is not installed or does not start.
    pub fn start(settings: &[&str]) -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("mcp-gateway-postgres-").tempdir().expect("a folder in /tmp");
        give_away(folder.path());
        let data = folder.path().join("data");
        DirBuilder::new().mode(0o700).create(&data).expect("a folder for the data");
        give_away(&data);
        let guard = Command::new("sh")
            .args([OsStr::new("-c"), GUARD.as_ref(), folder.path().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let cluster = Self { programs, port, databases: AtomicU32::new(0), guard: Mutex::new(guard), folder };
        let made = cluster.run(
            "initdb",
            &["--pgdata=data", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
        );
        assert!(made.status.success(), "initdb: {}", text(&made));
        let mut file = File::options().append(true).open(data.join("postgresql.conf")).expect("its settings");
        // The tests end processes, not machines: without fsync they are quicker.
        writeln!(
            file,
            "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{}'\nmax_connections=200\nfsync=off\n\
             full_page_writes=off\n{}",
            cluster.folder.path().display(),
            settings.join("\n"),
        )
        .expect("its settings are written");
        cluster.resume();
        cluster
    }

    /// Starts it again after [`stop`](Self::stop).
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&self) {
        let begun = Instant::now();
        let started = self.run("pg_ctl", &["--pgdata=data", "--log=log", "--wait", "--silent", "start"]);
        let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(started.status.success() && begun.elapsed() < PATIENCE, "pg_ctl: {}\n{}", text(&started), log());
    }

    /// Stops it as an operator would (`fast`: connections are cut), or as a crash would (`immediate`).
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&self, mode: &str) {
        let stopped = self.run("pg_ctl", &["--pgdata=data", "--wait", "--silent", "--mode", mode, "stop"]);
        assert!(stopped.status.success(), "pg_ctl: {}", text(&stopped));
    }

    /// Stops all its processes where they are: it is as silent as one whose machine hangs, until [`go_on`](Self::go_on).
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        let first = self.process();
        // The first one first: nobody else starts processes.
        signal(first, Signal::STOP);
        for process in children(first) {
            signal(process, Signal::STOP);
        }
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Panics
    /// When it does not run.
    pub fn go_on(&self) {
        let first = self.process();
        for process in children(first).into_iter().chain([first]) {
            signal(process, Signal::CONT);
        }
    }

    fn process(&self) -> Pid {
        let file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).expect("it runs");
        file.lines().next().and_then(|line| Pid::from_raw(line.parse().ok()?)).expect("a process id")
    }

    /// Makes an empty database and says where it is.
    ///
    /// # Panics
    /// When that fails.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} STRATEGY wal_log"));
        self.url(&name)
    }

    /// Where the database of this name is, over the Unix socket.
    pub fn url(&self, database: &str) -> String {
        let socket = self.folder.path().to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{socket}:{}/{database}", self.port)
    }

    /// The same by way of this port of loopback: its own, or of what is between.
    pub fn url_at(&self, database: &str, port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{database}")
    }

    /// The port of loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are; `data` is the server's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a file that the server can read, in its own folder.
    ///
    /// # Panics
    /// When that fails.
    pub fn file(&self, name: &str, contents: &str) {
        let path = self.folder.path().join("data").join(name);
        std::fs::write(&path, contents).expect("a file of the server");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        give_away(&path);
    }

    /// Runs statements in a database, as its superuser, and returns what they print: unaligned, without headings.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let out = self.psql(database, statements);
        assert!(out.status.success(), "psql: {}", text(&out));
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    /// The same, failing or not.
    pub fn psql(&self, database: &str, statements: &str) -> Output {
        self.run(
            "psql",
            &["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "--dbname", &self.url(database), "-c", statements],
        )
    }

    /// Runs one of Postgres's programs in the cluster's folder, as its user.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let path = self.programs.join(program);
        let mut command = match unprivileged() {
            Some((uid, gid)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
                command.arg("--").arg(path);
                command
            }
            None => Command::new(path),
        };
        // What pg_ctl starts would keep the pipes open: its output goes to files.
        let (out, err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let clone = |file: &File| file.try_clone().expect("a file");
        let status = command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(clone(&out))
            .stderr(clone(&err))
            .status()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        Output { status, stdout: read(out), stderr: read(err) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let guard = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(guard.stdin.take());
        // It stops the server on its way.
        let _ = guard.wait();
    }
}

/// An error says that it has ended by itself.
fn signal(process: Pid, signal: Signal) {
    let _ = kill_process(process, signal);
}

/// The processes that this one has started.
fn children(of: Pid) -> Vec<Pid> {
    let parent = of.as_raw_nonzero().to_string();
    let all = std::fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state and parent.
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(&parent)
    };
    pids.filter(is_child).filter_map(Pid::from_raw).collect()
}

fn read(mut file: File) -> Vec<u8> {
    use std::io::{Read as _, Seek as _};

    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("what it printed");
    bytes
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Where `initdb` and the others are.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os(PROGRAMS) {
        return folder.into();
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = debian.map(|version| version.join("bin")).collect();
    found.sort_by_key(|folder| {
        let version = folder.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        version.and_then(|version| version.parse::<u32>().ok())
    });
    found.reverse();
    found.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    found
        .into_iter()
        .find(|folder| folder.join("initdb").exists())
        .unwrap_or_else(|| panic!("Postgres is missing: install postgresql, or set {PROGRAMS} to where initdb is"))
}

/// The user that the server runs as when this process is root: `postgres`, or nobody.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    Some(user.unwrap_or((65_534, 65_534)))
}

fn give_away(path: &Path) {
    if let Some((uid, gid)) = unprivileged() {
        chown(path, Some(uid), Some(gid)).expect("a folder for another user");
    }
}
