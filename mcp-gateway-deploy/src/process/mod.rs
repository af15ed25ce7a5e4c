//! Servers as child processes of the gateway.
//!
//! For servers that the operator trusts: children share the machine, and unless another user is configured also the
//! user, with the gateway. What holds nonetheless: no shell, a cleared environment, a folder and a process group of its
//! own for each, limits, and the sandbox of the [`launcher`].

mod cgroup;
mod child;
mod command;
mod journal;
pub mod launcher;
mod limits;
mod log;
mod options;
mod runtime;
mod workload;

pub use self::cgroup::Cgroup;
pub use self::child::{CommandSpawner, Grace};
pub use self::log::{MAX_LINE, RingLog};
pub use self::options::{Backoff, ChildLimits, Launcher, ProcessOptions};
pub use self::runtime::ProcessRuntime;
