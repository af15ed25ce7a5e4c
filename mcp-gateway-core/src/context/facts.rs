//! The larger facts.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::contract::{Incarnation, Needs};
use crate::wire::version::{Era, ProtocolVersion};

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// Wants an answer.
    Request,
    /// Wants none.
    Notification,
    /// Answers a server's request.
    Response,
    /// No message at all: GET and DELETE.
    None,
}

/// What the body says, owned: the peek's borrowed view does not outlive the body.
#[derive(Debug, Clone)]
pub struct MessageFacts {
    /// What it is.
    pub kind: MessageKind,
    /// Its era, headers and body compared.
    pub era: Era,
    /// The version it claims; `None` when absent or unknown.
    pub version: Option<ProtocolVersion>,
    /// Its method, unescaped.
    pub method: Option<Cow<'static, str>>,
    /// The tool, prompt, resource or task it names, unescaped.
    pub target: Option<Arc<str>>,
    /// Of `completion/complete`: what its target is.
    pub completes: Option<Completes>,
    /// Its id, byte for byte.
    pub id: Option<Arc<str>>,
    /// Where in the body the arguments are.
    pub arguments: Option<Range<usize>>,
    /// The name that the client gave itself.
    pub client_name: Option<Arc<str>>,
    /// The version that the client gave itself.
    pub client_version: Option<Arc<str>>,
    /// Of `initialize`: how the client can ask its user.
    pub elicitation: Elicitation,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl MessageFacts {
    /// Of a request without a message: GET and DELETE.
    #[must_use]
    pub fn none() -> Self {
        Self {
            kind: MessageKind::None,
            era: Era::Legacy,
            version: None,
            method: None,
            target: None,
            completes: None,
            id: None,
            arguments: None,
            client_name: None,
            client_version: None,
            elicitation: Elicitation::default(),
            body: Bytes::new(),
        }
    }

    /// The id, byte for byte.
    #[must_use]
    pub fn id_bytes(&self) -> Option<&[u8]> {
        self.id.as_deref().map(str::as_bytes)
    }

    /// The raw JSON of the arguments.
    #[must_use]
    pub fn arguments(&self) -> Option<&[u8]> {
        self.body.get(self.arguments.clone()?)
    }
}

/// What a completion is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Completes {
    /// The arguments of a prompt.
    Prompt,
    /// The variables of a resource template.
    Resource,
}

/// How a client can ask its user for something, as it declared at `initialize`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elicitation {
    /// By a form that the client shows.
    pub form: bool,
    /// By an address that the user visits.
    pub url: bool,
}

/// What client and server agreed on when a legacy session began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The version that the server answered; `None` when it is not a known one.
    pub version: Option<ProtocolVersion>,
    /// How the client can ask its user.
    pub elicitation: Elicitation,
}

/// Which server and path a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    /// The id, exactly as in the URL.
    pub id: Box<str>,
    /// The path below the server's URL, without a leading slash.
    pub sub_path: Option<Box<str>>,
}

/// A legacy session, opened.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// The upstream's own session id.
    pub upstream_id: Arc<str>,
    /// Which life of which workload it belongs to.
    pub incarnation: Incarnation,
    /// What was agreed on when it began.
    pub agreed: Agreed,
    /// The bytes that the client sent, echoed in the response.
    pub sealed: http::HeaderValue,
    /// A keyed hash for logs and the audit trail.
    pub hash: Arc<str>,
}

/// Times that are known only while the answer is on its way. Microseconds plus one; 0 = unset.
#[derive(Debug, Default)]
pub struct Timings {
    called: AtomicU64,
    upstream: AtomicU64,
    first_byte: AtomicU64,
}

impl Timings {
    /// The upstream is called, so long after the request began.
    pub fn upstream_called(&self, micros: u64) {
        let _ = self.called.compare_exchange(0, micros.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The upstream's head has arrived, so long after it was called.
    pub fn upstream_answered(&self, micros: u64) {
        let _ = self.upstream.compare_exchange(0, micros.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The first byte of the body has left, so long after the request began.
    pub fn first_byte(&self, micros: u64) {
        let _ = self.first_byte.compare_exchange(0, micros.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Microseconds to the call of the upstream.
    #[must_use]
    pub fn called_us(&self) -> Option<u64> {
        self.called.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Microseconds from the call of the upstream to its head.
    #[must_use]
    pub fn upstream_us(&self) -> Option<u64> {
        self.upstream.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Microseconds to the first byte.
    #[must_use]
    pub fn first_byte_us(&self) -> Option<u64> {
        self.first_byte.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// What filters look at of an exchange, by their names. Of those that are not in it: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected(Vec<(Box<str>, Needs)>);

impl Inspected {
    /// What one filter looks at.
    #[must_use]
    pub fn by(&self, filter: &str) -> Needs {
        self.0.iter().find(|(name, _)| **name == *filter).map_or(Needs::NONE, |(_, needs)| *needs)
    }
}

impl FromIterator<(Box<str>, Needs)> for Inspected {
    fn from_iter<I: IntoIterator<Item = (Box<str>, Needs)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}
