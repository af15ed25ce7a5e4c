//! One legacy session: a child of its own, and the streams its messages go to.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mcp_gateway_core::wire::method::Method;
use mcp_gateway_core::wire::version::ProtocolVersion;
use mcp_gateway_core::wire::{Fault, Kind, Limits, Message, peek, rpc};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::bridge::cancellation;
use crate::bridge::child::{Child, Closed, Life, Reader, Writer};
use crate::bridge::options::BridgeOptions;
use crate::bridge::probe::asked;
use crate::bridge::splice::Ties;
use crate::bridge::stream::{End, Size, Stream};

/// The stream that GET without a cursor reads.
const STANDALONE: u64 = 0;

/// A legacy session. It ends with its child, and its child with it.
pub(super) struct Session {
    id: Arc<str>,
    writer: Writer,
    options: Arc<BridgeOptions>,
    ending: Notify,
    dropped: Arc<AtomicU64>,
    /// The negotiated revision has the priming event.
    primes: AtomicBool,
    state: Mutex<State>,
}

struct State {
    streams: BTreeMap<u64, Arc<Stream>>,
    next_stream: u64,
    /// Requests of the client that have no answer yet, by their id as written.
    calls: HashMap<Box<[u8]>, Call>,
    /// What all streams keep.
    total: Size,
    last_use: Instant,
    ended: bool,
}

struct Call {
    token: Option<Box<[u8]>>,
    reply: Reply,
}

/// Where the answer to a request goes.
enum Reply {
    Stream(Arc<Stream>),
    Json(oneshot::Sender<Result<Answer, Broken>>),
}

/// An answer for a client that reads JSON only.
pub(super) struct Answer {
    pub(super) message: Bytes,
    /// The code, if it is an error.
    pub(super) error: Option<i64>,
}

/// The child ended before it answered; for an owner: why.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(pub(super) Option<Arc<str>>);

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// A request with this id waits for its answer.
    IdInUse,
    /// Too many requests wait.
    Full,
    /// The session has ended.
    Ended,
}

impl Session {
    pub(super) fn new(id: Arc<str>, writer: Writer, options: Arc<BridgeOptions>, dropped: Arc<AtomicU64>) -> Arc<Self> {
        let streams = BTreeMap::from([(STANDALONE, Stream::resumable(STANDALONE))]);
        Arc::new(Self {
            id,
            writer,
            options,
            ending: Notify::new(),
            dropped,
            primes: AtomicBool::new(false),
            state: Mutex::new(State {
                streams,
                next_stream: STANDALONE + 1,
                calls: HashMap::new(),
                total: Size::default(),
                last_use: Instant::now(),
                ended: false,
            }),
        })
    }

    /// Reads the revision that the server chose from its answer to `initialize`.
    pub(super) fn negotiated(&self, answer: &[u8]) {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            result: Chosen<'a>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Chosen<'a> {
            #[serde(borrow)]
            protocol_version: Cow<'a, str>,
        }
        let chosen = serde_json::from_slice::<Answer<'_>>(answer).ok();
        let version = chosen.and_then(|answer| ProtocolVersion::parse(&answer.result.protocol_version));
        self.primes.store(version >= Some(ProtocolVersion::V20251125), Ordering::Relaxed);
    }

    /// Whether streams begin with the priming event.
    pub(super) fn primes(&self) -> bool {
        self.primes.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the session to end; its task stops the child.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.ending.notify_one();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.lock().ended
    }

    /// Requests whose clients wait, and when a message last passed or a client left.
    pub(super) fn usage(&self) -> (usize, Instant) {
        let state = self.lock();
        let waiting = state.calls.values().filter(|call| call.reply.left(&state).is_none()).count();
        (waiting, state.unused_since().unwrap_or(state.last_use))
    }

