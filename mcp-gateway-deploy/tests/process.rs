//! The process runtime over a scripted server.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use mcp_gateway_core::contract::Program;
use mcp_gateway_core::contract::{Runtime as _, RuntimeErrorKind, UpstreamErrorKind, WorkloadId, WorkloadState};
use mcp_gateway_deploy::process::{ProcessRuntime, launcher::is_enforced};
use serde_json::json;
use support::{Session, ensure, env, is_alive, launcher, options, script, until, workload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_callers_share_one_start() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let pids = dir.path().join("pids");
    let mut spec = workload("one", script("modern"));
    env(&mut spec, "PIDS", pids.to_str().unwrap());
    let spec = Arc::new(spec);
    let mut events = runtime.watch();
    let starts = (0..100).map(|_| ensure(&runtime, &spec));
    let servers: Vec<_> = futures_util::future::join_all(starts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(std::fs::read_to_string(&pids).unwrap().lines().count(), 1);
    let incarnation = servers[0].deployment.endpoints.borrow()[0].incarnation.clone();
    assert!(incarnation.0.starts_with("one~"));
    assert!(servers.iter().all(|server| server.deployment.endpoints.borrow()[0].incarnation == incarnation));
    assert_eq!(events.next().await.unwrap().observation.state, WorkloadState::Starting);
    assert_eq!(events.next().await.unwrap().observation.state, WorkloadState::Running);
    let observed = runtime.observe(&spec.id).await.unwrap().unwrap();
    assert_eq!((observed.state, observed.children), (WorkloadState::Running, 1));

    runtime.stop(&spec.id).await.unwrap();
    let mut endpoints = servers.into_iter().next().unwrap().deployment.endpoints;
    assert!(endpoints.changed().await.is_err(), "the sender is gone");
    let again = ensure(&runtime, &spec).await.unwrap();
    assert_ne!(again.deployment.endpoints.borrow()[0].incarnation, incarnation);
}

#[tokio::test]
async fn children_get_what_the_workload_names_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let mut spec = workload("env:a/b", script("legacy"));
    env(&mut spec, "API_KEY", "s3cret-value");
    spec.limits.memory = Some(1 << 30);
    let spec = Arc::new(spec);
    let server = ensure(&runtime, &spec).await.unwrap();
    let session = Session::open(&server.upstream).await.unwrap();
    let got = session.call("environ", json!({})).await.unwrap();
    assert_eq!(got["API_KEY"], "s3cret-value");
    assert!(got.get("CARGO_MANIFEST_DIR").is_none(), "the environment was inherited");
    let own = dir.path().join("children/env_3aa_2fb");
    assert_eq!(got["HOME"], own.join("home").to_str().unwrap());
    assert_eq!(got["TMPDIR"], own.join("tmp").to_str().unwrap());
    let limits = session.call("limits", json!({})).await.unwrap();
    assert_eq!(limits["data"], 1 << 30);
    assert_eq!(limits["pgid"], limits["pid"], "it leads a group of its own");
    // The secret is on standard error, but not in the log.
    let lines: Vec<_> = runtime.logs(&spec.id, 100, false).await.unwrap().collect().await;
    assert!(lines.iter().any(|line| line.text == "started as legacy with (..)"), "{lines:?}");
    let mut follow = runtime.logs(&spec.id, 0, true).await.unwrap();
    let _second = Session::open(&server.upstream).await.unwrap();
    assert!(follow.next().await.unwrap().text.starts_with("started"));

    runtime.remove(&spec.id).await.unwrap();
    assert!(!own.exists());
    assert!(runtime.observe(&spec.id).await.unwrap().is_none());
    assert_eq!(runtime.logs(&spec.id, 1, false).await.err().unwrap().kind, RuntimeErrorKind::Missing);
}

#[tokio::test]
async fn failures_say_why_to_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let spec = Arc::new(workload("fails", script("fail")));
    let begun = Instant::now();
    let error = ensure(&runtime, &spec).await.err().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "a start that ends must not wait for its timeout");
    assert_eq!(error.kind, RuntimeErrorKind::Failed);
    assert!(error.detail.as_deref().unwrap().contains("E404 no such package"), "{error:?}");
    assert!(!error.public.contains("E404"));
    let observed = runtime.observe(&spec.id).await.unwrap().unwrap();
    assert_eq!(observed.state, WorkloadState::Failed);
    assert!(observed.last_error.unwrap().contains("E404"));

    let mut slow = workload("silent", script("silent"));
    slow.startup_timeout = Duration::from_secs(3);
    let error = ensure(&runtime, &Arc::new(slow)).await.err().unwrap();
    assert_eq!(error.kind, RuntimeErrorKind::Timeout);
    assert!(error.detail.unwrap().contains("started as silent"));

    let missing = Program::Command { command: "no-such-program-here".into(), args: Vec::new() };
    let error = ensure(&runtime, &Arc::new(workload("missing", missing))).await.err().unwrap();
    assert_eq!(error.kind, RuntimeErrorKind::Missing);
    assert!(error.detail.unwrap().contains("no-such-program-here"));
    let mut reserved = workload("reserved", script("legacy"));
    env(&mut reserved, "LD_PRELOAD", "/tmp/x.so");
    let error = ensure(&runtime, &Arc::new(reserved)).await.err().unwrap();
    assert_eq!(error.kind, RuntimeErrorKind::Unsupported);
    assert!(error.detail.unwrap().contains("LD_PRELOAD"));
}

