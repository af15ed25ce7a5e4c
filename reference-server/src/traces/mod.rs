//! Traces for an OpenTelemetry collector (OTLP over HTTP).
//!
//! Spans are made after the fact: the layers of the data plane keep nothing but ids, and the event that ends an exchange
//! becomes its spans on its way into the audit trail. What is traced and what is recorded cannot disagree, and a call
//! whose trace is not recorded costs nothing. Spans wait in a bounded queue and are dropped when it is full, so a
//! collector that is slow or away harms no call.

mod client;
mod sink;
mod span;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor as _};

use self::client::Client;
pub use self::sink::TracedSink;
use self::span::Spans;
use crate::config::Traces as Settings;

/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(10);

/// The way to the collector.
pub struct Traces {
    processor: BatchSpanProcessor,
    spans: Spans,
}

impl Traces {
    /// Connects with the first export; `None` when no collector is set.
    ///
    /// # Errors
    /// When the endpoint cannot be used.
    pub fn start(settings: &Settings) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(EXPORT))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(EXPORT)
            .build()
            .context("telemetry.traces.endpoint")?;
        let batches = BatchConfigBuilder::default().with_max_queue_size(settings.queue_spans).build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        processor.set_resource(&Resource::builder().with_service_name(settings.service_name.clone()).build());
        Ok(Some(Arc::new(Self { processor, spans: Spans::new() })))
    }

    /// Exports what waits, and ends. Spans that come later are dropped.
    pub async fn finish(self: Arc<Self>, within: Duration) {
        // It waits for its own thread, which in turn needs this runtime.
        let ended = tokio::task::spawn_blocking(move || self.processor.shutdown_with_timeout(within)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the last traces are lost: the collector did not take them in time");
            }
            Err(error) => tracing::warn!(%error, "the last traces are lost"),
        }
    }
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traces(..)")
    }
}
