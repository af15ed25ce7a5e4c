//! Opening a connection the same way everywhere.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::OpenError;

/// Statements that a connection keeps compiled.
const STATEMENTS: usize = 64;
/// Bytes of a page, SQLite's own default.
pub(super) const PAGE: u32 = 4_096;
/// How long a connection waits for another one of this process, for example for the end of a checkpoint.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a commit that has returned survives. The file is never torn by either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The end of the process, `kill -9` included. Losing power or the kernel may take back the last commits, in
    /// order: the ones since SQLite's last checkpoint (`synchronous=NORMAL` with a write-ahead log).
    #[default]
    Process,
    /// The loss of power too: the disk has confirmed each commit (`synchronous=FULL`). Commits that wait at the same
    /// time share one `fsync`.
    Power,
}

/// Opens the one connection that writes, creating the file (mode 0600) where there is none.
///
/// `page` is how many bytes a page of a new file has.
pub(super) fn open_writer(path: &Path, durability: Durability, page: u32) -> Result<Connection, OpenError> {
    create_private(path)?;
    let database = |error: rusqlite::Error| OpenError::Database { path: path.to_owned(), source: error.into() };
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(database)?;
    let synchronous = match durability {
        Durability::Process => "NORMAL",
        Durability::Power => "FULL",
    };
    prepare(&connection)
        // In a new file only, and not after WAL.
        .and_then(|()| connection.pragma_update(None, "page_size", page))
        .and_then(|()| connection.pragma_update(None, "journal_mode", "WAL"))
        .and_then(|()| connection.pragma_update(None, "synchronous", synchronous))
        .and_then(|()| connection.pragma_update(None, "foreign_keys", true))
        // What is deleted may have been secret.
        .and_then(|()| connection.pragma_update(None, "secure_delete", "FAST"))
        .map_err(database)?;
    Ok(connection)
}

/// Opens a connection that only reads. The file exists and its writer is open.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    prepare(&connection)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Makes the file readable by this user alone; SQLite gives its `-wal` and `-shm` files the same mode.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
    if file.metadata().map_err(io)?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
    }
    Ok(())
}
