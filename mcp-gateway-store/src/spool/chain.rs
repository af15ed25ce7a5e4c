//! Signs the chain through the rows of a stream.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditRow, AuditStore, StoreError, StoreErrorKind, StreamId};
use mcp_gateway_core::trail::{ALIVE, Head, Link, Notary, Part, Signed, Tail, sign_head};

use super::{SpoolError, SpoolKey, tail};

/// What signs checkpoints, if anything does.
#[derive(Clone, Default)]
pub struct Checkpoints(pub(super) Option<Arc<dyn Notary>>);

impl Checkpoints {
    /// Signed by this.
    #[must_use]
    pub fn by(notary: Arc<dyn Notary>) -> Self {
        Self(Some(notary))
    }
}

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "(..)" } else { "none" })
    }
}

/// How long nothing is signed after a failure: doubling from the first to the second.
const BACKOFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Where the chain of one stream is, computed from the rows on their way to the store and never read back from there.
pub(super) struct Chain {
    notary: Option<Arc<dyn Notary>>,
    tail: Option<Tail>,
    /// What was signed before the last checkpoint, and the head that it signed: to sign it again.
    again: Option<(Signed, Head)>,
    /// Since when there are rows that no checkpoint covers.
    since: Option<Instant>,
    /// When something was signed.
    signed: Instant,
    /// No attempt before, and how long after the next failure.
    pause: Option<(Instant, Duration)>,
}

impl Chain {
    /// Of a stream that begins.
    pub(super) fn begin(notary: &Checkpoints, stream: StreamId) -> Self {
        Self::at(notary.0.clone(), Some(Tail::start(stream)))
    }

    fn at(notary: Option<Arc<dyn Notary>>, tail: Option<Tail>) -> Self {
        let tail = tail.filter(|_| notary.is_some());
        Self { notary, tail, again: None, since: None, signed: Instant::now(), pause: None }
    }

    /// Of a stream that another process wrote and of which the rows from one on are at hand, from what that process left
    /// of its chain. What the store says of rows is no reason to sign it: without that, nothing more is signed.
    pub(super) async fn resume(
        notary: &Checkpoints,
        store: &dyn AuditStore,
        left: Option<Tail>,
        (stream, row): (StreamId, u64),
    ) -> Result<Self, StoreError> {
        let Some(signer) = &notary.0 else { return Ok(Self::at(None, None)) };
        let fits = |tail: &Tail| tail.head.stream == stream && tail.head.seq + 1 >= row;
        let Some(mut tail) = left.filter(fits) else {
            tracing::warn!(
                stream = %stream.0, row,
                "the rest of a stream is not signed: the spool does not have the chain that it goes on from"
            );
            return Ok(Self::at(notary.0.clone(), None));
        };
        if tail.signed.count == 0 {
            // Signed again, it says the same.
            let signed = sign_head(&**signer, &Head::start(stream), Part::Open, tail.signed, Timestamp::now()).await;
            if let Ok((_, begun)) = signed {
                let mut begun = Tail { signed: begun, ..tail.clone() };
                begun.follow(store, &|typ, signed| signer.check(typ, signed)).await?;
                // Otherwise the store has no more than the first one, if that.
                if begun.signed.count > 1 {
                    tail = begun;
                }
            }
        } else {
            tail.follow(store, &|typ, signed| signer.check(typ, signed)).await?;
        }
        Ok(Self::at(notary.0.clone(), Some(tail)))
    }

    /// The head behind these rows, which follow on the last ones, or are among them.
    pub(super) fn behind(&self, rows: &[AuditRow]) -> Option<Head> {
        let mut head = self.tail.as_ref()?.head.clone();
        for row in rows.iter().filter(|row| row.seq > self.tail.as_ref().map_or(0, |tail| tail.head.seq)) {
            debug_assert_eq!(row.seq, head.seq + 1, "rows have no gap");
            head.push(&Link::of(row));
        }
        Some(head)
    }

