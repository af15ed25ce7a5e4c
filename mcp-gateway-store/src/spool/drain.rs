//! From the spool to the store.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

use mcp_gateway_core::contract::{AuditRow, AuditStore, StoreError};
use mcp_gateway_core::trail::Part;
use tokio::runtime::Handle;

use super::backlog::{Queued, Work};
use super::chain::{Chain, Checkpoints};
use super::directory::StreamDir;
use super::replay::Orphan;
use super::segment::{Next, Read, SegmentReader};
use super::{Durability, Inner, SpoolError};

/// How long the drain waits after a failure of the store: doubling from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes of rows that are handed to the store at once, about.
const BATCH_BYTES: usize = 4 << 20;
/// The drain gives way to the threads that serve calls, yet keeps about a third of a core that they fill.
const NICE: i32 = 3;

/// Hands rows to the store, in order.
pub(super) struct Drain {
    inner: Arc<Inner>,
    checkpoints: Checkpoints,
    store: Arc<dyn AuditStore>,
    runtime: Handle,
    /// Directories of earlier processes that are still to be replayed.
    orphans: VecDeque<PathBuf>,
    orphan: Option<Orphan>,
    /// A batch of the orphan that the store has not taken yet.
    orphan_rows: Vec<AuditRow>,
    orphan_chain: Option<Chain>,
    stored: u64,
    chain: Chain,
    taken: VecDeque<Queued>,
    reader: Option<(u64, SegmentReader<File>)>,
    scratch: Vec<Read>,
    backoff: Duration,
}

impl Drain {
    pub(super) fn new(
        inner: Arc<Inner>,
        store: Arc<dyn AuditStore>,
        runtime: Handle,
        orphans: VecDeque<PathBuf>,
        checkpoints: Checkpoints,
    ) -> Self {
        let chain = Chain::begin(&checkpoints, inner.stream);
        Self {
            inner,
            checkpoints,
            store,
            runtime,
            orphans,
            orphan: None,
            orphan_rows: Vec::new(),
            orphan_chain: None,
            stored: 0,
            chain,
            taken: VecDeque::new(),
            reader: None,
            scratch: Vec::new(),
            backoff: BACKOFF.0,
        }
    }

