//! Metrics.

use std::sync::Arc;

use async_trait::async_trait;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuditFull, AuditSink, Seq};
use mcp_gateway_core::record::AuditEvent;

use crate::app::App;

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn render(&self, _app: &App) -> String {
        String::new()
    }
}

/// Counts the events that pass to another sink.
pub struct MeteredSink {
    inner: Arc<dyn AuditSink>,
}

impl MeteredSink {
    /// Counts what goes to this sink.
    pub fn new(inner: Arc<dyn AuditSink>, _metrics: Arc<Metrics>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl AuditSink for MeteredSink {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        self.inner.record(event)
    }

    async fn flush(&self) {
        self.inner.flush().await;
    }
}
