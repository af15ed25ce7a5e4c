//! The file format: segments of sealed blocks of events.
//!
//! ```text
//! segment = head block*
//! head    = "mcpspool" version:u16 0:u16 number:u64 stream:[16] first_seq:u64 first_row:u64
//!           nonce:[12] wrapped_key:[32] tag:[16]
//! block   = len:u32 entries:u32 rows:u32 0:u32 counter:u64 first_seq:u64 first_row:u64 ciphertext:[len-16] tag:[16]
//! ```
//!
//! Integers are little-endian. Each segment has a random AES-256-GCM key, wrapped by the local key with the head's
//! fields as associated data. A block's nonce is its counter, which never repeats in a segment, also when a write
//! failed; its 40 bytes of head are associated data. What does not open is a torn tail: the reader stops before it.

use aes_gcm::Aes256Gcm;
use mcp_gateway_core::contract::StreamId;
use mcp_gateway_core::record::AuditEvent;
use ulid::Ulid;
use zeroize::Zeroizing;

use super::event::Entry;
use super::key::{self, KEY, NONCE, SpoolKey, TAG};
use super::read_ahead::{ReadAhead, Source};
use crate::append;

/// The version of the format.
pub(super) const VERSION: u16 = 3;
/// The version before, whose streams are not chained: salts and changes are new.
const UNCHAINED: u16 = 2;
/// Bytes of a segment's head.
pub(super) const HEAD: usize = BOUND + NONCE + KEY + TAG;
/// Bytes of a block's head.
pub(super) const BLOCK_HEAD: usize = 40;
/// What a block adds to its entries.
pub(super) const BLOCK_OVERHEAD: usize = BLOCK_HEAD + TAG;
/// A longer block is not believed to be one.
pub(super) const BLOCK_LIMIT: usize = 64 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"mcpspool";
/// The bytes of the head that its key is bound to.
const BOUND: usize = 52;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) stream: StreamId,
    /// Segments of a stream in order.
    pub(super) number: u64,
    /// The position of its first event, and the number of its first row.
    pub(super) first_seq: u64,
    pub(super) first_row: u64,
}

/// Why a segment cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("it ends before its head does")]
    Torn,
    #[error("it is no segment of an audit spool")]
    NotASegment,
    #[error("its format has version {0}, this program knows version {VERSION}")]
    Version(u16),
    #[error("the key does not open it")]
    Key,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Head {
    /// Makes a segment's key, and appends the head that holds it.
    pub(super) fn create(&self, local: &SpoolKey, out: &mut Vec<u8>) -> Aes256Gcm {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.stream.0.to_bytes());
        out.extend_from_slice(&self.first_seq.to_le_bytes());
        out.extend_from_slice(&self.first_row.to_le_bytes());
        let mut key = Zeroizing::new([0; KEY]);
        rand::fill(&mut *key);
        let cipher = key::cipher(&key);
        let nonce: [u8; NONCE] = rand::random();
        let tag = local.wrap(&nonce, &out[start..], &mut *key);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&*key);
        out.extend_from_slice(&tag);
        cipher
    }

    /// Reads a head and opens its key; and says whether its stream is chained.
    fn open(bytes: &[u8; HEAD], local: &SpoolKey) -> Result<(Self, Aes256Gcm, bool), HeadError> {
        let (bound, sealed) = bytes.split_at(BOUND);
        if &bound[..8] != MAGIC {
            return Err(HeadError::NotASegment);
        }
        let version = u16::from_le_bytes(field(bound, 8));
        if version != VERSION && version != UNCHAINED {
            return Err(HeadError::Version(version));
        }
        let mut key: Zeroizing<[u8; KEY]> = Zeroizing::new(field(sealed, NONCE));
        if !local.unwrap(&field(sealed, 0), bound, &mut *key, &field(sealed, NONCE + KEY)) {
            return Err(HeadError::Key);
        }
        let head = Self {
            number: u64::from_le_bytes(field(bound, 12)),
            stream: StreamId(Ulid::from_bytes(field(bound, 20))),
            first_seq: u64::from_le_bytes(field(bound, 36)),
            first_row: u64::from_le_bytes(field(bound, 44)),
        };
        Ok((head, key::cipher(&key), version != UNCHAINED))
    }
}

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHead {
    /// Entries in it, and how many of them are rows.
    pub(super) entries: u32,
    pub(super) rows: u32,
    /// Its nonce.
    pub(super) counter: u64,
    /// The position of its first event, and the number of its first row.
    pub(super) first_seq: u64,
    pub(super) first_row: u64,
}

impl BlockHead {
    fn write(&self, len: u32, out: &mut [u8; BLOCK_HEAD]) {
        out[0..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&self.entries.to_le_bytes());
        out[8..12].copy_from_slice(&self.rows.to_le_bytes());
        out[12..16].fill(0);
        out[16..24].copy_from_slice(&self.counter.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_row.to_le_bytes());
    }

