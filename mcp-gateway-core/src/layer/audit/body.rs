//! The answer's body on its way out, read as it passes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::recorder::{Recorded, Recorder};
use crate::contract::{AuditFull, Decision, Seq};
use crate::layer::peek::inspect_cut as cut;
use crate::record::{EventKind, Outcome};
use crate::wire::Kind;
use crate::wire::outcome::{self, Scanner};
use crate::wire::sse::{Event, Splitter};
use crate::{Body, BoxError, BoxFuture, MaybeReady};

/// A body whose end is recorded before it leaves. At most one frame is held back.
pub struct AuditBody {
    inner: Body,
    recorder: Recorder,
    reader: Reader,
    /// What may leave now.
    out: VecDeque<Bytes>,
    /// What may leave later.
    held: Option<Held>,
    ended: bool,
}

/// What something is waited for.
enum Held {
    /// Until its event is recorded.
    Recording(Bytes, BoxFuture<Result<Seq, AuditFull>>),
    /// Until a server's request is decided about.
    Deciding(Event, BoxFuture<Decision>),
}

/// How the body is read.
pub(super) enum Reader {
    /// One JSON message, or an encoded one of which nothing can be told; the last frame is kept back.
    Whole { scanner: Option<Box<Scanner>>, last: Option<Bytes> },
    /// Server-sent events.
    Events { splitter: Option<Box<Splitter>>, id: Option<Arc<str>>, stream: bool },
    /// The event is recorded.
    Done,
}

impl Reader {
    pub(super) fn json() -> Self {
        Self::Whole { scanner: Some(Box::default()), last: None }
    }

    pub(super) fn opaque() -> Self {
        Self::Whole { scanner: None, last: None }
    }

    pub(super) fn events(recorder: &Recorder) -> Self {
        Self::Events {
            splitter: Some(Box::new(Splitter::new(recorder.max_event()))),
            id: recorder.cx().message().and_then(|message| message.id.clone()),
            stream: recorder.kind() == EventKind::Closed,
        }
    }
}

impl std::fmt::Debug for AuditBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditBody(..)")
    }
}

impl AuditBody {
    pub(super) fn new(inner: Body, recorder: Recorder, reader: Reader) -> Self {
        Self { inner, recorder, reader, out: VecDeque::new(), held: None, ended: false }
    }

    /// Lets bytes go once the event is recorded.
    fn release(&mut self, bytes: Bytes, recorded: Recorded) -> Result<(), AuditFull> {
        match recorded {
            MaybeReady::Ready(recorded) => {
                self.recorder.goes_on(recorded)?;
                if !bytes.is_empty() {
                    self.out.push_back(bytes);
                }
            }
            MaybeReady::Wait(wait) => self.held = Some(Held::Recording(bytes, wait)),
        }
        Ok(())
    }

    fn data(&mut self, data: Bytes) -> Result<(), BoxError> {
        self.recorder.body(&data);
        match &mut self.reader {
            Reader::Done => self.out.push_back(data),
            Reader::Whole { scanner, last } => {
                if let Some(scanner) = scanner {
                    scanner.push(&data);
                }
                if let Some(before) = last.replace(data) {
                    self.out.push_back(before);
                }
                if self.inner.is_end_stream() {
                    self.end_whole()?;
                }
            }
            Reader::Events { splitter, .. } => {
                if let Some(splitter) = splitter {
                    splitter.push(data);
                }
                self.events()?;
            }
        }
        Ok(())
    }

    /// An answer that is no stream holds one response. A request in its place would reach clients that nobody was
    /// asked about.
    fn end_whole(&mut self) -> Result<(), BoxError> {
        let Reader::Whole { scanner, last } = std::mem::replace(&mut self.reader, Reader::Done) else { return Ok(()) };
        if scanner.as_ref().is_some_and(|scanner| asks(scanner, self.recorder.is_modern())) {
            self.fail("the server answered with a request");
            return Err("the server answered with a request".into());
        }
        let recorded = match scanner {
            Some(scanner) => end_by(&mut self.recorder, &scanner),
            None => self.recorder.end(Outcome::Opaque, |_| {}),
        };
        Ok(self.release(last.unwrap_or_default(), recorded)?)
    }

