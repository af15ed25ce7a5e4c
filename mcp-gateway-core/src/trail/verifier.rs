//! Checks a trail, link by link.

use std::collections::VecDeque;
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::checkpoint::{self, Checkpoint, MARKS, Mark, Opened, Signed};
use super::link::{Head, Link};
use crate::contract::{StreamId, Unlinked};

/// Opens a JWS of a media type (`typ`) with the trail's public keys, and gives its claims.
pub type Check<'a> = &'a (dyn Fn(&'static str, &str) -> Result<Vec<u8>, String> + Send + Sync);

/// What whoever asks knows from elsewhere.
#[derive(Debug, Clone)]
pub struct Expected {
    /// A stream that has not ended is alive if it was signed since: a live one is signed every
    /// [`ALIVE`](super::ALIVE) at least.
    pub alive: Timestamp,
    /// The mark of the chain's beginning, as a JWS, kept where those who can write to the trail cannot.
    pub beginning: Option<String>,
}

/// How much later than the chain's beginning a row from before it may be: clocks differ.
const SLACK: SignedDuration = SignedDuration::from_mins(5);

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
    /// The stream is older than the chain, the row is not.
    Late,
    /// A checkpoint before the next one is gone, or all are.
    Checkpoints,
    /// There are more rows than the stream had when it ended.
    Appended,
    /// Nobody has signed for a long time that the stream goes on, or that it ended.
    Endless {
        /// Rows after the last checkpoint.
        unsigned: u64,
    },
    /// What was signed of the chain's beginning is gone, or something else.
    Beginning,
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
            FaultKind::Late => f.write_str(": the row was put in: its stream is from before the chain, it is not"),
            FaultKind::Checkpoints => f.write_str(": checkpoints from here on are gone"),
            FaultKind::Appended => f.write_str(": the row was put in: the stream had ended"),
            FaultKind::Endless { unsigned } => write!(
                f,
                ": what comes from here on was cut off with its checkpoints, or its process died and nobody has \
                 replayed its spool; {unsigned} rows that are there are not signed"
            ),
            FaultKind::Beginning => f.write_str(
                ": what was signed of the chain's beginning is gone, or nothing was, because `migrate --contract` has not run",
            ),
            FaultKind::Signature { reason } => write!(f, ": its checkpoint was not signed with a known key: {reason}"),
        }
    }
}

/// Takes a trail stream by stream: the [marks](MARKS) first, of each stream its checkpoints, then its links in order.
pub struct Verifier<'a> {
    check: Check<'a>,
    alive: Timestamp,
    /// When the chain began, as is known from elsewhere.
    began: Option<Timestamp>,
    settled: bool,
    report: Report,
    current: Option<Current>,
}

/// The stream that is looked at.
struct Current {
    stream: StreamId,
    /// Not yet reached.
    checkpoints: VecDeque<Head>,
    /// The last of those that were read.
    last: Option<Opened>,
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
    pub fn new(check: Check<'a>, expected: &Expected) -> Self {
        let known = expected.beginning.as_ref().map(|signed| checkpoint::beginning(check, signed));
        // One that cannot be read is not the one that is there either.
        let began = known.map(|known| known.map_or(Timestamp::MIN, |mark| mark.newest));
        Self { check, alive: expected.alive, began, settled: false, report: Report::default(), current: None }
    }

    /// The next stream, or the marks.
    pub fn begin(&mut self, stream: StreamId) {
        self.end();
        if stream != MARKS {
            self.settle(true);
        }
        let (checkpoints, head) = (VecDeque::new(), None);
        self.report.streams += u64::from(stream != MARKS);
        let (signed, unsigned, unchained, broken) = (0, 0, false, false);
        self.current = Some(Current { stream, checkpoints, last: None, head, signed, unsigned, unchained, broken });
    }

