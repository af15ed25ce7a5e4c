//! How an intent and the event that ends it become one row.

use super::{AuditEvent, EventKind, Outcome};

impl EventKind {
    /// Whether an event of this kind ends the intent of the same request.
    ///
    /// What happens inside a stream (its opening, the server's requests, resumed responses) does not.
    #[must_use]
    pub fn ends_intent(self) -> bool {
        matches!(self, Self::Exchange | Self::Notification | Self::Closed | Self::Refused | Self::Act)
    }
}

impl AuditEvent {
    /// Fills in what this event lacks and its intent knew. Time, kind, outcome and sizes stay as they are.
    pub fn absorb_intent(&mut self, intent: &Self) {
        macro_rules! fill {
            ($($field:ident),* $(,)?) => { $( if self.$field.is_none() { self.$field.clone_from(&intent.$field); } )* };
        }
        fill!(actor, address, user_agent, client_name, client_version, server, era, protocol_version, http_method);
        fill!(method, target, forwarded_target, rpc_id, session, rule, trace_id, bodies);
        self.request_mutated |= intent.request_mutated;
        if self.filters.is_empty() {
            self.filters.clone_from(&intent.filters);
        }
        if self.changes.is_empty() {
            self.changes.clone_from(&intent.changes);
        }
        if self.bytes_in == 0 {
            self.bytes_in = intent.bytes_in;
        }
    }

    /// The row of an intent whose end nobody saw: an exchange with an unknown outcome.
    #[must_use]
    pub fn into_unknown(mut self) -> Self {
        self.kind = EventKind::Exchange;
        self.outcome = Outcome::Unknown;
        self
    }
}
