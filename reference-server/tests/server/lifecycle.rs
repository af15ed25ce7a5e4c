//! How a server ends.

use std::time::{Duration, Instant};

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::net::TcpStream;

use crate::harness::{client, config, config_with, start, upstream};

#[tokio::test]
async fn a_slow_call_finishes_and_a_new_connection_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(config_with(dir.path(), upstream().await)).await;
    let call = tokio::spawn(client().request(server.call("1000")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = TcpStream::connect(server.address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!server.ended.is_finished(), "the server waits for the call");
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.starts_with(br#"{"id":1"#), "{body:?}");
    server.ended().await;
}

#[tokio::test]
async fn an_open_stream_ends_cleanly_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(config_with(dir.path(), upstream().await)).await;
    let request = server.get();
    let response = client().request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ": hello\n\n");
    let began = Instant::now();
    server.stop();
    assert!(body.frame().await.is_none(), "the stream ends as a server ends it, not by a broken connection");
    server.ended().await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn after_the_time_to_drain_calls_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_with(dir.path(), upstream().await);
    config.drain_seconds = 1;
    let mut server = start(config).await;
    let call = tokio::spawn(client().request(server.call("60000")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    server.stop();
    assert!(call.await.unwrap().is_err());
    assert!(began.elapsed() >= Duration::from_secs(1));
    server.ended().await;
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(config_with(dir.path(), upstream().await)).await;
    let call = tokio::spawn(client().request(server.call("60000")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    server.stop();
    server.cut();
    assert!(call.await.unwrap().is_err());
    server.ended().await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_idle_connection_is_closed_when_the_drain_begins() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(config(dir.path())).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    server.stop();
    server.ended().await;
    drop(idle);
    assert!(began.elapsed() < Duration::from_secs(4));
}
