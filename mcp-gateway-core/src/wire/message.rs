//! What is known of a message after a peek.

use std::borrow::Cow;
use std::fmt;

use super::method::{self, Target};

/// Which of the three JSON-RPC messages this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `method` and `id`.
    Request,
    /// `method` without `id`.
    Notification,
    /// `result` or `error`.
    Response,
}

/// A JSON-RPC id exactly as written: a number, or a string with its quotes.
///
/// It is echoed as it was written, so that `1.0` and integers beyond 64 bits survive; whether another one is the same is
/// for [`same_id`](super::same_id).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id<'a>(&'a [u8]);

impl<'a> Id<'a> {
    pub(super) fn new(raw: &'a [u8]) -> Self {
        Self(raw)
    }

    /// The bytes of the JSON value.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.0.escape_ascii())
    }
}

/// One accepted JSON-RPC 2.0 message, borrowed from the body it was read from.
///
/// Strings are unescaped: what is compared here is what the server will see.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Message<'a> {
    /// Request, notification or response.
    pub kind: Kind,
    /// Present on requests and on results; an error may come without one or with `null`.
    pub id: Option<Id<'a>>,
    /// Present on requests and notifications.
    pub method: Option<Cow<'a, str>>,
    /// Present if the message has `params`.
    pub params: Option<Params<'a>>,
    /// `error.code` of a response, if it is an integer of 64 bits.
    pub error_code: Option<i64>,
    /// Whether a response is an error.
    pub is_error: bool,
}

impl<'a> Message<'a> {
    /// The method, or the empty string for a response.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    /// The `_meta` of the parameters.
    #[must_use]
    pub fn meta(&self) -> Option<&Meta<'a>> {
        self.params.as_ref()?.meta.as_ref()
    }

    /// What a request or notification is about: the tool or prompt, the resource, the task, or what is completed.
    ///
    /// `None` if the method has no target; [`peek`](super::peek) refuses a message whose method needs one and that
    /// lacks it.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        let params = self.params.as_ref()?;
        match method::target(self.method())? {
            Target::Name => params.name.as_deref(),
            Target::Uri => params.uri.as_deref(),
            Target::TaskId => params.task_id.as_deref(),
            Target::Reference => params.reference.as_ref()?.target(),
        }
    }
}

/// The members of `params` that rules, limits and records need.
///
/// A member that is not of the expected type is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Params<'a> {
    /// The whole object as written.
    pub raw: &'a [u8],
    /// `name`: a tool or a prompt.
    pub name: Option<Cow<'a, str>>,
    /// `uri`: a resource.
    pub uri: Option<Cow<'a, str>>,
    /// `taskId`: a task.
    pub task_id: Option<Cow<'a, str>>,
    /// `ref`: what `completion/complete` completes.
    pub reference: Option<Reference<'a>>,
    /// `arguments` as written, of any JSON type.
    pub arguments: Option<&'a [u8]>,
    /// `requestState` as written: the server's token in a repeated request.
    pub request_state: Option<&'a [u8]>,
    /// `requestId`: the request that `notifications/cancelled` is about.
    pub request_id: Option<Id<'a>>,
    /// `_meta`.
    pub meta: Option<Meta<'a>>,
    /// `protocolVersion` of `initialize`.
    pub protocol_version: Option<Cow<'a, str>>,
    /// `capabilities` of `initialize` as written, of any JSON type.
    pub capabilities: Option<&'a [u8]>,
    /// `clientInfo.name` of `initialize`. Self-declared: record it, never decide on it.
    pub client_name: Option<Cow<'a, str>>,
    /// `clientInfo.version` of `initialize`. Self-declared.
    pub client_version: Option<Cow<'a, str>>,
}

/// The `ref` of `completion/complete`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Reference<'a> {
    /// `type`: `ref/prompt` or `ref/resource`.
    pub kind: Option<Cow<'a, str>>,
    /// `name` of a prompt.
    pub name: Option<Cow<'a, str>>,
    /// `uri` of a resource or of a template.
    pub uri: Option<Cow<'a, str>>,
}

impl Reference<'_> {
    /// The prompt's name or the resource's address, by type.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self.kind.as_deref()? {
            "ref/prompt" => self.name.as_deref(),
            "ref/resource" => self.uri.as_deref(),
            _ => None,
        }
    }
}

/// The members of `params._meta` that are read; keys of the protocol carry the prefix `io.modelcontextprotocol/`.
///
/// A member that is not of the expected type is `None` or `false`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Meta<'a> {
    /// `protocolVersion`: its presence is what makes a request one of the 2026-07-28 kind.
    pub protocol_version: Option<Cow<'a, str>>,
    /// `clientInfo.name`. Self-declared: record it, never decide on it.
    pub client_name: Option<Cow<'a, str>>,
    /// `clientInfo.version`. Self-declared.
    pub client_version: Option<Cow<'a, str>>,
    /// Whether `clientCapabilities` is an object.
    pub client_capabilities: bool,
    /// `progressToken` as written: a number, or a string with its quotes.
    pub progress_token: Option<Id<'a>>,
    /// `traceparent` of W3C Trace Context, unchecked.
    pub traceparent: Option<Cow<'a, str>>,
    /// Whether `logLevel` asks for log messages.
    pub log_level: bool,
}
