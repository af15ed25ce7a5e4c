//! Where catalog entries come from.

use async_trait::async_trait;

use crate::record::Entry;

/// A source of catalog entries: a directory, a Git repository, a registry.
///
/// Called by the catalog's sync at start and on each change or interval. Cancel safe.
#[async_trait]
pub trait CatalogSource: Send + Sync + 'static {
    /// A stable name: entries remember which source they came from.
    fn name(&self) -> &str;

    /// Reads the source, unless it still is at the version `since`.
    async fn fetch(&self, since: Option<&str>) -> Result<Fetched, CatalogError>;
}

/// What a source holds.
#[derive(Debug)]
pub enum Fetched {
    /// Still at the version asked about.
    Unchanged,
    /// All entries. One bad entry leaves the others alone.
    Snapshot {
        /// Opaque to the caller; compared for equality.
        version: String,
        /// In the order of the source.
        entries: Vec<Result<Entry, EntryError>>,
    },
}

/// An entry that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{}: {problem}", .field.as_ref().map(|field| format!(": {field}")).unwrap_or_default())]
pub struct EntryError {
    /// The file, with line and column where they are known: `github.yaml:12:3`.
    pub place: String,
    /// The path of the field: `npxConfig.package`.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub problem: String,
    /// The id of the entry, where it could be read: what was served under it before goes on being served.
    pub id: Option<String>,
}

/// A source that cannot be read at all; nothing is removed on its account.
#[derive(Debug, thiserror::Error)]
#[error("catalog source {source_name}: {problem}")]
pub struct CatalogError {
    /// The source.
    pub source_name: String,
    /// What is wrong and what to do.
    pub problem: String,
    /// The cause.
    #[source]
    pub cause: Option<crate::BoxError>,
}
