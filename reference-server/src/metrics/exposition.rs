//! OpenMetrics text.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::gauges::Gauges;
use super::latency::Latency;
use super::series::{Series, Server};
use super::{LOST, Metrics};

/// The text of everything.
pub(super) fn text(metrics: Arc<Metrics>, gauges: Gauges) -> String {
    let mut registry = Registry::with_prefix("mcp_gateway");
    registry.register_collector(Box::new(Exposition { metrics, gauges }));
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
        tracing::error!(%error, "metrics cannot be written");
    }
    text
}

/// One of a series' histograms.
type Pick = fn(&Series) -> &Latency;

/// What is shown, at one moment.
struct Exposition {
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exposition(..)")
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.calls(&mut page)?;
        self.trail(&mut page)?;
        self.state(&mut page)
    }
}

impl Exposition {
    fn calls(&self, page: &mut Page<'_>) -> fmt::Result {
        let servers = self.metrics.calls.servers();
        let each = |show: &mut dyn FnMut(&str, &str, &Series) -> fmt::Result| {
            servers
                .iter()
                .try_for_each(|(id, server)| server.methods().try_for_each(|(method, series)| show(id, method, series)))
        };
        page.counter("calls", "Exchanges: a request and its answer.", |family| {
            each(&mut |server, method, series| {
                series.outcomes().try_for_each(|(outcome, count)| {
                    let labels = [("server", server), ("method", method), ("outcome", outcome.as_str())];
                    counter(&mut family.encode_family(&labels)?, count)
                })
            })
        })?;
        page.counter("errors", "Exchanges whose outcome is not ok.", |family| {
            each(&mut |server, method, series| {
                counter(&mut family.encode_family(&[("server", server), ("method", method)])?, series.errors())
            })
        })?;
        let histograms: [(&str, &str, Pick); 3] = [
            ("call_duration", "From arrival to the last byte of the answer.", |series| &series.total),
            ("upstream_duration", "Waiting for the head of the server's answer.", |series| &series.upstream),
            ("gateway_duration", "To the first byte of the answer, without the wait for the server.", |series| {
                &series.gateway
            }),
        ];
        for (name, help, of) in histograms {
            page.seconds(name, help, MetricType::Histogram, |family| {
                each(&mut |server, method, series| {
                    histogram(&mut family.encode_family(&[("server", server), ("method", method)])?, of(series))
                })
            })?;
        }
        page.counter("body_bytes", "Bytes of bodies of requests and answers.", |family| {
            each(&mut |server, method, series| {
                series.bytes().iter().try_for_each(|(direction, bytes)| {
                    let labels = [("server", server), ("method", method), ("direction", direction)];
                    counter(&mut family.encode_family(&labels)?, *bytes)
                })
            })
        })?;
        page.counter("messages", "Notifications, requests of servers, and ends of streams.", |family| {
            let rows = |server: &'_ Server| server.rows().collect::<Vec<_>>();
            servers.iter().try_for_each(|(id, server)| {
                rows(server).into_iter().try_for_each(|(kind, count)| {
                    counter(&mut family.encode_family(&[("server", &**id), ("kind", kind)])?, count)
                })
            })
        })?;
        page.counter("refusals", "Requests that were refused, by status.", |family| {
            self.metrics.refusals.read().try_for_each(|(status, count)| {
                counter(&mut family.encode_family(&[("status", status.as_str())])?, count)
            })
        })?;
        let overflows = self.metrics.calls.overflows();
        page.count("label_overflows", "Events counted under server=\"other\" for want of room.", overflows)
    }

    fn trail(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter("audit_lost_events", "Events that are not in the audit trail.", |family| {
            LOST.iter().zip(&self.metrics.lost).try_for_each(|(reason, count)| {
                counter(&mut family.encode_family(&[("reason", *reason)])?, count.load(Ordering::Relaxed))
            })
        })?;
        let Some(spool) = &self.gauges.spool else { return Ok(()) };
        page.count("audit_events", "Events recorded, intents included.", spool.recorded)?;
        page.counter("audit_refused_events", "Events that the spool refused, intents included.", |family| {
            let refused = [spool.refused_space, spool.refused_stalled, spool.refused_failed];
            LOST.iter()
                .zip(refused)
                .try_for_each(|(reason, count)| counter(&mut family.encode_family(&[("reason", *reason)])?, count))
        })?;
        page.count("audit_replayed_rows", "Rows that earlier processes left behind.", spool.replayed)?;
        page.gauge("spool_rows", "Rows in the spool that are not in the audit store.", spool.backlog)?;
        page.gauge("spool_open_intents", "Calls under way whose intent is recorded.", spool.open_intents)?;
        page.gauge("spool_waiting_calls", "Calls that wait for the spool.", spool.waiting)?;
        page.gauge("spool_slow_disk", "1 while the spool's disk is slow.", u64::from(spool.slow_disk))?;
        page.bytes("spool", "Size of the spool on disk.", spool.bytes)?;
        page.time("spool_lag", "For how long the audit store has not been up to date.", spool.store_lag)
    }

