//! What an earlier process left behind.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditRow, AuditStore, StoreError, StoreLimits, StreamId};
use mcp_gateway_core::record::AuditEvent;
use mcp_gateway_core::trail::Part;
use ulid::Ulid;

use super::chain::{Chain, Checkpoints};
use super::directory::StreamDir;
use super::segment::{Head, HeadError, Next, Read, SegmentReader};
use super::{SpoolError, SpoolKey, tail};

/// Rows of an import that are handed to the store at once.
const BATCH: usize = 512;

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Rows handed to the store, among them those it had already.
    pub rows: u64,
    /// Those among them that are calls whose end nobody saw.
    pub unknown: u64,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
}

/// Hands the events of an orphaned stream's directory to a store, then removes the directory.
///
/// With something that signs, what is imported is signed when it is all there.
///
/// For directories that were left behind elsewhere, for example on the volume of a machine that is gone: a spool does
/// the same with every orphan beside its own directory. Appends are idempotent, so an import that was interrupted is
/// simply repeated. It reads files on the thread that polls it: for a command, not for a server's worker.
///
/// # Errors
/// [`SpoolError::InUse`] when a process still writes there, [`SpoolError::Unreadable`] when the key is another one or
/// the format is newer, [`SpoolError::Store`] when the store does not take the rows. In all of them the directory
/// stays.
pub async fn import(
    dir: &Path,
    key: &SpoolKey,
    store: &dyn AuditStore,
    checkpoints: &Checkpoints,
) -> Result<Imported, SpoolError> {
    if !dir.is_dir() {
        return Err(SpoolError::io(dir, std::io::ErrorKind::NotFound.into()));
    }
    let locked = StreamDir::adopt(dir)?.ok_or_else(|| SpoolError::InUse { path: dir.to_owned() })?;
    let mut orphan = Orphan::open(locked, key)?;
    let mut chain = orphan.chain(checkpoints, store).await?;
    loop {
        let rows = orphan.batch(BATCH)?;
        if rows.is_empty() && orphan.is_read(&mut chain, store).await? {
            break;
        }
        let head = chain.behind(&rows);
        store.append(rows).await?;
        chain.advance(head);
    }
    chain.sign(store, Part::End, Timestamp::now()).await?;
    let imported = orphan.imported;
    orphan.dir.remove()?;
    Ok(imported)
}

/// The number of the last row behind one that a store has a link of, and the requests whose ends these rows are.
async fn linked_behind(
    store: &dyn AuditStore,
    stream: StreamId,
    mut row: u64,
) -> Result<(u64, HashSet<Ulid>), StoreError> {
    let mut ended = HashSet::new();
    loop {
        let page = store.chain(Some((stream, row)), StoreLimits::PAGE).await?;
        let before = row;
        for next in page.into_iter().filter(|next| next.link.stream == stream) {
            row = next.link.seq;
            ended.extend(next.event.filter(|event| event.kind.ends_intent()).map(|event| event.request_id));
        }
        if row == before {
            return Ok((row, ended));
        }
    }
}

/// A directory that is being replayed.
pub(super) struct Orphan {
    pub(super) dir: StreamDir,
    key: SpoolKey,
    stream: StreamId,
    segments: VecDeque<Segment>,
    reader: Option<SegmentReader<File>>,
    next_seq: u64,
    next_row: u64,
    /// Whether the process that wrote it signed its chain.
    chained: bool,
    /// Whether the rows that it has lost are known.
    caught_up: bool,
    open: HashMap<Ulid, (u64, AuditEvent)>,
    /// The open intents as rows, in order, once every segment is read.
    unknown: Option<VecDeque<AuditEvent>>,
    /// Bytes of its segments.
    pub(super) bytes: u64,
    pub(super) imported: Imported,
    scratch: Vec<Read>,
}

struct Segment {
    path: PathBuf,
    len: u64,
    head: Head,
}

impl Orphan {
    /// Looks at every segment before the first row goes to the store.
    pub(super) fn open(dir: StreamDir, key: &SpoolKey) -> Result<Self, SpoolError> {
        let mut segments = VecDeque::new();
        let (mut bytes, mut torn_bytes) = (0, 0);
        let mut chained = true;
        let found = dir.segments()?;
        let last = found.len().saturating_sub(1);
        for (index, (_, path)) in found.into_iter().enumerate() {
            let io = |source| SpoolError::io(&path, source);
            let file = File::open(&path).map_err(io)?;
            let len = file.metadata().map_err(io)?.len();
            bytes += len;
            match SegmentReader::open(file, len, key) {
                Ok(reader) => {
                    let head = reader.head;
                    chained &= reader.chained;
                    segments.push_back(Segment { path, len, head });
                }
                // The process, or the machine, died while it made this one: nothing was in it.
                Err(HeadError::Torn | HeadError::NotASegment) if index == last => torn_bytes += len,
                Err(HeadError::Io(source)) => return Err(io(source)),
                Err(error) => return Err(SpoolError::Unreadable { path, reason: error.to_string() }),
            }
        }
        let first = segments.front().map(|segment| segment.head);
        Ok(Self {
            dir,
            key: key.clone(),
            stream: first.map_or(StreamId(Ulid::nil()), |head| head.stream),
            segments,
            reader: None,
            next_seq: first.map_or(1, |head| head.first_seq),
            next_row: first.map_or(1, |head| head.first_row),
            chained,
            caught_up: false,
            open: HashMap::new(),
            unknown: None,
            bytes,
            imported: Imported { torn_bytes, ..Imported::default() },
            scratch: Vec::new(),
        })
    }

