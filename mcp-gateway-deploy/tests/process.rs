//! The process runtime over a scripted server.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use mcp_gateway_core::contract::{
    Program, ResourceLimits, Runtime as _, RuntimeErrorKind, UpstreamErrorKind, Workload, WorkloadId, WorkloadState,
};
use mcp_gateway_deploy::process::{Cgroup, Launcher, ProcessRuntime, launcher::is_enforced};
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

    runtime.stop(&spec.id).await.unwrap();
    assert!(runtime.remove(&spec.id).await.unwrap());
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

/// Over a folder that only looks like a cgroup file system.
#[tokio::test]
async fn a_child_gets_a_group_with_the_limits_of_its_workload() {
    let (dir, groups) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let children = groups.path().join("mcp-gateway-children");
    std::fs::create_dir(&children).unwrap();
    for group in [groups.path(), &children] {
        std::fs::write(group.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    }
    let mut own = options(dir.path());
    own.cgroup = Cgroup::At(groups.path().into());
    own.pids = 99;
    let runtime = ProcessRuntime::new(own).unwrap();
    let mut spec = workload("grouped", script("legacy"));
    spec.limits = ResourceLimits { memory: Some(1 << 30), cpu_millis: Some(500) };
    let server = ensure(&runtime, &Arc::new(spec)).await.unwrap();
    let session = Session::open(&server.upstream).await.unwrap();
    let limits = session.call("limits", json!({})).await.unwrap();
    assert_eq!(limits["data"], -1, "the group limits memory, for all its processes together");
    let made = std::fs::read_dir(&children).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let made: Vec<_> = made.collect();
    assert_eq!(made.len(), 1, "{made:?}");
    let pid = limits["pid"].to_string();
    for (file, value) in
        [("cgroup.procs", pid.as_str()), ("memory.max", "1073741824"), ("cpu.max", "50000 100000"), ("pids.max", "99")]
    {
        assert_eq!(std::fs::read_to_string(made[0].join(file)).unwrap(), value, "{file}");
    }
    runtime.shutdown().await;
    assert_eq!(std::fs::read_to_string(made[0].join("cgroup.kill")).unwrap(), "1");

    let mut wrong = options(&dir.path().join("other"));
    wrong.cgroup = Cgroup::At("/nonexistent".into());
    assert!(ProcessRuntime::new(wrong).unwrap_err().to_string().contains("/nonexistent"));
}

#[tokio::test]
async fn the_launcher_waits_for_its_group() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| line.split_once(" - cgroup2 ")?.0.split(' ').nth(4));
    let Some(mount) = mount else { return println!("SKIPPED: no cgroup2 file system is mounted") };
    let program = launcher().program;
    let mark = format!("mcp-gateway-launcher-{}", std::process::id());
    let group = std::path::Path::new(mount).join(&mark);
    if let Err(error) = std::fs::create_dir(&group) {
        return println!("SKIPPED: no groups can be made here: {}: {error}", group.display());
    }
    let mut child = tokio::process::Command::new(program)
        .args(["--in-cgroup", "--", "echo", "in"])
        .env("MCP_GATEWAY_CHILD", &mark)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    let moved = std::fs::write(group.join("cgroup.procs"), child.id().unwrap().to_string());
    if let Err(error) = moved {
        child.kill().await.unwrap();
        std::fs::remove_dir(&group).unwrap();
        return println!("SKIPPED: processes cannot be moved here: {error}");
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.unwrap().unwrap();
    until("the removal of the group", || std::fs::remove_dir(&group).is_ok()).await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn children_of_another_user_have_its_rights_alone() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can start children as another user");
        return;
    }
    let python = std::path::Path::new("/usr/bin/python3");
    if !python.exists() {
        println!("SKIPPED: no python3 that every user can run");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (own, all) = (std::fs::Permissions::from_mode(0o600), std::fs::Permissions::from_mode(0o755));
    std::fs::set_permissions(root.path(), all.clone()).unwrap();
    let server = root.path().join("server.py");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/server.py"), &server).unwrap();
    let program = root.path().join("launcher");
    std::fs::copy(launcher().program, &program).unwrap();
    for file in [&server, &program] {
        std::fs::set_permissions(file, all.clone()).unwrap();
    }
    // By its mode alone: the launcher is told of neither.
    let secret = root.path().join("secret");
    std::fs::write(&secret, "the key").unwrap();
    std::fs::set_permissions(&secret, own).unwrap();

    for sandboxed in [false, true] {
        let data = root.path().join(format!("data-{sandboxed}"));
        let mut options = options(&data);
        options.user = Some((NOBODY, NOBODY));
        options.launcher = sandboxed.then(|| Launcher { program: program.clone(), args: Vec::new() });
        let runtime = ProcessRuntime::new(options).unwrap();
        let line = Program::Command {
            command: python.to_str().unwrap().into(),
            args: vec![server.to_str().unwrap().into(), "legacy".into()],
        };
        let running = ensure(&runtime, &Arc::new(workload("other", line))).await.unwrap();
        let session = Session::open(&running.upstream).await.unwrap();
        let pid = session.call("pid", json!({})).await.unwrap()["pid"].as_i64().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let ids = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().map(|id| id.parse::<u32>().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((ids("Uid:"), ids("Gid:")), (vec![NOBODY; 4], vec![NOBODY; 4]));
        assert!(ids("Groups:").is_empty(), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");

        let home = session.call("environ", json!({})).await.unwrap()["HOME"].as_str().unwrap().to_owned();
        let mine = format!("{home}/mine");
        assert_eq!(session.call("write", json!({"path": mine})).await.unwrap()["written"], true);
        assert!(session.call("read", json!({"path": mine})).await.unwrap()["text"].is_string());
        let gateway = std::process::id();
        for path in
            [secret.to_str().unwrap(), data.to_str().unwrap(), &format!("/proc/{gateway}/environ"), "/etc/shadow"]
        {
            let got = session.call("read", json!({"path": path})).await.unwrap();
            assert!(got["refused"].is_string(), "{path}: {got}");
        }
        let got = session.call("kill", json!({"pid": gateway})).await.unwrap();
        assert!(got["refused"].is_string(), "{got}");
        runtime.shutdown().await;
        assert!(!is_alive(pid));
    }
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

#[tokio::test]
async fn the_end_of_a_replaced_workload_is_waited_for() {
    for removes in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
        // It ends by force alone, at the end of its grace.
        let old = Arc::new(workload("replaced", script("stubborn")));
        let server = ensure(&runtime, &old).await.unwrap();
        let session = Session::open(&server.upstream).await.unwrap();
        let pid = session.call("pid", json!({})).await.unwrap()["pid"].as_i64().unwrap();
        // The other one replaces it at once, whenever it is ready itself.
        let new = Arc::new(Workload { digest: "2".into(), ..workload("replaced", script("legacy")) });
        assert!(runtime.ensure(&new).now_or_never().is_none());
        assert!(is_alive(pid), "it has ended before anybody could wait for it");
        if removes {
            runtime.stop(&old.id).await.unwrap();
            assert!(runtime.remove(&old.id).await.unwrap());
            assert!(!dir.path().join("children/replaced").exists());
        } else {
            runtime.shutdown().await;
        }
        assert!(!is_alive(pid), "it was not waited for");
    }
}

#[tokio::test]
async fn what_is_kept_of_servers_is_known_to_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let id = WorkloadId("a-b:0f/_".into());
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    ensure(&runtime, &Arc::new(workload(&id.0, script("legacy")))).await.unwrap();
    runtime.shutdown().await;
    drop(runtime);
    // One was killed while it removed something.
    std::fs::create_dir(dir.path().join("children/.gone-1")).unwrap();

    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    assert!(!dir.path().join("children/.gone-1").exists());
    assert_eq!(runtime.kept().await.unwrap(), std::slice::from_ref(&id));
    assert!(runtime.list().await.unwrap().is_empty());
    runtime.remove(&id).await.unwrap();
    assert!(runtime.kept().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("children")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_workload_that_starts_again_while_it_is_removed_keeps_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let spec = Arc::new(workload("again", script("stubborn")));
    let server = ensure(&runtime, &spec).await.unwrap();
    let _session = Session::open(&server.upstream).await.unwrap();
    runtime.stop(&spec.id).await.unwrap();
    let starts = async {
        // The removal waits for the end of the old child, which takes its time.
        tokio::task::yield_now().await;
        ensure(&runtime, &spec).await.unwrap();
    };
    let (removed, ()) = tokio::join!(runtime.remove(&spec.id), starts);
    assert!(!removed.unwrap());
    assert!(dir.path().join("children/again/home").exists());
    assert_eq!(runtime.observe(&spec.id).await.unwrap().unwrap().state, WorkloadState::Running);
}

#[tokio::test]
async fn a_stop_ends_what_is_still_starting() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    // It answers nothing, so that its start would last as long as it may.
    let spec = Arc::new(workload("silent", script("silent")));
    let children = async || runtime.observe(&spec.id).await.unwrap().map(|seen| seen.children);
    let stops = async {
        while children().await != Some(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!runtime.remove(&spec.id).await.unwrap(), "what starts is not removed");
        runtime.stop(&spec.id).await.unwrap();
    };
    let both = async { tokio::join!(runtime.ensure(&spec), stops) };
    let (started, ()) =
        tokio::time::timeout(spec.startup_timeout / 2, both).await.expect("the start ends with the stop");
    assert_eq!(started.err().unwrap().kind, RuntimeErrorKind::Failed);
    let ends = async {
        while children().await != Some(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(spec.startup_timeout / 2, ends).await.expect("the child ends with the stop");
    assert_eq!(runtime.observe(&spec.id).await.unwrap().unwrap().state, WorkloadState::Stopped);
}

#[tokio::test]
async fn what_a_removal_has_left_goes_with_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = ProcessRuntime::new(options(dir.path())).unwrap();
    let children = dir.path().join("children");
    for name in [".gone-a~1/home", ".gone-b~1", "a/home/closed/deep"] {
        std::fs::create_dir_all(children.join(name)).unwrap();
    }
    // As a server may leave it; nothing keeps root out.
    let closed = std::fs::Permissions::from_mode(0o500);
    std::fs::set_permissions(children.join("a/home/closed"), closed).unwrap();
    assert!(runtime.remove(&WorkloadId("a".into())).await.unwrap());
    let left: Vec<_> = std::fs::read_dir(&children).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, [".gone-b~1"], "another server's is not its own");
}
