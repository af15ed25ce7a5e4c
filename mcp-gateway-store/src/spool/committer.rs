//! Group commit: callers wait in a queue, one thread writes what has gathered in one go.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mcp_gateway_core::contract::{AuditFull, Seq};
use mcp_gateway_core::record::AuditEvent;
use tokio::sync::oneshot;

use super::writer::{Appended, Writer};
use super::{Durability, Inner};

/// A write that takes longer sends every caller through the thread, until the disk is quick again.
pub(super) const SLOW_WRITE: Duration = Duration::from_millis(10);
/// The same for an `fdatasync`, which is slower by nature.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// Dirty data is handed to the disk after so many bytes, or so long: it never gathers until the kernel throttles.
const SYNC_BYTES: u64 = 8 << 20;
const SYNC_EVERY: Duration = Duration::from_millis(200);
/// Events and bytes that are written in one go, at most.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 1 << 20;

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Who has an event: its caller, or the thread that writes it.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    /// The thread takes the event. False when its caller was told that it is not recorded.
    fn take(&self) -> bool {
        self.0.compare_exchange(WAITING, TAKEN, AcqRel, Acquire).is_ok()
    }

    /// The caller has waited long enough. False when the event is being written.
    pub(super) fn give_up(&self) -> bool {
        self.0.compare_exchange(WAITING, GIVEN_UP, AcqRel, Acquire).is_ok()
    }
}

type Answer = oneshot::Sender<Result<Seq, AuditFull>>;

enum Item {
    Event {
        event: Box<AuditEvent>,
        bytes: usize,
        claim: Arc<Claim>,
        answer: Answer,
    },
    /// Answered when everything before it is written.
    Barrier(oneshot::Sender<()>),
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    sleeps: bool,
    stop: bool,
}

/// The callers that wait for the spool's thread.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().items.len()
    }

    fn push(&self, item: Item) -> Result<(), Item> {
        let mut state = self.lock();
        if state.stop {
            return Err(item);
        }
        state.items.push_back(item);
        if std::mem::take(&mut state.sleeps) {
            self.wake.notify_one();
        }
        Ok(())
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }

    /// Moves a group out; false when the queue is closed and empty.
    fn wait(&self, group: &mut Vec<Item>) -> bool {
        let mut state = self.lock();
        loop {
            let mut bytes = 0;
            while group.len() < GROUP
                && bytes < GROUP_BYTES
                && let Some(item) = state.items.pop_front()
            {
                if let Item::Event { bytes: size, .. } = &item {
                    bytes += size;
                }
                group.push(item);
            }
            if !group.is_empty() {
                return true;
            }
            if state.stop {
                return false;
            }
            state.sleeps = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeps = false;
        }
    }
}

/// What the caller of a queued event waits on.
pub(super) struct Waiting {
    pub(super) claim: Arc<Claim>,
    pub(super) answer: oneshot::Receiver<Result<Seq, AuditFull>>,
}

impl Inner {
    /// Puts an event into the queue of the spool's thread.
    pub(super) fn enqueue(&self, event: AuditEvent) -> Result<Waiting, AuditFull> {
        let bytes = estimate(&event);
        let counters = &self.counters;
        let waiting = counters.waiting.fetch_add(1, AcqRel) + 1;
        let waiting_bytes = counters.waiting_bytes.fetch_add(bytes as u64, AcqRel) + bytes as u64;
        let (answer, receiver) = oneshot::channel();
        let claim = Arc::new(Claim::default());
        let waits = Waiting { claim: Arc::clone(&claim), answer: receiver };
        let full = waiting > self.options.max_waiting as u64 || waiting_bytes > self.options.max_waiting_bytes as u64;
        let refusal = if full {
            AuditFull::Stalled
        } else {
            match self.queue.push(Item::Event { event: Box::new(event), bytes, claim, answer }) {
                Ok(()) => return Ok(waits),
                Err(_closed) => AuditFull::Failed,
            }
        };
        self.released(1, bytes);
        counters.refused(refusal, 1);
        Err(refusal)
    }