    /// The store has these rows.
    pub(super) fn advance(&mut self, head: Option<Head>) {
        if let Some((tail, head)) = self.tail.as_mut().zip(head) {
            tail.head = head;
        }
        if self.unsigned() > 0 {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Takes in rows that the store has and the spool has lost.
    pub(super) async fn take_lost(&mut self, store: &dyn AuditStore) -> Result<(), StoreError> {
        match &mut self.tail {
            Some(tail) => tail.take_lost(store).await,
            None => Ok(()),
        }
    }

    /// Keeps where it is beside the segments, before one of them goes.
    pub(super) fn keep(&self, dir: &Path, key: &SpoolKey) -> Result<(), SpoolError> {
        self.tail.as_ref().map_or(Ok(()), |kept| tail::write(dir, key, kept))
    }

    /// Rows that no checkpoint covers.
    fn unsigned(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| tail.head.seq.saturating_sub(tail.upto))
    }

    /// Whether nothing was signed yet of a stream that has something to sign with.
    pub(super) fn is_new(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.signed.count == 0) && self.pause.is_none()
    }

    /// How long until the next attempt, after one that failed.
    pub(super) fn pause(&self) -> Duration {
        self.pause.map_or(Duration::ZERO, |(until, _)| until.saturating_duration_since(Instant::now()))
    }

    /// How long until a checkpoint is due: after so many rows, or so long after the first; or to say that it is alive.
    pub(super) fn due(&self, rows: u64, after: Duration) -> Option<Duration> {
        let due = match self.since.filter(|_| self.unsigned() > 0) {
            Some(_) if self.unsigned() >= rows => Duration::ZERO,
            Some(since) => after.saturating_sub(since.elapsed()),
            None => {
                self.again.as_ref()?;
                ALIVE.saturating_sub(self.signed.elapsed())
            }
        };
        Some(due.max(self.pause()))
    }

    /// Signs what the store has: what is new, that there will be no more, or else the last checkpoint again.
    pub(super) async fn sign(&mut self, store: &dyn AuditStore, part: Part, now: Timestamp) -> Result<(), StoreError> {
        let signed = self.try_sign(store, part, now).await;
        self.pause = match (&signed, self.pause) {
            (Ok(()), _) => None,
            (Err(_), pause) => {
                let wait = pause.map_or(BACKOFF[0], |(_, wait)| wait);
                Some((Instant::now() + wait, (wait * 2).min(BACKOFF[1])))
            }
        };
        signed
    }

    async fn try_sign(&mut self, store: &dyn AuditStore, part: Part, now: Timestamp) -> Result<(), StoreError> {
        let Some((tail, notary)) = self.tail.as_mut().zip(self.notary.as_ref()).filter(|(tail, _)| !tail.ended) else {
            return Ok(());
        };
        let failed = |error| StoreError::new(StoreErrorKind::Unavailable, "sign a checkpoint").because(error);
        if tail.signed.count == 0 {
            let start = Head::start(tail.head.stream);
            let (first, next) = sign_head(&**notary, &start, Part::Open, tail.signed, now).await.map_err(failed)?;
            store.put_chain(Vec::new(), vec![first]).await?;
            self.again = Some((tail.signed, start));
            (tail.signed, self.signed) = (next, Instant::now());
            if tail.head.seq == 0 && part == Part::Open {
                return Ok(());
            }
        }
        let new = tail.head.seq > tail.upto || part == Part::End;
        let (last, head) = match &self.again {
            Some((last, head)) if !new => (*last, head.clone()),
            None if !new => return Ok(()),
            _ => (tail.signed, tail.head.clone()),
        };
        let (checkpoint, next) = sign_head(&**notary, &head, part, last, now).await.map_err(failed)?;
        store.put_chain(Vec::new(), vec![checkpoint]).await?;
        (tail.signed, tail.upto, tail.ended) = (next, head.seq, part == Part::End);
        self.again = Some((last, head));
        (self.since, self.signed) = (None, Instant::now());
        Ok(())
    }
}
