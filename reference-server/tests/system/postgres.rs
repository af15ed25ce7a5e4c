//! Replicas over one Postgres.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mcp_gateway_test_postgres::Cluster;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::browser::Browser;
use crate::support::client::Client;
use crate::support::gateway::remote;
use crate::support::mcp::{self, Session};
use crate::support::{Call, Fixture, Gateway, Key, until};

pub(crate) fn mcp_gateway(folder: &Path, database: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mcp-gateway"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("MCP_GATEWAY__DATA_DIR", folder.join("data"))
        .env("MCP_GATEWAY__LISTEN", "127.0.0.1:0")
        .env("MCP_GATEWAY__DATABASE", database)
        .output()
        .unwrap()
}

/// A folder of a replica, with the key that all replicas share: the first one's is made by `migrate`.
pub(crate) fn folder(of: Option<&Gateway>, database: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    match of {
        Some(other) => {
            std::fs::create_dir(folder.path().join("data")).unwrap();
            let key = "data/master.key";
            std::fs::copy(other.folder().join(key), folder.path().join(key)).unwrap();
        }
        None => {
            let migrated = mcp_gateway(folder.path(), database, &["migrate"]);
            assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        }
    }
    folder
}

async fn replicas(database: &str, fixture: &Fixture) -> [Gateway; 2] {
    let settings = [("DATABASE", database)];
    let entries = [fixture.entry()];
    let a = Gateway::start_in(folder(None, database), &entries, &settings).await;
    let b = Gateway::start_in(folder(Some(&a), database), &entries, &settings).await;
    [a, b]
}

fn call(key: &Key, id: &str) -> Call {
    mcp::modern_tool("fixture", key, id, "test_simple_text", &json!({}))
}

