//! Clients of stdio servers behind the bridge: legacy sessions with a child each, and modern calls of a shared one.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::World;
use super::wire::{Client, End, Exchange};

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
/// Calls of a session, at most.
const CALLS: u32 = 40;
/// The environment variable by which the gateway knows its children.
const MARK: &str = "MCP_GATEWAY_CHILD";

/// Opens sessions one after the other, and calls in each of them.
pub(super) async fn sessions(world: &'static World) -> anyhow::Result<u64> {
    let mut client = Client::new(world);
    while !world.is_over() {
        let Some(mut session) = Session::open(world, &mut client).await? else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        for _ in 0..rand::random_range(1..CALLS) {
            if world.is_over() || !session.act(&mut client).await? {
                break;
            }
        }
        // Every other client just goes away: its session ends when it has been idle.
        if rand::random_bool(0.5) {
            let exchange = client.send(Method::DELETE, "legacy", &session.headers(), "", None).await?;
            world.note("legacy", "-", &session.child, &exchange);
        }
    }
    Ok(0)
}

struct Session {
    world: &'static World,
    id: String,
    child: String,
}

impl Session {
    async fn open(world: &'static World, client: &mut Client) -> anyhow::Result<Option<Self>> {
        let id = world.id();
        let params =
            json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "soak", "version": "1"}});
        let leave = world.leaves(Duration::from_millis(300));
        let body = request(&id, "initialize", &params);
        let exchange = client.send(Method::POST, "legacy", &[], body, leave).await?;
        world.note("legacy", &id, "-", &exchange);
        let Some(session) = exchange.headers.get("mcp-session-id").filter(|_| exchange.end == End::Answered) else {
            return Ok(None);
        };
        let mut session = Self { world, id: session.to_str()?.to_owned(), child: "-".to_owned() };
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let exchange = client.send(Method::POST, "legacy", &session.headers(), body, None).await?;
        world.note("legacy", "-", "-", &exchange);
        let exchange = session.call(client, "env_dump", &json!({}), None).await?;
        if let Some(mark) = mark(&exchange) {
            session.child = mark;
        }
        Ok((exchange.end == End::Answered && exchange.status == 200).then_some(session))
    }

    fn headers(&self) -> [(&'static str, &str); 2] {
        [("mcp-session-id", &self.id), ("mcp-protocol-version", LEGACY)]
    }

    /// One call or stream. Returns whether the session is still there.
    async fn act(&mut self, client: &mut Client) -> anyhow::Result<bool> {
        let exchange = if rand::random_ratio(1, 10) {
            let leave = Duration::from_secs(1).mul_f64(rand::random());
            let exchange = client.send(Method::GET, "legacy", &self.headers(), "", Some(leave)).await?;
            self.world.note("legacy", "-", &self.child, &exchange);
            exchange
        } else {
            let (tool, arguments, leave) = work(self.world);
            self.call(client, tool, &arguments, leave).await?
        };
        Ok(matches!(exchange.status, 0 | 200))
    }

    async fn call(
        &self,
        client: &mut Client,
        tool: &str,
        arguments: &Value,
        leave: Option<Duration>,
    ) -> anyhow::Result<Exchange> {
        let id = self.world.id();
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": id.trim_matches('"')}});
        let body = request(&id, "tools/call", &params);
        let exchange = client.send(Method::POST, "legacy", &self.headers(), body, leave).await?;
        self.world.note("legacy", &id, &self.child, &exchange);
        Ok(exchange)
    }
}

/// Calls without a session.
pub(super) async fn modern(world: &'static World) -> anyhow::Result<u64> {
    let mut client = Client::new(world);
    while !world.is_over() {
        let (tool, arguments, leave) = work(world);
        let id = world.id();
        let params = json!({"name": tool, "arguments": arguments, "_meta": {
            "progressToken": id.trim_matches('"'),
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "soak", "version": "1"},
        }});
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", tool)];
        let body = request(&id, "tools/call", &params);
        let exchange = client.send(Method::POST, "modern", &headers, body, leave).await?;
        world.note("modern", &id, "-", &exchange);
    }
    Ok(0)
}

/// What a client does next: a tool, its arguments, and when it hangs up if it does.
fn work(world: &World) -> (&'static str, Value, Option<Duration>) {
    let within = |milliseconds| world.leaves(Duration::from_millis(milliseconds));
    match rand::random_range(0..100) {
        0..50 => ("echo_sha256", json!({"text": "x".repeat(500)}), within(5)),
        50..70 => ("stream_events", json!({"count": 10, "interval_ms": 40}), within(400)),
        70..90 => ("sleep_ms", json!({"ms": rand::random_range(0..500)}), within(500)),
        90..97 => ("big", json!({"bytes": 300_000}), within(20)),
        // Its client leaves before an answer, which never comes.
        _ => ("sleep_ms", json!({"ms": 100_000_000}), Some(Duration::from_millis(300))),
    }
}

fn request(id: &str, method: &str, params: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

/// The child's mark, from the answer of `env_dump`: JSON in a text in JSON.
fn mark(exchange: &Exchange) -> Option<String> {
    let text = String::from_utf8_lossy(&exchange.body);
    let after = text.split_once(MARK)?.1;
    let value: String =
        after.chars().skip_while(|c| !c.is_ascii_alphanumeric()).take_while(char::is_ascii_alphanumeric).collect();
    (!value.is_empty()).then_some(value)
}
