//! What is counted, and whether the server is alive and ready.
//!
//! Counters of calls are fed by [`MeteredSink`], which reads the events on their way into the audit trail: what is
//! counted and what is recorded cannot disagree. Everything else (the spool, the snapshot, children) is read when
//! somebody asks for `/metrics`.
//!
//! Callers choose methods, tools and paths, so no label comes from them: `server` is the id of a server that was
//! resolved, `method` one of the protocol's own or `other`, and there are at most [`Metrics::SERVERS`] servers.

mod exposition;
mod gauges;
mod latency;
mod ops;
mod series;
mod sink;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use mcp_gateway_core::contract::AuditFull;
use mcp_gateway_core::record::{AuditEvent, Category, EventKind, Outcome};

pub use self::ops::router;
pub use self::sink::MeteredSink;

use self::gauges::Gauges;
use self::series::{Statuses, Table};
use crate::app::App;

/// What is counted. Shared behind an `Arc`; counting takes no lock and, once a server and method are known, allocates
/// nothing.
pub struct Metrics {
    calls: Table,
    refusals: Statuses,
    lost: [AtomicU64; LOST.len()],
    limiter_overflows: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    panics: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

/// Why events were lost, as labels.
const LOST: [&str; 3] = ["space", "stalled", "failed"];

impl Metrics {
    /// Servers that are counted by their id; those that come later are counted together, as `other`.
    pub const SERVERS: usize = 1_000;

    /// The media type of [`render`].
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            calls: Table::new(Self::SERVERS),
            refusals: Statuses::default(),
            lost: Default::default(),
            limiter_overflows: OnceLock::new(),
            panics: OnceLock::new(),
        }
    }

    /// Also shows how often the rate limiter forgot a key for want of room. The first source counts.
    pub fn count_limiter_overflows(&self, source: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.limiter_overflows.set(Box::new(source));
    }

    /// Also shows how often a background task panicked. The first source counts.
    pub fn count_panics(&self, source: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.panics.set(Box::new(source));
    }

    /// Counts an event. Intents are not counted: their end is.
    pub fn observe(&self, event: &AuditEvent) {
        if event.kind == EventKind::Intent || event.category != Category::Mcp {
            return;
        }
        if event.outcome == Outcome::Denied {
            let refusals = if event.kind == EventKind::RefusedMany { event.messages } else { 1 };
            self.refusals.add(event.status, u64::from(refusals));
        }
        if !matches!(event.kind, EventKind::Refused | EventKind::RefusedMany) {
            self.calls.observe(event);
        }
    }

    /// Counts an event that is not in the audit trail.
    pub fn lost(&self, why: AuditFull) {
        let at = match why {
            AuditFull::Space => 0,
            AuditFull::Stalled => 1,
            _ => 2,
        };
        self.lost[at].fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything as OpenMetrics text, of type [`Metrics::CONTENT_TYPE`].
///
/// Asks the runtime for its workloads and waits for it at most a second; without an answer, theirs are left out.
pub async fn render(app: &App) -> String {
    let gauges = Gauges::read(app).await;
    exposition::text(Arc::clone(&app.metrics), gauges)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("servers", &self.calls.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