    /// The chain that its rows go on.
    pub(super) async fn chain(&self, checkpoints: &Checkpoints, store: &dyn AuditStore) -> Result<Chain, SpoolError> {
        if !self.chained || self.segments.is_empty() {
            return Ok(Chain::begin(&Checkpoints::default(), self.stream));
        }
        let left = tail::read(&self.dir.path, &self.key, self.stream)?;
        Ok(Chain::resume(checkpoints, store, left, (self.stream, self.next_row)).await?)
    }

    /// When [`batch`](Self::batch) gives nothing: whether that is all. Once before, it looks for rows that the store has
    /// and that were lost here with the machine's power: the calls whose end nobody saw are rows behind them.
    pub(super) async fn is_read(&mut self, chain: &mut Chain, store: &dyn AuditStore) -> Result<bool, StoreError> {
        if self.caught_up {
            return Ok(true);
        }
        let (last, ended) = linked_behind(store, self.stream, self.next_row - 1).await?;
        self.next_row = self.next_row.max(last + 1);
        // An attempt before may have come as far as some of these calls.
        if let Some(unknown) = &mut self.unknown {
            unknown.retain(|event| !ended.contains(&event.request_id));
        }
        chain.take_lost(store).await?;
        self.caught_up = true;
        Ok(false)
    }

    /// The next rows; none when all have been read. The same directory always gives the same rows, for the same store.
    pub(super) fn batch(&mut self, limit: usize) -> Result<Vec<AuditRow>, SpoolError> {
        let mut rows = Vec::new();
        while rows.len() < limit && self.unknown.is_none() {
            self.read_block(&mut rows)?;
        }
        if let Some(unknown) = self.unknown.as_mut().filter(|_| self.caught_up) {
            while rows.len() < limit
                && let Some(event) = unknown.pop_front()
            {
                rows.push(AuditRow { stream: self.stream, seq: self.next_row, event });
                self.next_row += 1;
                self.imported.unknown += 1;
            }
        }
        self.imported.rows += rows.len() as u64;
        Ok(rows)
    }

    fn read_block(&mut self, rows: &mut Vec<AuditRow>) -> Result<(), SpoolError> {
        let Some(segment) = self.segments.front() else {
            let mut open: Vec<_> = std::mem::take(&mut self.open).into_values().collect();
            open.sort_unstable_by_key(|(seq, _)| *seq);
            self.unknown = Some(open.into_iter().map(|(_, event)| event.into_unknown()).collect());
            return Ok(());
        };
        let io = |source| SpoolError::io(&segment.path, source);
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => {
                let file = File::open(&segment.path).map_err(io)?;
                let opened = SegmentReader::open(file, segment.len, &self.key).map_err(|error| {
                    SpoolError::Unreadable { path: segment.path.clone(), reason: error.to_string() }
                })?;
                (self.next_seq, self.next_row) = (opened.head.first_seq, opened.head.first_row);
                none.insert(opened)
            }
        };
        // What a later segment says it begins with was never answered for in this one.
        let end = self.segments.get(1).map_or(u64::MAX, |next| next.head.first_seq);
        self.scratch.clear();
        let next_seq = self.next_seq;
        match reader.next(|_| true, &mut self.scratch).map_err(io)? {
            Next::Block(head) if head.first_seq == next_seq && head.first_seq < end => {}
            Next::Block(_) | Next::Torn => {
                let torn = segment.len.saturating_sub(reader.offset);
                tracing::warn!(segment = %segment.path.display(), bytes = torn, "the torn tail of an audit spool was cut");
                self.imported.torn_bytes += torn;
                self.finish_segment();
                return Ok(());
            }
            Next::End => {
                self.finish_segment();
                return Ok(());
            }
        }
        for read in self.scratch.drain(..) {
            match read {
                Read::Intent { seq, event } => {
                    self.next_seq = self.next_seq.max(seq.saturating_add(1));
                    self.open.insert(event.request_id, (seq, event));
                }
                Read::Row { row, event } => {
                    self.next_seq += 1;
                    self.next_row = row.saturating_add(1);
                    if event.kind.ends_intent() {
                        self.open.remove(&event.request_id);
                    }
                    rows.push(AuditRow { stream: self.stream, seq: row, event });
                }
            }
        }
        Ok(())
    }

    fn finish_segment(&mut self) {
        self.segments.pop_front();
        self.reader = None;
    }
}
