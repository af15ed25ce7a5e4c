//! What happened.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{ActorKind, Subject};

/// A short text that is nearly always one of a few: recording those allocates nothing.
pub type Label = Cow<'static, str>;

/// One row of the audit trail: an exchange (a request and its answer), a notification, a server's request, a refusal,
/// or an administrative act.
///
/// Text that the caller or the server chose (`target`, `client_name`, `error`, …) is bounded when the event is made,
/// and escaped where it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When it began, microseconds.
    pub ts: Timestamp,
    /// The request: an intent and its end share it, and so do the events of one stream.
    pub request_id: Ulid,
    /// What it is about.
    pub category: Category,
    /// What kind of row it is.
    pub kind: EventKind,
    /// Who and with what, as far as known.
    pub actor: Option<ActorFacts>,
    /// The caller's address, after trusted proxies.
    pub address: Option<IpAddr>,
    /// The client's `User-Agent`, at most 256 bytes.
    pub user_agent: Option<Arc<str>>,
    /// The name that the client gave itself.
    pub client_name: Option<Arc<str>>,
    /// The version that the client gave itself.
    pub client_version: Option<Arc<str>>,
    /// The server's id.
    pub server: Option<Arc<str>>,
    /// `legacy` or `modern`.
    pub era: Option<Label>,
    /// The MCP version, as claimed.
    pub protocol_version: Option<Label>,
    /// The HTTP method.
    pub http_method: Option<Label>,
    /// The MCP method, or the administrative action (`api-key.create`).
    pub method: Option<Label>,
    /// The tool, prompt or resource, or the object of the action; at most 512 bytes.
    pub target: Option<Arc<str>>,
    /// The tool, prompt or resource that a filter put in its place; at most 512 bytes.
    #[serde(default)]
    pub forwarded_target: Option<Arc<str>>,
    /// Whether a filter changed the request.
    #[serde(default)]
    pub request_mutated: bool,
    /// Whether a filter changed or withheld the answer, or, of a stream, a message of it up to this row.
    #[serde(default)]
    pub response_mutated: bool,
    /// What the configured filters said, of a stream up to this row.
    #[serde(default)]
    pub filters: Vec<FilterFact>,
    /// Of an administrative act: which records it changed.
    #[serde(default)]
    pub changes: Vec<ChangeFact>,
    /// The JSON-RPC id as it was sent; at most 128 bytes.
    pub rpc_id: Option<Arc<str>>,
    /// A keyed hash of the session id.
    pub session: Option<Arc<str>>,
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status that the caller saw; 0 when there was none.
    pub status: u16,
    /// The JSON-RPC error code.
    pub rpc_code: Option<i64>,
    /// What went wrong, for people; at most 512 bytes.
    pub error: Option<Box<str>>,
    /// Which rule decided.
    pub rule: Option<Arc<str>>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body, without the tags that event ids get on their way out.
    pub bytes_out: u64,
    /// Messages of the stream that have no row of their own.
    pub messages: u32,
    /// Microseconds from the call of the upstream to its head: the gateway's own time is not in it.
    pub upstream_us: Option<u64>,
    /// Microseconds from arrival to the first byte of the answer.
    pub first_byte_us: Option<u64>,
    /// Microseconds from arrival to the last byte.
    pub total_us: u64,
    /// The W3C trace id, 32 hexadecimal digits.
    pub trace_id: Option<Arc<str>>,
    /// Where the exchange stands in its trace, on the event that ends it and if the trace is recorded. For those who see
    /// events on their way; no store keeps it.
    #[serde(skip)]
    pub span: Option<SpanFacts>,
    /// Bodies and headers, when they are captured.
    pub bodies: Option<Box<AuditBodies>>,
}

impl AuditEvent {
    /// An event of which nothing else is known yet.
    #[must_use]
    pub fn new(ts: Timestamp, request_id: Ulid, category: Category, kind: EventKind) -> Self {
        Self {
            ts,
            request_id,
            category,
            kind,
            actor: None,
            address: None,
            user_agent: None,
            client_name: None,
            client_version: None,
            server: None,
            era: None,
            protocol_version: None,
            http_method: None,
            method: None,
            target: None,
            forwarded_target: None,
            request_mutated: false,
            response_mutated: false,
            filters: Vec::new(),
            changes: Vec::new(),
            rpc_id: None,
            session: None,
            outcome: Outcome::Unknown,
            status: 0,
            rpc_code: None,
            error: None,
            rule: None,
            bytes_in: 0,
            bytes_out: 0,
            messages: 0,
            upstream_us: None,
            first_byte_us: None,
            total_us: 0,
            trace_id: None,
            span: None,
            bodies: None,
        }
    }
}

/// An exchange as a span of a W3C trace, with the call of its server as a second one within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanFacts {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span; `None` where the trace begins here.
    pub parent: Option<[u8; 8]>,
    /// The exchange.
    pub span_id: [u8; 8],
    /// The call of the server.
    pub call_id: [u8; 8],
    /// Microseconds from arrival to that call; `None` when there was none.
    pub called_us: Option<u64>,
}

/// Who did it, with which credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorFacts {
    /// Whose rights.
    pub subject: Subject,
    /// Which kind of credential.
    pub kind: ActorKind,
    /// Its id.
    pub id: Arc<str>,
    /// Its name.
    pub name: Option<Arc<str>>,
}

