//! The trail in a store.

use super::checkpoint::Checkpoint;
use super::link::Head;
use super::verifier::{Check, Found, Report, Verifier};
use crate::contract::{AuditStore, ChainRow, StoreError, StoreLimits, StreamId};

/// Checks everything that a store has. It may be written to meanwhile; what comes meanwhile may be left out. When old rows
/// are removed meanwhile, they may be missed: whoever gets a report with faults asks again.
///
/// # Errors
/// The store's.
pub async fn verify(store: &dyn AuditStore, check: Check<'_>) -> Result<Report, StoreError> {
    let mut verifier = Verifier::new(check);
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
        None => Found::Nothing,
        Some(event) if row.link.matches(event) => Found::Same,
        Some(_) => Found::Changed,
    }
}

/// The most rows between a checkpoint and the row that a stream is taken up at, by a process that did not write it: what
/// is not signed by then will not be.
pub const RESUMED: u64 = 16_384;

/// The head of a stream at a row that a store has: from the last good checkpoint before it. `None` when that is more than
/// [`RESUMED`] rows away, or the links from there on are not all there.
///
/// # Errors
/// The store's.
pub async fn head_at(
    store: &dyn AuditStore,
    check: Check<'_>,
    stream: StreamId,
    seq: u64,
) -> Result<Option<Head>, StoreError> {
    let mut head = Head::start(stream);
    let mut after = (stream, 0);
    'pages: loop {
        let page = store.checkpoints(Some(after), StoreLimits::PAGE).await?;
        let Some(last) = page.last() else { break };
        after = (last.stream, last.seq);
        for checkpoint in page {
            if checkpoint.stream != stream || checkpoint.seq > seq {
                break 'pages;
            }
            head = checkpoint.open(check).unwrap_or(head);
        }
    }
    if seq - head.seq > RESUMED {
        return Ok(None);
    }
    while head.seq < seq {
        let before = head.seq;
        for row in store.chain(Some((stream, before)), StoreLimits::PAGE).await? {
            if row.link.stream == stream && row.link.seq == head.seq + 1 && head.seq < seq {
                head.push(&row.link);
            }
        }
        if head.seq == before {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
