//! Why a spool could not be opened, or a directory not be imported.

use std::path::{Path, PathBuf};

use mcp_gateway_core::contract::StoreError;

/// A spool could not be opened or imported. The text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Others may read the key file.
    #[error("{} has mode {mode:o}: others may read it; make it private with `chmod 600`", path.display())]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("{} is not a key file: it must hold 32 bytes; restore it, or remove it together with the spool", path.display())]
    KeyLength {
        /// The key file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {source}; check that the directory exists, belongs to this user and has room", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A process that still runs writes to the directory.
    #[error("{} is in use by a running gateway, which will hand its events to the store itself", path.display())]
    InUse {
        /// The stream's directory.
        path: PathBuf,
    },
    /// A segment cannot be read; the directory is left as it is.
    #[error("{}: {reason}; it is left as it is", path.display())]
    Unreadable {
        /// The segment.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store did not take the rows; importing again is safe.
    #[error("the audit store did not take the rows: {0}; importing again is safe")]
    Store(#[from] StoreError),
}

impl SpoolError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