    /// Reads events until one has to wait for its record.
    fn events(&mut self) -> Result<(), BoxError> {
        while self.held.is_none() {
            let Reader::Events { splitter: Some(splitter), id, stream } = &mut self.reader else { return Ok(()) };
            let Some(event) = splitter.next_event()? else { return Ok(()) };
            match read_event(&event, id.as_deref().map(str::as_bytes), *stream, &mut self.recorder) {
                Step::Pass => self.out.push_back(event.raw),
                Step::Recorded(recorded) => self.release(event.raw, recorded)?,
                Step::Asked(MaybeReady::Ready(decision)) => self.decided(&event, &decision)?,
                Step::Asked(MaybeReady::Wait(wait)) => self.held = Some(Held::Deciding(event, wait)),
            }
        }
        Ok(())
    }

    /// Records a server's request, and lets it go if it may.
    fn decided(&mut self, event: &Event, decision: &Decision) -> Result<(), AuditFull> {
        let outcome = if decision.allow { Outcome::Ok } else { Outcome::Denied };
        let mut scanner = Scanner::new();
        scanner.push(&event.data);
        let recorded = self.recorder.message(EventKind::ServerRequest, outcome, |row| {
            row.method = scanner.method().map(|method| cut::<String>(method, 128).into());
            row.target = None;
            row.forwarded_target = None;
            row.rpc_id = scanner.id().map(|id| cut(&String::from_utf8_lossy(id), 128));
            row.rule = Some(Arc::clone(&decision.rule));
            row.bytes_out = if decision.allow { event.data.len() as u64 } else { 0 };
        });
        self.release(if decision.allow { event.raw.clone() } else { Bytes::new() }, recorded)
    }

    fn end(&mut self) -> Result<(), BoxError> {
        self.ended = true;
        match &mut self.reader {
            Reader::Done => Ok(()),
            Reader::Whole { .. } => self.end_whole(),
            Reader::Events { splitter, stream, .. } => {
                let rest = splitter.take().map(|splitter| splitter.finish()).unwrap_or_default();
                // No client may dispatch an event without its end, and some do; nobody was asked about this one.
                let rest = if is_request(&rest, self.recorder.is_modern()) { Bytes::new() } else { rest };
                let closes_plainly = *stream;
                self.reader = Reader::Done;
                if self.recorder.is_done() {
                    self.out.push_back(rest);
                    return Ok(());
                }
                let outcome = if closes_plainly { Outcome::Ok } else { Outcome::Disconnected };
                let recorded = self.recorder.end(outcome, |event| {
                    if !closes_plainly {
                        event.error = Some("the server closed the stream before its answer; it may be resumed".into());
                    }
                });
                Ok(self.release(rest, recorded)?)
            }
        }
    }

    fn fail(&mut self, why: &'static str) {
        self.ended = true;
        self.reader = Reader::Done;
        if !self.recorder.is_done() {
            // The answer is broken whatever becomes of its event: it is recorded, but not waited for.
            if let MaybeReady::Wait(wait) = self.recorder.end(Outcome::UpstreamFailed, |event| {
                event.error = Some(why.into());
            }) && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                runtime.spawn(wait);
            }
        }
    }
}

impl http_body::Body for AuditBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = this.out.pop_front() {
                if bytes.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(held) = &mut this.held {
                let released = match held {
                    Held::Recording(bytes, wait) => {
                        let recorded = ready!(wait.as_mut().poll(task));
                        let bytes = std::mem::take(bytes);
                        this.held = None;
                        this.release(bytes, recorded.into())
                    }
                    Held::Deciding(event, wait) => {
                        let decision = ready!(wait.as_mut().poll(task));
                        let event = event.clone();
                        this.held = None;
                        this.decided(&event, &decision)
                    }
                };
                if let Err(full) = released {
                    this.ended = true;
                    this.reader = Reader::Done;
                    return Poll::Ready(Some(Err(full.into())));
                }
                if let Err(error) = this.events() {
                    return Poll::Ready(Some(Err(error)));
                }
                continue;
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let read = match ready!(Pin::new(&mut this.inner).poll_frame(task)) {
                None => this.end(),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.data(data),
                    // Trailers say nothing in MCP.
                    Err(_) => Ok(()),
                },
                Some(Err(error)) => Err(error),
            };
            if let Err(error) = read {
                this.fail("the server broke off its answer");
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_held = self.out.is_empty() && self.held.is_none();
        nothing_held && (self.ended || (matches!(self.reader, Reader::Done) && self.inner.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let mut kept: u64 = self.out.iter().map(|bytes| bytes.len() as u64).sum();
        kept += match &self.held {
            Some(Held::Recording(bytes, _)) => bytes.len() as u64,
            Some(Held::Deciding(..)) | None => 0,
        };
        match &self.reader {
            Reader::Whole { last: Some(last), .. } => kept += last.len() as u64,
            // Events wait inside the splitter; streams have no length anyway.
            Reader::Events { .. } => return SizeHint::new(),
            _ => {}
        }
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + kept);
        }
        hint.set_lower(hint.lower() + kept);
        hint
    }
}

