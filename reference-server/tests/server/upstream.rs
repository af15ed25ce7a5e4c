//! The way to the servers.

use std::net::{SocketAddr, TcpListener};

use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::{client, config_with, get, start, upstream};

#[tokio::test]
async fn connections_to_servers_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(config_with(dir.path(), upstream().await)).await;
    let counted = async || {
        let (_, text) = get(format!("http://{}/metrics", server.address), None).await;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
            line.trim().parse::<u64>().unwrap()
        };
        (
            value("mcp_gateway_upstream_connections{protocol=\"http/1.1\"}"),
            value("mcp_gateway_upstream_connections_idle"),
        )
    };
    assert_eq!(counted().await, (0, 0));
    for _ in 0..2 {
        let answer = client().request(server.call("fast")).await.unwrap();
        answer.into_body().collect().await.unwrap();
        assert_eq!(counted().await, (1, 1));
    }
    // The stream takes the one that is idle.
    let stream = client().request(server.get()).await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    assert_eq!(counted().await, (1, 0));
    drop(stream);
    while counted().await != (0, 0) {
        tokio::task::yield_now().await;
    }
    server.ended().await;
}

#[tokio::test]
async fn the_gateway_is_no_server_of_its_own() {
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // One that names the public URL is refused with its entry; the others where they lead is known, at the call.
    let (absent, refused) = (StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY);
    for (host, status) in [
        ("127.0.0.1", absent),
        ("localhost", refused),
        ("[::1]", refused),
        ("[::ffff:127.0.0.1]", refused),
        ("0.0.0.0", refused),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config_with(dir.path(), listen);
        let entry = dir.path().join("catalog/slow.yaml");
        let text = std::fs::read_to_string(&entry).unwrap();
        std::fs::write(&entry, text.replace("127.0.0.1", host)).unwrap();
        config.listen = listen;
        config.egress.allow = vec!["127.0.0.0/8".to_owned(), "::/0".to_owned(), "0.0.0.0/8".to_owned()];
        let server = start(config).await;
        let answer = client().request(server.call("fast")).await.unwrap();
        assert_eq!(answer.status(), status, "{host}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(status == absent || text.contains("gateway's own address"), "{host}: {text}");
        server.ended().await;
    }
}

/// Opens one tunnel to `upstream`, whatever is asked for, and returns the head that asked.
async fn proxy(upstream: SocketAddr) -> (SocketAddr, JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(socket.read_line(&mut head).await.unwrap(), 0, "{head}");
        }
        socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
        let mut to = TcpStream::connect(upstream).await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut socket, &mut to).await });
        head
    });
    (address, asked)
}

#[tokio::test]
async fn servers_elsewhere_are_reached_through_the_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = upstream().await;
    let (proxy, asked) = proxy(upstream).await;
    let mut config = config_with(dir.path(), upstream);
    config.egress.proxy = Some(format!("http://ada:s3cret@{proxy}"));
    let entry = |server: String| {
        let entry = format!("{{entryKey: slow, name: Slow, runtime: remote, remoteConfig: {{fixedURL: '{server}'}}}}");
        std::fs::write(dir.path().join("catalog/slow.yaml"), entry).unwrap();
    };
    entry("http://mcp.example/mcp".to_owned());
    let server = start(config.clone()).await;
    let answer = client().request(server.call("fast")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let head = asked.await.unwrap();
    assert!(head.starts_with("CONNECT mcp.example:80 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("proxy-authorization: basic ywrhonmzy3jldA==".to_ascii_lowercase().as_str()),
        "{head}"
    );
    server.ended().await;
    // What is allowed on purpose needs no proxy, and this one is gone.
    let dir = tempfile::tempdir().unwrap();
    let mut direct = config_with(dir.path(), upstream);
    direct.egress.proxy = Some(format!("http://{proxy}"));
    let server = start(direct).await;
    assert_eq!(client().request(server.call("fast")).await.unwrap().status(), StatusCode::OK);
    server.ended().await;
}
