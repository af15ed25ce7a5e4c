//! Puts the server together.
//!
//! ```text
//! stores ─▶ keys ─▶ spool ─▶ catalog ─▶ snapshot ─▶ runtime ─▶ gateway ─▶ listeners
//! ```

mod banner;
mod catalog;
mod data_plane;
mod limits;
mod logins;
mod oauth;
#[cfg(feature = "process")]
mod process;
mod router;
mod serve;
mod storage;
mod tasks;

pub use self::limits::raise_open_files;
pub use self::serve::{Server, StartError, StartOptions};
pub use self::storage::{import_audit, migrate};
