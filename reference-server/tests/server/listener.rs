//! The limits and protocols of the listeners.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{config, config_with, get, start, upstream};

#[tokio::test]
async fn http2_is_spoken_without_tls_to_who_begins_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config_with(dir.path(), upstream().await)).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let response = client.request(server.call("fast")).await.unwrap();
    assert_eq!((response.version(), response.status()), (Version::HTTP_2, StatusCode::OK));
    drop((response, client));
    server.ended().await;
}

#[tokio::test]
async fn who_says_nothing_or_half_a_head_is_hung_up_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.limits.head_timeout_seconds = 1;
    let server = start(config).await;
    // The preface of HTTP/2 and empty SETTINGS (RFC 9113 §3.4).
    let http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for said in ["", "PR", "POST / HTTP/1.1\r\nhost: x\r\n", http2] {
        let began = Instant::now();
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await;
        // The end may come as a reset.
        let _ = read.unwrap_or_else(|_| panic!("{said:?} is never hung up on"));
        assert!(began.elapsed() >= Duration::from_millis(900), "{said:?}");
    }
    server.ended().await;
}

#[tokio::test]
async fn a_connection_that_has_called_may_be_idle_for_longer_than_a_head_may_take() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.limits.head_timeout_seconds = 1;
    let server = start(config).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /livez HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    for _ in 0..2 {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let count = socket.read(&mut answer).await.unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    drop(socket);
    server.ended().await;
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_after_its_requests_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_with(dir.path(), upstream().await);
    config.limits.keep_alive_seconds = 1;
    let server = start(config).await;
    let (edge, patience) = (Duration::from_millis(900), Duration::from_secs(10));

    let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut http1, connection) = hyper::client::conn::http1::handshake(socket).await.unwrap();
    let http1_ends = tokio::spawn(connection);
    let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut http2, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    let mut http2_ends = tokio::spawn(connection);

    // A call that takes longer than the limit: a connection that waits for its answer is not idle.
    let mut call = server.call("1500");
    call.headers_mut().insert("host", server.address.to_string().parse().unwrap());
    let (one, two) = tokio::join!(http1.send_request(call.clone()), http2.send_request(server.call("1500")));
    for answer in [one, two] {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap();
    }
    let idle = Instant::now();
    tokio::time::timeout(patience, http1_ends).await.expect("HTTP/1.1 is closed").unwrap().unwrap();
    assert!(idle.elapsed() >= edge, "{:?}", idle.elapsed());
    tokio::time::timeout(patience, &mut http2_ends).await.expect("HTTP/2 is closed").unwrap().unwrap();
    assert!(idle.elapsed() >= edge, "{:?}", idle.elapsed());
    server.ended().await;
}

#[tokio::test]
async fn an_open_stream_keeps_its_http2_connection() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_with(dir.path(), upstream().await);
    config.limits.keep_alive_seconds = 1;
    let server = start(config).await;
    let socket = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut http2, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut stream = http2.send_request(server.get()).await.unwrap().into_body();
    assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), ": hello\n\n");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(!connection.is_finished());
    drop(stream);
    tokio::time::timeout(Duration::from_secs(10), connection).await.expect("it is closed").unwrap().unwrap();
    server.ended().await;
}

#[tokio::test]
async fn a_stream_begins_behind_the_answers_before_it_and_is_the_last_of_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config_with(dir.path(), upstream().await)).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let livez = format!("GET /livez HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    let stream = format!(
        "GET /mcp-connect/slow HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\nauthorization: Bearer {}\r\n\r\n",
        server.address,
        server.key.as_deref().unwrap()
    );
    socket.write_all(format!("{livez}{livez}{stream}{livez}").as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"9\r\n: hello\n\n\r\n") {
        assert!(socket.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
    }
    let text = String::from_utf8(read).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text}");
    assert_eq!(text.matches("\r\nconnection: close\r\n").count(), 1, "{text}");
    // The drain ends the stream as its server would: with a last chunk.
    let mut rest = String::new();
    let (_, read) = tokio::join!(server.ended(), socket.read_to_string(&mut rest));
    read.unwrap();
    assert_eq!(rest, "0\r\n\r\n");
}

#[tokio::test]
async fn header_fields_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.limits.header_count = 10;
    let server = start(config).await;
    for (fields, status) in [(9, "200"), (10, "431")] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let mut request = format!("GET /livez HTTP/1.1\r\nhost: {}\r\n", server.address);
        for field in 0..fields {
            request.push_str(&format!("x-{field}: 1\r\n"));
        }
        socket.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer).unwrap(), format!("HTTP/1.1 {status}"), "{fields} and host");
    }
    server.ended().await;
}

#[tokio::test]
async fn only_the_listener_of_operations_answers_to_any_host() {
    let dir = tempfile::tempdir().unwrap();
    let mut with_ops = config(dir.path());
    with_ops.ops_listen = Some(([127, 0, 0, 1], 0).into());
    let server = start(with_ops).await;
    let (public, ops) = (server.address, server.ops_address.unwrap());
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(format!("http://{ops}{path}"), Some("10.1.2.3:9090")).await.0, StatusCode::OK, "{path}");
        assert_eq!(get(format!("http://{public}{path}"), None).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/", "/api/v1/entries", "/.well-known/oauth-protected-resource/mcp-connect/a", "/mcp-connect/a"] {
        let url = format!("http://{public}{path}");
        assert_eq!(get(url, Some("evil.example")).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(get(format!("http://{ops}/mcp-connect/a"), None).await.0, StatusCode::NOT_FOUND);
    server.ended().await;
}

#[tokio::test]
async fn the_metadata_of_a_resource_does_not_tell_whether_it_exists() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config_with(dir.path(), upstream().await)).await;
    let url = |id: &str| format!("http://{}/.well-known/oauth-protected-resource/mcp-connect/{id}", server.address);
    let (status, known) = get(url("slow"), None).await;
    assert_eq!(status, StatusCode::OK);
    let document: serde_json::Value = serde_json::from_str(&known).unwrap();
    assert_eq!(document["resource"], format!("http://{}/mcp-connect/slow", server.address));
    assert_eq!(document["bearer_methods_supported"], serde_json::json!(["header"]));
    assert_eq!(document["authorization_servers"], serde_json::json!([format!("http://{}", server.address)]));
    let (status, unknown) = get(url("none"), None).await;
    assert_eq!((status, unknown), (StatusCode::OK, known.replace("slow", "none")));
    assert_eq!(get(url("Not_An_Id"), None).await.0, StatusCode::NOT_FOUND);
    server.ended().await;
}

#[tokio::test]
async fn pages_may_read_the_metadata_with_headers_of_mcp() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    let url = format!("http://{}/.well-known/oauth-protected-resource/mcp-connect/a", server.address);
    let preflight = Request::options(&url)
        .header("origin", "https://client.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "mcp-protocol-version");
    let answer = crate::harness::client().request(preflight.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.headers()["access-control-allow-methods"], "GET");
    assert_eq!(answer.headers()["access-control-allow-headers"], "*");
    assert!(answer.headers().get("access-control-allow-credentials").is_none());
    server.ended().await;
}

#[tokio::test]
async fn answers_of_the_router_carry_security_headers() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config(dir.path())).await;
    let request = Request::get(format!("http://{}/nothing", server.address)).body(Full::<Bytes>::default()).unwrap();
    let response = crate::harness::client().request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let headers = response.headers();
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(headers["x-frame-options"], "DENY");
    assert_eq!(headers["cache-control"], "no-store");
    assert!(headers.get("access-control-allow-origin").is_none());
    server.ended().await;
}
