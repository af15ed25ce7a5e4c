//! Micro benchmarks for counting instructions: `micro NAME ITERATIONS` does one thing so many times.
//!
//! `instructions.sh` runs each under callgrind with two numbers of iterations; the difference is free of what starting
//! costs. `micro` alone lists the names.

use std::future::Future;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use mcp_gateway_auth::token::{NewToken, SigningKeyOptions, SigningKeys, TokenAuthenticator, TokenIssuer};
use mcp_gateway_benches::audit::event;
use mcp_gateway_benches::memory::{MemoryGateway, api_key, local};
use mcp_gateway_benches::rules::{PEOPLE, company, person};
use mcp_gateway_benches::{legacy_call, modern_call, result};
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{
    Action, Ask, AuditRow, AuditStore as _, Authenticator as _, Authorizer as _, Clock as _, Incarnation, Resource,
    StreamId, SystemClock, Target,
};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{EventKind, Mount, Principal, Resources, Subject, TenantId};
use mcp_gateway_core::seal::{RingOptions, Sealer, SessionKeyRing, SessionOwner, SessionPlain, SessionSealer};
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use mcp_gateway_core::wire::outcome::Scanner;
use mcp_gateway_core::wire::sse::Splitter;
use mcp_gateway_core::wire::{Limits, mirror, peek};
use mcp_gateway_store::sqlite::{SqliteAuditOptions, SqliteAuditStore};
use tower::ServiceExt as _;
use ulid::Ulid;

/// Callers whose events are written, and rows that are written at a time.
const USERS: u64 = 100;
const BATCH: u64 = 500;

