//! Counts events on their way into the audit trail.

use std::sync::Arc;

use async_trait::async_trait;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuditFull, AuditSink, Seq};
use mcp_gateway_core::record::{AuditEvent, EventKind};

use super::Metrics;

/// Counts the events that pass to another sink, and those that the other could not take.
#[derive(Debug)]
pub struct MeteredSink<S = Arc<dyn AuditSink>> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> MeteredSink<S> {
    /// Counts what goes to this sink.
    pub fn new(inner: S, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

#[async_trait]
impl AuditSink for MeteredSink {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        // A call whose intent is not recorded is refused or goes on; only its end can be lost.
        if event.kind == EventKind::Intent {
            return self.inner.record(event);
        }
        self.metrics.observe(&event);
        match self.inner.record(event) {
            MaybeReady::Ready(recorded) => MaybeReady::Ready(recorded.inspect_err(|why| self.metrics.lost(*why))),
            MaybeReady::Wait(wait) => {
                let metrics = Arc::clone(&self.metrics);
                MaybeReady::wait(async move { wait.await.inspect_err(|why| metrics.lost(*why)) })
            }
        }
    }

    async fn flush(&self) {
        self.inner.flush().await;
    }
}
