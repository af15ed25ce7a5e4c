//! Figures for metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mcp_gateway_core::contract::AuditFull;

use super::writer::END_RESERVE;

/// A look at a spool's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpoolStats {
    /// Callers that wait for the disk or the store.
    pub waiting: u64,
    /// Bytes on disk, what earlier processes left behind included.
    pub bytes: u64,
    /// Events recorded since the start, intents included.
    pub recorded: u64,
    /// Events written by their callers, among the recorded ones.
    pub recorded_inline: u64,
    /// Events refused because the spool was full.
    pub refused_space: u64,
    /// Events refused because the disk (or the store, when waited for) stalled.
    pub refused_stalled: u64,
    /// Events refused because the disk returned an error.
    pub refused_failed: u64,
    /// Intents without an end.
    pub open_intents: u64,
    /// Rows of this process that are not in the store yet.
    pub backlog: u64,
    /// For how long the store has not been up to date, at most; zero when it is.
    pub store_lag: Duration,
    /// Whether the store did not take what it was given last.
    pub store_failing: bool,
    /// Whether the last write or `fdatasync` was slow, so that callers do not write by themselves.
    pub slow_disk: bool,
    /// Rows replayed from earlier processes, and those among them whose end nobody saw.
    pub replayed: u64,
    /// Intents of earlier processes that became rows with an unknown outcome.
    pub replayed_unknown: u64,
    /// Bytes of torn tails that earlier processes left, and that were cut off.
    pub torn_bytes: u64,
    /// Whether the last event that used no reserved room found none, and none has become free since: new calls are refused.
    pub full: bool,
    /// Whether the disk (or the store, when waited for) failed or stalled less than 5 s ago, and nothing was written since:
    /// new calls are refused.
    pub failing: bool,
    /// The last error of disk or store.
    pub last_error: Option<String>,
}

/// How long a disk counts as failing after its last error: then a call finds out whether it still is.
pub(super) const FAILING: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) waiting: AtomicU64,
    pub(super) waiting_bytes: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) recorded: AtomicU64,
    pub(super) recorded_inline: AtomicU64,
    pub(super) refused_space: AtomicU64,
    pub(super) refused_stalled: AtomicU64,
    pub(super) refused_failed: AtomicU64,
    pub(super) open_intents: AtomicU64,
    pub(super) written_row: AtomicU64,
    pub(super) stored_row: AtomicU64,
    pub(super) store_failing: AtomicBool,
    pub(super) slow: AtomicBool,
    pub(super) replayed: AtomicU64,
    pub(super) replayed_unknown: AtomicU64,
    pub(super) torn_bytes: AtomicU64,
    /// The bytes that were [taken](Self::taken) when an event found no room; 0 once one has found some.
    full_at: AtomicU64,
    failed: AtomicBool,
    failed_at: Mutex<Option<Instant>>,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn refused(&self, why: AuditFull, count: u64) {
        let counter = match why {
            AuditFull::Space => &self.refused_space,
            AuditFull::Stalled => &self.refused_stalled,
            _ => &self.refused_failed,
        };
        counter.fetch_add(count, Relaxed);
    }

    /// Notes that there was no room for an event.
    pub(super) fn no_room(&self) {
        self.full_at.store(self.taken().max(1), Relaxed);
    }

    /// Notes that there is room for a call.
    pub(super) fn room(&self) {
        if self.full_at.load(Relaxed) != 0 {
            self.full_at.store(0, Relaxed);
        }
    }

    /// Notes that the disk failed or stalled.
    pub(super) fn failed(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.failed.store(true, Relaxed);
    }

    /// Notes that the disk took something.
    pub(super) fn written(&self) {
        if self.failed.load(Relaxed) {
            self.failed.store(false, Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        let full_at = self.full_at.load(Relaxed);
        full_at != 0 && self.taken() >= full_at
    }

    /// Bytes on disk, and those that are kept for the ends of calls under way.
    fn taken(&self) -> u64 {
        self.bytes.load(Relaxed) + self.open_intents.load(Relaxed) * END_RESERVE
    }

    pub(super) fn is_failing(&self, now: Instant) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.failed.load(Relaxed) && failed_at.is_some_and(|at| now.saturating_duration_since(at) < FAILING)
    }

    pub(super) fn error(&self, error: &dyn std::fmt::Display) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    pub(super) fn snapshot(&self, store_lag: Duration) -> SpoolStats {
        SpoolStats {
            waiting: self.waiting.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            recorded: self.recorded.load(Relaxed),
            recorded_inline: self.recorded_inline.load(Relaxed),
            refused_space: self.refused_space.load(Relaxed),
            refused_stalled: self.refused_stalled.load(Relaxed),
            refused_failed: self.refused_failed.load(Relaxed),
            open_intents: self.open_intents.load(Relaxed),
            backlog: self.written_row.load(Relaxed).saturating_sub(self.stored_row.load(Relaxed)),
            store_lag,
            store_failing: self.store_failing.load(Relaxed),
            slow_disk: self.slow.load(Relaxed),
            replayed: self.replayed.load(Relaxed),
            replayed_unknown: self.replayed_unknown.load(Relaxed),
            torn_bytes: self.torn_bytes.load(Relaxed),
            full: self.is_full(),
            failing: self.is_failing(Instant::now()),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
