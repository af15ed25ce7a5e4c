//! Records one exchange, whatever becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method, Request};

use super::event::{event_of, headers_of, micros};
use super::{Auditor, OnFull};
use crate::MaybeReady;
use crate::context::{McpContext, MessageKind, RefusalFacts};
use crate::contract::{Action, Ask, AuditFull, Decision, Seq, Target};
use crate::layer::peek::inspect_cut as cut;
use crate::record::{AuditBodies, AuditEvent, EventKind, Label, Outcome};
use crate::wire::rpc::code;
use crate::wire::version::Era;

/// One exchange on its way into the trail. Dropped before its end, it records that the caller went away, or was cut off
/// by a rule.
pub(super) struct Recorder {
    auditor: Arc<Auditor>,
    cx: McpContext,
    method: Method,
    user_agent: Option<HeaderValue>,
    status: u16,
    bytes_out: u64,
    messages: u32,
    stream: bool,
    done: bool,
    captured: Option<Box<Captured>>,
}

struct Captured {
    request_headers: Vec<(Box<str>, Box<str>)>,
    response_headers: Vec<(Box<str>, Box<str>)>,
    response: BytesMut,
}

/// What recording an event came to.
pub(super) type Recorded = MaybeReady<Result<Seq, AuditFull>>;

impl Recorder {
    pub(super) fn begin<B>(auditor: Arc<Auditor>, cx: McpContext, request: &Request<B>) -> Self {
        let captured = auditor.options.bodies.then(|| {
            Box::new(Captured {
                request_headers: headers_of(request.headers(), &auditor.options.redact),
                response_headers: Vec::new(),
                response: BytesMut::new(),
            })
        });
        Self {
            user_agent: request.headers().get(USER_AGENT).cloned(),
            method: request.method().clone(),
            auditor,
            cx,
            status: 0,
            bytes_out: 0,
            messages: 0,
            stream: false,
            done: false,
            captured,
        }
    }