    /// Every mark was read.
    fn settle(&mut self, chained: bool) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let (found, known) = (self.report.began, self.began);
        if known.is_some_and(|known| found != Some(known)) || (found.is_none() && chained) {
            self.report.began = known.or(found);
            self.push(Fault { stream: MARKS, seq: 0, ts: known, kind: FaultKind::Beginning });
        }
    }

    /// The next checkpoint of the stream, or the next mark.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        if self.current.is_none() {
            return;
        }
        let opened = if checkpoint.stream == MARKS {
            checkpoint.open_mark(self.check).map(|mark| match mark {
                Mark::Beginning(time) => self.report.began = Some(time),
                Mark::Retention(time) => self.report.removed_before = self.report.removed_before.max(Some(time)),
            })
        } else {
            checkpoint.open(self.check).map(|opened| self.follow(opened))
        };
        match opened {
            Ok(()) => self.report.signatures += 1,
            Err(reason) => self.fault(checkpoint.seq, None, FaultKind::Signature { reason }),
        }
    }

    /// A checkpoint must follow the one before it; the first one that is left, those that were removed with their rows.
    fn follow(&mut self, opened: Opened) {
        let removed = self.was_removed(opened.head.newest);
        let Some(current) = self.current.as_mut().filter(|current| !current.broken) else { return };
        let follows = match &current.last {
            Some(last) => last.signed == opened.previous,
            None => removed || opened.previous == Signed::default(),
        };
        if !follows {
            let first = current.checkpoints.back().map_or(1, |last| last.seq + 1);
            return self.break_off(first, None, FaultKind::Checkpoints);
        }
        if opened.head.seq > 0 {
            current.checkpoints.push_back(opened.head.clone());
        }
        current.last = Some(opened);
    }

    /// The next link of the stream, and what was found of its row.
    pub fn link(&mut self, link: &Link, found: Found) {
        let (removed, late) = (self.was_removed(link.ts), self.is_late(link.ts));
        let anchor = self.anchor(link);
        let Some(current) = self.current.as_mut().filter(|current| !current.broken) else { return };
        if current.unchained {
            if late {
                return self.break_off(link.seq, Some(link.ts), FaultKind::Late);
            }
            self.report.unchained += 1;
            return;
        }
        let Some(last) = &current.last else {
            return self.break_off(link.seq, Some(link.ts), FaultKind::Checkpoints);
        };
        if last.end && link.seq > last.head.seq {
            return self.break_off(link.seq, Some(link.ts), FaultKind::Appended);
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
        while let Some(checkpoint) = current.checkpoints.pop_front_if(|next| next.seq <= head.seq) {
            if checkpoint != *head {
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
        self.settle(false);
        let kind = if self.must_be_chained(rows.stream) {
            Some(FaultKind::Unlinked { rows: rows.rows })
        } else {
            self.is_late(rows.newest).then_some(FaultKind::Late)
        };
        if let Some(kind) = kind {
            self.push(Fault { stream: rows.stream, seq: rows.seq, ts: Some(rows.ts), kind });
        } else {
            self.report.unchained += rows.rows;
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end();
        self.settle(false);
        self.report
    }

    /// Where the chain goes on when the links before this one are gone: at the checkpoint that retention left.
    fn anchor(&mut self, link: &Link) -> Option<Head> {
        let chained = self.must_be_chained(link.stream);
        let current = self.current.as_mut().filter(|current| current.head.is_none())?;
        current.unchained = current.last.is_none() && !current.broken && !chained;
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

    /// Whether a row is later than the chain's beginning, beyond doubt.
    fn is_late(&self, ts: Timestamp) -> bool {
        let began = self.report.began.map(|began| began.checked_add(SLACK).unwrap_or(Timestamp::MAX));
        began.is_some_and(|began| ts > began)
    }

    /// The time that a stream's name begins with says when it began.
    fn must_be_chained(&self, stream: StreamId) -> bool {
        let began = self.report.began.map(|began| u64::try_from(began.as_millisecond()).unwrap_or(0));
        began.is_some_and(|began| stream.0.timestamp_ms() >= began)
    }

    fn end(&mut self) {
        let Some(mut current) = self.current.take() else { return };
        self.report.unsigned += current.unsigned;
        if current.broken {
            return;
        }
        let have = current.head.as_ref().map_or(0, |head| head.seq);
        if let Some(last) = current.checkpoints.pop_back() {
            // Nothing may be left of a stream that is old as a whole, but its last checkpoint.
            if current.head.is_some() || !self.was_removed(last.newest) {
                let kind = FaultKind::Truncated { upto: last.seq };
                self.push(Fault { stream: current.stream, seq: have + 1, ts: None, kind });
            }
            return;
        }
        let unsigned = current.unsigned;
        let open = |last: &Opened| !last.end && last.at < self.alive && !self.was_removed(last.head.newest);
        if current.last.as_ref().is_some_and(open) {
            let kind = FaultKind::Endless { unsigned };
            self.push(Fault { stream: current.stream, seq: have + 1, ts: None, kind });
        }
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