/// Whether some reader takes this for a request of the server; `modern` where there are none.
fn asks(scanner: &Scanner, modern: bool) -> bool {
    match scanner.kind() {
        Some(kind) => kind == Kind::Request,
        None => modern && (scanner.method().is_some() || scanner.outcome() == outcome::Outcome::Batch),
    }
}

/// Whether what is left of a stream would be a request, if it were an event.
fn is_request(rest: &Bytes, modern: bool) -> bool {
    if rest.is_empty() {
        return false;
    }
    let mut splitter = Splitter::new(usize::MAX);
    splitter.push(rest.clone());
    splitter.push(Bytes::from_static(b"\n\n"));
    let mut scanner = Scanner::new();
    if let Ok(Some(event)) = splitter.next_event() {
        scanner.push(&event.data);
    }
    asks(&scanner, modern)
}

fn end_by(recorder: &mut Recorder, scanner: &Scanner) -> Recorded {
    let (outcome, code) = outcome_of(scanner.outcome());
    recorder.end(outcome, |event| {
        event.rpc_code = code;
        event.error = scanner.error_message().map(|message| cut(message, 512));
        if event.outcome == Outcome::Opaque && event.status >= 400 {
            event.outcome = Outcome::HttpError;
        }
    })
}

fn outcome_of(outcome: outcome::Outcome) -> (Outcome, Option<i64>) {
    match outcome {
        outcome::Outcome::Ok | outcome::Outcome::InputRequired | outcome::Outcome::Task => (Outcome::Ok, None),
        outcome::Outcome::ToolError => (Outcome::ToolError, None),
        outcome::Outcome::RpcError { code } => (Outcome::RpcError, Some(code)),
        _ => (Outcome::Opaque, None),
    }
}

/// What becomes of an event.
enum Step {
    /// It needs no row of its own.
    Pass,
    /// It leaves with its row.
    Recorded(Recorded),
    /// It is a server's request, which leaves if it may.
    Asked(MaybeReady<Decision>),
}

fn read_event(event: &Event, id: Option<&[u8]>, stream: bool, recorder: &mut Recorder) -> Step {
    if event.data.is_empty() {
        return Step::Pass;
    }
    let mut scanner = Scanner::answering(id);
    scanner.push(&event.data);
    match scanner.kind() {
        Some(Kind::Response) if scanner.answers(id) => {
            // A listen stream closes with its result; its own row comes with its end.
            let own_row = stream || recorder.is_done();
            if own_row { Step::Pass } else { Step::Recorded(end_by(recorder, &scanner)) }
        }
        Some(Kind::Response) => {
            let (outcome, code) = outcome_of(scanner.outcome());
            Step::Recorded(recorder.message(EventKind::Resumed, outcome, |row| {
                row.rpc_code = code;
                row.error = scanner.error_message().map(|message| cut(message, 512));
                row.rpc_id = scanner.id().map(|id| cut(&String::from_utf8_lossy(id), 128));
                row.bytes_out = event.data.len() as u64;
            }))
        }
        Some(Kind::Request) => Step::Asked(recorder.ask(scanner.method().unwrap_or_default())),
        Some(Kind::Notification) => {
            recorder.count_message();
            Step::Pass
        }
        // What some reader may take for a request, where there are none.
        None if asks(&scanner, recorder.is_modern()) => Step::Asked(recorder.ask("")),
        // A batch, or what readers may take for different things: it may answer a call, so it waits like an answer.
        None => Step::Recorded(recorder.message(EventKind::Resumed, Outcome::Opaque, |row| {
            row.error = Some("a message of the stream could not be read in one way only".into());
            row.bytes_out = event.data.len() as u64;
        })),
    }
}
