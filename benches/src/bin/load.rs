//! An open-loop load generator: calls start by a schedule, whether or not earlier ones are done.
//!
//! A closed loop waits for a slow answer and so does not send what it would have measured next. Here latency counts
//! from the moment a call was meant to start, its time in the queue for a connection included.
//!
//! The value of `Authorization` comes from the environment, `BENCH_AUTHORIZATION`: arguments are visible to everybody.
//! Prints one line of JSON.

#![expect(clippy::disallowed_methods, reason = "connections are opened to one address that the user names")]

use std::io::Write as _;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mcp_gateway_benches::{legacy_call, modern_call};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

#[derive(Parser)]
struct Options {
    /// Where to send the calls; `http` only.
    #[arg(long, default_value = "http://127.0.0.1:9100/mcp")]
    url: Uri,
    /// Calls a second.
    #[arg(long)]
    rate: f64,
    /// Keep-alive connections that share the calls.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long to send before measuring.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Which revision's calls.
    #[arg(long, value_enum, default_value_t = Era::Legacy)]
    era: Era,
    /// Bytes of a call's body.
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Era {
    /// 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(options.rate > 0.0 && options.connections > 0, "--rate and --connections must be positive");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run(&options))?;
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

/// When calls were meant to start.
type Schedule = Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>;

struct Counts {
    latencies: Histogram<u64>,
    failed: u64,
}

async fn run(options: &Options) -> anyhow::Result<serde_json::Value> {
    let request = Arc::new(Call::new(options)?);
    let mut senders = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        senders.push(connect(&request.authority).await?);
    }
    let (sender, receiver) = mpsc::unbounded_channel();
    let schedule: Schedule = Arc::new(Mutex::new(receiver));
    let began = Instant::now();
    let measured_from = began + Duration::from_secs_f64(options.warm_up);
    let end = measured_from + Duration::from_secs_f64(options.seconds);
    let late = Arc::new(AtomicU64::new(0));
    let clock = {
        let (late, interval) = (Arc::clone(&late), 1.0 / options.rate);
        // A thread of its own: the runtime's timer only knows milliseconds.
        thread::spawn(move || tick(&sender, began, end, interval, &late))
    };
    let workers: Vec<_> = senders
        .into_iter()
        .map(|sender| {
            let worker = Worker { call: Arc::clone(&request), schedule: Arc::clone(&schedule), measured_from };
            tokio::spawn(worker.work(sender))
        })
        .collect();
    let mut total = Counts { latencies: histogram()?, failed: 0 };
    for worker in workers {
        let counts = worker.await??;
        total.latencies.add(&counts.latencies)?;
        total.failed += counts.failed;
    }
    let planned = clock.join().map_err(|_| anyhow::anyhow!("the schedule's thread panicked"))?;
    let quantile = |at: f64| total.latencies.value_at_quantile(at) as f64 / 1_000.0;
    Ok(serde_json::json!({
        "planned": planned,
        "measured": total.latencies.len(),
        "failed": total.failed,
        "rate": options.rate,
        "done_per_second": total.latencies.len() as f64 / measured_from.elapsed().as_secs_f64(),
        "p50_us": quantile(0.5),
        "p90_us": quantile(0.9),
        "p99_us": quantile(0.99),
        "p999_us": quantile(0.999),
        "max_us": quantile(1.0),
        "latest_start_us": late.load(Ordering::Relaxed),
    }))
}

/// Sends each call's time when it has come, and returns how many. `late` is the worst delay of doing so, in µs.
fn tick(sender: &mpsc::UnboundedSender<Instant>, began: Instant, end: Instant, interval: f64, late: &AtomicU64) -> u64 {
    // By default the kernel may wake a sleeper 50 µs late to save power, which would count as latency.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    for number in 0_u64.. {
        let intended = began + Duration::from_secs_f64(number as f64 * interval);
        if intended >= end {
            return number;
        }
        if let Some(early) = intended.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        late.fetch_max(u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if sender.send(intended).is_err() {
            return number;
        }
    }
    u64::MAX
}

/// What every call sends.
struct Call {
    authority: String,
    head: http::request::Parts,
    body: Bytes,
}

impl Call {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let authority = options.url.authority().context("the URL names no host")?.to_string();
        let path = options.url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::post(path)
            .header(HOST, &authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        request = match options.era {
            Era::Legacy => request.header("mcp-protocol-version", "2025-11-25"),
            Era::Modern => request
                .header("mcp-protocol-version", "2026-07-28")
                .header("mcp-method", "tools/call")
                .header("mcp-name", "echo"),
        };
        if let Ok(authorization) = std::env::var("BENCH_AUTHORIZATION") {
            request = request.header(AUTHORIZATION, HeaderValue::try_from(authorization)?);
        }
        let body = match options.era {
            Era::Legacy => legacy_call(options.size),
            Era::Modern => modern_call(options.size),
        };
        let (head, ()) = request.body(())?.into_parts();
        Ok(Self { authority, head, body: body.into() })
    }

    fn request(&self) -> Request<Full<Bytes>> {
        Request::from_parts(self.head.clone(), Full::new(self.body.clone()))
    }
}

async fn connect(authority: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // What breaks a connection shows in the call that it carried.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

struct Worker {
    call: Arc<Call>,
    schedule: Schedule,
    measured_from: Instant,
}

impl Worker {
    async fn work(self, mut sender: SendRequest<Full<Bytes>>) -> anyhow::Result<Counts> {
        let mut counts = Counts { latencies: histogram()?, failed: 0 };
        loop {
            let next = self.schedule.lock().await.recv().await;
            let Some(intended) = next else { return Ok(counts) };
            if sender.ready().await.is_err() {
                sender = connect(&self.call.authority).await?;
            }
            let ok = call(&mut sender, self.call.request()).await;
            if intended < self.measured_from {
                continue;
            }
            if ok {
                let nanoseconds = u64::try_from(intended.elapsed().as_nanos()).unwrap_or(u64::MAX);
                counts.latencies.saturating_record(nanoseconds);
            } else {
                counts.failed += 1;
            }
        }
    }
}

/// Whether the answer came whole, with 200.
async fn call(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> bool {
    let Ok(response) = sender.send_request(request).await else { return false };
    let status = response.status();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    status == StatusCode::OK
}

/// Nanoseconds up to a minute, to three digits.
fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}
