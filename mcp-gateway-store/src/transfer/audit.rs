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
    if tally_events(from).await? != sent {
        return Err(TransferError::Changed { what: "audit events" });
    }
    Ok(arrived)
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
    use mcp_gateway_core::contract::{AuditCursor, StreamId, Usage, UsageWindow};
    use mcp_gateway_core::memory::MemoryAuditStore;
    use mcp_gateway_core::record::{AuditEvent, Category, EventKind};
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
}
