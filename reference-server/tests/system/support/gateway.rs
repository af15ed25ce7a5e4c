//! The gateway under test: the built program with a folder of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Answer, Call};
use super::process::{Fixture, Process};
use super::until;

pub(crate) const BOOTSTRAP: &str = "system-tests-bootstrap-token-0123456789";

/// A running gateway; stopped, its folder removed, when dropped.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    folder: TempDir,
    settings: Vec<(String, String)>,
}

/// An API key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Gateway {
    /// Starts with a catalog of these entries, and waits until it is ready.
    pub(crate) async fn start(entries: &[String]) -> Self {
        Self::start_with(entries, &[]).await
    }

    /// The same with settings, as environment variables without their prefix: `LIMITS__CALLS`.
    pub(crate) async fn start_with(entries: &[String], settings: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap(), entries, settings).await
    }

    /// The same in a folder that holds something already, for example `data/master.key` of another replica.
    pub(crate) async fn start_in(folder: TempDir, entries: &[String], settings: &[(&str, &str)]) -> Self {
        let catalog = folder.path().join("catalog");
        std::fs::create_dir(&catalog).unwrap();
        // So that the last entry, too, can go: a folder without files counts as lost.
        std::fs::write(catalog.join("none.yaml"), "[]").unwrap();
        for (number, entry) in entries.iter().enumerate() {
            std::fs::write(catalog.join(format!("{number}.yaml")), entry).unwrap();
        }
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>();
        let address = free_address();
        let process = run(folder.path(), address, &settings);
        let mut gateway = Self { process, address, folder, settings };
        gateway.ready().await;
        gateway
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it as a power cut would, and starts it again over the same data.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// Starts it again over the same data, after its end.
    pub(crate) async fn restart(&mut self) {
        self.process = run(self.folder.path(), self.address, &self.settings);
        self.ready().await;
    }

    /// The same with one more setting.
    pub(crate) async fn restart_with(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
        self.kill_and_restart().await;
    }

    /// Takes the entry of this number out of the catalog.
    pub(crate) fn remove_entry(&self, number: usize) {
        std::fs::remove_file(self.folder.path().join("catalog").join(format!("{number}.yaml"))).unwrap();
    }

    /// Replaces the entry of this number at once: nobody sees a half of it, or none.
    pub(crate) fn write_entry(&self, number: usize, text: &str) {
        let new = self.folder.path().join("entry.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.path().join("catalog").join(format!("{number}.yaml"))).unwrap();
    }

    async fn ready(&mut self) {
        let address = self.address;
        let begun = std::time::Instant::now();
        loop {
            let ready = Call::get("/readyz").try_open(address).await.is_ok_and(|answer| answer.status.is_success());
            if ready {
                return;
            }
            let running = self.process.is_running();
            assert!(running && begun.elapsed() < super::PATIENCE, "the gateway did not start:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Where its catalog and data are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A key for all servers.
    pub(crate) async fn key(&self) -> Key {
        self.key_for(&json!({ "name": "all", "servers": ["*"] })).await
    }

    /// A key as asked for.
    pub(crate) async fn key_for(&self, body: &Value) -> Key {
        let answer = self.admin(Call::post("/api/v1/api-keys", body.to_string())).await.expect(201).json();
        let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned();
        Key { id: text("id"), secret: text("key") }
    }

    pub(crate) async fn revoke(&self, key: &Key) {
        let answer = self.admin(Call::delete(&format!("/api/v1/api-keys/{}", key.id))).await;
        assert!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    }

    /// Calls the admin API as its owner.
    pub(crate) async fn admin(&self, call: Call) -> Answer {
        call.header("content-type", "application/json").bearer(BOOTSTRAP).send(self.address).await
    }

    /// All rows of the audit trail, oldest first.
    pub(crate) async fn audit(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut cursor = None::<String>;
        loop {
            let next = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
            let path = format!("/api/v1/audit-events?limit=500{next}");
            let page = self.admin(Call::get(&path)).await.expect(200).json();
            rows.extend(page["items"].as_array().unwrap_or_else(|| panic!("no items in {page}")).iter().cloned());
            cursor = page["next_cursor"].as_str().map(ToOwned::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        rows.sort_by(|a, b| a["ts"].as_str().cmp(&b["ts"].as_str()));
        rows
    }

    /// The rows that fit, once there are that many.
    pub(crate) async fn audit_of(&self, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        until(&format!("{count} rows of the audit trail"), async || {
            let rows: Vec<Value> = self.audit().await.into_iter().filter(|row| fits(row)).collect();
            (rows.len() >= count).then_some(rows)
        })
        .await
    }
}

fn run(folder: &Path, address: SocketAddr, settings: &[(String, String)]) -> Process {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    command
        .arg("serve")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .env("MCP_GATEWAY__LISTEN", address.to_string())
        .env("MCP_GATEWAY__PUBLIC_URL", format!("http://{address}"))
        .env("MCP_GATEWAY__DATA_DIR", folder.join("data"))
        .env("MCP_GATEWAY__CATALOG__PATHS", folder.join("catalog"))
        .env("MCP_GATEWAY__EGRESS__ALLOW", "127.0.0.0/8")
        .env("MCP_GATEWAY_BOOTSTRAP_TOKEN", BOOTSTRAP);
    for (name, value) in settings {
        command.env(format!("MCP_GATEWAY__{name}"), value);
    }
    Process::start(&mut command)
}

/// An address nobody listens at. The kernel hands ports out in turn, so nobody is given this one again soon.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

/// A remote entry of this id.
pub(crate) fn remote(id: &str, url: &str) -> String {
    format!(
        "entryKey: {id}\nname: {id}\nruntime: remote\nserverUserType: multiUser\nremoteConfig:\n  fixedURL: {url}\n"
    )
}

/// An entry, `stdio`, that runs the fixture as a child behind the stdio bridge.
pub(crate) fn stdio_fixture() -> String {
    format!(
        "entryKey: stdio\nname: stdio\nruntime: command\nserverUserType: multiUser\ncommand: {}\nargs: [stdio]\n",
        Fixture::program().display()
    )
}
