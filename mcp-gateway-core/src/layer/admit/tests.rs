use super::*;
use crate::contract::SystemClock;

fn parts(method: Method, path: &str, headers: &[(&'static str, String)]) -> (Parts, McpContext) {
    let mut request = http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let cx = McpContext::new(&SystemClock);
    let (parts, ()) = request.extension(cx.clone()).body(()).unwrap().into_parts();
    (parts, cx)
}

fn status(layer: &AdmitLayer, method: Method, headers: &[(&'static str, String)]) -> u16 {
    layer.admit(&parts(method, "/mcp-connect/a", headers).0).err().map_or(200, |refusal| refusal.status().as_u16())
}

fn layer(limits: AdmitLimits) -> AdmitLayer {
    AdmitLayer::new(&Mount::new("https://gw.example", "/mcp-connect").unwrap(), limits)
}

#[test]
fn every_limit_holds_at_its_edge() {
    let layer = layer(AdmitLimits { body_bytes: 10, header_count: 2, header_bytes: 40, calls: 9, streams: 9 });
    let length = |bytes: u64| [("content-length", bytes.to_string())];
    assert_eq!(status(&layer, Method::POST, &length(10)), 200);
    assert_eq!(status(&layer, Method::POST, &length(11)), 413);
    let fields = |count| vec![("a", String::new()); count];
    assert_eq!(status(&layer, Method::POST, &fields(2)), 200);
    assert_eq!(status(&layer, Method::POST, &fields(3)), 431);
    let wide = |bytes| [("a", "x".repeat(bytes))];
    assert_eq!(status(&layer, Method::POST, &wide(39)), 200);
    assert_eq!(status(&layer, Method::POST, &wide(40)), 431);
}

#[test]
fn methods_and_encodings() {
    let layer = layer(AdmitLimits::default());
    assert_eq!(status(&layer, Method::PUT, &[]), 405);
    assert_eq!(status(&layer, Method::OPTIONS, &[]), 405);
    assert_eq!(status(&layer, Method::POST, &[("content-encoding", "gzip".into())]), 415);
    assert_eq!(status(&layer, Method::POST, &[("content-encoding", "identity".into())]), 200);
    for name in ["content-encoding", "content-type"] {
        assert_eq!(status(&layer, Method::POST, &[(name, "identity".into()), (name, "identity".into())]), 400);
    }
}

#[test]
fn room_is_given_back_when_the_exchange_is_over() {
    let layer = layer(AdmitLimits { calls: 1, streams: 1, ..AdmitLimits::default() });
    let (first, first_cx) = parts(Method::POST, "/mcp-connect/a", &[]);
    assert!(layer.admit(&first).is_ok());
    assert_eq!(status(&layer, Method::POST, &[]), 503);
    assert_eq!(layer.calls().current(), 1);
    // Streams are counted apart, so that idle ones do not starve calls.
    assert_eq!(status(&layer, Method::GET, &[]), 200);
    drop((first, first_cx));
    assert_eq!(layer.calls().current(), 0);
    assert_eq!(status(&layer, Method::POST, &[]), 200);
}