    /// Sends a message of the client to the child.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), Closed> {
        self.lock().last_use = Instant::now();
        self.writer.send(message).await
    }

    /// Takes a request whose answer goes to a stream of its own.
    pub(super) fn open(&self, message: &Message<'_>, prime: bool) -> Result<Arc<Stream>, NotTaken> {
        let mut state = self.lock();
        let id = self.admit(&mut state, message)?;
        let stream = Stream::resumable(state.next_stream);
        state.next_stream += 1;
        if prime && stream.push(Bytes::new()) {
            state.total.events += 1;
        }
        state.streams.insert(stream.number(), Arc::clone(&stream));
        state.calls.insert(id, Call { token: token(message), reply: Reply::Stream(Arc::clone(&stream)) });
        Ok(stream)
    }

    /// Takes a request whose answer is one JSON object.
    pub(super) fn ask(&self, message: &Message<'_>) -> Result<oneshot::Receiver<Result<Answer, Broken>>, NotTaken> {
        let mut state = self.lock();
        let id = self.admit(&mut state, message)?;
        let (sender, receiver) = oneshot::channel();
        state.calls.insert(id, Call { token: token(message), reply: Reply::Json(sender) });
        Ok(receiver)
    }

    /// Makes room for a request, at worst by giving up one whose client is gone: its child is told.
    fn admit(&self, state: &mut State, message: &Message<'_>) -> Result<Box<[u8]>, NotTaken> {
        if state.ended {
            return Err(NotTaken::Ended);
        }
        let id: Box<[u8]> = message.id.map(|id| Box::from(id.raw())).unwrap_or_default();
        if state.calls.contains_key(&id) {
            return Err(NotTaken::IdInUse);
        }
        if state.calls.len() >= self.options.max_calls {
            let abandoned = state.abandoned().ok_or(NotTaken::Full)?;
            state.cancel(&abandoned, &self.options);
            self.writer.send_later(cancellation(&abandoned));
        }
        Ok(id)
    }

    /// Ends what waits for a request that the client has cancelled: its server need not answer any more, and a stream
    /// without an answer would be resumed for ever.
    pub(super) fn cancelled(&self, id: &[u8]) {
        self.lock().cancel(id, &self.options);
    }

    /// The stream that the GET without a cursor reads.
    pub(super) fn standalone(&self) -> Arc<Stream> {
        Arc::clone(&self.lock().streams[&STANDALONE])
    }

    /// The stream that a cursor names, if it was given out by this session and is still kept.
    pub(super) fn resumed(&self, (number, position): (u64, u64)) -> Option<Arc<Stream>> {
        let stream = self.lock().streams.get(&number).cloned()?;
        stream.knows(position).then_some(stream)
    }

    /// Reads the child until it ends, the session is ended, or nobody has used it for long.
    pub(super) async fn run(self: Arc<Self>, mut reader: Reader, life: Life) {
        let broken = loop {
            let idle_at = self.idle_at();
            tokio::select! {
                line = reader.next() => match line {
                    Ok(Some(line)) => self.receive(&line, &reader),
                    Ok(None) => break true,
                    Err(error) => {
                        tracing::warn!(%error, "the child of a session is ended");
                        break true;
                    }
                },
                () = self.ending.notified() => break false,
                () = tokio::time::sleep_until(idle_at) => if self.is_idle() { break false },
            }
        };
        // Who calls from here on begins a new session.
        self.lock().ended = true;
        let why = if broken { life.epitaph().await.map(Arc::from) } else { None };
        // Standard input closes before the callers hear of it.
        drop(life);
        self.close(&Broken(why));
    }

    /// When to look whether it is idle; while a client waits, as long again.
    fn idle_at(&self) -> Instant {
        self.lock().unused_since().unwrap_or_else(Instant::now) + self.options.session_idle
    }

    fn is_idle(&self) -> bool {
        let mut state = self.lock();
        let idle = state.unused_since().is_some_and(|since| since + self.options.session_idle <= Instant::now());
        state.ended |= idle;
        idle
    }

    fn close(&self, broken: &Broken) {
        let mut state = self.lock();
        state.ended = true;
        for (id, call) in std::mem::take(&mut state.calls) {
            call.reply.fail(&id, broken);
        }
        for stream in state.streams.values() {
            stream.close();
        }
    }

    fn receive(&self, line: &Bytes, reader: &Reader) {
        let limits = child_limits(self.options.max_line);
        match peek(line, &limits) {
            Ok(message) => self.route(line, &message),
            Err(error) if error.fault() == Fault::Batch => match serde_json::from_slice::<Vec<&RawValue>>(line) {
                Ok(items) => {
                    for item in items {
                        let item = line.slice_ref(item.get().as_bytes());
                        match peek(&item, &limits) {
                            Ok(message) => self.route(&item, &message),
                            Err(_) => reader.stray(&item),
                        }
                    }
                }
                Err(_) => reader.stray(line),
            },
            Err(_) => reader.stray(line),
        }
    }

    /// Gives a message of the child to exactly one stream.
    fn route(&self, line: &Bytes, message: &Message<'_>) {
        let mut state = self.lock();
        state.last_use = Instant::now();
        if message.kind == Kind::Response {
            let call = message.id.and_then(|id| state.calls.remove(id.raw()));
            match call {
                Some(call) => {
                    let error = message.is_error.then(|| message.error_code.unwrap_or(0));
                    state.answer(call.reply, line.clone(), error, &self.options);
                }
                None if message.id.is_some_and(|id| asked(id.raw())) => {}
                None => self.drop_one(),
            }
            return;
        }
        let token = (message.method() == Method::Progress.as_str())
            .then(|| Ties::of_params(message.params.as_ref().map_or(b"", |params| params.raw)).progress_token)
            .flatten()
            .map(|token| token.get().as_bytes());
        let stream = match token {
            Some(token) => {
                let call = state.calls.values().find(|call| call.token.as_deref() == Some(token));
                match call.map(|call| &call.reply) {
                    Some(Reply::Stream(stream)) => Arc::clone(stream),
                    // Its client reads one JSON object, or its request has been answered.
                    Some(Reply::Json(_)) | None => return self.drop_one(),
                }
            }
            None => Arc::clone(state.fallback(message)),
        };
        let taken = stream.push(line.clone());
        state.account(taken, line.len(), &self.options);
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl State {
    /// When a message last passed or a client left; `None` while one waits for an answer.
    ///
    /// A call whose client is gone holds nothing: its answer is kept for a client that resumes in time, but it may
    /// never come.
    fn unused_since(&self) -> Option<Instant> {
        self.calls.values().try_fold(self.last_use, |since, call| Some(since.max(call.reply.left(self)?)))
    }

    /// The call whose client has been gone for the longest.
    fn abandoned(&self) -> Option<Box<[u8]>> {
        let gone = self.calls.iter().filter_map(|(id, call)| Some((call.reply.left(self)?, id)));
        gone.min_by_key(|&(left, _)| left).map(|(_, id)| id.clone())
    }

    /// Answers a request in its child's place.
    fn cancel(&mut self, id: &[u8], options: &BridgeOptions) {
        if let Some(call) = self.calls.remove(id) {
            let message = rpc::error_body(Some(id), CANCELLED, "The request was cancelled", None);
            self.answer(call.reply, message, Some(CANCELLED), options);
        }
    }

    /// Where a message goes that names no request: what belongs to the session as a whole to the GET stream while
    /// somebody reads it; all else to the newest call whose stream is read; then to whatever will be read next.
    fn fallback(&self, message: &Message<'_>) -> &Arc<Stream> {
        let standalone = &self.streams[&STANDALONE];
        if standalone.is_live() && concerns_session(message) {
            return standalone;
        }
        let mut newest = None;
        for call in self.calls.values() {
            if let Reply::Stream(stream) = &call.reply
                && newest.is_none_or(|known: &Arc<Stream>| {
                    (known.is_live(), known.number()) < (stream.is_live(), stream.number())
                })
            {
                newest = Some(stream);
            }
        }
        match newest {
            Some(stream) if stream.is_live() || !standalone.is_live() => stream,
            _ => standalone,
        }
    }

    fn answer(&mut self, reply: Reply, message: Bytes, error: Option<i64>, options: &BridgeOptions) {
        let length = message.len();
        match reply {
            Reply::Stream(stream) => {
                let taken = stream.finish(message, error.map_or(End::Done, End::Error));
                self.account(taken, length, options);
            }
            Reply::Json(sender) => drop(sender.send(Ok(Answer { message, error }))),
        }
    }

    /// Counts an event that was taken, and holds the buffers to their bounds: first goes what was read to its end, then
    /// what was read, then whole streams that nobody reads fast enough.
    fn account(&mut self, taken: bool, length: usize, options: &BridgeOptions) {
        if taken {
            self.total.events += 1;
            self.total.bytes += length;
        }
        while self.total.events > options.buffer_events || self.total.bytes > options.buffer_bytes {
            let spent = self.streams.iter().find(|(_, stream)| stream.is_spent()).map(|(&number, _)| number);
            let freed = match spent {
                Some(number) => self.streams.remove(&number).map(|stream| stream.size()),
                None => self.streams.values().find_map(|stream| shrink(stream, false)).or_else(|| self.sacrifice()),
            };
            let Some(freed) = freed else { return };
            self.total.events = self.total.events.saturating_sub(freed.events);
            self.total.bytes = self.total.bytes.saturating_sub(freed.bytes);
        }
    }

    fn sacrifice(&mut self) -> Option<Size> {
        let (&number, largest) = self.streams.iter().max_by_key(|(_, stream)| {
            let size = stream.size();
            (size.events > 1, size.bytes, size.events)
        })?;
        if number == STANDALONE {
            // Nothing waits for it, so the oldest message goes; but a reader must not skip one unnoticed.
            return shrink(largest, true);
        }
        if self.streams.values().filter(|stream| stream.size().events > 0).count() < 2 && largest.size().events < 2 {
            return None;
        }
        let stream = self.streams.remove(&number)?;
        let size = stream.size();
        stream.lose();
        self.calls.retain(|_, call| !matches!(&call.reply, Reply::Stream(other) if other.number() == number));
        Some(size)
    }
}

fn shrink(stream: &Stream, unread: bool) -> Option<Size> {
    let before = stream.size();
    stream.trim(unread).then(|| {
        let after = stream.size();
        Size { events: before.events - after.events, bytes: before.bytes - after.bytes }
    })
}

impl Reply {
    /// When its client left; `None` while it waits.
    fn left(&self, state: &State) -> Option<Instant> {
        match self {
            Self::Stream(stream) => stream.left(),
            Self::Json(sender) => sender.is_closed().then_some(state.last_use),
        }
    }

    fn fail(self, id: &[u8], broken: &Broken) {
        match self {
            Self::Stream(stream) => {
                let message = rpc::error_body(Some(id), rpc::code::INTERNAL_ERROR, crate::bridge::ENDED, None);
                stream.finish(message, End::Failed(broken.0.clone()));
            }
            Self::Json(sender) => drop(sender.send(Err(broken.clone()))),
        }
    }
}

/// What a caller reads whose request was cancelled. Outside the range that JSON-RPC reserves.
const CANCELLED: i64 = 49900;

/// Changes of lists and resources, which no call asked for.
fn concerns_session(message: &Message<'_>) -> bool {
    matches!(
        Method::parse(message.method()),
        Some(
            Method::ToolsListChanged
                | Method::PromptsListChanged
                | Method::ResourcesListChanged
                | Method::ResourcesUpdated
                | Method::TasksStatus
                | Method::ElicitationComplete
        )
    )
}

fn token(message: &Message<'_>) -> Option<Box<[u8]>> {
    message.meta()?.progress_token.map(|token| Box::from(token.raw()))
}

/// How a child's messages are read: they may be larger than a caller's.
pub(crate) fn child_limits(max_line: usize) -> Limits {
    Limits { max_bytes: max_line, max_depth: Limits::DEEPEST, ..Limits::default() }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The id is a credential of a kind.
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Takes a child apart for a session.
pub(super) fn parts(child: Child) -> (Writer, Reader, Life) {
    (child.writer, child.reader, child.life)
}