    /// The head and the length of what follows; `None` when it cannot be one.
    fn read(bytes: &[u8; BLOCK_HEAD]) -> Option<(Self, usize)> {
        let len = u32::from_le_bytes(field(bytes, 0)) as usize;
        let head = Self {
            entries: u32::from_le_bytes(field(bytes, 4)),
            rows: u32::from_le_bytes(field(bytes, 8)),
            counter: u64::from_le_bytes(field(bytes, 16)),
            first_seq: u64::from_le_bytes(field(bytes, 24)),
            first_row: u64::from_le_bytes(field(bytes, 32)),
        };
        let plausible = (TAG..=BLOCK_LIMIT).contains(&len) && head.rows <= head.entries;
        plausible.then_some((head, len))
    }
}

/// Begins a block at the end of `out`; [`finish_block`] completes it.
pub(super) fn begin_block(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; BLOCK_HEAD]);
    start
}

/// Appends an entry to the block.
pub(super) fn push_entry(mut entry: Entry<'_>, out: &mut Vec<u8>) {
    if let Some(event) = entry.event_mut().filter(|event| !event.filters.is_empty()) {
        let filtered = Entry::Filtered(std::mem::take(&mut event.filters));
        append::postcard(&filtered, out).expect("every field is of a known length");
    }
    if let Some(event) = entry.event_mut().filter(|event| !event.changes.is_empty()) {
        let changed = Entry::Changed(std::mem::take(&mut event.changes));
        append::postcard(&changed, out).expect("every field is of a known length");
    }
    if let Some(salt) = entry.event_mut().and_then(|event| event.salt) {
        append::postcard(&Entry::Salted(salt), out).expect("every field is of a known length");
    }
    append::postcard(&entry, out).expect("every field is of a known length");
}

/// Seals the block that began at `start`.
pub(super) fn finish_block(cipher: &Aes256Gcm, head: &BlockHead, start: usize, out: &mut Vec<u8>) {
    let (head_bytes, body) = out[start..].split_at_mut(BLOCK_HEAD);
    let head_bytes: &mut [u8; BLOCK_HEAD] = head_bytes.try_into().expect("split at this length");
    let len = u32::try_from(body.len() + TAG).expect("a batch is far smaller than 4 GiB");
    head.write(len, head_bytes);
    let tag = key::seal(cipher, &nonce(head.counter), head_bytes, body);
    out.extend_from_slice(&tag);
}

fn nonce(counter: u64) -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the length is N, and callers stay inside")
}

/// An entry that was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Read {
    Intent { seq: u64, event: AuditEvent },
    Row { row: u64, event: AuditEvent },
}

/// Reads a segment block by block.
pub(super) struct SegmentReader<S> {
    source: ReadAhead<S>,
    pub(super) head: Head,
    pub(super) chained: bool,
    cipher: Aes256Gcm,
    /// Where the next block begins, and how far the segment may be read.
    pub(super) offset: u64,
    pub(super) limit: u64,
}

/// The outcome of looking at the next block.
pub(super) enum Next {
    /// It is read, or skipped.
    Block(BlockHead),
    /// There is none.
    End,
    /// What follows is no whole block.
    Torn,
}

impl<S: Source> SegmentReader<S> {
    /// Opens a segment of `limit` bytes.
    pub(super) fn open(source: S, limit: u64, local: &SpoolKey) -> Result<Self, HeadError> {
        let mut bytes = [0; HEAD];
        if limit < HEAD as u64 {
            return Err(HeadError::Torn);
        }
        source.read_at(&mut bytes, 0)?;
        let (head, cipher, chained) = Head::open(&bytes, local)?;
        Ok(Self { source: ReadAhead::new(source), head, chained, cipher, offset: HEAD as u64, limit })
    }

    /// Reads the next block's entries into `out`, or only steps over it when `wanted` says so.
    pub(super) fn next(
        &mut self,
        wanted: impl FnOnce(&BlockHead) -> bool,
        out: &mut Vec<Read>,
    ) -> std::io::Result<Next> {
        let room = self.limit.saturating_sub(self.offset);
        if room == 0 {
            return Ok(Next::End);
        }
        if room < BLOCK_HEAD as u64 {
            return Ok(Next::Torn);
        }
        let head_bytes: [u8; BLOCK_HEAD] = field(self.source.bytes(self.offset, BLOCK_HEAD, self.limit)?, 0);
        let Some((head, len)) = BlockHead::read(&head_bytes) else { return Ok(Next::Torn) };
        if room - (BLOCK_HEAD as u64) < len as u64 {
            return Ok(Next::Torn);
        }
        if wanted(&head) {
            let sealed = self.source.bytes(self.offset + BLOCK_HEAD as u64, len, self.limit)?;
            let (body, tag) = sealed.split_at_mut(len - TAG);
            let tag = field(tag, 0);
            let before = out.len();
            let authentic = key::open(&self.cipher, &nonce(head.counter), &head_bytes, body, &tag);
            if !authentic || decode(body, &head, out).is_none() {
                out.truncate(before);
                self.source.forget();
                return Ok(Next::Torn);
            }
        }
        self.offset += (BLOCK_HEAD + len) as u64;
        Ok(Next::Block(head))
    }
}