/// A record that an administrative act changed. Digests are SHA-256 of the record as the store keeps it, with its secrets
/// sealed, in 64 hexadecimal digits: they tell versions apart, and nothing of what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeFact {
    /// The record's kind (`access-policy`, `api-key`).
    pub kind: Label,
    /// Its id.
    pub id: Arc<str>,
    /// What it was; `None` if it was made.
    pub before: Option<Box<str>>,
    /// What it became; `None` if it was removed.
    pub after: Option<Box<str>>,
}

impl ChangeFact {
    /// Facts of one act; its further changes are not told apart.
    pub const MOST: usize = 16;
}

/// What a configured filter said of messages of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterFact {
    /// The filter's id.
    pub filter: Arc<str>,
    /// What it said.
    pub verdict: FilterVerdict,
    /// Of how many messages.
    pub messages: u32,
    /// The names of what it found in them; at most [`FilterFact::FOUND`].
    pub found: Vec<Label>,
}

impl FilterFact {
    /// Facts of one exchange; what comes beyond is in the log alone.
    pub const MOST: usize = 64;
    /// Names in one fact.
    pub const FOUND: usize = 16;

    /// Counts what a filter said of one more message.
    pub(crate) fn note(facts: &mut Vec<Self>, filter: &Arc<str>, verdict: FilterVerdict, found: Vec<Label>) {
        let known = facts.iter().position(|fact| fact.filter == *filter && fact.verdict == verdict);
        let at = match known {
            Some(at) => at,
            None if facts.len() == Self::MOST => return,
            None => {
                facts.push(Self { filter: Arc::clone(filter), verdict, messages: 0, found: Vec::new() });
                facts.len() - 1
            }
        };
        let fact = &mut facts[at];
        fact.messages = fact.messages.saturating_add(1);
        for name in found {
            if fact.found.len() < Self::FOUND && !fact.found.contains(&name) {
                fact.found.push(name);
            }
        }
    }
}

/// What a filter said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FilterVerdict {
    /// Nothing.
    Passed,
    /// It found something and let it go on.
    Flagged,
    /// It put another version in the message's place.
    Replaced,
    /// The message does not go on.
    Refused,
    /// It could not tell, and the message does not go on.
    Failed,
    /// It could not tell, and the message went on.
    FailedOpen,
}

impl FilterVerdict {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Flagged => "flagged",
            Self::Replaced => "replaced",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::FailedOpen => "failed_open",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Category {
    /// The data plane.
    Mcp,
    /// Logins, tokens, keys used.
    Auth,
    /// The admin API.
    Admin,
    /// The gateway itself.
    System,
}

impl Category {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Auth => "auth",
            Self::Admin => "admin",
            Self::System => "system",
        }
    }
}

/// What kind of row it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A call is about to be forwarded. Never a row of its own: merged with its end, or, when there is none, turned
    /// into an exchange with outcome `unknown`.
    Intent,
    /// A request and its answer.
    Exchange,
    /// A message without an answer.
    Notification,
    /// A request by the server, or the client's answer to one.
    ServerRequest,
    /// A stream was opened; its end is a row of kind [`Closed`](Self::Closed).
    Opened,
    /// A stream ended.
    Closed,
    /// A response that arrived on a resumed stream.
    Resumed,
    /// The request was refused.
    Refused,
    /// Refusals of unauthenticated requests, counted by address and minute.
    RefusedMany,
    /// An act outside the data plane.
    Act,
}

impl EventKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Exchange => "exchange",
            Self::Notification => "notification",
            Self::ServerRequest => "server_request",
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Resumed => "resumed",
            Self::Refused => "refused",
            Self::RefusedMany => "refused_many",
            Self::Act => "act",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// As asked.
    Ok,
    /// A tool answered with `isError`.
    ToolError,
    /// A JSON-RPC error.
    RpcError,
    /// An HTTP error of the upstream without a JSON-RPC body.
    HttpError,
    /// Refused by the gateway or shim: credential, rule, limit, or malformed message.
    Denied,
    /// The upstream did not answer, or broke off.
    UpstreamFailed,
    /// The caller went away before the answer was complete.
    Disconnected,
    /// The answer could not be read (encoded, or not JSON).
    Opaque,
    /// Nobody knows: the process died between forwarding and the end.
    Unknown,
}

impl Outcome {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::HttpError => "http_error",
            Self::Denied => "denied",
            Self::UpstreamFailed => "upstream_failed",
            Self::Disconnected => "disconnected",
            Self::Opaque => "opaque",
            Self::Unknown => "unknown",
        }
    }
}

/// Captured bodies and headers: the first `audit.body_limit` bytes of each, with the whole length in the event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBodies {
    /// Random, made when they are captured: what the trail's [link](crate::trail::Link) says of them tells nothing once they
    /// are erased, and this with them.
    pub salt: [u8; 16],
    /// The request's body.
    pub request: Bytes,
    /// The answer's body.
    pub response: Bytes,
    /// The request's headers, credentials redacted.
    pub request_headers: Vec<(Box<str>, Box<str>)>,
    /// The answer's headers, credentials redacted.
    pub response_headers: Vec<(Box<str>, Box<str>)>,
}