    /// Waits until everything that is queued is written.
    pub(super) async fn barrier(&self) {
        let (reached, wait) = oneshot::channel();
        if self.queue.push(Item::Barrier(reached)).is_ok() {
            // An error means that the thread has ended, and the queue with it.
            let _ = wait.await;
        }
    }

    pub(super) fn released(&self, events: u64, bytes: usize) {
        self.counters.waiting.fetch_sub(events, AcqRel);
        self.counters.waiting_bytes.fetch_sub(bytes as u64, AcqRel);
    }

    /// The spool's thread.
    pub(super) fn commit_loop(&self) {
        let sync = self.options.durability != Durability::Process;
        let (mut group, mut answers, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let mut appended: Vec<Appended> = Vec::new();
        while self.queue.wait(&mut group) {
            let mut barriers = Vec::new();
            let mut bytes_out = 0;
            for item in group.drain(..) {
                match item {
                    Item::Barrier(reached) => barriers.push(reached),
                    Item::Event { event, bytes, claim, answer } => {
                        bytes_out += bytes;
                        if claim.take() {
                            events.push(*event);
                            answers.push(answer);
                        } else {
                            self.released(1, 0);
                        }
                    }
                }
            }
            if !events.is_empty() {
                let began = Instant::now();
                {
                    let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
                    let writer = writer.as_mut().expect("only this thread takes the writer away, when it ends");
                    writer.append(events.drain(..), sync, &mut appended);
                    self.note_dirty(writer);
                }
                self.note_write(began.elapsed());
            }
            self.released(0, bytes_out);
            for (answer, appended) in answers.drain(..).zip(appended.drain(..)) {
                let waits_for_store = self.options.durability == Durability::Store;
                match appended {
                    Ok((seq, Some(row))) if waits_for_store => self.store_waits.push(row, seq, answer),
                    other => {
                        self.released(1, 0);
                        // A caller that went away has its event recorded all the same.
                        let _ = answer.send(other.map(|(seq, _)| seq));
                    }
                }
            }
            if self.options.durability == Durability::Store {
                self.answer_stored();
            }
            for reached in barriers {
                let _ = reached.send(());
            }
        }
        *self.closed_writer.lock().unwrap_or_else(PoisonError::into_inner) =
            self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.syncer.stop();
        self.backlog.stop();
    }

    /// Answers the callers whose rows are in the store.
    pub(super) fn answer_stored(&self) {
        let stored = self.counters.stored_row.load(Acquire);
        for (seq, answer) in self.store_waits.take(stored) {
            self.released(1, 0);
            let _ = answer.send(Ok(seq));
        }
    }

    /// Notes how long a write took, for the decision who writes the next one.
    pub(super) fn note_write(&self, took: Duration) {
        if took > SLOW_WRITE {
            self.counters.slow.store(true, Release);
        } else if self.counters.slow.load(Relaxed) && !self.syncer.is_slow() {
            self.counters.slow.store(false, Release);
        }
    }

    /// Notes what is to be synced behind the callers' backs.
    pub(super) fn note_dirty(&self, writer: &mut Writer) {
        let bytes = writer.take_unsynced();
        if self.options.durability == Durability::Process && self.syncer.dirty(writer.file(), bytes) {
            self.counters.slow.store(true, Release);
        }
    }

    /// The thread that syncs.
    pub(super) fn sync_loop(&self) {
        while let Some(files) = self.syncer.wait() {
            let mut synced = Ok(());
            for file in files {
                synced = synced.and(file.sync_data());
            }
            if self.syncer.finished() {
                self.counters.slow.store(true, Release);
            }
            if let Err(error) = synced {
                tracing::error!(%error, "the audit spool cannot be synced");
                self.counters.error(&error);
                self.counters.slow.store(true, Release);
            }
        }
    }
}

/// The memory that an event takes, about.
fn estimate(event: &AuditEvent) -> usize {
    let bodies = event.bodies.as_ref().map_or(0, |bodies| {
        let headers = bodies.request_headers.iter().chain(&bodies.response_headers);
        bodies.request.len()
            + bodies.response.len()
            + headers.map(|(name, value)| name.len() + value.len()).sum::<usize>()
    });
    1_024 + bodies
}

#[derive(Default)]
struct SyncState {
    files: Vec<Arc<File>>,
    dirty: u64,
    since: Option<Instant>,
    running: Option<Instant>,
    was_slow: bool,
    sleeps: bool,
    stop: bool,
}

/// Syncs behind the callers' backs, so that a slow disk shows here first.
#[derive(Default)]
pub(super) struct Syncer {
    state: Mutex<SyncState>,
    wake: Condvar,
}

impl Syncer {
    fn lock(&self) -> MutexGuard<'_, SyncState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes dirty bytes, and says whether a sync has been running for too long.
    fn dirty(&self, file: &Arc<File>, bytes: u64) -> bool {
        let mut state = self.lock();
        if !state.files.last().is_some_and(|last| Arc::ptr_eq(last, file)) {
            state.files.push(Arc::clone(file));
        }
        let first = state.since.is_none();
        state.since.get_or_insert_with(Instant::now);
        let before = state.dirty;
        state.dirty += bytes;
        if (first && state.sleeps) || (before < SYNC_BYTES && state.dirty >= SYNC_BYTES) {
            self.wake.notify_one();
        }
        state.running.is_some_and(|began| began.elapsed() > SLOW_SYNC)
    }

