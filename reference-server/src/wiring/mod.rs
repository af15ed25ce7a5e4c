//! Puts the server together.
//!
//! ```text
//! stores ─▶ keys ─▶ spool ─▶ catalog ─▶ snapshot ─▶ runtime ─▶ gateway ─▶ listeners
//! ```

mod accounts;
mod banner;
mod catalog;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod copy;
mod data_plane;
mod issuers;
mod limits;
mod logins;
mod oauth;
#[cfg(feature = "process")]
mod process;
mod router;
mod serve;
mod storage;
mod tasks;
mod unled;
mod verify;

#[cfg(test)]
pub(crate) use self::accounts::Servers;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub use self::copy::{Copied, copy};
pub use self::limits::raise_open_files;
pub use self::serve::{Server, StartError, StartOptions};
pub use self::storage::{MigrateOptions, import_audit, migrate};
pub use self::verify::{audit_keys, verify_audit};
