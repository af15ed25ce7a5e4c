//! Inspecting and changing messages.

use bytes::Bytes;

use crate::MaybeReady;
use crate::context::McpContext;

/// Inspects or changes messages.
///
/// The shim's filter layer asks [`needs`](Self::needs) once a message; nothing is buffered that no filter asked for.
/// A replaced request is peeked and authorized again; `method` and `id` can never be changed.
///
/// ```
/// use mcp_gateway_core::MaybeReady;
/// use mcp_gateway_core::context::McpContext;
/// use mcp_gateway_core::contract::{Filter, Head, Needs, Verdict, View};
///
/// #[derive(Debug)]
/// struct NoSecrets;
///
/// impl Filter for NoSecrets {
///     fn name(&self) -> &str {
///         "no-secrets"
///     }
///
///     fn needs(&self, head: &Head<'_>) -> Needs {
///         Needs { request: head.method == Some("tools/call"), ..Needs::NONE }
///     }
///
///     fn request(&self, _: &McpContext, view: &View) -> MaybeReady<Verdict> {
///         let leak = view.body.windows(4).any(|window| window == b"AKIA");
///         if leak { Verdict::refuse("The arguments hold a credential.") } else { Verdict::Pass }.into()
///     }
/// }
/// ```
pub trait Filter: Send + Sync + 'static {
    /// Its name, for the audit trail.
    fn name(&self) -> &str;

    /// What it wants to see of this exchange.
    ///
    /// Whatever it says, it sees the responses on GET streams, by which a client resumes one that broke off: their
    /// [`method`](View::method) is `None`.
    fn needs(&self, head: &Head<'_>) -> Needs;

    /// Judges a request's message.
    fn request(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let _ = (cx, view);
        Verdict::Pass.into()
    }

    /// Judges a response: the JSON-RPC message that answers the request, or, if the view has no method, one of which
    /// nobody knows what it answers.
    fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let _ = (cx, view);
        Verdict::Pass.into()
    }

    /// Judges a message of a stream that is not the response: a notification or a server's request.
    fn event(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let _ = (cx, view);
        Verdict::Pass.into()
    }
}

/// What is known of an exchange before anything is buffered.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The server's id.
    pub server: &'a str,
    /// The message's method; `None` for a client's response and for GET streams.
    pub method: Option<&'a str>,
    /// The tool, prompt or resource.
    pub target: Option<&'a str>,
}

/// What a filter wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The request's message.
    pub request: bool,
    /// The response's message.
    pub response: bool,
    /// The other messages of the stream.
    pub events: bool,
}

impl Needs {
    /// Nothing.
    pub const NONE: Self = Self { request: false, response: false, events: false };
}

/// A message as a filter sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// Its method; of a response, the method it answers, if known.
    pub method: Option<Box<str>>,
    /// The tool, prompt or resource.
    pub target: Option<Box<str>>,
    /// The JSON-RPC message, byte for byte.
    pub body: Bytes,
}

/// A filter's judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to say.
    Pass,
    /// The message as it shall go on.
    Replace(Bytes),
    /// The message does not go on. The caller reads the text.
    Refuse {
        /// Told to the caller.
        public: String,
    },
}

impl Verdict {
    /// A refusal with this text for the caller.
    pub fn refuse(public: impl Into<String>) -> Self {
        Self::Refuse { public: public.into() }
    }
}