    /// Waits until there is enough to sync; `None` when the spool is closed and everything is synced.
    fn wait(&self) -> Option<Vec<Arc<File>>> {
        let mut state = self.lock();
        loop {
            state = match state.since {
                None if state.stop => return None,
                None => {
                    state.sleeps = true;
                    let mut state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.sleeps = false;
                    state
                }
                Some(since) => {
                    let left = SYNC_EVERY.saturating_sub(since.elapsed());
                    if state.stop || left.is_zero() || state.dirty >= SYNC_BYTES {
                        (state.since, state.dirty, state.running) = (None, 0, Some(Instant::now()));
                        return Some(std::mem::take(&mut state.files));
                    }
                    self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Notes the end of a sync and says whether it was slow.
    fn finished(&self) -> bool {
        let mut state = self.lock();
        state.was_slow = state.running.take().is_some_and(|began| began.elapsed() > SLOW_SYNC);
        state.was_slow
    }

    /// Whether the last sync was slow, or the one that runs is.
    pub(super) fn is_slow(&self) -> bool {
        let state = self.lock();
        state.was_slow || state.running.is_some_and(|began| began.elapsed() > SLOW_SYNC)
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_one();
    }
}

/// Callers that wait for the store.
#[derive(Default)]
pub(super) struct StoreWaits(Mutex<VecDeque<(u64, Seq, Answer)>>);

impl StoreWaits {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Seq, Answer)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, row: u64, seq: Seq, answer: Answer) {
        self.lock().push_back((row, seq, answer));
    }

    fn take(&self, stored: u64) -> Vec<(Seq, Answer)> {
        let mut waits = self.lock();
        let ready = waits.iter().take_while(|(row, ..)| *row <= stored).count();
        waits.drain(..ready).map(|(_, seq, answer)| (seq, answer)).collect()
    }

    /// Callers that gave up are forgotten, so that their number stays bounded while the store is away.
    pub(super) fn forget_closed(&self) -> u64 {
        let mut waits = self.lock();
        let before = waits.len();
        waits.retain(|(.., answer)| !answer.is_closed());
        (before - waits.len()) as u64
    }
}
