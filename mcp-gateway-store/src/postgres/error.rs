//! Why a database could not be opened, and what Postgres's errors mean to a store's caller.

use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::{StoreError, StoreErrorKind};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// A database could not be opened, migrated or filled. The text names it, without user and password, and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The URL cannot be used. It is not repeated: it may hold a password.
    #[error("the database's URL {problem}; it is written postgres://user:password@host:5432/database")]
    Url {
        /// What is wrong.
        problem: String,
    },
    /// The server does not answer, or does not let us in.
    #[error("{place} cannot be reached: {source}; check that it runs and that name, password and sslmode are right")]
    Unreachable {
        /// Where it is.
        place: String,
        /// The cause.
        source: BoxError,
    },
    /// The schema is older than this program, or not there.
    #[error(
        "{place} has {}, this program needs version {known}: run `mcp-gateway migrate` with the same configuration",
        match found { 0 => "no tables yet".to_owned(), found => format!("schema version {found}") }
    )]
    OlderSchema {
        /// Where it is.
        place: String,
        /// Its version; 0 when there is none.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// The schema is newer than this program can work with.
    #[error(
        "{place} has schema version {found}, this program knows up to {known}: start the newer program, with which \
         `mcp-gateway migrate` was run, or restore the backup that was taken before it"
    )]
    NewerSchema {
        /// Where it is.
        place: String,
        /// Its version.
        found: u32,
        /// The version of this program.
        known: u32,
    },
    /// Not every text could be stored.
    #[error("{place} has the encoding {found}: make the database with ENCODING 'UTF8'")]
    Encoding {
        /// Where it is.
        place: String,
        /// Its encoding.
        found: String,
    },
    /// A server uses the database, which can only be filled while nobody does.
    #[error("{place} is in use: stop every server on it first")]
    InUse {
        /// Where it is.
        place: String,
    },
    /// A copy into it has begun and not ended: not everything is there.
    #[error(
        "{place} holds a copy that was not completed: drop its schema mcp_gateway and run `mcp-gateway store copy` again"
    )]
    HalfFilled {
        /// Where it is.
        place: String,
    },
    /// Bodies would be captured, and nothing seals them.
    #[error("{place} would hold captured bodies unsealed: configure a key for sealing, or set `audit.bodies` to `off`")]
    Unsealed {
        /// Where it is.
        place: String,
    },
    /// Postgres refused.
    #[error("{place}: {source}")]
    Database {
        /// Where it is.
        place: String,
        /// The cause.
        source: BoxError,
    },
}

/// What an error of Postgres means to the caller of a store, when a connection that is lost means `lost`.
pub(super) fn store_error(op: &'static str, error: sqlx::Error, lost: StoreErrorKind) -> StoreError {
    let kind = match &error {
        sqlx::Error::Database(error) => {
            let error = error.downcast_ref::<PgDatabaseError>();
            match error.code() {
                // Data or an index is corrupted.
                "XX001" | "XX002" => StoreErrorKind::Corrupt,
                // A row of an index would be too large, and the like.
                "54000" => StoreErrorKind::TooLarge,
                // The server ended the connection, perhaps after it had committed.
                _ if matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic) => lost,
                _ => StoreErrorKind::Unavailable,
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => StoreErrorKind::Corrupt,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => StoreErrorKind::Unavailable,
        _ => lost,
    };
    StoreError::new(kind, op).because(error)
}

/// Whether the server ended a transaction because of another one's: nothing was written, and a second attempt may succeed.
pub(super) fn is_serialization(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if matches!(error.code().as_deref(), Some("40001" | "40P01")))
}