const NAMES: [&str; 15] = [
    "peek-legacy-1k",
    "peek-modern-1k",
    "mirror-check",
    "sse-split-64k",
    "sse-split-small",
    "outcome-1k",
    "outcome-1m",
    "session-seal",
    "session-open",
    "api-key",
    "token",
    "access-rules",
    "stack-legacy-1k",
    "stack-modern-1k",
    "audit-sqlite-100",
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        return Ok(writeln!(std::io::stdout(), "{}", NAMES.join("\n"))?);
    };
    let iterations: u32 = arguments.next().context("usage: micro NAME ITERATIONS")?.parse()?;
    match name.as_str() {
        "peek-legacy-1k" => peek_call(&legacy_call(1024), iterations),
        "peek-modern-1k" => peek_call(&modern_call(1024), iterations),
        "mirror-check" => mirror_check(iterations),
        "sse-split-64k" => sse_split(&[&result(65_536)], 16_384, iterations),
        "sse-split-small" => {
            sse_split(&[&br#"{"jsonrpc":"2.0","method":"notifications/progress"}"#[..]; 32], 16_384, iterations)
        }
        "outcome-1k" => outcome(1024, iterations),
        "outcome-1m" => outcome(1 << 20, iterations),
        "session-seal" => block_on(session(false, iterations)),
        "session-open" => block_on(session(true, iterations)),
        "api-key" => authenticate(iterations),
        "token" => block_on(token(iterations)),
        "access-rules" => decide(iterations),
        "stack-legacy-1k" => block_on(stack(false, iterations)),
        "stack-modern-1k" => block_on(stack(true, iterations)),
        "audit-sqlite-100" => block_on(audit_rows(100 * u64::from(iterations))),
        _ => bail!("no benchmark {name}; there are: {}", NAMES.join(", ")),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn peek_call(call: &str, iterations: u32) -> anyhow::Result<()> {
    let limits = Limits::default();
    for _ in 0..iterations {
        let message = peek(black_box(call.as_bytes()), &limits).ok().context("the call is refused")?;
        black_box(message.target());
    }
    Ok(())
}

fn mirror_check(iterations: u32) -> anyhow::Result<()> {
    let call = modern_call(1024);
    let message = peek(call.as_bytes(), &Limits::default()).ok().context("the call is refused")?;
    let headers: HeaderMap = modern_headers().into_iter().collect();
    for _ in 0..iterations {
        ensure!(mirror::check(black_box(&headers), black_box(&message)).is_ok(), "the headers do not mirror the call");
    }
    Ok(())
}

fn sse_split(messages: &[&[u8]], chunk: usize, iterations: u32) -> anyhow::Result<()> {
    let mut stream = Vec::new();
    for message in messages {
        stream.extend_from_slice(b"event: message\ndata: ");
        stream.extend_from_slice(message);
        stream.extend_from_slice(b"\n\n");
    }
    let stream = Bytes::from(stream);
    for _ in 0..iterations {
        let (mut splitter, mut events, mut rest) = (Splitter::new(16 << 20), 0, stream.clone());
        while !rest.is_empty() {
            splitter.push(rest.split_to(chunk.min(rest.len())));
            while let Some(event) = splitter.next_event()? {
                black_box(event);
                events += 1;
            }
        }
        ensure!(events == messages.len(), "{events} events instead of {}", messages.len());
    }
    Ok(())
}

fn outcome(size: usize, iterations: u32) -> anyhow::Result<()> {
    let answer = result(size);
    for _ in 0..iterations {
        let mut scanner = Scanner::new();
        for chunk in answer.chunks(16_384) {
            scanner.push(black_box(chunk));
        }
        ensure!(black_box(&scanner).id() == Some(b"7"), "the scanner missed the id");
    }
    Ok(())
}

async fn session(open: bool, iterations: u32) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let ring = SessionKeyRing::open(store, Arc::new(MemoryKeys::new()), clock, RingOptions::default()).await?;
    let sealer = SessionSealer::new(ring);
    let principal = Principal::new("local", "bench");
    let owner = SessionOwner::new("bench", &principal);
    let plain = SessionPlain {
        upstream_id: "0e3cbcd4-11b9-4ba4-9e3c-1f0f3ea3b1a6".into(),
        incarnation: Incarnation("bench~1".into()),
        issued_at: Timestamp::from_second(Timestamp::now().as_second())?,
        flags: 0,
    };
    let sealed = sealer.seal(&plain, owner)?;
    for _ in 0..iterations {
        if open {
            let opened = sealer.open(black_box(sealed.as_bytes()), owner).context("the session does not open")?;
            black_box(opened);
        } else {
            black_box(sealer.seal(black_box(&plain), owner)?);
        }
    }
    Ok(())
}

fn authenticate(iterations: u32) -> anyhow::Result<()> {
    let (authenticator, header) = api_key()?;
    let (parts, ()) = Request::get("/").header(AUTHORIZATION, header).body(())?.into_parts();
    let resource = Resource { url: "https://g/mcp-connect/bench".into(), metadata: None, server: Some("bench".into()) };
    for _ in 0..iterations {
        let answer = authenticator.authenticate(black_box(&parts), &resource);
        ensure!(matches!(answer, MaybeReady::Ready(Ok(Some(_)))), "the key does not pass");
    }
    Ok(())
}

/// A call with an access token that was verified before: what each call but the first costs.
async fn token(iterations: u32) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await?;
    let options = SnapshotOptions::new(sealer.clone(), Arc::new(|_: &_| unreachable!("there is no entry")));
    // Not driven: nothing changes.
    let (snapshots, _driver) = Snapshots::follow(store.clone(), options).await?;
    let ring = Resources::new(store, sealer, TenantId::default());
    let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await?;
    let resource = Mount::new("https://gateway.example", "/mcp-connect")?.resource("bench");
    let new = NewToken {
        subject: &Subject::local("bench"),
        client_id: "laptop",
        resource: &resource,
        scope: "mcp",
        epoch: clock.now(),
        person_epoch: 0,
        grant: Some("grant"),
        session: Some("session"),
    };
    let token = TokenIssuer::new("https://gateway.example", keys.clone(), clock.clone()).issue(&new).await?.token;
    let authenticator =
        TokenAuthenticator::builder(Arc::new(snapshots), clock.clone()).own("https://gateway.example", keys).build();
    let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    let (parts, ()) = request.body(())?.into_parts();
    ensure!(authenticator.authenticate(&parts, &resource).await.is_ok(), "the token does not pass");
    let began = clock.monotonic();
    for _ in 0..iterations {
        let answer = authenticator.authenticate(black_box(&parts), &resource);
        ensure!(matches!(answer, MaybeReady::Ready(Ok(Some(_)))), "the token is not remembered");
    }
    // Beside the instructions, the time that is promised: under a microsecond.
    let each = clock.monotonic().saturating_duration_since(began) / iterations.max(1);
    Ok(writeln!(std::io::stderr(), "a remembered token: {each:?} on the clock")?)
}

/// By 10,000 rules about 100,000 people.
fn decide(iterations: u32) -> anyhow::Result<()> {
    let ruled = company(PEOPLE)?;
    let (principal, cx) = (Principal::new("local", person(4_711)), McpContext::new(&SystemClock));
    let target = Target { server: "server-7", name: Some("read_all") };
    let (principal, action) = (&principal, Action::Method("tools/call"));
    for _ in 0..iterations {
        let ask = Ask { principal, action, target, cx: &cx, arguments: None };
        ensure!(matches!(ruled.decide(black_box(&ask)), MaybeReady::Ready(_)), "the decision has to be waited for");
    }
    Ok(())
}

async fn stack(modern: bool, iterations: u32) -> anyhow::Result<()> {
    let built = MemoryGateway::new("http://localhost:9101", local(1024))?;
    let body = Bytes::from(if modern { modern_call(1024) } else { legacy_call(1024) });
    for _ in 0..iterations {
        let mut request = Request::post("/mcp-connect/bench").body(http_body_util::Full::new(body.clone()))?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("localhost:9101"));
        headers.insert(AUTHORIZATION, built.authorization.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if modern {
            headers.extend(modern_headers());
        } else {
            headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
        }
        let response = built.gateway.clone().oneshot(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        ensure!(status == StatusCode::OK && body.len() == 1024, "{status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

fn modern_headers() -> [(HeaderName, HeaderValue); 3] {
    [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "echo")]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
}

/// Rows into SQLite, as many at a time as the spool has for it under load; a third is what making them costs.
async fn audit_rows(rows: u64) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let store = SqliteAuditStore::open(folder.path().join("audit.db"), SqliteAuditOptions::default())?;
    let stream = StreamId(Ulid::nil());
    let row = |seq| AuditRow { stream, seq, event: event(seq, USERS, EventKind::Exchange) };
    for n in 0..rows / BATCH {
        store.append((n * BATCH..(n + 1) * BATCH).map(row).collect()).await?;
    }
    Ok(())
}
