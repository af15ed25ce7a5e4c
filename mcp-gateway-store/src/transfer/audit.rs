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
