//! Signs the chain through the rows of a stream.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mcp_gateway_core::contract::{AuditRow, AuditStore, StoreError, StoreErrorKind, StreamId};
use mcp_gateway_core::trail::{Head, Link, Notary, head_at, sign_head};

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

/// Where the chain of one stream is, computed from the rows on their way to the store and never read back from there.
pub(super) struct Chain {
    notary: Option<Arc<dyn Notary>>,
    head: Option<Head>,
    /// Up to where a checkpoint is in the store.
    signed: u64,
    /// Since when there is more.
    since: Option<Instant>,
}

impl Chain {
    /// Of a stream that begins.
    pub(super) fn begin(notary: &Checkpoints, stream: StreamId) -> Self {
        let head = notary.0.is_some().then(|| Head::start(stream));
        Self { notary: notary.0.clone(), head, signed: 0, since: None }
    }

    /// Of a stream that another process wrote, of which the store has everything before this row.
    pub(super) async fn resume(
        notary: &Checkpoints,
        store: &dyn AuditStore,
        stream: StreamId,
        row: u64,
    ) -> Result<Self, StoreError> {
        let mut chain = Self::begin(notary, stream);
        if let Some(notary) = &chain.notary {
            let check = |typ: &'static str, signed: &str| notary.check(typ, signed);
            chain.head = head_at(store, &check, stream, row.saturating_sub(1)).await?;
            if chain.head.is_none() {
                tracing::warn!(
                    stream = %stream.0, row,
                    "the rest of a stream is not signed: the audit store does not have the chain that it goes on from"
                );
            }
        }
        Ok(chain)
    }

    /// The head behind these rows, which follow on the last ones.
    pub(super) fn behind(&self, rows: &[AuditRow]) -> Option<Head> {
        let mut head = self.head.clone()?;
        for row in rows {
            debug_assert_eq!(row.seq, head.seq + 1, "rows have no gap");
            head.push(&Link::of(row));
        }
        Some(head)
    }

    /// The store has these rows.
    pub(super) fn advance(&mut self, head: Option<Head>) {
        self.head = head;
        if self.unsigned() > 0 {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Rows that no checkpoint covers.
    fn unsigned(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.seq - self.signed.min(head.seq))
    }

    /// How long until a checkpoint is due: after so many rows, or so long after the first.
    pub(super) fn due(&self, rows: u64, after: Duration) -> Option<Duration> {
        let since = self.since.filter(|_| self.unsigned() > 0)?;
        Some(if self.unsigned() >= rows { Duration::ZERO } else { after.saturating_sub(since.elapsed()) })
    }

    /// Signs what the store has, if there is anything new.
    pub(super) async fn sign(&mut self, store: &dyn AuditStore, now: Timestamp) -> Result<(), StoreError> {
        let Some((head, notary)) = self.head.as_ref().zip(self.notary.as_ref()).filter(|_| self.unsigned() > 0) else {
            return Ok(());
        };
        // Whether it succeeds or not: the next attempt is as far away.
        self.since = Some(Instant::now());
        let checkpoint = sign_head(&**notary, head, now)
            .await
            .map_err(|error| StoreError::new(StoreErrorKind::Unavailable, "sign a checkpoint").because(error))?;
        store.put_chain(Vec::new(), vec![checkpoint]).await?;
        self.signed = head.seq;
        self.since = None;
        Ok(())
    }
}