    pub(super) fn cx(&self) -> &McpContext {
        &self.cx
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn max_event(&self) -> usize {
        self.auditor.options.max_event
    }

    /// The answer's head.
    pub(super) fn head(&mut self, status: u16, headers: &HeaderMap) {
        self.status = status;
        if let Some(captured) = &mut self.captured {
            captured.response_headers = headers_of(headers, &self.auditor.options.redact);
        }
    }

    /// A part of the answer's body.
    pub(super) fn body(&mut self, data: &[u8]) {
        if self.bytes_out == 0 {
            self.cx.timings().first_byte(micros(&self.cx, &*self.auditor.options.clock));
        }
        self.bytes_out += data.len() as u64;
        if let Some(captured) = &mut self.captured {
            let room = self.auditor.options.body_limit.saturating_sub(captured.response.len());
            captured.response.extend_from_slice(&data[..data.len().min(room)]);
        }
    }

    /// A message of the stream that gets no row of its own.
    pub(super) fn count_message(&mut self) {
        self.messages = self.messages.saturating_add(1);
    }

    /// The kind of row that this request gets.
    pub(super) fn kind(&self) -> EventKind {
        if self.is_denied() {
            return EventKind::Refused;
        }
        match self.cx.message().map_or(MessageKind::None, |message| message.kind) {
            _ if self.stream => EventKind::Closed,
            MessageKind::Request | MessageKind::None => EventKind::Exchange,
            MessageKind::Notification => EventKind::Notification,
            MessageKind::Response => EventKind::ServerRequest,
        }
    }

    /// A stream opens: recorded at its head, ended by an event of its own.
    pub(super) fn open(&mut self) -> Recorded {
        self.stream = true;
        let mut event = self.event(EventKind::Opened, Outcome::Ok);
        event.bodies = None;
        event.span = None;
        self.auditor.sink.record(event)
    }

    /// A message on a stream that gets a row of its own: a server's request, or a response on a resumed stream.
    pub(super) fn message(
        &mut self,
        kind: EventKind,
        outcome: Outcome,
        edit: impl FnOnce(&mut AuditEvent),
    ) -> Recorded {
        let mut event = self.event(kind, outcome);
        event.bodies = None;
        event.span = None;
        event.bytes_in = 0;
        edit(&mut event);
        self.auditor.sink.record(event)
    }

    /// Whether the exchange is of a revision without requests of servers.
    pub(super) fn is_modern(&self) -> bool {
        self.cx.message().is_some_and(|message| message.era == Era::Modern)
    }

    /// Whether a server may send this request on one of its streams.
    pub(super) fn ask(&self, method: &str) -> MaybeReady<Decision> {
        if self.is_modern() {
            return Decision::deny("no-server-requests").into();
        }
        if self.cx.route().is_some_and(|route| route.server_requests.denies(method)) {
            return Decision::deny("entry-server-requests").into();
        }
        let Some(authorizer) = &self.auditor.authorizer else { return Decision::allow("no-authorizer").into() };
        let (Some(principal), Some(route)) = (self.cx.principal(), self.cx.route()) else {
            tracing::error!("a server's request is withheld: the layers that set principal and route are absent");
            return Decision::deny("layer-absent").into();
        };
        authorizer.decide(&Ask {
            principal,
            action: Action::ServerRequest(method),
            target: Target { server: &route.id, name: None },
            cx: &self.cx,
            arguments: None,
        })
    }

    /// The end, once.
    pub(super) fn end(&mut self, outcome: Outcome, edit: impl FnOnce(&mut AuditEvent)) -> Recorded {
        self.done = true;
        let mut event = self.event(self.kind(), outcome);
        event.bodies = self.bodies();
        edit(&mut event);
        self.auditor.sink.record(event)
    }

    /// The end of a request that was refused, or whose server failed.
    pub(super) fn end_refused(&mut self) -> Option<Recorded> {
        let refusal = self.cx.refusal()?.clone();
        let outcome = if self.is_denied() { Outcome::Denied } else { Outcome::UpstreamFailed };
        Some(self.end(outcome, |event| {
            event.rpc_code = Some(refusal.code);
            event.error = Some(cut(&refusal.message, 512));
        }))
    }

    /// Whether we refused, and not the server failed: before it was called, or because a filter refuses its answer.
    fn is_denied(&self) -> bool {
        let of_policy = |refusal: &RefusalFacts| refusal.code == code::REFUSED_BY_POLICY;
        self.cx.refusal().is_some_and(|refusal| !self.cx.is_forwarded() || of_policy(refusal))
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the answer may go on although its event is not recorded.
    pub(super) fn goes_on(&self, recorded: Result<Seq, AuditFull>) -> Result<(), AuditFull> {
        let Err(full) = recorded else { return Ok(()) };
        self.auditor.lost.fetch_add(1, Ordering::Relaxed);
        match self.auditor.options.on_full {
            OnFull::Count => Ok(()),
            OnFull::Refuse => Err(full),
        }
    }

    fn event(&self, kind: EventKind, outcome: Outcome) -> AuditEvent {
        let mut event = event_of(&self.cx, kind, &*self.auditor.options.clock);
        event.outcome = outcome;
        event.status = self.status;
        event.http_method = Some(label(&self.method));
        let agent = self.user_agent.as_ref().map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        event.user_agent = agent.map(|agent| cut(&agent, 256));
        event.bytes_out = self.bytes_out;
        event.messages = self.messages;
        event
    }

    fn bodies(&mut self) -> Option<Box<AuditBodies>> {
        let captured = self.captured.take()?;
        let limit = self.auditor.options.body_limit;
        let request = self.cx.message().map_or(&[][..], |message| &message.body[..message.body.len().min(limit)]);
        Some(Box::new(AuditBodies {
            salt: rand::random(),
            // Copied: a slice would keep the whole body alive.
            request: Bytes::copy_from_slice(request),
            response: captured.response.freeze(),
            request_headers: captured.request_headers,
            response_headers: captured.response_headers,
        }))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let outcome = if self.cx.cut().is_some() { Outcome::Denied } else { Outcome::Disconnected };
        let recorded = self.end(outcome, |_| {});
        match recorded {
            MaybeReady::Ready(Ok(_)) => {}
            MaybeReady::Ready(Err(_)) => {
                self.auditor.lost.fetch_add(1, Ordering::Relaxed);
            }
            MaybeReady::Wait(wait) => {
                let auditor = Arc::clone(&self.auditor);
                // Outside a runtime the sink has the event all the same; only its failure goes uncounted.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        if wait.await.is_err() {
                            auditor.lost.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        }
    }
}

/// The methods that are admitted cost nothing.
pub(crate) fn label(method: &Method) -> Label {
    match *method {
        Method::POST => "POST".into(),
        Method::GET => "GET".into(),
        Method::DELETE => "DELETE".into(),
        _ => method.as_str().to_owned().into(),
    }
}
