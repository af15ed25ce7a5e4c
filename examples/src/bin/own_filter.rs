//! A filter of your own: no payment card number leaves for a server, and none comes back.
//!
//! ```sh
//! cargo run -p mcp-gateway-examples --bin own_filter -- https://mcp.example/mcp
//! ```
//!
//! A request that holds a number is refused, an answer is cleaned. Messages that the filter does not ask for pass
//! through as they are, without a copy. The caller is whoever the proxy in front names in `X-Internal-User`.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use bytes::Bytes;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::catalog;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{
    AuthError, Filter, Head, Needs, Resolve, ResolveError, Resource, SystemClock, Verdict, View,
};
use mcp_gateway_core::egress::EgressPolicy;
use mcp_gateway_core::gateway::{Gateway, GatewayOptions, Parts};
use mcp_gateway_core::layer::filter::FilterOptions;
use mcp_gateway_core::memory::{MemoryAuditSink, MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Mount, Principal, Route};
use mcp_gateway_core::seal::{RingOptions, SessionKeyRing, SessionSealer};
use mcp_gateway_core::shim::{ForwardOptions, Shim};
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let upstream = std::env::args().nth(1).context("usage: own_filter URL")?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, service("http://127.0.0.1:3000", &upstream).await?).await?)
}

/// Knows payment card numbers: 16 digits in one piece whose check digit is right (ISO/IEC 7812-1, annex B).
struct NoCardNumbers;

impl Filter for NoCardNumbers {
    fn name(&self) -> &str {
        "no-card-numbers"
    }

    fn needs(&self, head: &Head<'_>) -> Needs {
        let call = head.method == Some("tools/call");
        Needs { request: call, response: call, events: false }
    }

    fn request(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        match cleaned(&view.body, "params") {
            Ok(None) => Verdict::Pass.into(),
            Ok(Some(_)) => Verdict::refuse("The arguments hold a payment card number; call again without it.").into(),
            Err(_) => Verdict::refuse("The message cannot be read.").into(),
        }
    }

    // Also of a call whose stream broke off and is resumed, though nobody knows then that it is one.
    fn response(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
        match cleaned(&view.body, "result") {
            Ok(None) => Verdict::Pass.into(),
            Ok(Some(clean)) => Verdict::Replace(clean).into(),
            Err(_) => Verdict::refuse("The server's answer cannot be read.").into(),
        }
    }
}

/// The message with the card numbers below `member` blanked; `None` when there are none, so that it goes on byte for
/// byte as it came. Read as JSON, because JSON may write a digit as `\u0034`.
fn cleaned(body: &[u8], member: &str) -> serde_json::Result<Option<Bytes>> {
    let mut message: Value = serde_json::from_slice(body)?;
    let found = message.get_mut(member).map_or(0, blank);
    Ok(if found > 0 { Some(serde_json::to_vec(&message)?.into()) } else { None })
}

/// Blanks the card numbers in every text below, and says how many there were.
fn blank(value: &mut Value) -> usize {
    match value {
        Value::String(text) => blank_text(text),
        Value::Array(items) => items.iter_mut().map(blank).sum(),
        Value::Object(members) => members.values_mut().map(blank).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

const DIGITS: usize = 16;

fn blank_text(text: &mut String) -> usize {
    let (mut found, mut start) = (0, 0);
    while start < text.len() {
        let run = text.as_bytes()[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if run == DIGITS && has_check_digit(&text.as_bytes()[start..start + run]) {
            text.replace_range(start..start + run, &"*".repeat(DIGITS));
            found += 1;
        }
        start += run.max(1);
    }
    found
}

fn has_check_digit(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let value = |(at, byte): (usize, &u8)| if at % 2 == 1 { doubled(byte - b'0') } else { byte - b'0' };
    digits.iter().rev().enumerate().map(value).map(u32::from).sum::<u32>() % 10 == 0
}

/// A gateway of one server, with the filter in its shim.
pub(crate) async fn service(public_url: &str, upstream: &str) -> anyhow::Result<Router> {
    let mount = Mount::new(public_url, "/mcp-connect")?;
    let audit = Arc::new(MemoryAuditSink::new(10_000));
    let egress = EgressPolicy::new(["127.0.0.0/8".parse()?]);
    let shim = Shim::builder(audit.clone())
        .filters(vec![Arc::new(NoCardNumbers)], FilterOptions::default())
        .forward(ForwardOptions { egress, ..ForwardOptions::default() })
        .build();

    let authenticate = |request: &http::request::Parts, _: &Resource| match request.headers.get("x-internal-user") {
        Some(user) => match user.to_str() {
            Ok(user) => Ok(Some(Arc::new(Principal::new("internal", user)))),
            Err(_) => Err(AuthError::Invalid("X-Internal-User is not text")),
        },
        None => Ok(None),
    };
    let clock = Arc::new(SystemClock);
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let ring = SessionKeyRing::open(store, Arc::new(MemoryKeys::new()), clock, RingOptions::default()).await?;
    let sessions = Arc::new(SessionSealer::new(ring));
    let only = Arc::new(Only(route(&mount, upstream)?));
    let mut parts = Parts::new(only, vec![Arc::new(authenticate)], sessions, audit);
    parts.shim = Some(Arc::new(shim));
    let options = GatewayOptions { loopback: true, ..GatewayOptions::default() };
    let gateway = Gateway::builder(parts).options(options).nested().build(&mount).gateway;
    Ok(Router::new().nest_service(mount.path(), gateway))
}

fn route(mount: &Mount, upstream: &str) -> anyhow::Result<Arc<Route>> {
    let entry = json!({
        "entryKey": "tools", "name": "Tools", "runtime": "remote", "remoteConfig": { "fixedURL": upstream },
    });
    let parsed = catalog::parse(entry.to_string().as_bytes(), "tools").pop().context("an entry was written")??;
    Ok(Arc::new(catalog::compile(&parsed, mount)?))
}

/// A directory of one server.
struct Only(Arc<Route>);

impl Resolve for Only {
    fn resolve(&self, id: &str, _: &Principal) -> MaybeReady<Result<Option<Arc<Route>>, ResolveError>> {
        Ok((*id == *self.0.id).then(|| Arc::clone(&self.0))).into()
    }
}
