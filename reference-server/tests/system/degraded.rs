//! What goes on while a store is away, and what is there when it is back.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mcp_gateway_test_postgres::Cluster;
use serde_json::{Value, json};

use crate::postgres::folder;
use crate::support::mcp::{self, Session};
use crate::support::process::Process;
use crate::support::wire::Wire;
use crate::support::{Call, Fixture, Gateway, Key, until};

async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let answer = Call::get("/readyz").send(gateway.address).await;
    (answer.status.as_u16(), answer.json())
}

/// Waits until a part says that it is so, and returns the whole.
async fn part(gateway: &Gateway, part: &str, condition: &str) -> (u16, Value) {
    until(&format!("{part} {condition}"), async || {
        Some(readiness(gateway).await).filter(|(_, body)| body[part]["status"] == condition)
    })
    .await
}

async fn ready(gateway: &Gateway) {
    until("ready", async || (readiness(gateway).await.1["status"] == "ok").then_some(())).await;
}

fn new_key() -> Call {
    Call::post("/api/v1/api-keys", json!({ "name": "new", "servers": ["*"] }).to_string())
}

async fn call(gateway: &Gateway, key: &Key, id: &str) -> u16 {
    mcp::modern_tool("fixture", key, id, "test_simple_text", &json!({})).send(gateway.address).await.status.as_u16()
}

/// Calls of these names, one after the other.
async fn calls(gateway: &Gateway, key: &Key, names: impl Iterator<Item = String>) {
    for name in names {
        assert_eq!(call(gateway, key, &name).await, 200, "{name}");
    }
}

/// Numbers of rows, each stream's: how many, and the highest.
fn rows(cluster: &Cluster, database: &str) -> Vec<(u64, u64)> {
    let count = "SELECT count(*), max(seq) FROM mcp_gateway.event GROUP BY stream";
    let found = cluster.sql(database.rsplit('/').next().unwrap(), count);
    let pair = |line: &str| line.split_once('|').map(|(count, last)| (count.parse().unwrap(), last.parse().unwrap()));
    found.lines().map(|line| pair(line).unwrap()).collect()
}

/// The trail has each of these calls once.
async fn recorded(gateway: &Gateway, names: impl Iterator<Item = String>) {
    let names: Vec<Value> = names.map(|name| json!(format!("\"{name}\""))).collect();
    let found = gateway.audit_of(names.len(), |row| names.contains(&row["rpc_id"])).await;
    for name in names {
        let outcomes: Vec<&Value> =
            found.iter().filter(|row| row["rpc_id"] == name).map(|row| &row["outcome"]).collect();
        assert_eq!(outcomes, [&json!("ok")], "{name}");
    }
}

fn named(prefix: &str, count: usize) -> impl Iterator<Item = String> + use<'_> {
    (0..count).map(move |number| format!("{prefix}-{number}"))
}

#[tokio::test]
async fn while_the_database_hangs_calls_go_on_and_are_in_the_trail_in_order_afterwards() {
    const CALLS: usize = 200;
    let fixture = Fixture::start();
    let cluster = Cluster::start(&[]);
    let database = cluster.database();
    let gateway = Gateway::start_in(folder(None, &database), &[fixture.entry()], &[("DATABASE", &database)]).await;
    let key = gateway.key().await;
    let session = Session::open(&gateway, "fixture", &key).await;
    calls(&gateway, &key, named("before", 3)).await;

    cluster.pause();
    let (status, _) = part(&gateway, "store", "degraded").await;
    assert_eq!(status, 200, "it answers calls");
    calls(&gateway, &key, named("during", CALLS)).await;
    session.call("session", "test_simple_text", &json!({})).send(gateway.address).await.expect(200);
    let begun = Instant::now();
    let refused = gateway.admin(new_key()).await.expect(503);
    println!("a change was refused after {:?}", begun.elapsed());
    assert!(refused.json()["detail"].as_str().unwrap().contains("/readyz"), "{}", refused.text());
    assert!(refused.headers.contains_key("retry-after"));
    let refused = until("a refusal that nobody waits for", async || {
        let begun = Instant::now();
        let refused = gateway.admin(new_key()).await.expect(503);
        (begun.elapsed() < Duration::from_secs(2)).then_some(refused)
    })
    .await;
    assert!(refused.json()["detail"].as_str().unwrap().contains("nothing was changed"), "{}", refused.text());
    assert!(readiness(&gateway).await.1["spool"]["rows"].as_u64().unwrap() >= CALLS as u64);

    cluster.go_on();
    // Whatever has arrived so far is the beginning of what was recorded.
    until("the spool", async || {
        for (count, last) in rows(&cluster, &database) {
            assert_eq!(count, last, "a row came before an earlier one");
        }
        (readiness(&gateway).await.1["spool"]["rows"] == 0).then_some(())
    })
    .await;
    ready(&gateway).await;
    let all = named("before", 3).chain(named("during", CALLS)).chain(["session".to_owned()]);
    recorded(&gateway, all).await;
    assert_eq!(call(&gateway, &gateway.key().await, "after").await, 200);
}

