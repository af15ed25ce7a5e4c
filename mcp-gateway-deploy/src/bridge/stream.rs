//! One event stream: the messages that belong to it, and the body that reads them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use memchr::memchr;
use tokio::time::{Instant, Sleep};

/// The messages of one stream, in order, for one reader at a time.
///
/// A legacy stream keeps what was read, so that it can be resumed; a modern one does not.
pub(super) struct Stream {
    number: u64,
    keeps: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    events: VecDeque<Bytes>,
    bytes: usize,
    /// The position of the first event that is kept.
    first: u64,
    /// Events before this position have been handed to a reader.
    read: u64,
    ended: bool,
    end: End,
    /// The reader that is attached; each has its own number, 0 is none.
    reader: u64,
    readers: u64,
    /// When the last reader went away, or the stream began.
    left: Instant,
    waker: Option<Waker>,
}

/// How a stream ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum End {
    /// With what was asked for, or not yet.
    #[default]
    Done,
    /// With a JSON-RPC error of this code.
    Error(i64),
    /// Because the child ended; for an owner: why.
    Failed(Option<Arc<str>>),
    /// Because its reader did not keep up.
    Lagged,
}

/// How much a stream keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Stream {
    /// A stream that can be resumed.
    pub(super) fn resumable(number: u64) -> Arc<Self> {
        Arc::new(Self { number, keeps: true, inner: Mutex::new(Inner::new()) })
    }

    /// A stream that is read once.
    pub(super) fn once() -> Arc<Self> {
        Arc::new(Self { number: 0, keeps: false, inner: Mutex::new(Inner::new()) })
    }

    /// Its number within the session.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an event; an empty one is the priming event. Returns whether the stream took it.
    pub(super) fn push(&self, message: Bytes) -> bool {
        self.append(message, None)
    }

    /// Appends the last event.
    pub(super) fn finish(&self, message: Bytes, end: End) -> bool {
        self.append(message, Some(end))
    }

    fn append(&self, message: Bytes, end: Option<End>) -> bool {
        let waker = {
            let mut inner = self.lock();
            if inner.ended {
                return false;
            }
            inner.bytes += message.len();
            inner.events.push_back(message);
            if let Some(end) = end {
                inner.ended = true;
                inner.end = end;
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Ends it without a further event.
    pub(super) fn close(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.ended = true;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops everything, and ends the reader that did not keep up.
    pub(super) fn lose(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.first += inner.events.len() as u64;
            inner.events.clear();
            inner.bytes = 0;
            inner.ended = true;
            inner.end = End::Lagged;
            inner.reader = 0;
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What it keeps.
    pub(super) fn size(&self) -> Size {
        let inner = self.lock();
        Size { events: inner.events.len(), bytes: inner.bytes }
    }

    /// Whether a reader is attached.
    pub(super) fn is_live(&self) -> bool {
        self.lock().reader != 0
    }

    /// When its last reader went away; `None` while there is one.
    pub(super) fn left(&self) -> Option<Instant> {
        let inner = self.lock();
        (inner.reader == 0).then_some(inner.left)
    }

    /// Whether everything has been read, and nothing will come.
    pub(super) fn is_spent(&self) -> bool {
        let inner = self.lock();
        inner.ended && inner.read >= inner.next()
    }

    /// How it ended so far.
    pub(super) fn end(&self) -> End {
        self.lock().end.clone()
    }

    /// Drops the oldest event if it has been read, or in any case with `unread`; but never the newest.
    pub(super) fn trim(&self, unread: bool) -> bool {
        let mut inner = self.lock();
        if inner.events.len() < 2 || !unread && inner.first >= inner.read {
            return false;
        }
        inner.pop();
        true
    }

    /// Waits until it keeps more than `known` events, or the end. The reader that comes later finds them all.
    pub(super) async fn ready(&self, known: usize) {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.ended || inner.events.len() > known {
                return Poll::Ready(());
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The one message of a stream that ended with it and that nobody has read.
    pub(super) fn only(&self) -> Option<Bytes> {
        let mut inner = self.lock();
        if inner.ended && inner.events.len() == 1 && inner.read == inner.first { inner.pop() } else { None }
    }

    /// Whether a position was ever given out.
    pub(super) fn knows(&self, position: u64) -> bool {
        position < self.lock().next()
    }

    /// Attaches a reader in the place of the one before: after a position, or where the last one stopped.
    pub(super) fn attach(self: &Arc<Self>, after: Option<u64>, pace: Pace) -> StreamBody {
        let (reader, next, waker) = {
            let mut inner = self.lock();
            inner.readers += 1;
            inner.reader = inner.readers;
            let next = after.map_or(inner.read, |after| after.saturating_add(1)).max(inner.first);
            (inner.readers, next, inner.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        let sleep = pace.keep_alive.map(|period| Box::pin(tokio::time::sleep(period)));
        StreamBody { stream: Arc::clone(self), reader, next, pace, sleep, guard: None }
    }
}

impl Inner {
    fn new() -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            first: 0,
            read: 0,
            ended: false,
            end: End::Done,
            reader: 0,
            readers: 0,
            left: Instant::now(),
            waker: None,
        }
    }

    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn pop(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes -= event.len();
        self.first += 1;
        self.read = self.read.max(self.first);
        Some(event)
    }
}

/// What a reader adds to the messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) retry: Duration,
    pub(super) keep_alive: Option<Duration>,
}

/// Reads a [`Stream`] as server-sent events.
pub(super) struct StreamBody {
    stream: Arc<Stream>,
    reader: u64,
    next: u64,
    pace: Pace,
    sleep: Option<Pin<Box<Sleep>>>,
    guard: Option<Box<dyn Send>>,
}

impl StreamBody {
    /// Keeps a value until the reader is gone.
    pub(super) fn guarded(mut self, guard: impl Send + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    fn rest(&mut self) {
        if let (Some(sleep), Some(period)) = (&mut self.sleep, self.pace.keep_alive) {
            sleep.as_mut().reset(Instant::now() + period);
        }
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let event = {
            let mut inner = this.stream.lock();
            // Another reader took over, or this one was too slow and its events are gone.
            if inner.reader != this.reader || this.next < inner.first {
                return Poll::Ready(None);
            }
            let index = usize::try_from(this.next - inner.first).unwrap_or(usize::MAX);
            match inner.events.get(index).cloned() {
                Some(event) => {
                    let position = this.next;
                    this.next += 1;
                    inner.read = inner.read.max(this.next);
                    if !this.stream.keeps {
                        inner.pop();
                    }
                    Some((position, event))
                }
                None if inner.ended => return Poll::Ready(None),
                None => {
                    inner.waker = Some(cx.waker().clone());
                    None
                }
            }
        };
        if let Some((position, event)) = event {
            this.rest();
            let cursor = this.stream.keeps.then_some((this.stream.number, position));
            return Poll::Ready(Some(Ok(Frame::data(frame(cursor, &event, this.pace.retry)))));
        }
        if let Some(sleep) = &mut this.sleep
            && sleep.as_mut().poll(cx).is_ready()
        {
            this.rest();
            // Polled once more so that the timer is armed.
            if let Some(sleep) = &mut this.sleep {
                let _ = sleep.as_mut().poll(cx);
            }
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))));
        }
        Poll::Pending
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let mut inner = self.stream.lock();
        if inner.reader == self.reader {
            inner.reader = 0;
            inner.left = Instant::now();
        }
    }
}

/// One event. Without a message it is the priming event of revision 2025-11-25: a cursor, `retry`, empty data.
fn frame(cursor: Option<(u64, u64)>, message: &[u8], retry: Duration) -> Bytes {
    let mut head = String::new();
    if let Some((stream, position)) = cursor {
        let _ = writeln!(head, "id: {stream}-{position}");
    }
    if message.is_empty() {
        let _ = writeln!(head, "retry: {}", retry.as_millis());
    }
    head.push_str("data: ");
    let mut event = BytesMut::with_capacity(head.len() + message.len() + 2);
    event.extend_from_slice(head.as_bytes());
    let body = event.len();
    event.extend_from_slice(message);
    // A lone CR between two tokens would end the line.
    if memchr(b'\r', message).is_some() {
        for byte in &mut event[body..] {
            if *byte == b'\r' {
                *byte = b' ';
            }
        }
    }
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

/// Reads `{stream}-{position}`, exactly as it was written.
pub(super) fn cursor(text: &str) -> Option<(u64, u64)> {
    let (stream, position) = text.split_once('-')?;
    let number = |text: &str| {
        let canonical = text == "0" || !text.is_empty() && !text.starts_with('0');
        (canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    Some((number(stream)?, number(position)?))
}
