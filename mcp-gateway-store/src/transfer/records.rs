//! Records, page by page.

use super::{Moved, RawRecords, StoredRecord, Tally, TransferError, compare};

/// Records that are moved at a time: at most 32 MiB of them.
const PAGE: usize = 128;

/// Moves all records to a store that has none, and compares. The store stays incomplete until it is told to
/// [`finish`](RawRecords::finish).
///
/// # Errors
/// [`TransferError`]. What has arrived by then stays.
pub async fn copy_records(from: &mut dyn RawRecords, to: &mut dyn RawRecords) -> Result<Moved, TransferError> {
    if to.revision().await? > 0 || !to.read(None, 1).await?.is_empty() {
        return Err(TransferError::NotEmpty { what: "it has had records" });
    }
    let revision = from.revision().await?;
    to.begin(revision).await?;
    let mut tally = Tally::new();
    let mut after = None;
    loop {
        let page = from.read(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.place.clone());
        page.iter().for_each(|record| add(&mut tally, record));
        to.write(page).await?;
    }
    if from.revision().await? != revision {
        return Err(TransferError::Changed { what: "records" });
    }
    compare("records", tally.done(), read_all(to).await?)
}

async fn read_all(store: &mut dyn RawRecords) -> Result<Moved, TransferError> {
    let mut tally = Tally::new();
    let mut after = None;
    loop {
        let page = store.read(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(tally.done()) };
        after = Some(last.place.clone());
        page.iter().for_each(|record| add(&mut tally, record));
    }
}

fn add(tally: &mut Tally, record: &StoredRecord) {
    let numbers = [record.revision.to_be_bytes(), record.expires_at.unwrap_or(i64::MIN).to_be_bytes()];
    let place = &record.place;
    let mut parts: Vec<&[u8]> = vec![place.kind.as_bytes(), place.tenant.as_bytes(), place.id.as_bytes()];
    parts.extend([&numbers[0][..], &numbers[1][..], &*record.value]);
    for (name, value) in &record.terms {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    tally.add(&parts);
}
