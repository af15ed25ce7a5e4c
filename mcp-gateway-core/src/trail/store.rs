//! The trail in a store.

use super::checkpoint::Checkpoint;
use super::link::Head;
use super::verifier::{Check, Expected, Found, Report, Verifier};
use super::{Opened, Signed};
use crate::contract::{AuditStore, ChainRow, StoreError, StoreLimits, StreamId};

/// Checks everything that a store has. It may be written to meanwhile; what comes meanwhile may be left out. When old rows
/// are removed meanwhile, they may be missed: whoever gets a report with faults asks again.
///
/// # Errors
/// The store's.
pub async fn verify(store: &dyn AuditStore, check: Check<'_>, expected: &Expected) -> Result<Report, StoreError> {
    let mut verifier = Verifier::new(check, expected);
    // A checkpoint is there only after its links: read first, it misses none of them.
    let mut checkpoints = Vec::new().into_iter().peekable();
    let mut links = Vec::new().into_iter().peekable();
    let (mut last_checkpoint, mut last_link) = (None, None);
    let (mut more_checkpoints, mut more_links) = (true, true);
    let mut stream = None;
    loop {
        if checkpoints.peek().is_none() && more_checkpoints {
            let page = store.checkpoints(last_checkpoint, StoreLimits::PAGE).await?;
            last_checkpoint = page.last().map(|last| (last.stream, last.seq));
            more_checkpoints = last_checkpoint.is_some();
            checkpoints = page.into_iter().peekable();
        }
        if links.peek().is_none() && more_links {
            let page = store.chain(last_link, StoreLimits::PAGE).await?;
            last_link = page.last().map(|last| (last.link.stream, last.link.seq));
            more_links = last_link.is_some();
            links = page.into_iter().peekable();
        }
        let of_checkpoint = checkpoints.peek().map(|checkpoint: &Checkpoint| checkpoint.stream);
        let of_link = links.peek().map(|row: &ChainRow| row.link.stream);
        let Some(next) = of_checkpoint.into_iter().chain(of_link).min() else { break };
        if stream != Some(next) {
            verifier.begin(next);
            stream = Some(next);
        }
        match checkpoints.next_if(|checkpoint| checkpoint.stream == next) {
            Some(checkpoint) => verifier.checkpoint(&checkpoint),
            None => {
                if let Some(row) = links.next() {
                    verifier.link(&row.link, found(&row));
                }
            }
        }
    }
    for rows in store.unlinked().await? {
        verifier.unlinked(rows);
    }
    Ok(verifier.finish())
}

fn found(row: &ChainRow) -> Found {
    match &row.event {
        None if row.unreadable => Found::Changed,
        None => Found::Nothing,
        Some(event) if row.link.matches(event) => Found::Same,
        Some(_) => Found::Changed,
    }
}

/// The most rows that a stream is taken up with that its own writer has lost.
pub const RESUMED: u64 = 16_384;

/// Where the chain of a stream is, and what of it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// All rows.
    pub head: Head,
    /// The checkpoints.
    pub signed: Signed,
    /// The number of the last row that they cover.
    pub upto: u64,
    /// Whether the last one says that the stream has ended.
    pub ended: bool,
}

impl Tail {
    /// Before the first row.
    #[must_use]
    pub fn start(stream: StreamId) -> Self {
        Self { head: Head::start(stream), signed: Signed::default(), upto: 0, ended: false }
    }

    /// Goes on by the checkpoints that a store has behind these; none but those that follow them, each on the one
    /// before. The head stays where it is: it is computed from the rows.
    ///
    /// # Errors
    /// The store's.
    pub async fn follow(&mut self, store: &dyn AuditStore, check: Check<'_>) -> Result<(), StoreError> {
        let mut after = (self.head.stream, self.upto);
        loop {
            let page = store.checkpoints(Some(after), StoreLimits::PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = (last.stream, last.seq);
            for checkpoint in &page {
                let opened = (checkpoint.stream == self.head.stream).then(|| checkpoint.open(check).ok()).flatten();
                let Some(Opened { head, end, signed, .. }) = opened.filter(|next| next.previous == self.signed) else {
                    return Ok(());
                };
                (self.signed, self.upto, self.ended) = (signed, head.seq, end);
            }
        }
    }

    /// Goes on by the links of rows that a store has and their writer has lost, at most [`RESUMED`].
    ///
    /// # Errors
    /// The store's.
    pub async fn take_lost(&mut self, store: &dyn AuditStore) -> Result<(), StoreError> {
        let limit = self.head.seq.saturating_add(RESUMED);
        loop {
            let before = self.head.seq;
            for row in store.chain(Some((self.head.stream, before)), StoreLimits::PAGE).await? {
                if (row.link.stream, row.link.seq) == (self.head.stream, self.head.seq + 1) && self.head.seq < limit {
                    self.head.push(&row.link);
                }
            }
            if self.head.seq == before {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