#[tokio::test]
async fn what_one_replica_does_the_other_knows() {
    let fixture = Fixture::start();
    let [a, b] = replicas(&Cluster::shared().database(), &fixture).await;
    let key = a.key().await;
    until("the key at the other replica", async || {
        (call(&key, "first").send(b.address).await.status == 200).then_some(())
    })
    .await;

    // A session of one is used on the other.
    let session = Session::open(&a, "fixture", &key).await;
    session.call("second", "test_simple_text", &json!({})).send(b.address).await.expect(200);
    // Either tells what both wrote.
    for (gateway, id) in [(&a, "first"), (&b, "second")] {
        let rows = gateway.audit_of(1, |row| row["rpc_id"] == format!("\"{id}\"")).await;
        assert_eq!((&rows[0]["outcome"], &rows[0]["actor"]["id"]), (&json!("ok"), &json!(key.id)), "{rows:?}");
    }

    b.revoke(&key).await;
    until("the revocation at the other replica", async || {
        (call(&key, "third").send(a.address).await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_catalog_is_followed_by_one_replica_and_by_another_after_its_death() {
    let fixture = Fixture::start();
    let [mut a, b] = replicas(&Cluster::shared().database(), &fixture).await;
    let leads = |gateway: &Gateway| {
        gateway.log().lines().any(|line| line.contains("this replica leads\"") && line.contains("\"catalog\""))
    };
    assert!(leads(&a) && !leads(&b), "{}\n{}", a.log(), b.log());
    let key = a.key().await;
    let (address, folder) = (b.address, b.folder().join("catalog/late.yaml"));
    std::fs::write(folder, remote("late", &fixture.url())).unwrap();
    a.kill();
    until("the other replica's catalog", async || {
        let call = mcp::modern_tool("late", &key, "1", "test_simple_text", &json!({}));
        (call.send(address).await.status == 200).then_some(())
    })
    .await;
    assert!(leads(&b));
}

#[tokio::test]
async fn without_its_database_a_server_goes_on_with_what_it_knows() {
    let fixture = Fixture::start();
    let cluster = Cluster::start(&[]);
    let database = cluster.database();
    let settings = [("DATABASE", &*database)];
    let gateway = Gateway::start_in(folder(None, &database), &[fixture.entry()], &settings).await;
    let key = gateway.key().await;
    call(&key, "before").send(gateway.address).await.expect(200);

    cluster.stop("fast");
    let readiness = async || Call::get("/readyz").send(gateway.address).await;
    until("degraded", async || (readiness().await.json()["store"]["status"] == "degraded").then_some(())).await;
    assert_eq!(readiness().await.status, 200, "calls are answered");
    call(&key, "during").send(gateway.address).await.expect(200);
    let create = json!({ "name": "new", "servers": ["*"] }).to_string();
    gateway.admin(Call::post("/api/v1/api-keys", create)).await.expect(503);

    cluster.resume();
    until("ready", async || (readiness().await.json()["status"] == "ok").then_some(())).await;
    let newer = gateway.key().await;
    call(&newer, "after").send(gateway.address).await.expect(200);
    for id in ["before", "during", "after"] {
        let rows = gateway.audit_of(1, |row| row["rpc_id"] == format!("\"{id}\"")).await;
        assert_eq!((rows.len(), &rows[0]["outcome"]), (1, &json!("ok")), "{rows:?}");
    }
}

#[tokio::test]
async fn everything_moves_from_sqlite_to_postgres_and_back() {
    let fixture = Fixture::start();
    let mut old = Gateway::start(&[fixture.entry()]).await;
    let key = old.key().await;
    call(&key, "before").send(old.address).await.expect(200);
    old.audit_of(1, |row| row["rpc_id"] == "\"before\"").await;
    let database = Cluster::shared().database();
    let place = old.folder().to_owned();
    let from = format!("sqlite:{}", place.join("data/gateway.db").display());
    let copy = |from: &str, to: &str| mcp_gateway(&place, to, &["store", "copy", "--from", from]);

    let refused = copy(&from, &database);
    assert!(!refused.status.success(), "a server runs on it");
    old.process.stop();
    let copied = copy(&from, &database);
    let said = String::from_utf8_lossy(&copied.stdout).into_owned();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let again = copy(&from, &database);
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"), "{again:?}");

    let new = Gateway::start_in(folder(Some(&old), &database), &[fixture.entry()], &[("DATABASE", &database)]).await;
    call(&key, "after").send(new.address).await.expect(200);
    let rows = new.audit_of(2, |row| row["actor"]["id"] == json!(key.id)).await;
    assert_eq!((&rows[0]["rpc_id"], &rows[1]["rpc_id"]), (&json!("\"before\""), &json!("\"after\"")), "{rows:?}");
    drop(new);

    let back = format!("sqlite:{}", place.join("back.db").display());
    let copied = copy(&database, &back);
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let back = String::from_utf8_lossy(&copied.stdout).into_owned();
    assert_ne!(said, back, "more events have come");
    assert!(back.contains("the same in both"), "{back}");
}

#[test]
fn several_may_migrate_at_once() {
    let database = Cluster::shared().database();
    let folders = [(); 3].map(|()| TempDir::new().unwrap());
    // They share a master key, as replicas do.
    assert!(mcp_gateway(folders[0].path(), "memory", &["migrate"]).status.success());
    for folder in &folders[1..] {
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::copy(folders[0].path().join("data/master.key"), folder.path().join("data/master.key")).unwrap();
    }
    let runs = folders.map(|folder| {
        let database = database.clone();
        std::thread::spawn(move || mcp_gateway(folder.path(), &database, &["migrate"]))
    });
    for run in runs {
        let done = run.join().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn an_empty_database_is_refused_with_the_command_to_run() {
    let folder = TempDir::new().unwrap();
    let database = Cluster::shared().database().replacen("postgres@", "postgres:marked-secret@", 1);
    let refused = mcp_gateway(folder.path(), &database, &["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("mcp-gateway migrate") && !said.contains("marked-secret"), "{said}");

    let printed = mcp_gateway(folder.path(), &database, &["serve", "--print-config"]);
    let shown = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.status.success() && shown.contains("database: postgres://(..)@"), "{shown}");
    assert!(!shown.contains("marked-secret"), "{shown}");
}

/// How long after an act at one replica the other refuses, and what that act was.
async fn refused_after(act: impl AsyncFnOnce(), refused: impl AsyncFn() -> bool) -> Duration {
    assert!(!refused().await, "it was good before");
    let begun = Instant::now();
    act().await;
    while !refused().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "it goes on at the other replica");
    }
    begun.elapsed()
}

/// The four ways in which access ends, each at one process and measured at another: from before the act is asked for until
/// a call at the other is refused.
#[tokio::test]
async fn what_is_ended_at_one_replica_stops_the_next_call_at_the_other_within_a_second() {
    const ROUNDS: usize = 5;
    const TOKEN: &str = "a token for the tests of SCIM, 0123456789";
    let fixture = Fixture::start();
    let database = Cluster::shared().database();
    let secret = TempDir::new().unwrap();
    let scim_token = secret.path().join("scim");
    std::fs::write(&scim_token, TOKEN).unwrap();
    let providers = json!([{
        "name": "company", "issuer": "https://login.example.com", "client_id": "gateway", "email_domains": ["a.example"],
        "scim_token_file": scim_token, "group_roles": { "ops": ["admin"] },
    }])
    .to_string();
    let settings =
        [("DATABASE", &*database), ("RUNTIME__PROCESS__ENABLED", "false"), ("LOGIN__PROVIDERS", &*providers)];
    let entries = [fixture.entry()];
    let a = Gateway::start_in(folder(None, &database), &entries, &settings).await;
    let b = Gateway::start_in(folder(Some(&a), &database), &entries, &settings).await;
    let scim = async |method: http::Method, path: &str, body: Value| {
        let call = Call::new(method, &format!("/scim/v2/{path}")).header("content-type", "application/scim+json");
        call.with_body(body.to_string()).bearer(TOKEN).send(a.address).await
    };
    let status = async |key: &Key| call(key, "x").send(b.address).await.status.as_u16();
    let at_b =
        async |key: &Key| until("it is good at the other", async || (status(key).await == 200).then_some(())).await;
    let mut measured: Vec<(&str, Vec<Duration>)> = Vec::new();

    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let key = a.key().await;
        at_b(&key).await;
        times.push(refused_after(async || a.revoke(&key).await, async || status(&key).await == 401).await);
    }
    measured.push(("key", times));

    let mut times = Vec::new();
    for n in 0..ROUNDS {
        let name = format!("person-{n}");
        let mut browser = Browser::of(&b, &name).await;
        let tokens = Client::register(&b, "fixture").await.connect(&b, &mut browser, "fixture").await.key();
        at_b(&tokens).await;
        let disable = async || {
            a.admin(Call::post(&format!("/api/v1/users/{name}/disable"), "")).await.expect(200);
        };
        times.push(refused_after(disable, async || status(&tokens).await == 401).await);
    }
    measured.push(("user", times));

    let mut times = Vec::new();
    for n in 0..ROUNDS {
        let mut browser = Browser::of(&b, &format!("session-{n}")).await;
        let tokens = Client::register(&b, "fixture").await.connect(&b, &mut browser, "fixture").await.key();
        at_b(&tokens).await;
        // The same session, at the other process.
        let mut elsewhere = browser.at(&a);
        let sign_out = async || elsewhere.sign_out().await;
        times.push(refused_after(sign_out, async || status(&tokens).await == 401).await);
    }
    measured.push(("session", times));

    let mut times = Vec::new();
    let group = json!({ "displayName": "Ops", "externalId": "ops" });
    let group = scim(http::Method::POST, "Groups", group).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    for n in 0..ROUNDS {
        let user = json!({ "userName": format!("{n}@a.example"), "externalId": n.to_string() });
        let user = scim(http::Method::POST, "Users", user).await.expect(201).json()["id"].as_str().unwrap().to_owned();
        let change =
            |op: &str| json!({ "Operations": [{ "op": op, "path": "members", "value": [{ "value": user }] }] });
        let path = format!("Groups/{group}");
        scim(http::Method::PATCH, &path, change("add")).await.expect(200);
        let key = json!({ "name": "k", "servers": ["*"], "scopes": ["api:read"], "subject": user });
        let key = a.key_for(&key).await;
        let may = async || Call::get("/api/v1/users").bearer(&key.secret).send(b.address).await.status.as_u16();
        until("the role at the other", async || (may().await == 200).then_some(())).await;
        let leave = async || {
            scim(http::Method::PATCH, &path, change("remove")).await.expect(200);
        };
        times.push(refused_after(leave, async || may().await == 403).await);
    }
    measured.push(("group membership", times));

    for (what, times) in &mut measured {
        times.sort_unstable();
        println!("{what}: median {:?}, longest {:?}", times[ROUNDS / 2], times[ROUNDS - 1]);
        assert!(times[ROUNDS - 1] < Duration::from_secs(1), "{what}: {times:?}");
    }
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_is_named() {
    let fixture = Fixture::start();
    let cluster = Cluster::shared();
    let database = cluster.database();
    let [a, b] = replicas(&database, &fixture).await;
    let key = a.key().await;
    until("the key at the other replica", async || {
        (call(&key, "first").send(b.address).await.status == 200).then_some(())
    })
    .await;
    let row = a.audit_of(1, |row| row["rpc_id"] == "\"first\"").await.remove(0);
    let verify = || mcp_gateway(a.folder(), &database, &["audit", "verify"]);
    let said = String::from_utf8(verify().stdout).unwrap();
    assert!(verify().status.success() && !said.contains("BAD"), "{said}");
    let name = database.rsplit('/').next().unwrap();
    let request = row["request_id"].as_str().unwrap().parse::<ulid::Ulid>().unwrap();
    let set = "UPDATE mcp_gateway.event SET outcome = 'denied' WHERE outcome = 'ok' AND request_id";
    cluster.sql(name, &format!("{set} = '{:032x}'::uuid", request.0));
    let said = String::from_utf8(verify().stdout).unwrap();
    assert!(said.contains(&format!("(id {}): the row was changed", row["id"].as_str().unwrap())), "{said}");
    assert!(!verify().status.success(), "whoever runs it in a script notices");
}
