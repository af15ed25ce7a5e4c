//! The one place that writes segments.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use aes_gcm::Aes256Gcm;
use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditFull, Seq, StreamId};
use mcp_gateway_core::record::{AuditEvent, EventKind};
use ulid::Ulid;

use super::backlog::{Backlog, Queued, SegmentInfo};
use super::directory::{StreamDir, segment_path, sync_dir};
use super::event::Entry;
use super::segment::{self, BLOCK_OVERHEAD, BlockHead, Head};
use super::stats::Counters;
use super::{SpoolError, SpoolOptions};

/// What is kept free for the end of each open intent: a call that was let through can record how it ended.
pub(super) const END_RESERVE: u64 = 1_024;
/// A larger event is refused. Captured bodies are bounded far below.
pub(super) const EVENT_LIMIT: usize = 1 << 20;
/// A block of carried intents is closed when it has reached this size.
const CARRY_BLOCK: usize = 1 << 20;

/// What became of an event: its position and, unless it is an intent, its row.
pub(super) type Appended = Result<(Seq, Option<u64>), AuditFull>;

/// Numbers, encodes, seals and writes events. Owned by whoever holds its lock.
pub(super) struct Writer {
    options: Arc<SpoolOptions>,
    dir: StreamDir,
    stream: StreamId,
    counters: Arc<Counters>,
    backlog: Arc<Backlog>,
    current: Current,
    next_number: u64,
    next_seq: u64,
    next_row: u64,
    /// Open intents, by request.
    open: HashMap<Ulid, OpenIntent>,
    buffer: Vec<u8>,
    rows: Vec<Queued>,
    undo: Undo,
    one: Vec<Appended>,
    unsynced: u64,
}

/// The segment that is written to.
struct Current {
    file: Arc<File>,
    cipher: Aes256Gcm,
    len: u64,
    /// The next nonce. It counts attempts, not blocks: a nonce is never used for two texts.
    counter: u64,
}

struct OpenIntent {
    seq: u64,
    event: AuditEvent,
}

/// What a batch changed among the open intents, kept until it is written.
#[derive(Default)]
struct Undo {
    added: Vec<(Ulid, Option<OpenIntent>)>,
    ended: Vec<Ulid>,
}

impl Writer {
    /// Makes the stream's first segment.
    pub(super) fn create(
        options: Arc<SpoolOptions>,
        dir: StreamDir,
        stream: StreamId,
        counters: Arc<Counters>,
        backlog: Arc<Backlog>,
    ) -> Result<Self, SpoolError> {
        let head = Head { stream, number: 1, first_seq: 1, first_row: 1 };
        let mut buffer = Vec::new();
        let cipher = head.create(&options.key, &mut buffer);
        let path = segment_path(&dir.path, 1);
        let file = create_file(&path)
            .and_then(|file| file.write_all_at(&buffer, 0).map(|()| file))
            .map_err(|source| SpoolError::io(&path, source))?;
        sync_dir(&dir.path)?;
        let len = buffer.len() as u64;
        counters.bytes.fetch_add(len, Relaxed);
        backlog.add_segment(SegmentInfo { number: 1, path, first_row: 1, len });
        Ok(Self {
            options,
            dir,
            stream,
            counters,
            backlog,
            current: Current { file: Arc::new(file), cipher, len, counter: 0 },
            next_number: 2,
            next_seq: 1,
            next_row: 1,
            open: HashMap::new(),
            buffer,
            rows: Vec::new(),
            undo: Undo::default(),
            one: Vec::new(),
            unsynced: 0,
        })
    }

    /// Whether the next append begins with a new segment.
    pub(super) fn wants_segment(&self) -> bool {
        self.current.len >= self.options.segment_bytes
    }

