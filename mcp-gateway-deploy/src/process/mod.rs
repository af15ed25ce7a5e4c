//! Servers as child processes.

mod child;
mod log;

pub use self::child::CommandSpawner;
pub use self::log::RingLog;
