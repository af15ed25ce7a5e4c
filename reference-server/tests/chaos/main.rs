//! Three replicas over one Postgres, behind a balancer, under steady load: killed, paused and cut off, one after the other.
//!
//! What is checked is checked from records that no gateway keeps: what the clients wrote down, and what is in Postgres. The
//! short form takes about a minute; `MCP_GATEWAY_CHAOS_SECONDS` makes it longer, with longer disturbances in random order,
//! and `MCP_GATEWAY_CHAOS_REPORT` names a file for what was found. Redis has no part in it yet: there is none.

#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which print what they measure")]
#![allow(clippy::disallowed_methods, reason = "a client that shows every byte")]

mod balancer;
mod load;
mod records;
#[path = "../system/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the system tests")]
mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mcp_gateway_test_postgres::Cluster;
use rand::seq::SliceRandom as _;
use rustix::process::Signal;
use tempfile::TempDir;

use self::balancer::Balancer;
use self::load::Load;
use self::support::gateway::remote;
use self::support::history::History;
use self::support::wire::Wire;
use self::support::{Call, Fixture, Gateway, until};

/// What is done to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    /// The replica that leads in the catalog is killed, and started again.
    Kill,
    /// Postgres hangs.
    Hang,
    /// Postgres crashes, and is started again.
    Crash,
    /// The replica that leads is paused for longer than its lease lasts.
    Pause,
    /// The replica that leads is cut off from Postgres, for longer than its lease lasts: nothing passes, and nobody says so.
    /// What it was about to write arrives once another one leads.
    CutOff,
}

impl Disturbance {
    const ALL: [Self; 5] = [Self::Kill, Self::Hang, Self::Crash, Self::Pause, Self::CutOff];
}

/// How long things take.
struct Times {
    /// Of the whole, as far as it is bounded.
    all: Option<Duration>,
    hang: Duration,
    pause: Duration,
    cut_off: Duration,
    /// Between two disturbances.
    calm: Duration,
}

impl Times {
    fn read() -> Self {
        let seconds = Duration::from_secs;
        match std::env::var("MCP_GATEWAY_CHAOS_SECONDS") {
            Err(_) => Self { all: None, hang: seconds(4), pause: seconds(12), cut_off: seconds(12), calm: seconds(2) },
            Ok(text) => {
                let all = Some(seconds(text.parse().expect("MCP_GATEWAY_CHAOS_SECONDS is a number")));
                Self { all, hang: seconds(60), pause: seconds(30), cut_off: seconds(30), calm: seconds(10) }
            }
        }
    }
}

struct World {
    cluster: Cluster,
    database: String,
    replicas: Vec<Gateway>,
    /// From each replica to Postgres.
    wires: Vec<Wire>,
    fixture: Fixture,
    catalog: TempDir,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl World {
    async fn start() -> Self {
        let (cluster, fixture, catalog) = (Cluster::start(&[]), Fixture::start(), TempDir::new().unwrap());
        std::fs::write(catalog.path().join("fixture.yaml"), fixture.entry()).unwrap();
        let database = cluster.database();
        let mut world = Self { cluster, database, replicas: Vec::new(), wires: Vec::new(), fixture, catalog };
        for name in NAMES {
            let wire = Wire::to(([127, 0, 0, 1], world.cluster.port()).into()).await;
            let url = world.cluster.url_at(world.database_name(), wire.address.port());
            let url = format!("{url}?application_name={name}");
            let folder = TempDir::new().unwrap();
            match world.replicas.first() {
                None => {
                    migrate(folder.path(), &world.database);
                    History::begin(&world.cluster, &world.database);
                }
                Some(first) => {
                    std::fs::create_dir(folder.path().join("data")).unwrap();
                    let key = "data/master.key";
                    std::fs::copy(first.folder().join(key), folder.path().join(key)).unwrap();
                }
            }
            let settings = [
                ("DATABASE", &*url),
                ("CATALOG__PATHS", world.catalog.path().to_str().unwrap()),
                ("CATALOG__POLL_SECONDS", "1"),
                ("ALLOWED_HOSTS", "127.0.0.1"),
            ];
            world.replicas.push(Gateway::start_in(folder, &[], &settings).await);
            world.wires.push(wire);
        }
        world
    }

    fn database_name(&self) -> &str {
        self.database.rsplit('/').next().unwrap()
    }

    fn history(&self) -> History<'_> {
        History::of(&self.cluster, &self.database)
    }

    /// The number of the replica that leads in the catalog.
    async fn leader(&self) -> usize {
        until("a leader", async || {
            let leader = self.history().leader("catalog")?;
            NAMES.iter().position(|name| *name == leader)
        })
        .await
    }

