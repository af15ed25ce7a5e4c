//! Checks a trail, link by link.

use std::collections::VecDeque;
use std::fmt;

use jiff::Timestamp;

use super::checkpoint::{Checkpoint, MARKS, Mark};
use super::link::{Head, Link};
use crate::contract::{StreamId, Unlinked};

/// Opens a JWS of a media type (`typ`) with the trail's public keys, and gives its claims.
pub type Check<'a> = &'a (dyn Fn(&'static str, &str) -> Result<Vec<u8>, String> + Send + Sync);

/// What was found of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is what its link says.
    Same,
    /// It is something else.
    Changed,
    /// Nothing.
    Nothing,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Streams.
    pub streams: u64,
    /// Rows that are what their links say and that a checkpoint covers.
    pub verified: u64,
    /// Rows like these, but after the last checkpoint of their stream: those that were here too and were cut off do not
    /// show.
    pub unsigned: u64,
    /// Rows that were removed because of their age; their links are as they were.
    pub removed: u64,
    /// Rows from before there was a chain: nothing can be said of them.
    pub unchained: u64,
    /// Checkpoints and marks whose signatures are good.
    pub signatures: u64,
    /// Since when every new stream is chained.
    pub began: Option<Timestamp>,
    /// Rows before this were removed.
    pub removed_before: Option<Timestamp>,
    /// What is wrong: of each stream the first, at most [`FAULTS`](Self::FAULTS).
    pub faults: Vec<Fault>,
}

impl Report {
    /// Faults that are told.
    pub const FAULTS: usize = 100;

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Something is wrong with the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The stream.
    pub stream: StreamId,
    /// The first number of which it is known.
    pub seq: u64,
    /// The time of that row, if it is known.
    pub ts: Option<Timestamp>,
    /// What.
    pub kind: FaultKind,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The row is not what its link says.
    Changed,
    /// The link is there, the row is not, and it was not removed because of its age.
    Missing,
    /// Row and link are gone, up to this number.
    Gap {
        /// The last that is gone.
        upto: u64,
    },
    /// Everything from here on is gone: a checkpoint says that there was more.
    Truncated {
        /// The last row that was there.
        upto: u64,
    },
    /// A row of these has another link than when they were signed, or another order.
    Rewritten {
        /// The last of them.
        upto: u64,
    },
    /// The row has no link, in a stream that has been chained from its first row.
    Unlinked {
        /// How many rows like this the stream has.
        rows: u64,
    },
    /// A checkpoint or mark was not signed with one of the keys.
    Signature {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} row {}", self.stream.0, self.seq)?;
        if let Some(ts) = self.ts {
            write!(f, " (id {}-{}-{})", self.stream.0, self.seq, ts.as_microsecond())?;
        }
        match &self.kind {
            FaultKind::Changed => f.write_str(": the row was changed"),
            FaultKind::Missing => f.write_str(": the row is missing"),
            FaultKind::Gap { upto } => write!(f, ": rows {} to {upto} are missing with their links", self.seq),
            FaultKind::Truncated { upto } => write!(f, ": the stream was cut off, it had {upto} rows"),
            FaultKind::Rewritten { upto } => {
                write!(f, ": rows {} to {upto} are not those that were signed", self.seq)
            }
            FaultKind::Unlinked { rows } => write!(f, ": the row was put in; {rows} of the stream have no link"),
            FaultKind::Signature { reason } => write!(f, ": its checkpoint was not signed with a known key: {reason}"),
        }
    }
}

/// Takes a trail stream by stream: the [marks](MARKS) first, of each stream its checkpoints, then its links in order.
pub struct Verifier<'a> {
    check: Check<'a>,
    report: Report,
    current: Option<Current>,
}

/// The stream that is looked at.
struct Current {
    stream: StreamId,
    /// Not yet reached.
    checkpoints: VecDeque<Head>,
    /// Where the chain is; `None` before the first link.
    head: Option<Head>,
    /// The last checkpoint that held.
    signed: u64,
    /// Good rows since then.
    unsigned: u64,
    unchained: bool,
    broken: bool,
}

impl fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'a> Verifier<'a> {
    /// A check with these keys.
    #[must_use]
    pub fn new(check: Check<'a>) -> Self {
        Self { check, report: Report::default(), current: None }
    }

    /// The next stream, or the marks.
    pub fn begin(&mut self, stream: StreamId) {
        self.end();
        let (checkpoints, head) = (VecDeque::new(), None);
        self.report.streams += u64::from(stream != MARKS);
        self.current =
            Some(Current { stream, checkpoints, head, signed: 0, unsigned: 0, unchained: false, broken: false });
    }

