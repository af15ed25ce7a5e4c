//! One legacy session: a child of its own, and the streams its messages go to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mcp_gateway_core::wire::method::Method;
use mcp_gateway_core::wire::version::ProtocolVersion;
use mcp_gateway_core::wire::{Kind, Message, rpc};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bridge::calls::{self, Call, Calls, NotTaken, Why};
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
    calls: Calls<Arc<[u8]>, ()>,
    /// What all streams keep.
    total: Size,
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
                calls: Calls::new(),
                total: Size::default(),
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
        self.lock().calls.end();
        self.ending.notify_one();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.lock().calls.is_ended()
    }

    /// Requests whose clients wait, and when a message last passed or a client left.
    pub(super) fn usage(&self) -> (usize, Instant) {
        self.lock().calls.usage()
    }

    /// Sends a message of the client to the child.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), Closed> {
        self.lock().calls.used();
        self.writer.send(message).await
    }

    /// Takes a request whose answer goes to a stream of its own, which can be resumed.
    pub(super) fn open(&self, message: &Message<'_>, prime: bool) -> Result<Arc<Stream>, NotTaken> {
        let mut state = self.lock();
        self.admit(&mut state, message)?;
        let stream = Stream::resumable(state.next_stream);
        state.next_stream += 1;
        if prime && stream.push(Bytes::new()) {
            state.total.events += 1;
        }
        state.streams.insert(stream.number(), Arc::clone(&stream));
        state.add(message, false, &stream);
        Ok(stream)
    }

    /// Takes a request whose answer is one JSON object, the only event of the stream.
    pub(super) fn ask(&self, message: &Message<'_>) -> Result<Arc<Stream>, NotTaken> {
        let mut state = self.lock();
        self.admit(&mut state, message)?;
        let stream = Stream::once();
        state.add(message, true, &stream);
        Ok(stream)
    }

    /// Makes room for a request, at worst by giving up one whose client is gone: its child is told.
    fn admit(&self, state: &mut State, message: &Message<'_>) -> Result<(), NotTaken> {
        if message.id.is_some_and(|id| state.calls.get(id.raw()).is_some()) {
            return Err(NotTaken::IdInUse);
        }
        let admitted = state.calls.admit(self.options.max_calls);
        if let (Err(NotTaken::Full), Some(id)) = (&admitted, state.calls.abandoned().cloned()) {
            state.cancel(&id, &self.options);
            self.writer.send_later(cancellation(&id));
            return Ok(());
        }
        admitted
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
                    Ok(Some(line)) => calls::receive(&line, &self.options, &reader, |line, message| {
                        self.route(line, message);
                    }),
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
        self.lock().calls.end();
        let why = if broken { life.epitaph().await.map(Arc::from) } else { None };
        // Standard input closes before the callers hear of it.
        drop(life);
        self.close(&why);
    }

    /// When to look whether it is idle; while a client waits, as long again.
    fn idle_at(&self) -> Instant {
        self.lock().calls.unused_since().unwrap_or_else(Instant::now) + self.options.session_idle
    }

    fn is_idle(&self) -> bool {
        let mut state = self.lock();
        let since = state.calls.unused_since();
        let idle = since.is_some_and(|since| since + self.options.session_idle <= Instant::now());
        if idle {
            state.calls.end();
        }
        idle
    }

    fn close(&self, why: &Why) {
        let mut state = self.lock();
        state.calls.fail(why);
        for stream in state.streams.values() {
            stream.close();
        }
    }

    /// Gives a message of the child to exactly one stream.
    fn route(&self, line: &Bytes, message: &Message<'_>) {
        let mut state = self.lock();
        state.calls.used();
        if message.kind == Kind::Response {
            let call = message.id.and_then(|id| state.calls.remove(id.raw()));
            match call {
                Some(call) => {
                    let error = message.is_error.then(|| message.error_code.unwrap_or(0));
                    state.answer(&call, line.clone(), error, &self.options);
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
                let mut calls = state.calls.iter().map(|(_, call)| call);
                match calls.find(|call| call.token.as_deref() == Some(token)) {
                    Some(call) if !call.plain => Arc::clone(&call.stream),
                    // Its client reads one JSON object, or its request has been answered.
                    _ => return self.drop_one(),
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
    fn add(&mut self, message: &Message<'_>, plain: bool, stream: &Arc<Stream>) {
        let call = Call::new(message, plain, Arc::clone(stream), ());
        self.calls.insert(Arc::clone(&call.id), call);
    }

    /// Answers a request in its child's place.
    fn cancel(&mut self, id: &[u8], options: &BridgeOptions) {
        if let Some(call) = self.calls.remove(id) {
            let message = rpc::error_body(Some(id), CANCELLED, "The request was cancelled", None);
            self.answer(&call, message, Some(CANCELLED), options);
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
        for (_, Call { stream, .. }) in self.calls.iter().filter(|(_, call)| !call.plain) {
            if newest.is_none_or(|known: &Arc<Stream>| {
                (known.is_live(), known.number()) < (stream.is_live(), stream.number())
            }) {
                newest = Some(stream);
            }
        }
        match newest {
            Some(stream) if stream.is_live() || !standalone.is_live() => stream,
            _ => standalone,
        }
    }

    fn answer(&mut self, call: &Call<()>, message: Bytes, error: Option<i64>, options: &BridgeOptions) {
        let length = message.len();
        let taken = call.stream.finish(message, error.map_or(End::Done, End::Error));
        // A plain answer is not kept beyond its only reader.
        self.account(taken && !call.plain, length, options);
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
        self.calls.retain(|call| call.plain || call.stream.number() != number);
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
