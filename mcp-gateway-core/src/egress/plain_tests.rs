use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::egress::{Connections, connector};

/// A server that does with each connection what the test says; counts them.
async fn server<F, W>(serve: F) -> (Uri, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp?x=1", listener.local_addr().unwrap()).parse().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(socket));
        }
    });
    (url, accepted)
}

fn client(idle_for: Duration) -> (PlainClient, Arc<Connections>) {
    let connections = Arc::<Connections>::default();
    let connector = connector(None, Duration::from_secs(10), Arc::clone(&connections));
    (PlainClient::new(connector, 2, idle_for), connections)
}

fn request(url: &Uri) -> Request<Body> {
    Request::post(url).header("host", "a").body(Body::from(Bytes::from_static(b"ping"))).unwrap()
}

/// Reads one request, whose body is `ping`; `None` at the end of the connection.
async fn read(socket: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"ping") {
        if socket.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    String::from_utf8(text).ok()
}

async fn called(client: &PlainClient, url: &Uri) -> String {
    let answer = client.request(request(url)).await.unwrap();
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npong";

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_connection_serves_one_call_after_the_other() {
    let (url, accepted) = server(|mut socket| async move {
        while let Some(text) = read(&mut socket).await {
            assert!(text.starts_with("POST /mcp?x=1 HTTP/1.1\r\n"), "{text}");
            socket.write_all(ANSWER).await.unwrap();
            // A body in chunks, and an answer without one.
            assert!(read(&mut socket).await.is_some());
            socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\npo\r\n").await.unwrap();
            tokio::task::yield_now().await;
            socket.write_all(b"2\r\nng\r\n0\r\n\r\n").await.unwrap();
            assert!(read(&mut socket).await.is_some());
            socket.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let (client, connections) = client(LONG);
    for _ in 0..3 {
        assert_eq!(called(&client, &url).await, "pong");
        assert_eq!(called(&client, &url).await, "pong");
        assert_eq!(called(&client, &url).await, "");
    }
    assert_eq!((accepted.load(Ordering::SeqCst), connections.http1()), (1, 1));
}

#[tokio::test]
async fn calls_at_once_have_connections_of_their_own_and_so_many_are_kept() {
    let (url, accepted) = server(|mut socket| async move {
        while read(&mut socket).await.is_some() {
            socket.write_all(ANSWER).await.unwrap();
        }
    })
    .await;
    let (client, connections) = client(LONG);
    let (a, b, c) =
        tokio::join!(client.request(request(&url)), client.request(request(&url)), client.request(request(&url)));
    for answer in [a, b, c] {
        assert_eq!(answer.unwrap().into_body().collect().await.unwrap().to_bytes(), "pong");
    }
    assert_eq!((accepted.load(Ordering::SeqCst), connections.http1()), (3, 2));
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_is_not_used_again() {
    let (closed, mut is_closed) = tokio::sync::mpsc::unbounded_channel();
    let (url, accepted) = server(move |mut socket| {
        let closed = closed.clone();
        async move {
            if read(&mut socket).await.is_some() {
                socket.write_all(ANSWER).await.unwrap();
            }
            drop(socket);
            closed.send(()).unwrap();
        }
    })
    .await;
    let (client, _) = client(LONG);
    for calls in 1..=3 {
        assert_eq!(called(&client, &url).await, "pong");
        is_closed.recv().await.unwrap();
        assert_eq!(accepted.load(Ordering::SeqCst), calls);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let (url, _) = server(|mut socket| async move {
        read(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npo").await.unwrap();
    })
    .await;
    let (client, connections) = client(LONG);
    let answer = client.request(request(&url)).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
    assert_eq!(connections.http1(), 0);
    let (url, _) = server(|socket| async move { drop(socket) }).await;
    assert!(matches!(client.request(request(&url)).await, Err(PlainError::Exchange(_))));
    let nobody: Uri = "http://127.0.0.1:1/".parse().unwrap();
    assert!(matches!(client.request(request(&nobody)).await, Err(PlainError::Connect(_))));
}

#[tokio::test]
async fn who_goes_away_closes_the_connection() {
    let (ended, mut has_ended) = tokio::sync::mpsc::unbounded_channel();
    let (url, _) = server(move |mut socket| {
        let ended = ended.clone();
        async move {
            read(&mut socket).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npo").await.unwrap();
            assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0);
            ended.send(()).unwrap();
        }
    })
    .await;
    let (client, connections) = client(LONG);
    let mut body = client.request(request(&url)).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "po");
    drop(body);
    has_ended.recv().await.unwrap();
    assert_eq!(connections.http1(), 0);
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time_or_when_their_server_has_closed_them() {
    let (close, _) = tokio::sync::broadcast::channel::<()>(1);
    let closer = close.clone();
    let (url, _) = server(move |mut socket| {
        let mut close = closer.subscribe();
        async move {
            tokio::select! {
                () = async { while read(&mut socket).await.is_some() { socket.write_all(ANSWER).await.unwrap() } } => {}
                _ = close.recv() => {}
            }
        }
    })
    .await;
    for (idle_for, closes) in [(SWEEP * 3, false), (LONG, true)] {
        let (client, connections) = client(idle_for);
        assert_eq!(called(&client, &url).await, "pong");
        tokio::time::pause();
        tokio::time::sleep(SWEEP * 2).await;
        assert_eq!(connections.http1(), 1);
        if closes {
            close.send(()).unwrap();
        }
        tokio::time::sleep(SWEEP * 2).await;
        assert_eq!(connections.http1(), 0);
        assert!(!client.0.lock().swept && client.0.lock().connections.is_empty());
        tokio::time::resume();
    }
}
