//! Counters by server and method, and by status.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use mcp_gateway_core::Map;
use mcp_gateway_core::record::{AuditEvent, EventKind, Outcome};
use mcp_gateway_core::wire::method::{Method, OTHER};

use super::latency::Latency;

/// Counters by server. Looking one up takes no lock; a new server copies the map.
pub(super) struct Table {
    limit: usize,
    servers: ArcSwap<Map<Arc<str>, Arc<Server>>>,
    /// Servers for which there was no room.
    others: Arc<Server>,
    overflows: AtomicU64,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, servers: ArcSwap::default(), others: Arc::new(Server::new()), overflows: AtomicU64::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.servers.load().len()
    }

    /// Events that were counted under `other` because there were too many servers.
    pub(super) fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }

    pub(super) fn observe(&self, event: &AuditEvent) {
        // Only servers that were resolved are named in an event.
        let Some(id) = &event.server else { return };
        if let Some(server) = self.servers.load().get(id) {
            return server.observe(event);
        }
        self.add(id).observe(event);
    }

    #[cold]
    fn add(&self, id: &Arc<str>) -> Arc<Server> {
        let new = Arc::new(Server::new());
        self.servers.rcu(|servers| {
            if servers.contains_key(id) || servers.len() >= self.limit {
                return Arc::clone(servers);
            }
            let mut more = Map::clone(servers);
            more.insert(Arc::clone(id), Arc::clone(&new));
            Arc::new(more)
        });
        self.servers.load().get(id).cloned().unwrap_or_else(|| {
            self.overflows.fetch_add(1, Relaxed);
            Arc::clone(&self.others)
        })
    }

    /// Every server with its counters, in the order of ids.
    pub(super) fn servers(&self) -> Vec<(Arc<str>, Arc<Server>)> {
        let servers = self.servers.load();
        let mut all: Vec<_> = servers.iter().map(|(id, server)| (Arc::clone(id), Arc::clone(server))).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if self.overflows() > 0 {
            all.push((Arc::from(OTHER), Arc::clone(&self.others)));
        }
        all
    }
}

/// The counters of one server, by method.
pub(super) struct Server {
    /// In the order of [`Method::ALL`], then `other`.
    methods: Box<[OnceLock<Series>]>,
    /// Rows that are no exchange, by [`ROWS`].
    rows: [AtomicU64; ROWS.len()],
}

/// Kinds of rows beside exchanges.
pub(super) const ROWS: [EventKind; 5] =
    [EventKind::Notification, EventKind::ServerRequest, EventKind::Opened, EventKind::Closed, EventKind::Resumed];

impl Server {
    fn new() -> Self {
        Self { methods: (0..=Method::ALL.len()).map(|_| OnceLock::new()).collect(), rows: Default::default() }
    }

    fn observe(&self, event: &AuditEvent) {
        if event.kind == EventKind::Exchange {
            let known = event.method.as_deref().and_then(Method::parse);
            let at = known.map_or(Method::ALL.len(), |method| method as usize);
            return self.methods[at].get_or_init(Series::new).observe(event);
        }
        if let Some(at) = ROWS.iter().position(|kind| *kind == event.kind) {
            self.rows[at].fetch_add(1, Relaxed);
        }
    }

    /// The methods that were called.
    pub(super) fn methods(&self) -> impl Iterator<Item = (&'static str, &Series)> {
        let names = Method::ALL.iter().map(|method| method.as_str()).chain([OTHER]);
        names.zip(&self.methods).filter_map(|(name, series)| Some((name, series.get()?)))
    }

    /// The kinds of rows that there were, beside exchanges.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ROWS.iter().zip(&self.rows).map(|(kind, count)| (kind.as_str(), count.load(Relaxed))).filter(|row| row.1 > 0)
    }
}

/// Every outcome, in the order of its counters.
pub(super) const OUTCOMES: [Outcome; 9] = [
    Outcome::Ok,
    Outcome::ToolError,
    Outcome::RpcError,
    Outcome::HttpError,
    Outcome::Denied,
    Outcome::UpstreamFailed,
    Outcome::Disconnected,
    Outcome::Opaque,
    Outcome::Unknown,
];

/// The counters of one method of one server.
#[derive(Debug)]
pub(super) struct Series {
    outcomes: [AtomicU64; OUTCOMES.len()],
    pub(super) total: Latency,
    pub(super) upstream: Latency,
    pub(super) gateway: Latency,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Series {
    fn new() -> Self {
        Self {
            outcomes: Default::default(),
            total: Latency::new(Latency::CALL),
            upstream: Latency::new(Latency::CALL),
            gateway: Latency::new(Latency::OWN),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    fn observe(&self, event: &AuditEvent) {
        // An outcome of a later version is one that nobody here knows.
        let at = OUTCOMES.iter().position(|outcome| *outcome == event.outcome).unwrap_or(OUTCOMES.len() - 1);
        self.outcomes[at].fetch_add(1, Relaxed);
        self.total.observe(event.total_us);
        if let Some(upstream) = event.upstream_us {
            self.upstream.observe(upstream);
            self.gateway.observe(event.first_byte_us.unwrap_or(event.total_us).saturating_sub(upstream));
        }
        self.bytes_in.fetch_add(event.bytes_in, Relaxed);
        self.bytes_out.fetch_add(event.bytes_out, Relaxed);
    }

    /// Calls by outcome; those that never happened are left out.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Relaxed));
        OUTCOMES.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    pub(super) fn errors(&self) -> u64 {
        self.outcomes().filter(|(outcome, _)| *outcome != Outcome::Ok).map(|(_, count)| count).sum()
    }

    pub(super) fn bytes(&self) -> [(&'static str, u64); 2] {
        [("in", self.bytes_in.load(Relaxed)), ("out", self.bytes_out.load(Relaxed))]
    }
}

/// The statuses that refusals have; any other is counted as `other`.
const STATUSES: [u16; 17] = [200, 202, 400, 401, 403, 404, 405, 406, 408, 413, 415, 429, 431, 500, 502, 503, 504];

/// Counters by status.
#[derive(Debug, Default)]
pub(super) struct Statuses([AtomicU64; STATUSES.len() + 1]);

impl Statuses {
    pub(super) fn add(&self, status: u16, count: u64) {
        let at = STATUSES.iter().position(|one| *one == status).unwrap_or(STATUSES.len());
        self.0[at].fetch_add(count, Relaxed);
    }

    /// Those that occurred.
    pub(super) fn read(&self) -> impl Iterator<Item = (String, u64)> {
        let names = STATUSES.iter().map(u16::to_string).chain([OTHER.to_owned()]);
        names.zip(&self.0).map(|(name, count)| (name, count.load(Relaxed))).filter(|(_, count)| *count > 0)
    }
}
