use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditSink, WorkloadState};
use mcp_gateway_core::memory::MemoryAuditSink;
use mcp_gateway_core::record::Subject;
use mcp_gateway_core::wire::method::Method;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use ulid::Ulid;

use super::*;
use crate::api::tests::world::World;

fn exchange(server: &str, method: &str, outcome: Outcome) -> AuditEvent {
    let mut event = AuditEvent::new(Timestamp::UNIX_EPOCH, Ulid::nil(), Category::Mcp, EventKind::Exchange);
    event.server = Some(server.into());
    event.method = Some(method.to_owned().into());
    event.outcome = outcome;
    (event.upstream_us, event.first_byte_us, event.total_us) = (Some(2_000), Some(2_040), 3_000);
    (event.bytes_in, event.bytes_out) = (10, 20);
    event
}

/// A sample: its labels, and its value.
type Samples = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

/// Reads OpenMetrics text (1.0.0) and fails on whatever the format forbids.
fn parse(text: &str) -> Samples {
    assert!(text.ends_with("# EOF\n"));
    let (mut families, mut samples) = (BTreeMap::new(), Samples::new());
    let mut lines = text.lines().peekable();
    let mut current: Option<(String, String)> = None;
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(lines.peek().is_none(), "something follows EOF");
            break;
        }
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (keyword, name, text) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match keyword {
                "HELP" => assert!(text.ends_with('.') && families.insert(name.to_owned(), ()).is_none(), "{line}"),
                "TYPE" => current = Some((name.to_owned(), text.to_owned())),
                "UNIT" => assert!(name.ends_with(&format!("_{text}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (family, kind) = current.as_ref().unwrap();
        let end = line.find(['{', ' ']).unwrap();
        let suffix = line[..end].strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => panic!("{kind}"),
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let (labels, value) = match line[end..].strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ").unwrap(),
            None => ("", &line[end + 1..]),
        };
        let labels: BTreeMap<String, String> = labels
            .split_terminator("\",")
            .map(|pair| pair.split_once("=\"").unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
            .collect();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value >= 0.0, "{line}");
        let all = samples.entry(line[..end].to_owned()).or_default();
        assert!(all.iter().all(|(others, _)| *others != labels), "{line} is there twice");
        all.push((labels, value));
    }
    samples
}

fn value(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let found = samples
        .get(name)?
        .iter()
        .find(|(found, _)| labels.iter().all(|(name, value)| found.get(*name).is_some_and(|found| found == value)));
    found.map(|(_, value)| *value)
}

fn sink(world: &World) -> (MeteredSink, Arc<MemoryAuditSink>) {
    let inner = Arc::new(MemoryAuditSink::new(1_000_000));
    (MeteredSink::new(inner.clone() as Arc<dyn AuditSink>, world.app.metrics.clone()), inner)
}

#[tokio::test]
async fn events_are_counted_by_server_method_and_outcome() {
    let world = World::new().await;
    let (sink, inner) = sink(&world);
    for outcome in [Outcome::Ok, Outcome::Ok, Outcome::ToolError] {
        let event = exchange("everything", "tools/call", outcome);
        let intent = AuditEvent { kind: EventKind::Intent, ..event.clone() };
        sink.record(intent).await.unwrap();
        sink.record(event).await.unwrap();
    }
    let mut refused = AuditEvent::new(Timestamp::UNIX_EPOCH, Ulid::nil(), Category::Mcp, EventKind::Refused);
    (refused.outcome, refused.status) = (Outcome::Denied, 403);
    sink.record(refused.clone()).await.unwrap();
    (refused.kind, refused.status, refused.messages) = (EventKind::RefusedMany, 401, 7);
    sink.record(refused).await.unwrap();
    let mut opened = exchange("everything", "x", Outcome::Ok);
    opened.kind = EventKind::Opened;
    sink.record(opened).await.unwrap();
    let mut admin = exchange("everything", "tools/call", Outcome::Ok);
    admin.category = Category::Admin;
    sink.record(admin).await.unwrap();
    inner.refuse(Some(AuditFull::Stalled));
    assert!(sink.record(exchange("everything", "tools/list", Outcome::Ok)).await.is_err());

    let text = render(&world.app).await;
    let samples = parse(&text);
    let call = [("server", "everything"), ("method", "tools/call")];
    let outcomes = |outcome| [call[0], call[1], ("outcome", outcome)];
    assert_eq!(value(&samples, "mcp_gateway_calls_total", &outcomes("ok")), Some(2.0), "{text}");
    assert_eq!(value(&samples, "mcp_gateway_calls_total", &outcomes("tool_error")), Some(1.0));
    assert_eq!(value(&samples, "mcp_gateway_errors_total", &call), Some(1.0));
    assert_eq!(value(&samples, "mcp_gateway_call_duration_seconds_sum", &call), Some(0.009));
    assert_eq!(value(&samples, "mcp_gateway_upstream_duration_seconds_sum", &call), Some(0.006));
    assert_eq!(value(&samples, "mcp_gateway_gateway_duration_seconds_sum", &call), Some(0.000_12));
    for (bound, count) in [("0.000025", 0.0), ("0.00005", 3.0), ("+Inf", 3.0)] {
        let labels = [call[0], call[1], ("le", bound)];
        assert_eq!(value(&samples, "mcp_gateway_gateway_duration_seconds_bucket", &labels), Some(count), "{text}");
    }
    assert_eq!(value(&samples, "mcp_gateway_body_bytes_total", &[call[0], call[1], ("direction", "out")]), Some(60.0));
    assert_eq!(value(&samples, "mcp_gateway_refusals_total", &[("status", "403")]), Some(1.0));
    assert_eq!(value(&samples, "mcp_gateway_refusals_total", &[("status", "401")]), Some(7.0));
    assert_eq!(value(&samples, "mcp_gateway_messages_total", &[call[0], ("kind", "opened")]), Some(1.0));
    assert_eq!(value(&samples, "mcp_gateway_audit_lost_events_total", &[("reason", "stalled")]), Some(1.0));
    assert_eq!(value(&samples, "mcp_gateway_audit_lost_events_total", &[("reason", "space")]), Some(0.0));
}

#[tokio::test]
async fn callers_make_no_labels() {
    let world = World::new().await;
    let (sink, _) = sink(&world);
    sink.record(exchange("everything", "tools/call", Outcome::Ok)).await.unwrap();
    let before = parse(&render(&world.app).await);
    for n in 0..500 {
        // Methods of a caller's own; paths that name no server; statuses that nobody knows.
        sink.record(exchange("everything", &format!("evil/{n}\"}} 1\n"), Outcome::RpcError)).await.unwrap();
        let mut refused = exchange("x", "tools/call", Outcome::Denied);
        (refused.kind, refused.server, refused.target) = (EventKind::Refused, None, Some(format!("evil-{n}").into()));
        refused.status = 1_000 + n;
        sink.record(refused.clone()).await.unwrap();
        refused.kind = EventKind::Exchange;
        sink.record(refused).await.unwrap();
    }
    let text = render(&world.app).await;
    assert!(!text.contains("evil"));
    let after = parse(&text);
    let methods: BTreeSet<_> =
        after["mcp_gateway_calls_total"].iter().map(|(labels, _)| labels["method"].clone()).collect();
    assert_eq!(methods, BTreeSet::from(["other".to_owned(), "tools/call".to_owned()]));
    let other = [("server", "everything"), ("method", "other"), ("outcome", "rpc_error")];
    assert_eq!(value(&after, "mcp_gateway_calls_total", &other), Some(500.0));
    assert_eq!(value(&after, "mcp_gateway_refusals_total", &[("status", "other")]), Some(1_000.0));
    assert_eq!(
        after["mcp_gateway_refusals_total"].len(),
        before.get("mcp_gateway_refusals_total").map_or(0, Vec::len) + 1
    );
}

#[tokio::test]
async fn there_are_only_so_many_servers() {
    let metrics = Metrics::new();
    let count = |servers: std::ops::Range<usize>| {
        for n in servers {
            metrics.observe(&exchange(&format!("s{n}"), "ping", Outcome::Ok));
        }
    };
    count(0..Metrics::SERVERS);
    assert_eq!((metrics.calls.servers().len(), metrics.calls.overflows()), (Metrics::SERVERS, 0));
    count(0..Metrics::SERVERS + 5);
    let servers = metrics.calls.servers();
    assert_eq!((servers.len(), metrics.calls.overflows()), (Metrics::SERVERS + 1, 5));
    let (id, others) = servers.last().unwrap();
    let calls: u64 = others.methods().flat_map(|(_, series)| series.outcomes()).map(|(_, count)| count).sum();
    assert_eq!((&**id, calls), ("other", 5));
}

#[test]
fn every_method_has_a_counter_of_its_own() {
    let metrics = Metrics::new();
    for (n, method) in Method::ALL.iter().enumerate() {
        for _ in 0..=n {
            metrics.observe(&exchange("s", method.as_str(), Outcome::Ok));
        }
    }
    let servers = metrics.calls.servers();
    let counts = servers[0].1.methods().map(|(name, series)| (name, series.outcomes().next().unwrap().1));
    let wanted = Method::ALL.iter().enumerate().map(|(n, method)| (method.as_str(), n as u64 + 1));
    assert_eq!(counts.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

#[tokio::test]
async fn the_state_of_the_parts_is_shown() {
    let world = World::with_servers().await;
    world.runs("own", Some(Subject::local("ada")), WorkloadState::Running, None);
    world.runs("own", Some(Subject::local("bob")), WorkloadState::Failed, None);
    world.app.metrics.count_limiter_overflows(|| 4);
    world.app.metrics.count_panics(|| 5);
    world.clock.advance(Duration::from_secs(90));
    let leases = world.app.leases.clone();
    let (leads, led) = tokio::sync::oneshot::channel();
    let mut leads = Some(leads);
    tokio::spawn(async move {
        let work = |_| {
            let _ = leads.take().map(|leads| leads.send(()));
            std::future::pending()
        };
        leases.lead("keys", work).await;
    });
    led.await.unwrap();
    let samples = parse(&render(&world.app).await);
    for (name, labels, wanted) in [
        ("mcp_gateway_children", &[("server", "own")][..], 4.0),
        ("mcp_gateway_workload_restarts", &[("server", "own")], 6.0),
        ("mcp_gateway_workloads", &[("state", "running")], 1.0),
        ("mcp_gateway_workloads", &[("state", "failed")], 1.0),
        ("mcp_gateway_servers", &[], 3.0),
        ("mcp_gateway_calls_in_flight", &[], 0.0),
        ("mcp_gateway_streams_open", &[], 0.0),
        ("mcp_gateway_upstream_connections", &[("protocol", "http/1.1")], 0.0),
        ("mcp_gateway_upstream_connections_idle", &[], 0.0),
        ("mcp_gateway_limiter_overflows_total", &[], 4.0),
        ("mcp_gateway_leases", &[("lease", "keys")], 1.0),
        ("mcp_gateway_background_panics_total", &[], 5.0),
        ("mcp_gateway_uptime_seconds", &[], 90.0),
        ("mcp_gateway_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        assert_eq!(value(&samples, name, labels), Some(wanted), "{name}");
    }
    assert!(value(&samples, "mcp_gateway_snapshot_revision", &[]).unwrap() > 0.0);
    let tasks = value(&samples, "mcp_gateway_tasks", &[]).unwrap();
    let _left = tokio::spawn(std::future::pending::<()>());
    assert_eq!(value(&parse(&render(&world.app).await), "mcp_gateway_tasks", &[]), Some(tasks + 1.0));

    // A runtime that is away takes nothing else with it.
    world.runtime.cut_off(Some(World::away()));
    let samples = parse(&render(&world.app).await);
    assert!(!samples.contains_key("mcp_gateway_children") && samples.contains_key("mcp_gateway_servers"));
}

async fn probe(world: &World, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router(world.app.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    assert_eq!(response.headers()["cache-control"], "no-store");
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn readiness(world: &World) -> (u16, Value) {
    let (status, body) = probe(world, "/readyz").await;
    (status.as_u16(), serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn readiness_follows_the_parts() {
    let world = World::new().await;
    let (status, body) = readiness(&world).await;
    assert_eq!((status, &body["status"]), (200, &json!("ok")), "{body}");

    // The store is away: degraded at first, refusing once keys can no longer be believed.
    world.store.cut();
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.clock.advance(Duration::from_secs(2));
    let (status, body) = readiness(&world).await;
    assert_eq!((status, &body["status"], &body["store"]["status"]), (200, &json!("degraded"), &json!("degraded")));
    world.clock.advance(Duration::from_secs(15 * 60));
    let (status, body) = readiness(&world).await;
    assert_eq!((status, &body["snapshot"]["status"]), (503, &json!("refusing")), "{body}");
    assert!(body["snapshot"]["staleness_ms"].as_u64().unwrap() > 900_000);
    assert_eq!(probe(&world, "/livez").await, (StatusCode::OK, "ok\n".to_owned()));

    let world = World::new().await;
    world.runtime.cut_off(Some(World::away()));
    let (status, body) = readiness(&world).await;
    assert_eq!((status, &body["runtime"]["status"]), (200, &json!("degraded")));
    world.unled.send_replace(vec!["keys"]);
    let (status, body) = readiness(&world).await;
    assert_eq!((status, &body["worker"]["status"]), (200, &json!("degraded")));
    world.app.draining.cancel();
    let (status, body) = readiness(&world).await;
    assert_eq!((status, &body["status"]), (503, &json!("draining")));
    let (status, text) = probe(&world, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    parse(&text);
}