    /// The drain's thread.
    pub(super) fn run(mut self) {
        lower_priority();
        let gather = match self.inner.options.durability {
            Durability::Store => Duration::ZERO,
            _ => self.inner.options.gather,
        };
        let mut last_yield = Instant::now();
        loop {
            let replaying = self.orphan.is_some() || !self.orphans.is_empty();
            let (rows, after) = (self.inner.options.checkpoint_rows, self.inner.options.checkpoint_after);
            let paused = self.orphan_chain.as_ref().map_or(Duration::ZERO, Chain::pause);
            let limit = if replaying { Some(paused) } else { self.chain.due(rows, after) };
            let work = self.inner.backlog.wait(self.stored, gather, self.inner.options.batch_rows, limit);
            let done = match work {
                Work::Rows(upto) => self.live(upto),
                Work::Stop(upto) if upto > self.stored => self.live(upto),
                Work::Stop(_) => break,
                Work::Nothing => Ok(()),
            };
            let done = done.and_then(|()| self.replay_some());
            match done {
                Ok(()) => {
                    self.backoff = BACKOFF.0;
                    self.inner.counters.store_failing.store(false, Relaxed);
                    if self.chain.due(rows, after) == Some(Duration::ZERO) {
                        self.sign(Part::Open);
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    if matches!(work, Work::Stop(_)) {
                        break;
                    }
                }
            }
            if last_yield.elapsed() >= self.inner.options.yield_after {
                std::thread::yield_now();
                last_yield = Instant::now();
            }
        }
        self.close();
    }

    /// Hands one batch of this process's rows to the store.
    fn live(&mut self, upto: u64) -> Result<(), SpoolError> {
        self.inner.backlog.take(&mut self.taken);
        let began = Instant::now();
        self.inner.behind(began);
        let stored = self.stored;
        let old = self.taken.iter().take_while(|queued| queued.row <= stored).count();
        self.forget(old);
        let (rows, from_memory) = match self.taken.front() {
            Some(queued) if queued.row == stored + 1 => self.take_memory(),
            front => {
                let end = front.map_or(upto, |queued| queued.row - 1);
                (self.read_disk(stored + 1, end)?, 0)
            }
        };
        let Some(last) = rows.last().map(|row| row.seq) else { return Ok(()) };
        let head = self.chain.behind(&rows);
        // Before its first row.
        if self.chain.is_new() {
            self.sign(Part::Open);
        }
        let appended = self.append(rows);
        self.inner.backlog.done(0, from_memory);
        if let Err(error) = appended {
            // Read back from disk on the next attempt: no copy was kept.
            self.reader = None;
            return Err(error.into());
        }
        self.stored = last;
        self.chain.advance(head);
        self.inner.counters.stored_row.store(last, Release);
        self.inner.answer_stored();
        let mut kept = false;
        while let Some(segment) = self.inner.backlog.pop_stored(last) {
            if !kept && let Err(error) = self.keep_chain(&segment.path) {
                self.inner.counters.error(&error);
            }
            kept = true;
            // A file that is held open keeps its room on the disk.
            self.reader.take_if(|(number, _)| *number == segment.number);
            if let Err(source) = std::fs::remove_file(&segment.path) {
                self.inner.counters.error(&SpoolError::io(&segment.path, source));
            }
            self.inner.counters.bytes.fetch_sub(segment.len, Relaxed);
        }
        let caught_up = self.inner.backlog.last_row() == last;
        self.inner.caught_up((!caught_up).then_some(began));
        // Last, so that whoever waited for a flush finds everything else up to date.
        self.inner.progress.send_modify(|progress| progress.stored = last);
        Ok(())
    }

    /// Signs what the store has. Without a checkpoint for now: the next one covers it.
    fn sign(&mut self, part: Part) -> bool {
        let now = self.inner.clock.now();
        let signed = self.runtime.block_on(self.chain.sign(&*self.store, part, now));
        if let Err(error) = &signed {
            tracing::warn!(%error, "a checkpoint of the audit trail cannot be signed or kept now");
        }
        signed.is_ok()
    }

    fn keep_chain(&self, segment: &Path) -> Result<(), SpoolError> {
        segment.parent().map_or(Ok(()), |dir| self.chain.keep(dir, &self.inner.options.key))
    }

    fn append(&self, rows: Vec<AuditRow>) -> Result<(), StoreError> {
        self.runtime.block_on(self.store.append(rows))
    }

    /// Rows that are still in memory, in a row; and their bytes, which stay accounted for until the store has them.
    fn take_memory(&mut self) -> (Vec<AuditRow>, usize) {
        let (mut rows, mut bytes) = (Vec::with_capacity(self.taken.len().min(self.inner.options.batch_rows)), 0);
        let mut next = self.stored + 1;
        while rows.len() < self.inner.options.batch_rows
            && bytes < BATCH_BYTES
            && self.taken.front().is_some_and(|queued| queued.row == next)
            && let Some(queued) = self.taken.pop_front()
        {
            bytes += queued.bytes;
            next += 1;
            rows.push(AuditRow { stream: self.inner.stream, seq: queued.row, event: queued.event });
        }
        self.inner.backlog.done(rows.len(), 0);
        (rows, bytes)
    }

    /// Rows that found no room in memory, or that the store did not take.
    fn read_disk(&mut self, mut next: u64, end: u64) -> Result<Vec<AuditRow>, SpoolError> {
        let mut rows = Vec::new();
        while next <= end && rows.len() < self.inner.options.batch_rows {
            let Some(segment) = self.inner.backlog.segment_of(next) else { break };
            let io = |source| SpoolError::io(&segment.path, source);
            let reader = match &mut self.reader {
                Some((number, reader)) if *number == segment.number => reader,
                other => {
                    let file = File::open(&segment.path).map_err(io)?;
                    let opened = SegmentReader::open(file, segment.len, &self.inner.options.key).map_err(|error| {
                        SpoolError::Unreadable { path: segment.path.clone(), reason: error.to_string() }
                    })?;
                    &mut other.insert((segment.number, opened)).1
                }
            };
            reader.limit = segment.len;
            self.scratch.clear();
            let wanted = next;
            match reader.next(|head| head.first_row + u64::from(head.rows) > wanted, &mut self.scratch).map_err(io)? {
                Next::Block(_) => {}
                Next::End if rows.is_empty() => {
                    // The reader is past the row, because an attempt failed: from the start of the segment.
                    self.reader = None;
                    continue;
                }
                Next::End => break,
                Next::Torn => {
                    self.reader = None;
                    let reason = "a block that this process wrote does not open: the disk damaged it".to_owned();
                    return Err(SpoolError::Unreadable { path: segment.path, reason });
                }
            }
            for read in self.scratch.drain(..) {
                if let Read::Row { row, event } = read
                    && row == next
                    && row <= end
                {
                    rows.push(AuditRow { stream: self.inner.stream, seq: row, event });
                    next += 1;
                }
            }
        }
        Ok(rows)
    }

    /// Drops rows from memory that the store has.
    fn forget(&mut self, count: usize) {
        let bytes = self.taken.drain(..count).map(|queued| queued.bytes).sum();
        self.inner.backlog.done(count, bytes);
    }

    /// Hands one batch of an earlier process's rows to the store.
    fn replay_some(&mut self) -> Result<(), SpoolError> {
        if self.orphan.is_none() {
            let Some(path) = self.orphans.front() else { return Ok(()) };
            let opened = match StreamDir::adopt(path) {
                Ok(Some(dir)) => Orphan::open(dir, &self.inner.options.key),
                // Another process replays it, or has done so.
                Ok(None) => {
                    self.next_orphan();
                    return Ok(());
                }
                Err(error) => Err(error),
            };
            match opened {
                Ok(orphan) => self.orphan = Some(orphan),
                Err(error) => {
                    self.skip_orphan(&error);
                    return Ok(());
                }
            }
        }
        let Some(orphan) = &mut self.orphan else { return Ok(()) };
        // Before the first row is read: it goes on from there.
        let chain = match &mut self.orphan_chain {
            Some(chain) => chain,
            none => {
                let resumed = orphan.chain(&self.checkpoints, &*self.store);
                none.insert(self.runtime.block_on(resumed)?)
            }
        };
        if self.orphan_rows.is_empty() {
            match orphan.batch(self.inner.options.batch_rows) {
                Ok(rows) => self.orphan_rows = rows,
                Err(error) => {
                    self.skip_orphan(&error);
                    return Ok(());
                }
            }
        }
        if self.orphan_rows.is_empty() && !self.runtime.block_on(orphan.is_read(chain, &*self.store))? {
            return Ok(());
        }
        if !self.orphan_rows.is_empty() {
            let head = self.orphan_chain.as_ref().and_then(|chain| chain.behind(&self.orphan_rows));
            // Cloned, for another attempt: this is no hot path.
            let rows = self.orphan_rows.clone();
            self.append(rows)?;
            self.orphan_rows.clear();
            if let Some(chain) = &mut self.orphan_chain {
                chain.advance(head);
            }
            return Ok(());
        }
        if let Some(chain) = &mut self.orphan_chain {
            if !chain.pause().is_zero() {
                return Ok(());
            }
            let signed = chain.sign(&*self.store, Part::End, self.inner.clock.now());
            if let Err(error) = self.runtime.block_on(signed) {
                // The directory stays until it is.
                tracing::warn!(%error, "the end of an audit stream cannot be signed or kept now");
                self.inner.progress.send_modify(|progress| progress.failures += 1);
                return Ok(());
            }
        }
        if let Some(Orphan { dir, bytes, imported, .. }) = self.orphan.take() {
            let counters = &self.inner.counters;
            tracing::info!(
                stream = %dir.path.display(), rows = imported.rows, unknown = imported.unknown,
                "replayed the audit spool of an earlier process"
            );
            counters.replayed.fetch_add(imported.rows, Relaxed);
            counters.replayed_unknown.fetch_add(imported.unknown, Relaxed);
            counters.torn_bytes.fetch_add(imported.torn_bytes, Relaxed);
            match dir.remove() {
                Ok(()) => {
                    counters.bytes.fetch_sub(bytes, Relaxed);
                }
                Err(error) => counters.error(&error),
            }
        }
        self.next_orphan();
        Ok(())
    }

    /// Leaves a directory that cannot be read as it is.
    fn skip_orphan(&mut self, error: &SpoolError) {
        tracing::error!(%error, "an earlier process's audit spool cannot be replayed");
        self.inner.counters.error(error);
        self.next_orphan();
    }

    fn next_orphan(&mut self) {
        self.orphan = None;
        self.orphan_chain = None;
        self.orphan_rows.clear();
        self.orphans.pop_front();
        if self.orphans.is_empty() {
            self.inner.progress.send_modify(|progress| progress.replayed = true);
        }
    }

    fn failed(&mut self, error: &SpoolError) {
        tracing::warn!(%error, retry_in = ?self.backoff, "audit rows wait in the spool");
        self.inner.counters.error(error);
        self.inner.counters.store_failing.store(true, Relaxed);
        self.inner.progress.send_modify(|progress| progress.failures += 1);
        self.inner.released(self.inner.store_waits.forget_closed(), 0);
        self.inner.backlog.pause(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    /// Removes the directory if nothing in it is needed any more.
    fn close(mut self) {
        let writer = self.inner.closed_writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        let mut empty = self.stored == self.inner.backlog.last_row() && writer.open_intents() == 0;
        if self.stored > 0 && !self.inner.counters.store_failing.load(Relaxed) {
            // Whoever replays what is left signs the end.
            empty &= self.sign(if empty { Part::End } else { Part::Open });
        }
        if empty && let Err(error) = writer.into_dir().remove() {
            tracing::warn!(%error, "an empty audit spool stays behind");
        }
    }
}

/// Lets the threads that serve calls go first. Best effort: without it the drain is only less polite.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "the audit drain runs at normal priority");
    }
}