    async fn disturb(&mut self, how: Disturbance, times: &Times) {
        match how {
            Disturbance::Kill => {
                let leader = self.leader().await;
                self.replicas[leader].kill();
                until("another leader", async || (self.history().leader("catalog")? != NAMES[leader]).then_some(()))
                    .await;
                self.replicas[leader].restart().await;
            }
            Disturbance::Hang => {
                self.cluster.pause();
                tokio::time::sleep(times.hang).await;
                self.cluster.go_on();
            }
            Disturbance::Crash => {
                self.cluster.stop("immediate");
                self.cluster.resume();
            }
            Disturbance::Pause => {
                let leader = self.leader().await;
                self.replicas[leader].process.signal(Signal::STOP);
                tokio::time::sleep(times.pause).await;
                until("another leader", async || (self.history().leader("catalog")? != NAMES[leader]).then_some(()))
                    .await;
                self.replicas[leader].process.signal(Signal::CONT);
            }
            Disturbance::CutOff => {
                let leader = self.leader().await;
                self.wires[leader].fall_silent();
                tokio::time::sleep(times.cut_off).await;
                until("another leader", async || (self.history().leader("catalog")? != NAMES[leader]).then_some(()))
                    .await;
                self.wires[leader].mend();
            }
        }
        self.well().await;
    }

    /// Waits until every replica says that all is well.
    async fn well(&self) {
        for replica in &self.replicas {
            until("ready", async || {
                let ready = Call::get("/readyz").send(replica.address).await.json();
                (ready["status"] == "ok").then_some(())
            })
            .await;
        }
    }

    /// Waits until nothing waits in the spools, what earlier lives left behind included.
    async fn drained(&self) {
        for replica in &self.replicas {
            until("the spool", async || {
                let ready = Call::get("/readyz").send(replica.address).await.json();
                let lives = std::fs::read_dir(replica.folder().join("data/spool")).unwrap();
                let lives = lives.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
                (ready["spool"]["rows"] == 0 && lives == 1).then_some(())
            })
            .await;
        }
    }
}

fn migrate(folder: &Path, database: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    command.arg("migrate").current_dir(folder).stdin(Stdio::null());
    command.env("MCP_GATEWAY__DATA_DIR", folder.join("data")).env("MCP_GATEWAY__DATABASE", database);
    assert!(command.status().unwrap().success());
}

/// Changes an entry for ever: whoever leads, or thinks so, has something to write.
async fn change(catalog: &Path, url: &str) {
    for number in 0.. {
        let entry = format!("{}description: {number}\n", remote("busy", url));
        std::fs::write(catalog.join("busy.yaml"), entry).unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_replica_or_the_database_nobody_needs_more_than_a_retry() {
    let times = Times::read();
    let mut world = World::start().await;
    let (catalog, url) = (world.catalog.path().to_owned(), world.fixture.url());
    let changing = tokio::spawn(async move { change(&catalog, &url).await });
    let key = world.replicas[0].key().await;
    world.well().await;
    let balancer = Balancer::of(world.replicas.iter().map(|replica| replica.address)).await;
    until("the key everywhere", async || {
        for replica in &world.replicas {
            let call = support::mcp::modern_tool("fixture", &key, "known", "test_simple_text", &serde_json::json!({}));
            if call.send(replica.address).await.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
    let begun = Instant::now();
    let load = Load::begin(balancer.address, &key).await;
    let mut done: Vec<(Disturbance, Instant, Instant)> = Vec::new();
    loop {
        let mut round = Disturbance::ALL;
        if times.all.is_some() {
            round.shuffle(&mut rand::rng());
        }
        for how in round {
            tokio::time::sleep(times.calm).await;
            let from = Instant::now();
            world.disturb(how, &times).await;
            println!("{:6.1} s  {how:?}, until all was well {:?}", begun.elapsed().as_secs_f64(), from.elapsed());
            done.push((how, from, Instant::now()));
            // Each once, however short the time: what is checked at the end speaks of all of them.
            if done.len() >= Disturbance::ALL.len() && times.all.is_some_and(|all| begun.elapsed() >= all) {
                break;
            }
        }
        if times.all.is_none_or(|all| begun.elapsed() >= all) {
            break;
        }
    }
    tokio::time::sleep(times.calm).await;
    let called = load.end().await;
    changing.abort();
    world.drained().await;

    let led = world.history().check();
    let mut report = records::check(&world.cluster, world.database_name(), &called, &done);
    let takeovers = records::takeovers(&led);
    let longest = takeovers.iter().max().copied().unwrap_or_default();
    let _ = writeln!(
        report,
        "- {} terms of leaders, none beside another; longest between two, also while Postgres hung: {longest:.1?}",
        led.len()
    );
    let _ = writeln!(report, "- took {:.0?}", begun.elapsed());
    println!("{report}");
    if let Some(path) = std::env::var_os("MCP_GATEWAY_CHAOS_REPORT") {
        std::fs::write(path, report).unwrap();
    }
}