/// Reads a block's entries; `None` when they are not what its head says.
fn decode(mut body: &[u8], head: &BlockHead, out: &mut Vec<Read>) -> Option<()> {
    let (mut seq, mut row) = (head.first_seq, head.first_row);
    for _ in 0..head.entries {
        let (mut filters, mut changes, mut salt) = (None, None, None);
        let mut entry = loop {
            let (entry, rest) = postcard::take_from_bytes::<Entry<'_>>(body).ok()?;
            body = rest;
            match entry {
                Entry::Filtered(facts) if filters.is_none() => filters = Some(facts),
                Entry::Changed(facts) if changes.is_none() => changes = Some(facts),
                Entry::Salted(bytes) if salt.is_none() => salt = Some(bytes),
                entry => break entry,
            }
        };
        let event = entry.event_mut()?;
        event.salt = salt;
        event.filters = filters.unwrap_or_default();
        event.changes = changes.unwrap_or_default();
        match entry {
            Entry::Intent(event) => out.push(Read::Intent { seq, event: event.into_event()? }),
            Entry::Row(event) => {
                out.push(Read::Row { row, event: event.into_event()? });
                row = row.checked_add(1)?;
            }
            Entry::Carried(seq, event) => {
                out.push(Read::Intent { seq, event: event.into_event()? });
                continue;
            }
            // One belongs to no other one.
            Entry::Filtered(_) | Entry::Salted(_) | Entry::Changed(_) => return None,
        }
        seq = seq.checked_add(1)?;
    }
    (body.is_empty() && row - head.first_row == u64::from(head.rows)).then_some(())
}

/// Reads arbitrary bytes as everything that a segment is made of: for fuzzing.
///
/// # Panics
/// When entries that can be read do not read the same after they were written again.
pub(super) fn check(data: &[u8]) {
    let local = SpoolKey::new(&[7; KEY]);
    if let Ok(mut reader) = SegmentReader::open(data, data.len() as u64, &local) {
        let mut out = Vec::new();
        while let Ok(Next::Block(_)) = reader.next(|_| true, &mut out) {}
    }
    // Behind a head that is right, as after a crash.
    let head = Head { stream: StreamId(Ulid::nil()), number: 1, first_seq: 1, first_row: 1 };
    let mut segment = Vec::new();
    let cipher = head.create(&local, &mut segment);
    segment.extend_from_slice(data);
    let mut reader =
        SegmentReader::open(&*segment, segment.len() as u64, &local).expect("a head that was just made opens");
    let mut out = Vec::new();
    while let Ok(Next::Block(_)) = reader.next(|_| true, &mut out) {}
    // As the plain text of a block that is authentic.
    let Some((&entries, body)) = data.split_first() else { return };
    let rows = body.first().copied().unwrap_or(0);
    let head = BlockHead {
        entries: entries.into(),
        rows: rows.into(),
        counter: 0,
        first_seq: u64::MAX - 3,
        first_row: u64::MAX - 2,
    };
    out.clear();
    let _ = decode(body, &head, &mut out);
    let mut again = Vec::new();
    let start = begin_block(&mut again);
    for read in &out {
        let (Read::Intent { event, .. } | Read::Row { event, .. }) = read;
        push_entry(Entry::Carried(1, event.into()), &mut again);
    }
    let head = BlockHead {
        entries: u32::try_from(out.len()).expect("at most 255 entries"),
        rows: 0,
        counter: 1,
        first_seq: 1,
        first_row: 1,
    };
    finish_block(&cipher, &head, start, &mut again);
    segment.truncate(HEAD);
    segment.extend_from_slice(&again);
    let mut reader =
        SegmentReader::open(&*segment, segment.len() as u64, &local).expect("a head that was just made opens");
    let mut reread = Vec::new();
    let next = reader.next(|_| true, &mut reread).expect("bytes in memory can be read");
    assert!(matches!(next, Next::Block(_)), "what was written opens");
    let events = |reads: &[Read]| -> Vec<AuditEvent> {
        reads.iter().map(|(Read::Intent { event, .. } | Read::Row { event, .. })| event.clone()).collect()
    };
    assert_eq!(events(&out), events(&reread), "an event reads as it was written");
}
