//! Moving everything from one store to another, while no server uses either.
//!
//! Records keep their revisions and the time at which they expire, so that whoever holds a revision can go on; the feed
//! begins anew. What was read and what has arrived are counted and compared by digest.

mod audit;
mod records;

use async_trait::async_trait;
use bytes::Bytes;
use mcp_gateway_core::contract::StoreError;

pub use audit::{copy_events, is_empty};
pub use records::copy_records;

/// A record with all that a store knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Where it is.
    pub place: Place,
    /// The revision of the commit that wrote it last.
    pub revision: u64,
    /// Microseconds since 1970; `None` for never.
    pub expires_at: Option<i64>,
    /// What was put.
    pub value: Bytes,
    /// Names and values of the terms that it can be listed under, sorted.
    pub terms: Vec<(String, String)>,
}

/// Where a record is; in the order in which records are moved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of its kind.
    pub kind: String,
    /// Whose it is.
    pub tenant: String,
    /// Its id.
    pub id: String,
}

/// The records of a store, all kinds of them, for as long as nobody else uses it.
#[async_trait]
pub trait RawRecords: Send {
    /// The store's revision.
    async fn revision(&mut self) -> Result<u64, StoreError>;

    /// Reads records in the order of their places, at most `limit`.
    async fn read(&mut self, after: Option<&Place>, limit: usize) -> Result<Vec<StoredRecord>, StoreError>;

    /// Says that records will come, up to this revision, after which the store will continue: until
    /// [`finish`](Self::finish) it is not complete.
    async fn begin(&mut self, revision: u64) -> Result<(), StoreError>;

    /// Writes records that are not there.
    async fn write(&mut self, records: Vec<StoredRecord>) -> Result<(), StoreError>;

    /// Says that everything is there, the audit trail as well.
    async fn finish(&mut self) -> Result<(), StoreError>;

    /// Lets others in again.
    async fn close(self: Box<Self>);
}

/// What was moved, and is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// How many.
    pub count: u64,
    /// SHA-256 over all of them, in order.
    pub digest: [u8; 32],
}

/// Why not everything was moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Something is there already.
    #[error("the target is not empty ({what}): name a new one")]
    NotEmpty {
        /// What is there.
        what: &'static str,
    },
    /// Somebody wrote to the source.
    #[error("{what} of the source changed meanwhile: stop every server on it, remove the target and begin again")]
    Changed {
        /// Records or events.
        what: &'static str,
    },
    /// What has arrived is not what was sent.
    #[error(
        "{what} differ: {sent} were sent, {arrived} have arrived, or their contents differ; was a server running? Remove \
         the target and begin again"
    )]
    Differs {
        /// Records or events.
        what: &'static str,
        /// How many were read from the source.
        sent: u64,
        /// How many are in the target.
        arrived: u64,
    },
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Counts and digests.
struct Tally {
    count: u64,
    digest: sha2::Sha256,
}

impl Tally {
    fn new() -> Self {
        Self { count: 0, digest: sha2::Digest::new() }
    }

    /// Adds one thing of these parts.
    fn add(&mut self, parts: &[&[u8]]) {
        use sha2::Digest as _;

        self.count += 1;
        for part in parts {
            self.digest.update((part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
    }

    fn done(self) -> Moved {
        Moved { count: self.count, digest: sha2::Digest::finalize(self.digest).into() }
    }
}

/// Both sides agree, or it is an error.
fn compare(what: &'static str, sent: Moved, arrived: Moved) -> Result<Moved, TransferError> {
    if sent == arrived {
        return Ok(arrived);
    }
    Err(TransferError::Differs { what, sent: sent.count, arrived: arrived.count })
}