#[tokio::test]
async fn a_crash_is_broken_and_the_next_session_has_a_new_child() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let spec = Arc::new(workload("crash", script("legacy")));
    let server = ensure(&runtime, &spec).await.unwrap();
    let session = Session::open(&server.upstream).await.unwrap();
    let pid = session.call("pid", json!({})).await.unwrap()["pid"].as_i64().unwrap();
    let error = session.call("crash", json!({})).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Broken);
    assert!(error.detail.unwrap().contains("exit status: 7"));
    let session = Session::open(&server.upstream).await.unwrap();
    assert_ne!(session.call("pid", json!({})).await.unwrap()["pid"], pid);
    assert_eq!(runtime.observe(&spec.id).await.unwrap().unwrap().restarts, 1);
}

#[tokio::test]
async fn children_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.children.per_server = 2;
    let runtime = ProcessRuntime::new(options).unwrap();
    let spec = Arc::new(workload("limited", script("legacy")));
    let server = ensure(&runtime, &spec).await.unwrap();
    // The first takes over the child that was probed.
    let first = Session::open(&server.upstream).await.unwrap();
    let _second = Session::open(&server.upstream).await.unwrap();
    let error = Session::open(&server.upstream).await.err().unwrap();
    assert_eq!(error.kind, UpstreamErrorKind::Exhausted);
    assert!(error.detail.unwrap().contains("per_server"));
    first.end().await;
    for _ in 0..200 {
        if Session::open(&server.upstream).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of the ended session stayed taken");
}

#[tokio::test]
async fn an_idle_workload_stops_and_another_digest_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let mut spec = workload("idle", script("legacy"));
    spec.idle_timeout = Some(Duration::from_millis(300));
    let spec = Arc::new(spec);
    let server = ensure(&runtime, &spec).await.unwrap();
    let session = Session::open(&server.upstream).await.unwrap();
    let pid = session.call("pid", json!({})).await.unwrap()["pid"].as_i64().unwrap();
    until("the idle stop", || !is_alive(pid)).await;
    assert_eq!(runtime.observe(&spec.id).await.unwrap().unwrap().state, WorkloadState::Stopped);

    let mut changed = (*spec).clone();
    changed.idle_timeout = None;
    let first = ensure(&runtime, &Arc::new(changed.clone())).await.unwrap();
    changed.digest = "2".into();
    let second = ensure(&runtime, &Arc::new(changed)).await.unwrap();
    let incarnation = |server: &support::Server| server.deployment.endpoints.borrow()[0].incarnation.clone();
    assert_ne!(incarnation(&first), incarnation(&second));
    assert_eq!(runtime.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn stopping_ends_the_whole_group_even_if_it_resists() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    for mode in ["legacy", "parent", "stubborn"] {
        let pids = dir.path().join(format!("pids-{mode}"));
        let mut spec = workload(mode, script(mode));
        env(&mut spec, "PIDS", pids.to_str().unwrap());
        let spec = Arc::new(spec);
        let server = ensure(&runtime, &spec).await.unwrap();
        let session = Session::open(&server.upstream).await.unwrap();
        session.call("pid", json!({})).await.unwrap();
        let pids: Vec<i64> = std::fs::read_to_string(&pids).unwrap().lines().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), if mode == "parent" { 2 } else { 1 });
        assert!(pids.iter().all(|&pid| is_alive(pid)));
        runtime.stop(&spec.id).await.unwrap();
        until("the end of the group", || !pids.iter().any(|&pid| is_alive(pid))).await;
    }
}

#[tokio::test]
async fn dropping_the_runtime_kills_every_child() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    assert!(ProcessRuntime::new(options(dir.path())).is_err(), "two runtimes in one folder");
    let server = ensure(&runtime, &Arc::new(workload("dropped", script("stubborn")))).await.unwrap();
    let session = Session::open(&server.upstream).await.unwrap();
    let pid = session.call("pid", json!({})).await.unwrap()["pid"].as_i64().unwrap();
    drop((runtime, server, session));
    until("the end of the child", || !is_alive(pid)).await;
}

