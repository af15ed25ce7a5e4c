//! Inspecting and changing messages.

use std::sync::Arc;

use bytes::Bytes;

use crate::MaybeReady;
use crate::context::McpContext;
use crate::record::ServerRequests;
use crate::wire::version::Era;

/// Inspects or changes messages.
///
/// The shim's filter layer asks [`needs`](Self::needs) once a message; nothing is buffered that no filter asked for.
/// A replaced request is peeked and authorized again; `method` and `id` can never be changed. A filter that fails, takes
/// longer than `FilterOptions::filter_time` over a message, or replaces a message of the server by what is none, refuses it,
/// unless it says that it [fails open](Self::fail_open). A request replaced by what is none is refused in any case.
///
/// Closures are filters that see everything; the view tells the direction:
///
/// ```
/// use mcp_gateway_core::context::McpContext;
/// use mcp_gateway_core::contract::{Direction, Filter, Verdict, View};
///
/// fn assert_filter(_: impl Filter) {}
/// assert_filter(|_: &McpContext, view: &View| match view.direction {
///     Direction::Response if view.body.len() > 100_000 => Verdict::refuse("The answer is too long to be read."),
///     _ => Verdict::Pass,
/// });
/// ```
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
    /// Whatever it says, it sees the responses on GET streams if it is to see [resumed](Self::resumed) ones: their
    /// [`method`](View::method) is `None`.
    fn needs(&self, head: &Head<'_>) -> Needs;

    /// Whether it sees the responses on a server's GET streams, by which a client resumes one that broke off: one that
    /// judges responses by their method would else be gone around. It does by default.
    fn resumed(&self, server: &str) -> bool {
        let _ = server;
        true
    }

    /// Whether what it needs is kept with the exchange ([`McpContext::inspected`]): by that it tells, when its needs have
    /// changed, which streams it has to see from their beginning.
    fn may_outgrow(&self) -> bool {
        false
    }

    /// Whether messages go on unjudged when it [fails](Verdict::Failed). They do not by default.
    fn fail_open(&self) -> bool {
        false
    }

    /// Whether it bounds its own time, as one that asks several others must: `FilterOptions::filter_time` is not for it
    /// then.
    fn keeps_time(&self) -> bool {
        false
    }

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

impl<F> Filter for F
where
    F: Fn(&McpContext, &View) -> Verdict + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        std::any::type_name::<F>()
    }

    fn needs(&self, _: &Head<'_>) -> Needs {
        Needs { request: true, response: true, events: true }
    }

    fn request(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self(cx, view).into()
    }

    fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self(cx, view).into()
    }

    fn event(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self(cx, view).into()
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
    /// The era of the message; of GET streams the legacy one, which alone has them.
    pub era: Era,
    /// What the server may ask of clients.
    pub server_requests: ServerRequests,
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

    /// What either wants to see.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            request: self.request || other.request,
            response: self.response || other.response,
            events: self.events || other.events,
        }
    }
}

/// A message as a filter sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// Which way it goes, and so which of the filter's methods is called.
    pub direction: Direction,
    /// Its method; of a response, the method it answers, if known.
    pub method: Option<Box<str>>,
    /// The tool, prompt or resource.
    pub target: Option<Arc<str>>,
    /// The JSON-RPC message, byte for byte.
    pub body: Bytes,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the caller to the server.
    Request,
    /// Back, as the answer.
    Response,
    /// Back, on a stream, and no answer: a notification or a server's request.
    Event,
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
    /// The filter cannot tell: whatever it asks is away, or it cannot read the message. What becomes of the message is for
    /// [`Filter::fail_open`].
    Failed {
        /// For the log alone.
        cause: String,
    },
}

impl Verdict {
    /// A refusal with this text for the caller.
    pub fn refuse(public: impl Into<String>) -> Self {
        Self::Refuse { public: public.into() }
    }

    /// A failure with this cause for the log.
    pub fn failed(cause: impl Into<String>) -> Self {
        Self::Failed { cause: cause.into() }
    }
}