    /// The file that is written to, to be synced.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.current.file
    }

    pub(super) fn open_intents(&self) -> usize {
        self.open.len()
    }

    /// Makes the disk fail, or work again.
    #[cfg(test)]
    pub(super) fn swap_file(&mut self, file: Arc<File>) -> Arc<File> {
        std::mem::replace(&mut self.current.file, file)
    }

    /// Gives up the directory, whose events are all in the store.
    pub(super) fn into_dir(self) -> StreamDir {
        self.dir
    }

    /// Bytes written since this was asked last.
    pub(super) fn take_unsynced(&mut self) -> u64 {
        std::mem::take(&mut self.unsynced)
    }

    /// Appends one event.
    pub(super) fn append_one(&mut self, event: AuditEvent) -> Appended {
        let mut one = std::mem::take(&mut self.one);
        self.append(std::iter::once(event), false, &mut one);
        let appended = one.pop().expect("an answer for each event");
        self.one = one;
        appended
    }

    /// Appends events in one write (and, with `sync`, one `fdatasync`), and says what became of each.
    ///
    /// When the write fails nothing of the batch is recorded, and what came before is as it was.
    pub(super) fn append(&mut self, events: impl Iterator<Item = AuditEvent>, sync: bool, out: &mut Vec<Appended>) {
        let first = out.len();
        if self.wants_segment()
            && let Err(error) = self.rotate(sync)
        {
            self.fail(&error, events.count(), out);
            return;
        }
        self.buffer.clear();
        self.rows.clear();
        let start = segment::begin_block(&mut self.buffer);
        let (mut seq, mut row) = (self.next_seq, self.next_row);
        for event in events {
            out.push(self.encode(event, &mut seq, &mut row));
        }
        if seq == self.next_seq {
            return;
        }
        let head = BlockHead {
            entries: u32::try_from(seq - self.next_seq).expect("a batch is bounded by the callers that wait"),
            rows: u32::try_from(row - self.next_row).expect("rows are entries"),
            counter: self.current.counter,
            first_seq: self.next_seq,
            first_row: self.next_row,
        };
        self.current.counter += 1;
        segment::finish_block(&self.current.cipher, &head, start, &mut self.buffer);
        let written = self.current.file.write_all_at(&self.buffer, self.current.len);
        let written = if sync { written.and_then(|()| self.current.file.sync_data()) } else { written };
        if let Err(error) = written {
            // Whatever reached the file is cut off, or at least overwritten by the next block.
            let _ = self.current.file.set_len(self.current.len);
            for (id, before) in self.undo.added.drain(..).rev() {
                match before {
                    Some(before) => self.open.insert(id, before),
                    None => self.open.remove(&id),
                };
            }
            self.undo.ended.clear();
            let count = out.len() - first;
            out.truncate(first);
            self.fail(&SpoolError::io(&self.dir.path, error), count, out);
            return;
        }
        self.undo.added.clear();
        for id in self.undo.ended.drain(..) {
            self.open.remove(&id);
        }
        self.counters.written();
        self.counters.recorded.fetch_add(seq - self.next_seq, Relaxed);
        self.counters.open_intents.store(self.open.len() as u64, Relaxed);
        (self.next_seq, self.next_row) = (seq, row);
        self.current.len += self.buffer.len() as u64;
        self.unsynced += self.buffer.len() as u64;
        self.counters.bytes.fetch_add(self.buffer.len() as u64, Relaxed);
        self.counters.written_row.store(row - 1, Relaxed);
        let options = &self.options;
        let (len, rows) = (self.current.len, self.rows.drain(..));
        self.backlog.written(len, row - 1, rows, options.memory_rows, options.memory_bytes);
    }

    /// Adds an event to the block, if there is room for it.
    fn encode(&mut self, mut event: AuditEvent, seq: &mut u64, row: &mut u64) -> Appended {
        // The store's key must be the same whether the row comes from memory or from disk.
        event.ts = Timestamp::from_microsecond(event.ts.as_microsecond()).unwrap_or(event.ts);
        let intent = event.kind == EventKind::Intent;
        let ends = !intent && event.kind.ends_intent();
        let open = if ends { self.open.get(&event.request_id) } else { None };
        let before = self.buffer.len();
        if let Some(open) = open {
            event.absorb_intent(&open.event);
        }
        let entry = if intent { Entry::Intent((&event).into()) } else { Entry::Row((&event).into()) };
        segment::push_entry(entry, &mut self.buffer);
        let size = self.buffer.len() - before;

        // An end may use up what its intent reserved; everything else leaves it alone.
        let reserved = self.open.len() as u64 + u64::from(intent) - u64::from(open.is_some());
        let block = (self.buffer.len() + BLOCK_OVERHEAD) as u64;
        let used = self.counters.bytes.load(Relaxed) + block;
        let (ends_open, room) = (open.is_some(), self.options.max_bytes);
        let refusal = if size > EVENT_LIMIT {
            Some(AuditFull::Failed)
        } else if used > room || (!ends_open && used + reserved * END_RESERVE > room) {
            self.counters.no_room();
            Some(AuditFull::Space)
        } else if intent && self.open.len() >= self.options.max_open_intents {
            Some(AuditFull::Space)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.buffer.truncate(before);
            self.counters.refused(refusal, 1);
            return Err(refusal);
        }

        // A row may fit where an intent and its end would not.
        if !ends_open && (intent || used + (reserved + 2) * END_RESERVE <= room) {
            self.counters.room();
        }
        let position = Seq(*seq);
        *seq += 1;
        if intent {
            let id = event.request_id;
            let before = self.open.insert(id, OpenIntent { seq: position.0, event });
            self.undo.added.push((id, before));
            return Ok((position, None));
        }
        if ends {
            self.undo.ended.push(event.request_id);
        }
        self.rows.push(Queued { row: *row, bytes: size, event });
        *row += 1;
        Ok((position, Some(*row - 1)))
    }

    /// Begins a new segment, with the intents that are still open, so that no old segment is kept for their sake.
    fn rotate(&mut self, sync: bool) -> Result<(), SpoolError> {
        let head =
            Head { stream: self.stream, number: self.next_number, first_seq: self.next_seq, first_row: self.next_row };
        self.buffer.clear();
        let cipher = head.create(&self.options.key, &mut self.buffer);
        let mut counter = 0;
        let mut carried = self.open.values().collect::<Vec<_>>();
        carried.sort_unstable_by_key(|intent| intent.seq);
        let mut carried = carried.into_iter().peekable();
        while carried.peek().is_some() {
            let start = segment::begin_block(&mut self.buffer);
            let mut entries = 0;
            while self.buffer.len() - start < CARRY_BLOCK
                && let Some(intent) = carried.next()
            {
                segment::push_entry(Entry::Carried(intent.seq, (&intent.event).into()), &mut self.buffer);
                entries += 1;
            }
            let block = BlockHead { entries, rows: 0, counter, first_seq: self.next_seq, first_row: self.next_row };
            segment::finish_block(&cipher, &block, start, &mut self.buffer);
            counter += 1;
        }
        if self.counters.bytes.load(Relaxed) + self.buffer.len() as u64 > self.options.max_bytes {
            // The segment goes on to grow, within the bounds of the spool, until an older one is in the store.
            return Ok(());
        }
        let path = segment_path(&self.dir.path, self.next_number);
        // A name is used once, also when what follows fails.
        self.next_number += 1;
        let made = create_file(&path).and_then(|file| {
            file.write_all_at(&self.buffer, 0)?;
            if sync {
                file.sync_data()?;
            }
            Ok(file)
        });
        let file = match made {
            Ok(file) => file,
            Err(source) => {
                let _ = std::fs::remove_file(&path);
                return Err(SpoolError::io(&path, source));
            }
        };
        if sync {
            sync_dir(&self.dir.path)?;
        }
        let len = self.buffer.len() as u64;
        self.counters.bytes.fetch_add(len, Relaxed);
        self.backlog.add_segment(SegmentInfo { number: head.number, path, first_row: self.next_row, len });
        self.current = Current { file: Arc::new(file), cipher, len, counter };
        Ok(())
    }

    fn fail(&self, error: &SpoolError, count: usize, out: &mut Vec<Appended>) {
        tracing::error!(%error, events = count, "the audit spool cannot be written");
        self.counters.error(error);
        self.counters.failed();
        self.counters.refused(AuditFull::Failed, count as u64);
        out.extend(std::iter::repeat_n(Err(AuditFull::Failed), count));
    }
}

fn create_file(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}
