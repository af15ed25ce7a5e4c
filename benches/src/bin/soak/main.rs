//! The clients of the soak: a fast server at a steady rate, stdio servers in sessions and without, and among them callers
//! that hang up at random moments.
//!
//! Writes a line for each request that it sent, with blanks between: the server's id, the request's id, the mark of the
//! child that its session had (`-` when none is known), when it began and ended in µs since 1970, the status (0 when no
//! head came), and how it ended (see [`wire::End`]). The value of `Authorization` comes from the environment,
//! `BENCH_AUTHORIZATION`. Prints one line of JSON.

#![expect(clippy::disallowed_methods, reason = "connections are opened to one address that the user names")]

mod fast;
mod stdio;
mod wire;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser;
use http::{HeaderValue, Uri};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::wire::{End, Exchange};

#[derive(Parser)]
struct Options {
    /// The data plane: `http://…/mcp-connect`.
    #[arg(long)]
    url: Uri,
    /// Calls a second of the fast server; 0 for as many as it takes.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Keep-alive connections that share them.
    #[arg(long, default_value_t = 16)]
    connections: u32,
    /// How long.
    #[arg(long)]
    seconds: f64,
    /// Clients of legacy sessions.
    #[arg(long, default_value_t = 0)]
    sessions: u32,
    /// Modern clients of one shared child.
    #[arg(long, default_value_t = 0)]
    callers: u32,
    /// Clients that open streams and leave them.
    #[arg(long, default_value_t = 0)]
    streams: u32,
    /// The part of the calls whose client hangs up.
    #[arg(long, default_value_t = 0.0)]
    hang_ups: f64,
    /// Where the requests are written down.
    #[arg(long)]
    calls: PathBuf,
}

/// What the clients share.
struct World {
    authority: String,
    path: String,
    authorization: HeaderValue,
    hang_ups: f64,
    end: Instant,
    next: AtomicU64,
    calls: Mutex<BufWriter<File>>,
    counts: [AtomicU64; End::ALL.len()],
}

impl World {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// An id that no other request of this run has, as it stands in JSON.
    fn id(&self) -> String {
        format!("\"s-{}\"", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A moment to hang up at, for some.
    fn leaves(&self, within: Duration) -> Option<Duration> {
        rand::random_bool(self.hang_ups).then(|| within.mul_f64(rand::random()))
    }

    fn note(&self, server: &str, id: &str, child: &str, exchange: &Exchange) {
        self.counts[exchange.end as usize].fetch_add(1, Ordering::Relaxed);
        let Exchange { began, ended, status, end, .. } = exchange;
        let id = id.trim_matches('"');
        if let Ok(mut calls) = self.calls.lock() {
            // A disk that is full shows as requests that are missing.
            let _ = writeln!(calls, "{server} {id} {child} {began} {ended} {status} {}", end.as_str());
        }
    }
}

/// Microseconds since 1970.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let authorization = std::env::var("BENCH_AUTHORIZATION").context("BENCH_AUTHORIZATION is not set")?;
    let seconds = Duration::from_secs_f64(options.seconds);
    let world: &'static World = Box::leak(Box::new(World {
        authority: options.url.authority().context("the URL names no host")?.to_string(),
        path: options.url.path().trim_end_matches('/').to_owned(),
        authorization: authorization.try_into()?,
        hang_ups: options.hang_ups,
        end: Instant::now() + seconds,
        // Runs against one gateway share its audit trail.
        next: AtomicU64::new(u64::try_from(now()).unwrap_or_default() << 4),
        calls: Mutex::new(BufWriter::new(File::create(&options.calls)?)),
        counts: Default::default(),
    }));
    let mut clients = JoinSet::new();
    let interval =
        Duration::from_secs_f64(if options.rate > 0.0 { f64::from(options.connections) / options.rate } else { 0.0 });
    let paced: Vec<_> = (0..options.connections).map(|_| clients.spawn(fast::call(world, interval))).collect();
    drop(paced);
    for _ in 0..options.streams {
        clients.spawn(fast::listen(world));
        clients.spawn(fast::large(world));
    }
    for _ in 0..options.sessions {
        clients.spawn(stdio::sessions(world));
    }
    for _ in 0..options.callers {
        clients.spawn(stdio::modern(world));
    }
    let mut fast = 0;
    while let Some(client) = clients.join_next().await {
        fast += client??;
    }
    if let Ok(mut calls) = world.calls.lock() {
        calls.flush()?;
    }
    let ends: serde_json::Map<_, _> = End::ALL
        .into_iter()
        .map(|end| (end.as_str().to_owned(), world.counts[end as usize].load(Ordering::Relaxed).into()))
        .collect();
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::json!({ "fast_per_second": fast as f64 / options.seconds, "ends": ends })
    )?;
    Ok(())
}
