//! The shared child: ids that cannot meet, and each message to the one call that it belongs to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use mcp_gateway_core::record::Subject;
use mcp_gateway_core::wire::method::Method;
use mcp_gateway_core::wire::{Kind, Message};
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::params::Mirrors;
use crate::bridge::calls::{self, Call, Calls, NotTaken, Why};
use crate::bridge::cancellation;
use crate::bridge::child::{Child, Closed, Life, Reader, Writer};
use crate::bridge::options::BridgeOptions;
use crate::bridge::probe::asked;
use crate::bridge::splice::{Ties, range, splice};
use crate::bridge::stream::{End, Stream};

/// Who calls, as far as known: requests of one caller cannot be cancelled by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) subject: Option<Subject>,
    pub(crate) actor: Option<Arc<str>>,
}

/// The shared child of a bridge.
pub(crate) struct Hub {
    writer: Writer,
    options: Arc<BridgeOptions>,
    dropped: Arc<AtomicU64>,
    ending: Notify,
    mirrors: Mirrors,
    state: Mutex<State>,
}

struct State {
    /// The key is also the call's progress token at the child.
    calls: Calls<u64, Own>,
    next: u64,
}

/// What is known of a call beside the usual.
struct Own {
    caller: Caller,
    /// A list of tools, whose annotations are learnt.
    lists: bool,
}

impl Hub {
    /// Takes over a child and reads it until it ends.
    pub(crate) fn start(child: Child, options: Arc<BridgeOptions>, dropped: Arc<AtomicU64>) -> Arc<Self> {
        let hub = Arc::new(Self {
            writer: child.writer,
            options,
            dropped,
            ending: Notify::new(),
            mirrors: Mirrors::default(),
            state: Mutex::new(State {
                calls: Calls::new(),
                // Below 2^53, so that every JSON parser keeps it; random, so that nobody counts on it.
                next: rand::rng().random_range(1 << 32..1 << 52),
            }),
        });
        tokio::spawn(Arc::clone(&hub).run(child.reader, child.life));
        hub
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.lock().calls.is_ended()
    }

    /// Ends the child.
    pub(crate) fn end(&self) {
        self.ending.notify_one();
    }

    /// Requests whose clients wait, and when a message last passed or a client left.
    pub(crate) fn usage(&self) -> (usize, Instant) {
        self.lock().calls.usage()
    }

    /// What is known of headers that mirror arguments.
    pub(super) fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    pub(super) async fn send(&self, line: Bytes) -> Result<(), Closed> {
        self.writer.send(line).await
    }

    /// Takes a request: the line for the child, and the call that waits for the answer.
    pub(super) fn open(
        self: &Arc<Self>,
        caller: Caller,
        body: &Bytes,
        message: &Message<'_>,
        plain: bool,
    ) -> Result<(Bytes, OpenCall), NotTaken> {
        let stream = Stream::once();
        let number = {
            let mut state = self.lock();
            state.calls.admit(self.options.max_calls)?;
            state.calls.used();
            let number = state.next;
            state.next += 1;
            let lists = message.method() == Method::ToolsList.as_str();
            let call = Call::new(message, plain, Arc::clone(&stream), Own { caller, lists });
            state.calls.insert(number, call);
            number
        };
        let token = message.meta().and_then(|meta| meta.progress_token);
        let text = number.to_string();
        let places = [message.id, token].into_iter().flatten().filter_map(|part| range(body, part.raw()));
        let line = splice(body, places.map(|place| (place, text.as_bytes())).collect());
        Ok((line, OpenCall { hub: Arc::downgrade(self), number, stream }))
    }

    /// The line for the child of a notification, if there is one to send.
    pub(super) fn notification(&self, caller: &Caller, body: &Bytes, message: &Message<'_>) -> Option<Bytes> {
        let mut state = self.lock();
        state.calls.used();
        if message.method() != Method::Cancelled.as_str() {
            return Some(body.clone());
        }
        let id = message.params.as_ref().and_then(|params| params.request_id)?.raw();
        let mut own = state.calls.iter().filter(|(_, call)| call.own.caller == *caller && *call.id == *id);
        // Ids are unique only within one client, and one caller may run several clients.
        let (Some((&number, _)), None) = (own.next(), own.next()) else {
            self.drop_one();
            return None;
        };
        Some(splice(body, vec![(range(body, id)?, number.to_string().as_bytes())]))
    }

