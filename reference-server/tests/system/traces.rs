//! What a collector receives, and that a collector which is away harms nobody.
//!
//! On several threads: waiting for the end of the gateway blocks one, and the collector must go on.

use http::StatusCode;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Verdict;
use prost::Message as _;
use serde_json::json;

use crate::support::{Gateway, Upstream, mcp, upstream};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const RESULT: &str = r#"{"jsonrpc":"2.0","id":"traced","result":{"content":[],"resultType":"complete"}}"#;

/// A collector that takes everything.
async fn collector() -> Upstream {
    Upstream::start(|_| {
        http::Response::builder().header("content-type", "application/x-protobuf").body("".into()).unwrap()
    })
    .await
}

fn settings(collector: &Upstream) -> (&'static str, String) {
    ("TELEMETRY__TRACES__ENDPOINT", format!("http://{}/v1/traces", collector.address))
}

/// What has arrived: each span with its service's name.
fn received(collector: &Upstream) -> Vec<(String, Span)> {
    let mut spans = Vec::new();
    for batch in collector.arrived() {
        assert_eq!(
            (batch.path.as_str(), &batch.headers["content-type"]),
            ("/v1/traces", &"application/x-protobuf".parse().unwrap())
        );
        for of in ExportTraceServiceRequest::decode(batch.body).unwrap().resource_spans {
            let resource = of.resource.unwrap_or_default();
            let service = resource.attributes.iter().find(|pair| pair.key == "service.name");
            let service = service.and_then(|pair| pair.value.clone()?.value);
            let Some(Any::StringValue(service)) = service else { panic!("no name of the service") };
            let own = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(own.map(|span| (service.clone(), span)));
        }
    }
    spans
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value?;
    Some(match value {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        other => panic!("{name} is {other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_kind(spans: &[(String, Span)], kind: SpanKind) -> &Span {
    let found: Vec<_> = spans.iter().filter(|(_, span)| span.kind() == kind).collect();
    assert_eq!(found.len(), 1, "{spans:#?}");
    &found[0].1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_two_spans_between_its_caller_and_its_server() {
    let collector = collector().await;
    let server = Upstream::start(|_| upstream::json(RESULT)).await;
    let (name, url) = settings(&collector);
    let settings = [(name, url.as_str()), ("TELEMETRY__TRACES__SERVICE_NAME", "gateway-of-the-test")];
    let mut gateway = Gateway::start_with(&[server.entry("remote")], &settings).await;
    let key = gateway.key().await;
    let call = mcp::modern_tool("remote", &key, "traced", "greet", &json!({ "name": "an-argument" }));
    call.header("traceparent", PARENT).send(gateway.address).await.expect(200);
    let row = gateway.audit_of(1, |row| row["rpc_id"] == "\"traced\"").await.remove(0);
    // Long before the next batch is due: the last ones go with the end of the process.
    gateway.process.stop();

    let spans = received(&collector);
    let (exchange, call) = (of_kind(&spans, SpanKind::Server), of_kind(&spans, SpanKind::Client));
    assert_eq!(spans[0].0, "gateway-of-the-test");
    for span in [exchange, call] {
        assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span.name, "tools/call");
        assert_eq!(attribute(span, "mcp.method.name").unwrap(), "tools/call");
        assert_eq!(attribute(span, "mcp.protocol.version").unwrap(), mcp::MODERN);
        assert_eq!(attribute(span, "gen_ai.tool.name").unwrap(), "greet");
        assert_eq!(attribute(span, "mcp_gateway.server.id").unwrap(), "remote");
        assert_eq!(attribute(span, "error.type"), None);
    }
    assert_eq!(hex(&exchange.parent_span_id), "b7ad6b7169203331");
    assert_eq!(attribute(exchange, "http.response.status_code").unwrap(), "200");
    assert_eq!(call.parent_span_id, exchange.span_id);
    assert!(exchange.start_time_unix_nano <= call.start_time_unix_nano);
    assert_eq!(exchange.end_time_unix_nano, call.end_time_unix_nano);
    // The server was told of the very span that is its parent.
    let told = server.arrived()[0].headers["traceparent"].to_str().unwrap().to_owned();
    assert_eq!(told, format!("00-{}-{}-01", hex(&call.trace_id), hex(&call.span_id)));
    // And the trail knows the same trace and times.
    assert_eq!(row["trace_id"], hex(&exchange.trace_id));
    assert_eq!(row["request_id"], attribute(exchange, "mcp_gateway.request.id").unwrap());
    let took = exchange.end_time_unix_nano - exchange.start_time_unix_nano;
    assert_eq!(row["total_us"], took / 1_000);
    let everything: Vec<u8> = collector.arrived().iter().flat_map(|batch| batch.body.to_vec()).collect();
    for secret in ["an-argument", &key.secret] {
        assert!(!everything.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} is in a span");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_and_the_ratio_say_what_is_recorded_and_failures_show() {
    let collector = collector().await;
    let server = Upstream::start(|_| {
        http::Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body("".into()).unwrap()
    })
    .await;
    let (name, url) = settings(&collector);
    let settings = [(name, url.as_str()), ("TELEMETRY__TRACES__SAMPLE_RATIO", "0")];
    let mut gateway = Gateway::start_with(&[server.entry("remote")], &settings).await;
    let key = gateway.key().await;
    let call = |id: &str| mcp::modern_tool("remote", &key, id, "greet", &json!({}));
    call("none").send(gateway.address).await;
    call("unsampled").header("traceparent", &PARENT.replace("-01", "-00")).send(gateway.address).await;
    call("sampled").header("traceparent", PARENT).send(gateway.address).await;
    gateway.process.stop();
    let spans = received(&collector);
    let exchange = of_kind(&spans, SpanKind::Server);
    assert_eq!(hex(&exchange.parent_span_id), "b7ad6b7169203331");
    assert_eq!(exchange.status.as_ref().unwrap().code(), Verdict::Error, "{exchange:#?}");
    assert_eq!(attribute(exchange, "error.type"), attribute(exchange, "http.response.status_code"));
    assert!(server.arrived()[0].headers["traceparent"].to_str().unwrap().ends_with("-00"));

    // Without a word of the caller the ratio decides, and the server hears of it.
    let settings = [(name, url.as_str())];
    let mut gateway = Gateway::start_with(&[server.entry("remote")], &settings).await;
    let key = gateway.key().await;
    mcp::modern_tool("remote", &key, "own", "greet", &json!({})).send(gateway.address).await;
    gateway.process.stop();
    let spans = received(&collector).split_off(spans.len());
    assert!(of_kind(&spans, SpanKind::Server).parent_span_id.is_empty());
    let told = server.arrived().pop().unwrap().headers["traceparent"].to_str().unwrap().to_owned();
    assert_eq!(
        told,
        format!("00-{}-{}-01", hex(&spans[0].1.trace_id), hex(&of_kind(&spans, SpanKind::Client).span_id))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_fails_or_is_away_harms_no_call() {
    let failing =
        Upstream::start(|_| http::Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body("".into()).unwrap())
            .await;
    let away = crate::support::gateway::free_address();
    let server = Upstream::start(|_| upstream::json(RESULT)).await;
    for endpoint in [settings(&failing).1, format!("http://{away}/v1/traces")] {
        let settings = [("TELEMETRY__TRACES__ENDPOINT", endpoint.as_str()), ("TELEMETRY__TRACES__QUEUE_SPANS", "4")];
        let mut gateway = Gateway::start_with(&[server.entry("remote")], &settings).await;
        let key = gateway.key().await;
        // More than there is room for.
        for n in 0..20 {
            mcp::modern_tool("remote", &key, n, "greet", &json!({})).send(gateway.address).await.expect(200);
        }
        let rows = gateway.audit_of(20, |row| row["kind"] == "exchange").await;
        assert_eq!(rows.len(), 20);
        assert!(gateway.process.is_running());
        gateway.process.stop();
    }
}
