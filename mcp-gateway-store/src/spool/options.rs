//! What an operator can set.

use std::path::PathBuf;
use std::time::Duration;

use super::{Checkpoints, SpoolKey};

/// When a [`Spool`](super::Spool) answers that it has an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The event is in the page cache: it survives `kill -9` of the process, not the loss of power.
    #[default]
    Process,
    /// The disk has confirmed the event: it survives the loss of power. Waiting callers share one `fdatasync`.
    ///
    /// The store must keep this promise too once it has the event (for SQLite: `Durability::Power`).
    Fsync,
    /// The store has the event: it survives the loss of this machine's disk, if the store does. An intent, which is no
    /// row, waits for the disk as under [`Fsync`](Self::Fsync).
    Store,
}

/// The settings of a [`Spool`](super::Spool).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SpoolOptions {
    /// Where the streams' directories are; made (mode 0700) when it is absent.
    pub dir: PathBuf,
    /// What the segments are sealed with.
    pub key: SpoolKey,
    /// Bytes on disk at most, what earlier processes left behind included. 1 GiB.
    pub max_bytes: u64,
    /// A segment that has reached this size is closed. 8 MiB, and at most a quarter of `max_bytes`.
    pub segment_bytes: u64,
    /// What "recorded" means.
    pub durability: Durability,
    /// How long a caller waits for the disk (for the store, under [`Durability::Store`]). 2 s.
    pub stall_timeout: Duration,
    /// Rows that are handed to the store at once, at most. 1,000.
    pub batch_rows: usize,
    /// How long rows are gathered until there are `batch_rows` of them: each batch writes every page that it touches
    /// once. 50 ms.
    pub gather: Duration,
    /// After so much work the drain lets others run. 1 ms.
    pub yield_after: Duration,
    /// Callers that wait for the disk or the store at one time, at most; more are refused at once. 4,096.
    pub max_waiting: usize,
    /// Bytes of events of waiting callers, at most. 32 MiB.
    pub max_waiting_bytes: usize,
    /// Intents without an end at one time, at most. 16,384.
    pub max_open_intents: usize,
    /// Rows kept in memory for the store, at most; later ones are read back from disk. 8,192.
    pub memory_rows: usize,
    /// Bytes of rows kept in memory for the store, at most. 16 MiB.
    pub memory_bytes: usize,
    /// Whether a caller may write by itself when nobody else is writing and the disk is quick
    /// ([`Durability::Process`] only). Off, every event goes through the spool's thread. On.
    pub inline_writes: bool,
    /// What signs checkpoints of the trail's chain; nothing by default.
    pub checkpoints: Checkpoints,
    /// Rows after which a checkpoint is signed, at most. 1,000.
    pub checkpoint_rows: u64,
    /// How long after a row the checkpoint that covers it is signed, at most. 10 s.
    pub checkpoint_after: Duration,
}

impl SpoolOptions {
    /// The defaults, in this directory and with this key.
    pub fn new(dir: impl Into<PathBuf>, key: SpoolKey) -> Self {
        Self {
            dir: dir.into(),
            key,
            max_bytes: 1 << 30,
            segment_bytes: 8 << 20,
            durability: Durability::default(),
            stall_timeout: Duration::from_secs(2),
            batch_rows: 1_000,
            gather: Duration::from_millis(50),
            yield_after: Duration::from_millis(1),
            max_waiting: 4_096,
            max_waiting_bytes: 32 << 20,
            max_open_intents: 16_384,
            memory_rows: 8_192,
            memory_bytes: 16 << 20,
            inline_writes: true,
            checkpoints: Checkpoints::default(),
            checkpoint_rows: 1_000,
            checkpoint_after: Duration::from_secs(10),
        }
    }

    /// The same with every value in the bounds that the spool can work with.
    pub(super) fn checked(mut self) -> Self {
        self.max_bytes = self.max_bytes.max(64 << 10);
        self.segment_bytes = self.segment_bytes.clamp(4 << 10, self.max_bytes / 4);
        self.batch_rows = self.batch_rows.clamp(1, 1_000);
        self.max_waiting = self.max_waiting.max(1);
        self
    }
}
