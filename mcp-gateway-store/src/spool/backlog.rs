//! What the writer hands to the drain: rows in memory, and the table of segments they are in.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mcp_gateway_core::record::AuditEvent;

/// A row that is on disk and still in memory.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) row: u64,
    pub(super) bytes: usize,
    pub(super) event: AuditEvent,
}

/// A segment that is on disk.
#[derive(Debug, Clone)]
pub(super) struct SegmentInfo {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// The number of the first row that is in it, or would be.
    pub(super) first_row: u64,
    /// Bytes that are written whole.
    pub(super) len: u64,
}

#[derive(Debug, Default)]
struct State {
    rows: VecDeque<Queued>,
    segments: VecDeque<SegmentInfo>,
    last_row: u64,
    /// When the oldest row that the drain has not seen was written.
    since: Option<Instant>,
    drain_sleeps: Sleep,
    urgent: bool,
    stop: bool,
}

/// What would wake the drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sleep {
    #[default]
    No,
    /// The first row.
    Idle,
    /// So many rows.
    Gathering(u64),
}

/// The hand-over between writer and drain. Its lock is never held for longer than it takes to move some rows.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    state: Mutex<State>,
    wake: Condvar,
    /// What the drain has taken and not finished counts too: it is in memory.
    rows_in_memory: AtomicUsize,
    bytes_in_memory: AtomicUsize,
}

/// What the drain should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Rows up to this one wait.
    Rows(u64),
    /// Nothing waits.
    Nothing,
    /// The spool is closed. Rows up to this one are written.
    Stop(u64),
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a segment that was just made.
    pub(super) fn add_segment(&self, segment: SegmentInfo) {
        self.lock().segments.push_back(segment);
    }

    /// Notes what a write put into the last segment. Rows that find no room in memory are read back from disk.
    pub(super) fn written(
        &self,
        len: u64,
        last_row: u64,
        rows: impl Iterator<Item = Queued>,
        max_rows: usize,
        max_bytes: usize,
    ) {
        let mut state = self.lock();
        if let Some(segment) = state.segments.back_mut() {
            segment.len = len;
        }
        if last_row == state.last_row {
            return;
        }
        state.last_row = last_row;
        state.since.get_or_insert_with(Instant::now);
        for queued in rows {
            if self.rows_in_memory.load(Relaxed) >= max_rows
                || self.bytes_in_memory.load(Relaxed) + queued.bytes > max_bytes
            {
                continue;
            }
            self.rows_in_memory.fetch_add(1, Relaxed);
            self.bytes_in_memory.fetch_add(queued.bytes, Relaxed);
            state.rows.push_back(queued);
        }
        let wake = match state.drain_sleeps {
            Sleep::No => false,
            Sleep::Idle => true,
            Sleep::Gathering(upto) => last_row >= upto,
        };
        if wake {
            state.drain_sleeps = Sleep::No;
            self.wake.notify_all();
        }
    }

    /// Forgets rows that the drain is done with.
    pub(super) fn done(&self, rows: usize, bytes: usize) {
        self.rows_in_memory.fetch_sub(rows, Relaxed);
        self.bytes_in_memory.fetch_sub(bytes, Relaxed);
    }

    /// Moves everything that is in memory to the drain's own queue.
    pub(super) fn take(&self, into: &mut VecDeque<Queued>) {
        let mut state = self.lock();
        state.since = None;
        if into.is_empty() {
            std::mem::swap(&mut state.rows, into);
        } else {
            into.append(&mut state.rows);
        }
    }

    /// The segment that a row is in.
    pub(super) fn segment_of(&self, row: u64) -> Option<SegmentInfo> {
        let state = self.lock();
        // Rows after the last one of a segment are in the next: the last that begins at or before it.
        state.segments.iter().rev().find(|segment| segment.first_row <= row).cloned()
    }

    /// Takes out the oldest closed segment if all its rows are in the store.
    pub(super) fn pop_stored(&self, stored_row: u64) -> Option<SegmentInfo> {
        let mut state = self.lock();
        let next = state.segments.get(1)?;
        if next.first_row > stored_row + 1 { None } else { state.segments.pop_front() }
    }

    /// The newest row.
    pub(super) fn last_row(&self) -> u64 {
        self.lock().last_row
    }

    /// Waits until rows after `done` are there, and gathers them for a while. At most `limit` for the first.
    pub(super) fn wait(&self, done: u64, gather: Duration, batch: usize, limit: Option<Duration>) -> Work {
        let mut state = self.lock();
        let give_up = limit.map(|limit| Instant::now() + limit);
        loop {
            if state.stop {
                return Work::Stop(state.last_row);
            }
            let waiting = state.last_row - done;
            let now = Instant::now();
            if waiting > 0 {
                let until = state.since.map_or(now, |since| since + gather);
                if state.urgent || waiting >= batch as u64 || now >= until {
                    // Whoever is in a hurry says so again after each attempt.
                    state.urgent = false;
                    return Work::Rows(state.last_row);
                }
                state.drain_sleeps = Sleep::Gathering(done + batch as u64);
                state = self.wake.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.urgent = false;
                match give_up {
                    Some(give_up) if now >= give_up => return Work::Nothing,
                    Some(give_up) => {
                        state.drain_sleeps = Sleep::Idle;
                        let pause = give_up - now;
                        state = self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
                    }
                    None => {
                        state.drain_sleeps = Sleep::Idle;
                        state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
            state.drain_sleeps = Sleep::No;
        }
    }

    /// Pauses the drain, unless the spool is closed or somebody waits.
    pub(super) fn pause(&self, pause: Duration) {
        let mut state = self.lock();
        let until = Instant::now() + pause;
        loop {
            let now = Instant::now();
            if state.stop || state.urgent || now >= until {
                return;
            }
            state = self.wake.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Somebody waits for the store: no gathering until all is there.
    pub(super) fn hurry(&self) {
        let mut state = self.lock();
        state.urgent = true;
        state.drain_sleeps = Sleep::No;
        self.wake.notify_all();
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    #[cfg(test)]
    pub(super) fn in_memory(&self) -> (usize, usize) {
        (self.rows_in_memory.load(Relaxed), self.bytes_in_memory.load(Relaxed))
    }

    /// How long the oldest row has waited for the drain.
    pub(super) fn age(&self) -> Duration {
        self.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
