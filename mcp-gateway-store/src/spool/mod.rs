//! The audit spool: an append-only log on local disk between the path of a call and the audit store.
//!
//! ```text
//! record ──▶ [write by the caller, or group commit by the spool's thread] ──▶ segments ──▶ drain ──▶ AuditStore
//! ```
//!
//! Each process life has a directory of its own (`{dir}/{stream}`), locked while it lives. What a process leaves
//! behind, however it ended, the next one hands to the store. Every record is sealed under a key that only this
//! machine has. Everything is bounded: bytes on disk, rows in memory, callers that wait.

mod backlog;
mod chain;
mod committer;
mod directory;
mod drain;
mod error;
mod event;
mod key;
mod options;
mod read_ahead;
mod replay;
mod segment;
mod stats;
mod tail;
mod writer;

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mcp_gateway_core::MaybeReady;
use mcp_gateway_core::contract::{AuditFull, AuditSink, AuditStore, Clock, Seq, StreamId};
use mcp_gateway_core::record::AuditEvent;
use tokio::sync::{oneshot, watch};
use ulid::Ulid;

use self::backlog::Backlog;
use self::committer::{Queue, StoreWaits, Syncer, Waiting};
use self::directory::StreamDir;
use self::drain::Drain;
use self::stats::Counters;
use self::writer::Writer;

pub use self::chain::Checkpoints;
pub use self::error::SpoolError;
pub use self::key::SpoolKey;
pub use self::options::{Durability, SpoolOptions};
pub use self::replay::{Imported, import};
pub use self::stats::SpoolStats;

/// Reads arbitrary bytes as a segment, for fuzzing.
///
/// # Panics
/// When reading what was written gives something else.
#[doc(hidden)]
pub fn check(data: &[u8]) {
    segment::check(data);
}

/// An [`AuditSink`] that writes to local disk first and to the store in the background.
///
/// Cheap to clone. When the last clone is dropped, its threads write what is queued and end;
/// [`SpoolDriver::close`] does the same and waits for the store.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
    _open: Arc<CloseOnDrop>,
}

/// The other end of a [`Spool`]: its threads.
#[derive(Debug)]
pub struct SpoolDriver {
    inner: Arc<Inner>,
    ended: Vec<oneshot::Receiver<()>>,
}

struct CloseOnDrop(Arc<Inner>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.queue.stop();
    }
}

/// What the threads and every clone share.
struct Inner {
    options: Arc<SpoolOptions>,
    stream: StreamId,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    backlog: Arc<Backlog>,
    /// `None` once the spool is closed.
    writer: Mutex<Option<Writer>>,
    closed_writer: Mutex<Option<Writer>>,
    queue: Queue,
    syncer: Syncer,
    store_waits: StoreWaits,
    progress: watch::Sender<Progress>,
    /// Since when the store is not up to date.
    lag_since: Mutex<Option<Instant>>,
}

/// How far the drain is.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// The last row that is in the store.
    stored: u64,
    /// Whether the directories of earlier processes are done with.
    replayed: bool,
    /// Attempts that failed.
    failures: u64,
}

impl Spool {
    /// Opens a spool: makes this process's stream, starts its threads, and begins to replay what earlier processes
    /// left in the directory.
    ///
    /// The store is called on the drain's own thread, in the tokio runtime that this is called in (in one of the
    /// drain's own when there is none).
    ///
    /// # Errors
    /// [`SpoolError::Io`] when the directory cannot be made or written.
    pub fn open(
        options: SpoolOptions,
        store: Arc<dyn AuditStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, SpoolDriver), SpoolError> {
        let mut options = options.checked();
        // For the drain alone, whose end lets go of the keys and their store: handles outlive it.
        let checkpoints = std::mem::take(&mut options.checkpoints);
        let options = Arc::new(options);
        let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
        let stream = StreamId(Ulid::from_parts(millis, rand::random()));
        let dir = StreamDir::create(&options.dir, stream)?;
        let orphans: VecDeque<_> = directory::others(&options.dir, stream)?.into();
        let counters = Arc::new(Counters::default());
        for orphan in &orphans {
            counters.bytes.fetch_add(size_of_dir(orphan), Relaxed);
        }
        let backlog = Arc::new(Backlog::default());
        let writer = Writer::create(Arc::clone(&options), dir, stream, Arc::clone(&counters), Arc::clone(&backlog))?;
        let (runtime, own_runtime) = match tokio::runtime::Handle::try_current() {
            Ok(handle) => (handle, None),
            Err(_) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .build()
                    .map_err(|source| SpoolError::io(&options.dir, source))?;
                (runtime.handle().clone(), Some(runtime))
            }
        };
        let inner = Arc::new(Inner {
            stream,
            clock,
            counters,
            backlog,
            writer: Mutex::new(Some(writer)),
            closed_writer: Mutex::default(),
            queue: Queue::default(),
            syncer: Syncer::default(),
            store_waits: StoreWaits::default(),
            progress: watch::Sender::new(Progress { replayed: orphans.is_empty(), ..Progress::default() }),
            lag_since: Mutex::default(),
            options,
        });
        let drain = Drain::new(Arc::clone(&inner), store, runtime, orphans, checkpoints);
        let ended = vec![
            spawn("audit-spool", &inner, Inner::commit_loop)?,
            spawn("audit-sync", &inner, Inner::sync_loop)?,
            spawn("audit-drain", &inner, move |_| {
                let _runtime = own_runtime;
                drain.run();
            })?,
        ];
        let open = Arc::new(CloseOnDrop(Arc::clone(&inner)));
        Ok((Self { inner: Arc::clone(&inner), _open: open }, SpoolDriver { inner, ended }))
    }

    /// This process's stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.inner.stream
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        self.inner.stats()
    }
}

