//! The audit trail, page by page.

use mcp_gateway_core::contract::{
    AuditFilter, AuditPage, AuditRow, AuditStore, StoreError, StoreErrorKind, StoreLimits,
};

use super::{Moved, Tally, TransferError, compare};

/// Moves all events to a trail that has none, and compares. Bodies move if both stores open and seal them.
///
/// # Errors
/// [`TransferError`]. What has arrived by then stays.
pub async fn copy_events(from: &dyn AuditStore, to: &dyn AuditStore) -> Result<Moved, TransferError> {
    if !is_empty(to).await? {
        return Err(TransferError::NotEmpty { what: "it has audit events" });
    }
    // First: a row that was changed keeps the link that says so.
    let signed = copy_chain(from, to).await?;
    let all = AuditFilter::default();
    let mut tally = Tally::new();
    let mut after = None;
    loop {
        let AuditPage { rows, next } = from.query(&all, after, StoreLimits::PAGE).await?;
        rows.iter().try_for_each(|row| add(&mut tally, row))?;
        to.append(rows).await?;
        after = next;
        if after.is_none() {
            break;
        }
    }
    let sent = tally.done();
    let arrived = compare("audit events", sent, tally_events(to).await?)?;
    compare("checkpoints of the audit trail", signed, tally_chain(to).await?)?;
    if tally_events(from).await? != sent {
        return Err(TransferError::Changed { what: "audit events" });
    }
    Ok(arrived)
}

/// Moves what is signed of the trail, and the links.
async fn copy_chain(from: &dyn AuditStore, to: &dyn AuditStore) -> Result<Moved, TransferError> {
    let mut after = None;
    loop {
        let checkpoints = from.checkpoints(after, StoreLimits::PAGE).await?;
        let Some(last) = checkpoints.last() else { break };
        after = Some((last.stream, last.seq));
        to.put_chain(Vec::new(), checkpoints).await?;
    }
    let mut after = None;
    loop {
        let rows = from.chain(after, StoreLimits::PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = Some((last.link.stream, last.link.seq));
        to.put_chain(rows.into_iter().map(|row| row.link).collect(), Vec::new()).await?;
    }
    Ok(tally_chain(from).await?)
}

/// Counts and digests what is signed of the trail.
async fn tally_chain(trail: &dyn AuditStore) -> Result<Moved, StoreError> {
    let mut tally = Tally::new();
    let mut after = None;
    loop {
        let checkpoints = trail.checkpoints(after, StoreLimits::PAGE).await?;
        let Some(last) = checkpoints.last() else { return Ok(tally.done()) };
        after = Some((last.stream, last.seq));
        for checkpoint in &checkpoints {
            tally.add(&[&checkpoint.stream.0.to_bytes(), &checkpoint.seq.to_be_bytes(), checkpoint.signed.as_bytes()]);
        }
    }
}

/// Whether a trail has no events.
///
/// # Errors
/// The store's.
pub async fn is_empty(trail: &dyn AuditStore) -> Result<bool, StoreError> {
    Ok(trail.query(&AuditFilter::default(), None, 1).await?.rows.is_empty())
}

/// Counts and digests all events.
async fn tally_events(trail: &dyn AuditStore) -> Result<Moved, TransferError> {
    let all = AuditFilter::default();
    let mut tally = Tally::new();
    let mut after = None;
    loop {
        let AuditPage { rows, next } = trail.query(&all, after, StoreLimits::PAGE).await?;
        rows.iter().try_for_each(|row| add(&mut tally, row))?;
        after = next;
        if after.is_none() {
            return Ok(tally.done());
        }
    }
}

fn add(tally: &mut Tally, row: &AuditRow) -> Result<(), StoreError> {
    let event = serde_json::to_vec(&row.event)
        .map_err(|error| StoreError::new(StoreErrorKind::Corrupt, "query").because(error))?;
    tally.add(&[&row.stream.0.to_bytes(), &row.seq.to_be_bytes(), &event]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use jiff::Timestamp;
    use mcp_gateway_core::contract::{AuditCursor, ChainRow, StreamId, Unlinked, Usage, UsageWindow};
    use mcp_gateway_core::memory::MemoryAuditStore;
    use mcp_gateway_core::record::{AuditEvent, Category, EventKind};
    use mcp_gateway_core::trail::{Checkpoint, Link};
    use ulid::Ulid;

    use super::*;

    fn row(seq: u64) -> AuditRow {
        let ts = Timestamp::from_second(1_700_000_000).unwrap();
        let event = AuditEvent::new(ts, Ulid::from_parts(1, 1), Category::Mcp, EventKind::Exchange);
        AuditRow { stream: StreamId(Ulid::from_parts(1, 1)), seq, event }
    }

    /// A target; whenever something arrives, somebody writes to the source.
    struct Target {
        rows: MemoryAuditStore,
        source: Arc<MemoryAuditStore>,
    }

    #[async_trait]
    impl AuditStore for Target {
        async fn append(&self, batch: Vec<AuditRow>) -> Result<(), StoreError> {
            self.source.append(vec![row(2)]).await?;
            self.rows.append(batch).await
        }

        async fn query(
            &self,
            filter: &AuditFilter,
            after: Option<AuditCursor>,
            limit: usize,
        ) -> Result<AuditPage, StoreError> {
            self.rows.query(filter, after, limit).await
        }

        async fn usage(&self, window: &UsageWindow) -> Result<Usage, StoreError> {
            self.rows.usage(window).await
        }

        async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
            self.rows.prune(before).await
        }

        async fn chain(&self, after: Option<(StreamId, u64)>, limit: usize) -> Result<Vec<ChainRow>, StoreError> {
            self.rows.chain(after, limit).await
        }

        async fn unlinked(&self) -> Result<Vec<Unlinked>, StoreError> {
            self.rows.unlinked().await
        }

        async fn checkpoints(
            &self,
            after: Option<(StreamId, u64)>,
            limit: usize,
        ) -> Result<Vec<Checkpoint>, StoreError> {
            self.rows.checkpoints(after, limit).await
        }

        async fn put_chain(&self, links: Vec<Link>, checkpoints: Vec<Checkpoint>) -> Result<(), StoreError> {
            self.rows.put_chain(links, checkpoints).await
        }
    }

    #[tokio::test]
    async fn a_source_that_changes_meanwhile_is_noticed() {
        let source = Arc::new(MemoryAuditStore::new());
        source.append(vec![row(1)]).await.unwrap();
        let target = Target { rows: MemoryAuditStore::new(), source: Arc::clone(&source) };
        let error = copy_events(&*source, &target).await.unwrap_err();
        assert!(matches!(error, TransferError::Changed { .. }), "{error}");
        let target = MemoryAuditStore::new();
        assert_eq!(copy_events(&*source, &target).await.unwrap().count, 2);
    }

    #[tokio::test]
    async fn a_row_that_was_changed_is_found_out_in_the_target_too() {
        let source = MemoryAuditStore::new();
        let mut changed = row(1);
        source.put_chain(vec![Link::of(&changed)], Vec::new()).await.unwrap();
        changed.event.status = 500;
        source.append(vec![changed.clone()]).await.unwrap();
        let target = MemoryAuditStore::new();
        copy_events(&source, &target).await.unwrap();
        let links = target.chain(None, 10).await.unwrap();
        assert_eq!(links.iter().map(|row| row.link.clone()).collect::<Vec<_>>(), [Link::of(&row(1))]);
        assert_eq!(links[0].event.as_ref(), Some(&changed.event));
    }
}