#[tokio::test]
async fn a_database_that_crashes_and_comes_back_loses_nothing_that_was_answered() {
    let fixture = Fixture::start();
    let cluster = Cluster::start(&[]);
    let database = cluster.database();
    let settings = [("DATABASE", &*database)];
    let a = Gateway::start_in(folder(None, &database), &[fixture.entry()], &settings).await;
    let b = Gateway::start_in(folder(Some(&a), &database), &[fixture.entry()], &settings).await;
    let key = a.key().await;
    until("the key", async || (call(&b, &key, "first").await == 200).then_some(())).await;

    cluster.stop("immediate");
    for (name, gateway) in [("a", &a), ("b", &b)] {
        let (status, _) = part(gateway, "store", "degraded").await;
        assert_eq!(status, 200, "all replicas have lost it: none may be taken out");
        calls(gateway, &key, named(name, 20)).await;
        let (_, body) = part(gateway, "audit_store", "degraded").await;
        assert_eq!(body["status"], "degraded");
        gateway.admin(new_key()).await.expect(503);
    }
    cluster.resume();
    ready(&a).await;
    ready(&b).await;
    recorded(&a, named("a", 20).chain(named("b", 20))).await;
    a.revoke(&key).await;
    until("the revocation", async || (call(&b, &key, "last").await == 401).then_some(())).await;
}

#[tokio::test]
async fn a_replica_that_is_cut_off_goes_on_for_its_time_and_catches_up() {
    let fixture = Fixture::start();
    let cluster = Cluster::shared();
    let database = cluster.database();
    let wire = Wire::to(([127, 0, 0, 1], cluster.port()).into()).await;
    let by_wire = cluster.url_at(database.rsplit('/').next().unwrap(), wire.address.port());
    let entries = [fixture.entry()];
    let a = Gateway::start_in(folder(None, &database), &entries, &[("DATABASE", &database)]).await;
    let cut_off = [("DATABASE", &*by_wire)];
    let b = Gateway::start_in(folder(Some(&a), &database), &entries, &cut_off).await;
    let strict = [("DATABASE", &*by_wire), ("AUTH__MAX_STALENESS_SECONDS", "2")];
    let c = Gateway::start_in(folder(Some(&a), &database), &entries, &strict).await;
    let key = a.key().await;
    for other in [&b, &c] {
        until("the key", async || (call(other, &key, "first").await == 200).then_some(())).await;
    }

    wire.fall_silent();
    a.revoke(&key).await;
    let newer = a.key().await;
    assert_eq!(readiness(&a).await.1["status"], "ok");
    // What it has not heard of holds for its time, and no longer.
    assert_eq!(part(&b, "store", "degraded").await.0, 200);
    assert_eq!(call(&b, &key, "revoked elsewhere").await, 200);
    let (status, body) = part(&c, "snapshot", "refusing").await;
    assert_eq!((status, &body["status"]), (503, &json!("refusing")), "it answers nothing: others are asked");
    assert_eq!(call(&c, &key, "refused").await, 503);

    wire.mend();
    for other in [&b, &c] {
        until("the newer key", async || (call(other, &newer, "caught up").await == 200).then_some(())).await;
        assert_eq!(call(other, &key, "late").await, 401, "in the order of the changes");
        ready(other).await;
    }
    recorded(&b, ["revoked elsewhere".to_owned()].into_iter()).await;
}

/// Holds the lock of a database in SQLite, as a backup or a person with a shell does.
struct Locked(Process);

impl Locked {
    fn by_somebody(path: &std::path::Path) -> Self {
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); \
                      c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let mut said = String::new();
        let stdout = process.child().stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).unwrap();
        assert_eq!(said, "held\n");
        Self(process)
    }

    fn give_back(mut self) {
        let mut stdin = self.0.child().stdin.take().unwrap();
        stdin.flush().unwrap();
        drop(stdin);
        self.0.child().wait().unwrap();
    }
}

#[tokio::test]
async fn an_audit_trail_in_a_file_that_cannot_be_written_waits_in_the_spool() {
    let fixture = Fixture::start();
    let gateway = Gateway::start(&[fixture.entry()]).await;
    let key = gateway.key().await;
    calls(&gateway, &key, named("before", 3)).await;
    recorded(&gateway, named("before", 3)).await;

    let locked = Locked::by_somebody(&gateway.folder().join("data/gateway-audit.db"));
    calls(&gateway, &key, named("during", 50)).await;
    let (status, body) = part(&gateway, "audit_store", "degraded").await;
    assert_eq!((status, &body["store"]["status"]), (200, &json!("ok")), "{body}");
    // Records are elsewhere.
    gateway.admin(new_key()).await.expect(201);
    locked.give_back();
    part(&gateway, "audit_store", "ok").await;
    recorded(&gateway, named("during", 50)).await;
}

#[tokio::test]
async fn a_full_spool_takes_a_server_out_of_the_load_balancer_until_there_is_room() {
    let fixture = Fixture::start();
    let settings = [("AUDIT__SPOOL_BYTES", "65536"), ("AUDIT__SEGMENT_BYTES", "16384")];
    let gateway = Gateway::start_with(&[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    calls(&gateway, &key, named("before", 3)).await;
    recorded(&gateway, named("before", 3)).await;

    let locked = Locked::by_somebody(&gateway.folder().join("data/gateway-audit.db"));
    let mut answered = 0;
    while call(&gateway, &key, &format!("during-{answered}")).await == 200 {
        answered += 1;
    }
    let (status, body) = readiness(&gateway).await;
    assert_eq!((status, &body["spool"]["status"]), (503, &json!("refusing")), "{body}");
    locked.give_back();
    ready(&gateway).await;
    assert_eq!(call(&gateway, &key, "after").await, 200);
    recorded(&gateway, named("during", answered)).await;
}
