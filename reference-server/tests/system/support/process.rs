//! Child processes that end with their test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::Call;

/// A child process, stopped when dropped: asked first, so that it can stop its own children.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let program = command.get_program().to_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Whether it is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_none())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM, and waits for the end; after five seconds SIGKILL.
    pub(crate) fn stop(&mut self) {
        if self.is_running() {
            let pid = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let begun = Instant::now();
            while self.is_running() && begun.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says VmRSS");
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap();
        kibibytes * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The fixture server over HTTP, with its record of what arrived.
#[derive(Debug)]
pub(crate) struct Fixture {
    _process: Process,
    pub(crate) address: SocketAddr,
}

impl Fixture {
    /// The program; built with the workspace, beside the gateway.
    pub(crate) fn program() -> PathBuf {
        let path = PathBuf::from(env!("CARGO_BIN_EXE_mcp-gateway")).with_file_name("mcp-gateway-fixture");
        assert!(path.exists(), "{} is not there: cargo build -p mcp-gateway-fixture", path.display());
        path
    }

    pub(crate) fn start() -> Self {
        let mut command = Command::new(Self::program());
        command.args(["http", "--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let stdout = process.child().stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").and_then(|line| line.strip_suffix("/mcp"));
        let address = address.unwrap_or_else(|| panic!("the fixture said {line:?}")).parse().unwrap();
        Self { _process: process, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// A catalog entry, `fixture`, that leads here.
    pub(crate) fn entry(&self) -> String {
        super::gateway::remote("fixture", &self.url())
    }

    /// What arrived, oldest first.
    pub(crate) async fn seen(&self) -> Vec<Value> {
        let answer = Call::get("/_seen").send(self.address).await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub(crate) async fn forget(&self) {
        Call::delete("/_seen").send(self.address).await;
    }
}

/// The values of a header in an entry of `/_seen`.
pub(crate) fn header<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = seen["headers"].as_array().expect("an entry has headers");
    headers
        .iter()
        .filter(|pair| pair[0].as_str().is_some_and(|one| one.eq_ignore_ascii_case(name)))
        .filter_map(|pair| pair[1].as_str())
        .collect()
}