    /// The next checkpoint of the stream, or the next mark.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let Some(current) = &mut self.current else { return };
        let opened = if checkpoint.stream == MARKS {
            checkpoint.open_mark(self.check).map(|mark| match mark {
                Mark::Beginning(time) => self.report.began = Some(time),
                Mark::Retention(time) => self.report.removed_before = self.report.removed_before.max(Some(time)),
            })
        } else {
            checkpoint.open(self.check).map(|head| current.checkpoints.push_back(head))
        };
        match opened {
            Ok(()) => self.report.signatures += 1,
            Err(reason) => self.fault(checkpoint.seq, None, FaultKind::Signature { reason }),
        }
    }

    /// The next link of the stream, and what was found of its row.
    pub fn link(&mut self, link: &Link, found: Found) {
        let removed = self.was_removed(link.ts);
        let anchor = self.anchor(link);
        let Some(current) = self.current.as_mut().filter(|current| !current.broken) else { return };
        if current.unchained {
            self.report.unchained += 1;
            return;
        }
        let head = match (&mut current.head, anchor) {
            (Some(head), _) => head,
            (none, Some(anchor)) => none.insert(anchor),
            (none @ None, None) => none.insert(Head::start(current.stream)),
        };
        let next = head.seq + 1;
        if link.seq != next {
            let kind = FaultKind::Gap { upto: link.seq.saturating_sub(1) };
            return self.break_off(next, None, kind);
        }
        match found {
            Found::Same => current.unsigned += 1,
            Found::Nothing if removed => self.report.removed += 1,
            Found::Nothing => return self.break_off(link.seq, Some(link.ts), FaultKind::Missing),
            Found::Changed => return self.break_off(link.seq, Some(link.ts), FaultKind::Changed),
        }
        head.push(link);
        while current.checkpoints.front().is_some_and(|checkpoint| checkpoint.seq <= head.seq) {
            let checkpoint = current.checkpoints.pop_front();
            // One before the first link that is left has nothing to say.
            if checkpoint.is_some_and(|checkpoint| checkpoint.seq == head.seq && checkpoint != *head) {
                let (first, upto) = (current.signed + 1, head.seq);
                return self.break_off(first, None, FaultKind::Rewritten { upto });
            }
            current.signed = head.seq;
            self.report.verified += std::mem::take(&mut current.unsigned);
        }
    }

    /// Rows without a link.
    pub fn unlinked(&mut self, rows: Unlinked) {
        self.end();
        if self.must_be_chained(rows.stream) {
            let kind = FaultKind::Unlinked { rows: rows.rows };
            self.push(Fault { stream: rows.stream, seq: rows.seq, ts: Some(rows.ts), kind });
        } else {
            self.report.unchained += rows.rows;
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end();
        self.report
    }

    /// Where the chain goes on when the links before this one are gone: at the checkpoint that retention left.
    fn anchor(&mut self, link: &Link) -> Option<Head> {
        let chained = self.must_be_chained(link.stream);
        let current = self.current.as_mut().filter(|current| current.head.is_none())?;
        current.unchained = current.checkpoints.is_empty() && !chained;
        if link.seq <= 1 {
            return None;
        }
        let at = current.checkpoints.iter().position(|checkpoint| checkpoint.seq + 1 == link.seq)?;
        let anchor = current.checkpoints.drain(..=at).next_back()?;
        current.signed = anchor.seq;
        self.was_removed(anchor.newest).then_some(anchor)
    }

    fn was_removed(&self, ts: Timestamp) -> bool {
        self.report.removed_before.is_some_and(|before| ts < before)
    }

    /// The time that a stream's name begins with says when it began.
    fn must_be_chained(&self, stream: StreamId) -> bool {
        let began = self.report.began.map(|began| u64::try_from(began.as_millisecond()).unwrap_or(0));
        began.is_some_and(|began| stream.0.timestamp_ms() >= began)
    }

    fn end(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        self.report.unsigned += current.unsigned;
        let Some(last) = current.checkpoints.pop_back().filter(|_| !current.broken) else { return };
        let have = match &current.head {
            Some(head) => head.seq,
            // Nothing is left of a stream that is old as a whole, but its last checkpoint.
            None if self.was_removed(last.newest) => return,
            None => 0,
        };
        let kind = FaultKind::Truncated { upto: last.seq };
        self.push(Fault { stream: current.stream, seq: have + 1, ts: None, kind });
    }

    fn break_off(&mut self, seq: u64, ts: Option<Timestamp>, kind: FaultKind) {
        self.fault(seq, ts, kind);
        if let Some(current) = &mut self.current {
            current.broken = true;
        }
    }

    fn fault(&mut self, seq: u64, ts: Option<Timestamp>, kind: FaultKind) {
        if let Some(stream) = self.current.as_ref().map(|current| current.stream) {
            self.push(Fault { stream, seq, ts, kind });
        }
    }

    fn push(&mut self, fault: Fault) {
        if self.report.faults.len() < Report::FAULTS {
            self.report.faults.push(fault);
        }
    }
}
