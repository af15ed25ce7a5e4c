//! Clients of remote servers.

use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::World;
use super::wire::{Client, End};

/// How far a client may be behind its times before it leaves out what it missed.
const BEHIND: Duration = Duration::from_secs(1);
const LEGACY: (&str, &str) = ("mcp-protocol-version", "2025-11-25");

/// Calls one after the other at fixed times, or at once where `interval` is zero. Returns how many were answered.
pub(super) async fn call(world: &'static World, interval: Duration) -> anyhow::Result<u64> {
    let mut client = Client::new(world);
    let mut due = Instant::now() + interval.mul_f64(rand::random());
    let mut answered = 0;
    while !world.is_over() {
        if !interval.is_zero() {
            tokio::time::sleep_until(due).await;
            due += interval;
            if due.elapsed() > BEHIND {
                due = Instant::now();
            }
        }
        let id = world.id();
        let message = message(&id, &"x".repeat(900));
        let leave = world.leaves(Duration::from_millis(4));
        let exchange = client.send(Method::POST, "fast", &[LEGACY], message, leave).await?;
        answered += u64::from(exchange.end == End::Answered && exchange.status == 200);
        world.note("fast", &id, "-", &exchange);
    }
    Ok(answered)
}

/// Reads answers of a megabyte, and leaves some in the middle.
pub(super) async fn large(world: &'static World) -> anyhow::Result<u64> {
    let mut client = Client::new(world);
    while !world.is_over() {
        let id = world.id();
        let leave = rand::random_bool(0.5).then(|| Duration::from_millis(20).mul_f64(rand::random()));
        let exchange = client.send(Method::POST, "large", &[LEGACY], message(&id, ""), leave).await?;
        world.note("large", &id, "-", &exchange);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(0)
}

/// Opens streams that stay silent, and leaves each after a while.
pub(super) async fn listen(world: &'static World) -> anyhow::Result<u64> {
    let mut client = Client::new(world);
    while !world.is_over() {
        let leave = Duration::from_secs(3).mul_f64(rand::random());
        let exchange = client.send(Method::GET, "silent", &[LEGACY], "", Some(leave)).await?;
        // It has no id; that each that opened was closed shows in the trail.
        world.note("silent", "-", "-", &exchange);
    }
    Ok(0)
}

fn message(id: &str, text: &str) -> String {
    let arguments = format!(r#"{{"message":"{text}"}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{arguments}}}}}"#)
}
