//! Records that a call is about to be forwarded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use http::request::Parts;

use super::event::event_of;
use super::{Auditor, OnFull};
use crate::MaybeReady;
use crate::context::{McpContext, MessageKind};
use crate::contract::{AuditFull, Seq};
use crate::layer::gate::{Gate, gate_layer};
use crate::record::EventKind;
use crate::refusal::Refusal;

/// Records the intent of each `tools/call`, innermost in the shim.
///
/// A call that is executed and whose answer never comes, because the process dies, would otherwise leave no trace at
/// all. When the sink is full, `audit.on_full` decides: the call is refused with 503, or goes on and is counted.
#[derive(Clone)]
pub struct IntentLayer(Arc<Auditor>);

impl IntentLayer {
    pub(super) fn new(auditor: Arc<Auditor>) -> Self {
        Self(auditor)
    }
}

impl std::fmt::Debug for IntentLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IntentLayer(..)")
    }
}

impl Gate for IntentLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let Some(cx) = McpContext::of(&parts.extensions) else {
            return Err(Refusal::layer_absent("context", "ContextLayer")).into();
        };
        let Some(message) = cx.message() else {
            return Err(Refusal::layer_absent("message", "PeekLayer")).into();
        };
        if message.kind != MessageKind::Request || message.method.as_deref() != Some("tools/call") {
            return Ok(()).into();
        }
        let mut event = event_of(cx, EventKind::Intent, &*self.0.options.clock);
        event.http_method = Some("POST".into());
        match self.0.sink.record(event) {
            MaybeReady::Ready(recorded) => self.0.admit(recorded).into(),
            MaybeReady::Wait(wait) => {
                let auditor = Arc::clone(&self.0);
                MaybeReady::wait(async move { auditor.admit(wait.await) })
            }
        }
    }
}

gate_layer!(IntentLayer);

impl Auditor {
    fn admit(&self, recorded: Result<Seq, AuditFull>) -> Result<(), Refusal> {
        let Err(full) = recorded else { return Ok(()) };
        self.lost.fetch_add(1, Ordering::Relaxed);
        match self.options.on_full {
            OnFull::Count => Ok(()),
            OnFull::Refuse => {
                let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The call cannot be recorded now.");
                Err(refusal.retry_after(5).because(full))
            }
        }
    }
}