    async fn run(self: Arc<Self>, mut reader: Reader, life: Life) {
        let broken = loop {
            tokio::select! {
                line = reader.next() => match line {
                    Ok(Some(line)) => calls::receive(&line, &self.options, &reader, |line, message| {
                        self.route(line, message);
                    }),
                    Ok(None) => break true,
                    Err(error) => {
                        tracing::warn!(%error, "the shared child is ended");
                        break true;
                    }
                },
                () = self.ending.notified() => break false,
            }
        };
        {
            // Who calls from here on gets a new child.
            let mut state = self.lock();
            state.calls.end();
            if !broken {
                state.calls.complete();
            }
        }
        let why: Why = if broken { life.epitaph().await.map(Arc::from) } else { None };
        drop(life);
        self.lock().calls.fail(&why);
    }

    fn route(&self, line: &Bytes, message: &Message<'_>) {
        let mut state = self.lock();
        state.calls.used();
        match message.kind {
            Kind::Response => {
                let number = message.id.and_then(|id| number(id.raw()));
                let Some((number, call)) = number.and_then(|number| Some((number, state.calls.remove(&number)?)))
                else {
                    if !message.id.is_some_and(|id| asked(id.raw())) {
                        self.drop_one();
                    }
                    return;
                };
                drop(state);
                if call.own.lists {
                    self.mirrors.learn(line);
                }
                let end = if message.is_error { End::Error(message.error_code.unwrap_or(0)) } else { End::Done };
                call.stream.finish(restored(line, message, number, &call), end);
            }
            Kind::Notification => {
                let Some((number, edit)) = tie(message) else { return self.drop_one() };
                let Some(call) = state.calls.get(&number) else { return self.drop_one() };
                if call.plain {
                    return self.drop_one();
                }
                let with = match edit {
                    Tie::Request(place) => Some((place, &*call.id)),
                    Tie::Token(place) => call.token.as_deref().map(|token| (place, token)),
                };
                let Some((place, with)) = with.and_then(|(part, with)| Some((range(line, part)?, with))) else {
                    return self.drop_one();
                };
                let taken = call.stream.push(splice(line, vec![(place, with)]));
                let size = call.stream.size();
                if taken && (size.events > self.options.buffer_events || over(size, &self.options)) {
                    // Its reader stalls. It may not stall the others, so it loses its stream, and the child its work.
                    if let Some(call) = state.calls.remove(&number) {
                        drop(state);
                        call.stream.lose();
                        self.cancel(number);
                    }
                }
            }
            // This revision has no requests from servers, and nobody could answer.
            Kind::Request => self.drop_one(),
        }
    }

    fn cancel(&self, number: u64) {
        self.writer.send_later(cancellation(number.to_string().as_bytes()));
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn over(size: crate::bridge::stream::Size, options: &BridgeOptions) -> bool {
    size.events > 1 && size.bytes > options.buffer_bytes
}

/// A request in flight. Dropping it before its answer came cancels it in the child.
pub(super) struct OpenCall {
    hub: Weak<Hub>,
    number: u64,
    stream: Arc<Stream>,
}

impl OpenCall {
    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            let open = hub.lock().calls.remove(&self.number).is_some();
            if open {
                hub.cancel(self.number);
            }
        }
    }
}

/// What ties a notification to a call, and the bytes that say so.
enum Tie<'a> {
    Request(&'a [u8]),
    Token(&'a [u8]),
}

fn tie<'a>(message: &Message<'a>) -> Option<(u64, Tie<'a>)> {
    let params = message.params.as_ref()?;
    if message.method() == Method::Cancelled.as_str() {
        let id = params.request_id?.raw();
        return Some((number(id)?, Tie::Request(id)));
    }
    let ties = Ties::of_params(params.raw);
    if message.method() == Method::Progress.as_str() {
        let token = ties.progress_token?.get().as_bytes();
        return Some((number(token)?, Tie::Token(token)));
    }
    let subscription = ties.subscription()?.get().as_bytes();
    Some((number(subscription)?, Tie::Request(subscription)))
}

/// A response with the caller's own id, also where the result repeats it.
fn restored(line: &Bytes, message: &Message<'_>, own: u64, call: &Call<Own>) -> Bytes {
    let mut edits = Vec::with_capacity(2);
    if let Some(place) = message.id.and_then(|id| range(line, id.raw())) {
        edits.push((place, &*call.id));
    }
    // The result of a subscription names it once more.
    if call.listens
        && let Some(subscription) = Ties::of_result(line).subscription()
        && number(subscription.get().as_bytes()) == Some(own)
        && let Some(place) = range(line, subscription.get().as_bytes())
    {
        edits.push((place, &*call.id));
    }
    splice(line, edits)
}

/// An id that this hub gave out. Some servers answer with the text of a number that they were given.
fn number(raw: &[u8]) -> Option<u64> {
    let digits = raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\"")).unwrap_or(raw);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
