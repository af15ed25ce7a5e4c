//! Where audit events go on the path of a call.

use async_trait::async_trait;

use crate::MaybeReady;
use crate::record::AuditEvent;

/// Takes audit events; ready means that the event is as durable as the operator asked for.
///
/// The audit layers call [`record`](Self::record) up to twice a call: an intent before a call is forwarded, the final
/// event before the last byte of its answer leaves. Dropping the future does not take the event back.
///
/// What "ready" guarantees is the sink's configuration: `process` survives `kill -9` of the process, `fsync` the loss
/// of power, `store` the loss of the machine's disk.
#[async_trait]
pub trait AuditSink: Send + Sync + 'static {
    /// Appends one event.
    ///
    /// [`AuditFull`] means that the event is not recorded and the caller must act on `audit.on_full`.
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>>;

    /// Waits until everything recorded so far is in the audit store, or the store is known to be away.
    async fn flush(&self);
}

/// The position of an event in its writer's stream. Intents share the number line with final events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// The sink cannot take an event: its spool is full, or the disk stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditFull {
    /// The spool has reached its size limit.
    #[error("the audit spool is full")]
    Space,
    /// The disk did not take the event within `audit.stall_timeout`.
    #[error("the audit spool's disk stalls")]
    Stalled,
    /// The disk refused the event.
    #[error("the audit spool cannot be written")]
    Failed,
}