    fn state(&self, page: &mut Page<'_>) -> fmt::Result {
        let gauges = &self.gauges;
        page.gauge("calls_in_flight", "Calls under way.", gauges.calls as u64)?;
        page.gauge("streams_open", "Streams under way.", gauges.streams as u64)?;
        page.gauge(
            "tasks",
            "Tasks of the server: connections, calls, children and its own upkeep.",
            gauges.tasks as u64,
        )?;
        let [http1, http2, idle] = gauges.connections;
        page.family("upstream_connections", "Connections to servers, by protocol.", |family| {
            family.encode_family(&[("protocol", "http/1.1")])?.encode_gauge(&(http1 as u64))?;
            family.encode_family(&[("protocol", "http/2")])?.encode_gauge(&(http2 as u64))
        })?;
        page.gauge("upstream_connections_idle", "Those of HTTP/1.1 that wait for a call.", idle as u64)?;
        page.gauge("snapshot_revision", "Revision of the snapshot in use.", gauges.snapshot_revision)?;
        page.gauge(
            "applied_revision",
            "Revision up to which the store's changes are applied.",
            gauges.applied_revision,
        )?;
        page.gauge("snapshot_stale", "1 while the store has not been heard from.", u64::from(gauges.stale))?;
        page.gauge("servers", "Servers in the snapshot.", gauges.routes as u64)?;
        page.gauge("api_keys", "API keys in the snapshot.", gauges.keys as u64)?;
        page.time("snapshot_staleness", "Time since the store was heard from.", gauges.staleness)?;
        if let Some(workloads) = &gauges.workloads {
            page.family("children", "Processes of servers.", |family| {
                workloads.servers.iter().try_for_each(|(server, (children, _))| {
                    family.encode_family(&[("server", &**server)])?.encode_gauge(children)
                })
            })?;
            page.family("workload_restarts", "Starts after a crash of the workloads that are known.", |family| {
                workloads.servers.iter().try_for_each(|(server, (_, restarts))| {
                    family.encode_family(&[("server", &**server)])?.encode_gauge(restarts)
                })
            })?;
            page.family("workloads", "Workloads that are known, by state.", |family| {
                workloads
                    .states
                    .iter()
                    .try_for_each(|(state, count)| family.encode_family(&[("state", *state)])?.encode_gauge(count))
            })?;
        }
        if let Some(overflows) = self.metrics.limiter_overflows.get() {
            page.count("limiter_overflows", "Rate limits that began anew for want of room.", overflows())?;
        }
        page.family("leases", "1 for each lease that this process has.", |family| {
            gauges.leases.iter().try_for_each(|name| family.encode_family(&[("lease", &**name)])?.encode_gauge(&1_u64))
        })?;
        if let Some(panics) = self.metrics.panics.get() {
            page.count("background_panics", "Panics of background tasks, which begin anew.", panics())?;
        }
        page.time("uptime", "Time since the start.", gauges.uptime)?;
        let started = Duration::from_millis(u64::try_from(gauges.started_at_ms).unwrap_or_default());
        page.time("start_time", "When the process started, since 1970.", started)?;
        let build =
            [("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
        let mut family = page.0.encode_descriptor("build", "What runs.", None, MetricType::Info)?;
        family.encode_info(&build)
    }
}

/// The page that is written, one family after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        show: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        show(&mut self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn count(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counter(name, help, |family| counter(family, value))
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        show: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        show(&mut self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, |family| family.encode_gauge(&value))
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?.encode_gauge(&value)
    }

    fn seconds(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        show: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        show(&mut self.0.encode_descriptor(name, help, Some(&Unit::Seconds), kind)?)
    }

    fn time(&mut self, name: &str, help: &str, value: Duration) -> fmt::Result {
        self.seconds(name, help, MetricType::Gauge, |family| family.encode_gauge(&value.as_secs_f64()))
    }
}

fn counter(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
}

fn histogram(metric: &mut MetricEncoder<'_>, latency: &Latency) -> fmt::Result {
    let (sum, count, buckets) = latency.read();
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}