/// Runs itself as the gateway that is killed.
#[tokio::test]
async fn a_killed_runtime_leaves_no_orphans_after_the_next_start() {
    if let Some(dir) = std::env::var_os("DEPLOY_TEST_VICTIM") {
        let dir = std::path::PathBuf::from(dir);
        let runtime = ProcessRuntime::new(options(&dir)).unwrap();
        for mode in ["stubborn", "parent"] {
            let mut spec = workload(mode, script(mode));
            env(&mut spec, "PIDS", dir.join("pids").to_str().unwrap());
            let server = ensure(&runtime, &Arc::new(spec)).await.unwrap();
            std::mem::forget(Session::open(&server.upstream).await.unwrap());
        }
        std::fs::write(dir.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "a_killed_runtime_leaves_no_orphans_after_the_next_start";
    let mut victim = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env("DEPLOY_TEST_VICTIM", dir.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("the victim's start", || dir.path().join("ready").exists()).await;
    victim.kill().await.unwrap();
    let pids = std::fs::read_to_string(dir.path().join("pids")).unwrap();
    let pids: Vec<i64> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().any(|&pid| is_alive(pid)), "the one that ignores the end of its input outlives the gateway");
    let bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let _runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    until("the end of the orphans", || !pids.iter().any(|&pid| is_alive(pid))).await;
    assert!(is_alive(i64::from(bystander.id())));
    let mut bystander = bystander;
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn the_sandbox_keeps_children_from_keys_environments_and_siblings() {
    if !is_enforced() {
        println!("SKIPPED: this kernel has no Landlock");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("key"), "the key").unwrap();
    let config = root.path().join("config.yaml");
    std::fs::write(&config, "secret: x").unwrap();
    std::fs::write(root.path().join("open"), "hello").unwrap();
    let mut options = options(&data);
    options.launcher = Some(launcher());
    options.hidden = vec![config.clone()];
    let runtime = ProcessRuntime::new(options).unwrap();
    let sibling = ensure(&runtime, &Arc::new(workload("sibling", script("legacy")))).await.unwrap();
    let sibling = Session::open(&sibling.upstream).await.unwrap();
    let other = sibling.call("pid", json!({})).await.unwrap()["pid"].as_i64().unwrap();
    let home = sibling.call("environ", json!({})).await.unwrap()["HOME"].as_str().unwrap().to_owned();
    assert_eq!(sibling.call("write", json!({"path": format!("{home}/mine")})).await.unwrap()["written"], true);

    let server = ensure(&runtime, &Arc::new(workload("curious", script("legacy")))).await.unwrap();
    let session = Session::open(&server.upstream).await.unwrap();
    let gateway = std::process::id();
    for path in [
        data.join("key").to_str().unwrap(),
        data.to_str().unwrap(),
        data.join("children.journal").to_str().unwrap(),
        config.to_str().unwrap(),
        &format!("/proc/{gateway}/environ"),
        &format!("/proc/{gateway}/mem"),
        &format!("/proc/{other}/environ"),
        &home,
        &format!("{home}/mine"),
    ] {
        let got = session.call("read", json!({"path": path})).await.unwrap();
        assert!(got["refused"].is_string(), "{path}: {got}");
    }
    let open = root.path().join("open");
    assert_eq!(session.call("read", json!({"path": open})).await.unwrap()["text"], "hello");
    assert!(session.call("read", json!({"path": "/proc/self/environ"})).await.unwrap()["text"].is_string());
    for path in [&open, &data.join("key"), &std::path::PathBuf::from(&home).join("theirs")] {
        let got = session.call("write", json!({"path": path})).await.unwrap();
        assert!(got["refused"].is_string(), "{}: {got}", path.display());
    }
    for pid in [i64::from(gateway), other] {
        let got = session.call("kill", json!({"pid": pid})).await.unwrap();
        assert!(got["refused"].is_string(), "a signal to {pid}: {got}");
    }
    let status = session.call("privileges", json!({})).await.unwrap();
    assert_eq!(status["NoNewPrivs"], "1");
    runtime.shutdown().await;
    assert!(!is_alive(other));
}

#[tokio::test]
async fn a_workload_that_nobody_knows_is_stopped_and_removed_without_fuss() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let id = WorkloadId("nobody".into());
    runtime.stop(&id).await.unwrap();
    runtime.remove(&id).await.unwrap();
    assert!(runtime.observe(&id).await.unwrap().is_none());
    assert!(runtime.list().await.unwrap().is_empty());
}
