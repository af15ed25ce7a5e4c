//! Why a file could not be opened, and what SQLite's errors mean to a store's caller.

use std::path::PathBuf;

use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{StoreError, StoreErrorKind};

/// A store's file could not be opened. The text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{} is in use by {}: one process at a time may open it; stop that process, or give this one another file",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The store's file.
        path: PathBuf,
        /// Who has it, as far as the lock file says.
        pid: Option<u32>,
    },
    /// A newer program wrote it.
    #[error(
        "{} has schema version {found}, this program knows up to {known}: start the newer program again, or restore \
         the backup that was taken before the upgrade",
        path.display()
    )]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that is known here.
        known: u32,
    },
    /// An older program wrote it, and nobody who may change it has opened it since.
    #[error(
        "{} has schema version {found}, this program needs {known}: run `mcp-gateway migrate` or start the server first",
        path.display()
    )]
    OlderSchema {
        /// The store's file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is needed.
        known: u32,
    },
    /// It holds something else.
    #[error("{} holds {found:?}, not {expected:?}: check the configured path", path.display())]
    OtherSchema {
        /// The store's file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Bodies would be captured, and nothing seals them.
    #[error(
        "{} would hold captured bodies unsealed: configure a key for sealing, or set `audit.bodies` to `off`",
        path.display()
    )]
    Unsealed {
        /// The store's file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {source}; check that the directory exists and belongs to this user", path.display())]
    Io {
        /// The store's file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("{}: {source}", path.display())]
    Database {
        /// The store's file.
        path: PathBuf,
        /// The cause.
        source: BoxError,
    },
}

/// What an error of SQLite means to the caller of a store.
pub(super) fn store_error(op: &'static str, error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreErrorKind::Corrupt,
        _ if matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)
        ) =>
        {
            StoreErrorKind::Corrupt
        }
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind, op).because(error)
}
