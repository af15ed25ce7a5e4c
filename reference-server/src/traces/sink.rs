//! Makes spans of events on their way into the audit trail.

use std::sync::Arc;

use async_trait::async_trait;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuditFull, AuditSink, Seq};
use mcp_gateway_core::record::AuditEvent;
use opentelemetry_sdk::trace::SpanProcessor as _;

use super::Traces;

/// Traces the exchanges that pass to another sink.
#[derive(Debug)]
pub struct TracedSink<S = Arc<dyn AuditSink>> {
    inner: S,
    traces: Arc<Traces>,
}

impl<S> TracedSink<S> {
    /// Traces what goes to this sink.
    pub fn new(inner: S, traces: Arc<Traces>) -> Self {
        Self { inner, traces }
    }
}

#[async_trait]
impl AuditSink for TracedSink {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        if let Some((exchange, call)) = self.traces.spans.of(&event) {
            for span in call.into_iter().chain([exchange]) {
                self.traces.processor.on_end(span);
            }
        }
        self.inner.record(event)
    }

    async fn flush(&self) {
        self.inner.flush().await;
    }
}
