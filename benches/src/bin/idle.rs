//! Opens so many GET streams, each on a connection of its own, prints how many are open, and holds them until its
//! standard input ends.
//!
//! The value of `Authorization` comes from the environment, `BENCH_AUTHORIZATION`.

use std::io::Write as _;

use anyhow::{Context as _, ensure};
use clap::Parser;
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Parser)]
struct Options {
    /// The stream to open.
    #[arg(long, default_value = "http://127.0.0.1:9100/mcp")]
    url: Uri,
    /// How many.
    #[arg(long)]
    streams: usize,
}

/// Connections under way at once: more would overflow a listener's queue.
const AT_ONCE: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let authority = options.url.authority().context("the URL names no host")?.to_string();
    let authorization = std::env::var("BENCH_AUTHORIZATION");
    let authorization = authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\n\
         {authorization}\r\n",
        options.url.path()
    );
    let mut open = Vec::with_capacity(options.streams);
    while open.len() < options.streams {
        let batch = (0..AT_ONCE.min(options.streams - open.len())).map(|_| stream(&authority, &head));
        open.extend(futures_util::future::try_join_all(batch).await?);
    }
    writeln!(std::io::stdout(), "{} streams are open", open.len())?;
    std::io::stdout().flush()?;
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

/// A connection whose stream has begun.
async fn stream(authority: &str, head: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(authority).await?;
    stream.write_all(head.as_bytes()).await?;
    let (mut answer, mut chunk) = (Vec::new(), [0; 1024]);
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        ensure!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..read]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "no stream: {}", String::from_utf8_lossy(&answer));
    Ok(stream)
}