impl SpoolDriver {
    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> SpoolStats {
        self.inner.stats()
    }

    /// Closes the spool: writes what is queued, refuses what comes later, and hands the rest to the store unless it is
    /// away. What it does not take stays on disk for the next process.
    pub async fn close(self) {
        self.inner.queue.stop();
        for ended in self.ended {
            // An error means that the thread has ended.
            let _ = ended.await;
        }
    }
}

#[async_trait]
impl AuditSink for Spool {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        let event = match self.inner.record_inline(event) {
            Ok(recorded) => return MaybeReady::Ready(recorded),
            Err(event) => event,
        };
        match self.inner.enqueue(event) {
            Ok(waiting) => MaybeReady::wait(Arc::clone(&self.inner).wait(waiting)),
            Err(full) => MaybeReady::Ready(Err(full)),
        }
    }

    async fn flush(&self) {
        self.inner.barrier().await;
        let target = self.inner.backlog.last_row();
        let mut progress = self.inner.progress.subscribe();
        let failures = progress.borrow().failures;
        loop {
            let now = *progress.borrow_and_update();
            if now.failures != failures || (now.stored >= target && now.replayed) {
                return;
            }
            self.inner.backlog.hurry();
            if progress.changed().await.is_err() {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("stream", &self.stream).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Inner {
    /// Writes at once if nobody else is writing and the disk is quick; gives the event back otherwise.
    ///
    /// A write to the page cache takes a few microseconds, less than waking a thread. On a stalling disk it may take
    /// seconds, which must not stop the caller's worker thread: then the event goes through the queue.
    // The event is moved on either way; boxing it would cost what this path saves.
    #[allow(clippy::result_large_err)]
    fn record_inline(&self, event: AuditEvent) -> Result<Result<Seq, AuditFull>, AuditEvent> {
        let quick = self.options.inline_writes
            && self.options.durability == Durability::Process
            && !self.counters.slow.load(Acquire)
            // Whoever waits in the queue goes first.
            && self.counters.waiting.load(Acquire) == 0;
        if !quick {
            return Err(event);
        }
        let Ok(mut guard) = self.writer.try_lock() else { return Err(event) };
        let Some(writer) = guard.as_mut().filter(|writer| !writer.wants_segment()) else { return Err(event) };
        let began = Instant::now();
        let appended = writer.append_one(event);
        self.note_dirty(writer);
        drop(guard);
        self.note_write(began.elapsed());
        self.counters.recorded_inline.fetch_add(u64::from(appended.is_ok()), Relaxed);
        Ok(appended.map(|(seq, _)| seq))
    }

    /// Waits for the answer of the spool's thread.
    async fn wait(self: Arc<Self>, waiting: Waiting) -> Result<Seq, AuditFull> {
        let Waiting { claim, mut answer } = waiting;
        let began = Instant::now();
        loop {
            match tokio::time::timeout(self.options.stall_timeout, &mut answer).await {
                Ok(Ok(recorded)) => return recorded,
                // The thread is gone without an answer.
                Ok(Err(_)) => return Err(AuditFull::Failed),
                // A disk stalls in real time, also where tokio's time is paused.
                Err(_) if began.elapsed() < self.options.stall_timeout => {}
                Err(_) => {
                    // If it is being written already nobody knows how that ends: not in time, in any case.
                    let _ = claim.give_up();
                    self.counters.failed();
                    self.counters.refused(AuditFull::Stalled, 1);
                    return Err(AuditFull::Stalled);
                }
            }
        }
    }

    /// Notes that the store is behind since this time, unless it was before.
    fn behind(&self, since: Instant) {
        self.lag_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(since);
    }

    /// Notes that the store has everything, or everything older than this time.
    fn caught_up(&self, upto: Option<Instant>) {
        *self.lag_since.lock().unwrap_or_else(PoisonError::into_inner) = upto;
    }

    fn stats(&self) -> SpoolStats {
        let behind = *self.lag_since.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let lag = behind.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.counters.snapshot(lag.max(self.backlog.age()))
    }
}

/// Starts a thread and says when it has ended.
fn spawn(
    name: &str,
    inner: &Arc<Inner>,
    body: impl FnOnce(&Inner) + Send + 'static,
) -> Result<oneshot::Receiver<()>, SpoolError> {
    let (end, ended) = oneshot::channel();
    let shared = Arc::clone(inner);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            body(&shared);
            drop(shared);
            let _ = end.send(());
        })
        .map_err(|source| SpoolError::io(&inner.options.dir, source))?;
    Ok(ended)
}

fn size_of_dir(path: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

#[cfg(test)]
mod tests;
