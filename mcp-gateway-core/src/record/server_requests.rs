//! What a server may ask of its callers' clients.

use serde::{Deserialize, Serialize};

/// What a server may ask of its callers' clients: whole requests in revisions up to 2025-11-25, `inputRequests` in later
/// ones. All of it by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerRequests {
    /// To have the client's model write something (`sampling/createMessage`).
    #[serde(skip_serializing_if = "ServerRequest::is_allowed")]
    pub sampling: ServerRequest,
    /// To have the user answer a question or visit an address (`elicitation/create`).
    #[serde(skip_serializing_if = "ServerRequest::is_allowed")]
    pub elicitation: ServerRequest,
    /// To learn which folders the client works in (`roots/list`).
    #[serde(skip_serializing_if = "ServerRequest::is_allowed")]
    pub roots: ServerRequest,
}

/// Whether a server may ask for something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerRequest {
    /// It may, if the rules let it.
    #[default]
    Allow,
    /// It may not, whatever the rules say.
    Deny,
}

impl ServerRequest {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_allowed(&self) -> bool {
        *self == Self::Allow
    }
}

impl ServerRequests {
    /// Whether it may ask for everything.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it denies something that the other allows.
    #[must_use]
    pub fn denies_more(self, than: Self) -> bool {
        self.denied().any(|(_, method)| !than.denies(method))
    }

    /// Whether this method is among what it may not ask for.
    #[must_use]
    pub fn denies(&self, method: &str) -> bool {
        let method = method.trim();
        self.denied().any(|(_, denied)| method.eq_ignore_ascii_case(denied))
    }

    /// The client's capability and the method of what it may not ask for.
    pub(crate) fn denied(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let all = [
            (self.sampling, "sampling", "sampling/createMessage"),
            (self.elicitation, "elicitation", "elicitation/create"),
            (self.roots, "roots", "roots/list"),
        ];
        all.into_iter().filter(|(may, ..)| !may.is_allowed()).map(|(_, capability, method)| (capability, method))
    }
}
