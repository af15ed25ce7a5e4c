//! Requests that wait for their child's answer, in a session or at the shared child.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use mcp_gateway_core::wire::method::Method;
use mcp_gateway_core::wire::{Fault, Id, Limits, Message, peek, rpc};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::child::Reader;
use super::options::BridgeOptions;
use super::stream::{End, Stream};

/// Why a child ended, for an owner.
pub(super) type Why = Option<Arc<str>>;

/// A request in flight.
pub(super) struct Call<T> {
    /// Its id, as its client wrote it.
    pub(super) id: Arc<[u8]>,
    /// Its progress token, as its client wrote it.
    pub(super) token: Option<Box<[u8]>>,
    /// Its client reads one JSON object, so nothing else is kept for it.
    pub(super) plain: bool,
    /// It subscribes: what it waits for are events, which may never come.
    pub(super) listens: bool,
    /// Where its messages go. Its client waits as long as a reader is attached.
    pub(super) stream: Arc<Stream>,
    /// What only its era needs to know.
    pub(super) own: T,
}

impl<T> Call<T> {
    pub(super) fn new(message: &Message<'_>, plain: bool, stream: Arc<Stream>, own: T) -> Self {
        let token = message.meta().and_then(|meta| meta.progress_token).map(|token| Box::from(token.raw()));
        let listens = message.method() == Method::SubscriptionsListen.as_str();
        Self { id: message.id.map(Id::raw).unwrap_or_default().into(), token, plain, listens, stream, own }
    }
}

/// The calls of one child, by the id under which it knows them.
pub(super) struct Calls<K, T> {
    open: HashMap<K, Call<T>>,
    last_use: Instant,
    ended: Option<Why>,
}

/// Why a request was not taken.
#[derive(Debug, Clone)]
pub(super) enum NotTaken {
    /// A request with this id waits for its answer.
    IdInUse,
    /// Too many requests wait.
    Full,
    /// The child has ended.
    Ended(Why),
}

impl<K: Eq + Hash, T> Calls<K, T> {
    pub(super) fn new() -> Self {
        Self { open: HashMap::new(), last_use: Instant::now(), ended: None }
    }

    /// Whether there is room for one more.
    pub(super) fn admit(&self, most: usize) -> Result<(), NotTaken> {
        match &self.ended {
            Some(why) => Err(NotTaken::Ended(why.clone())),
            None if self.open.len() >= most => Err(NotTaken::Full),
            None => Ok(()),
        }
    }

    pub(super) fn insert(&mut self, key: K, call: Call<T>) {
        self.open.insert(key, call);
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&Call<T>>
    where
        K: Borrow<Q>,
    {
        self.open.get(key)
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<Call<T>>
    where
        K: Borrow<Q>,
    {
        self.open.remove(key)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Call<T>) -> bool) {
        self.open.retain(|_, call| keep(call));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Call<T>)> {
        self.open.iter()
    }

    /// A message has passed.
    pub(super) fn used(&mut self) {
        self.last_use = Instant::now();
    }

    /// How many clients wait for an answer, and when a message last passed or a client left.
    pub(super) fn usage(&self) -> (usize, Instant) {
        let left = || self.open.values().map(|call| (call, call.stream.left()));
        let last = left().filter_map(|(_, left)| left).fold(self.last_use, Instant::max);
        (left().filter(|(call, left)| !call.listens && left.is_none()).count(), last)
    }

    /// When a message last passed or a client left; `None` while one waits for an answer.
    ///
    /// A call whose client is gone holds nothing: its answer is kept for a client that resumes in time, but it may
    /// never come.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let (waiting, last) = self.usage();
        (waiting == 0).then_some(last)
    }

    /// The call whose client has been gone for the longest.
    pub(super) fn abandoned(&self) -> Option<&K> {
        let gone = self.open.iter().filter_map(|(key, call)| Some((call.stream.left()?, key)));
        gone.min_by_key(|&(left, _)| left).map(|(_, key)| key)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Takes no further calls.
    pub(super) fn end(&mut self) {
        self.ended.get_or_insert_default();
    }

    /// Ends every subscription with its result, because the child is about to be ended and owes it nothing else.
    pub(super) fn complete(&mut self) {
        self.open.retain(|_, call| {
            if call.listens {
                call.stream.finish(completion(&call.id), End::Done);
            }
            !call.listens
        });
    }

    /// Ends every call, because the child has ended.
    pub(super) fn fail(&mut self, why: &Why) {
        self.ended = Some(why.clone());
        for (_, call) in self.open.drain() {
            let message = rpc::error_body(Some(&call.id), rpc::code::INTERNAL_ERROR, super::ENDED, None);
            call.stream.finish(message, End::Failed(why.clone()));
        }
    }
}

/// The result of a subscription.
fn completion(id: &[u8]) -> Bytes {
    const TAG: &[u8] = br#","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"#;
    Bytes::from([br#"{"jsonrpc":"2.0","id":"#, id, TAG, id, b"}}}"].concat())
}

/// How a child's messages are read: they may be larger than a caller's.
pub(super) fn child_limits(options: &BridgeOptions) -> Limits {
    Limits { max_bytes: options.max_line, max_depth: Limits::DEEPEST, max_id: options.max_id, ..Limits::default() }
}

/// Reads what a child wrote in one line: a message, or an array of them. What is neither goes to its log.
pub(super) fn receive(
    line: &Bytes,
    options: &BridgeOptions,
    reader: &Reader,
    mut route: impl FnMut(&Bytes, &Message<'_>),
) {
    let limits = child_limits(options);
    match peek(line, &limits) {
        Ok(message) => route(line, &message),
        Err(error) if error.fault() == Fault::Batch => match serde_json::from_slice::<Vec<&RawValue>>(line) {
            Ok(items) => {
                for item in items {
                    let item = line.slice_ref(item.get().as_bytes());
                    match peek(&item, &limits) {
                        Ok(message) => route(&item, &message),
                        Err(_) => reader.stray(&item),
                    }
                }
            }
            Err(_) => reader.stray(line),
        },
        Err(_) => reader.stray(line),
    }
}
