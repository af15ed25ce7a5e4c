//! Server-sent events (WHATWG HTML, §9.2), split without changing a byte.
//!
//! Clients differ in how they split streams; a gateway that inspects events must see what the strictest reader of the
//! standard sees, and pass on what the server wrote. So every event comes with its raw bytes, and the raw bytes of all
//! events, put together with the rest that [`Splitter::finish`] returns, are the stream; only byte order marks at its
//! start are left out: some clients remove one, others take it for a part of the first field's name.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use memchr::{memchr, memchr2};

/// Everything between two blank lines of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The bytes as received, comments, unknown fields and the closing blank line included.
    ///
    /// If an event was closed by a lone CR at the end of a chunk and a LF follows, the LF opens the next event's bytes.
    pub raw: Bytes,
    /// The `data` fields, joined by LF. A slice of `raw` if there is one.
    pub data: Bytes,
    /// Whether there is any `data` field. Without one, clients dispatch no event; with an empty one they do.
    pub has_data: bool,
    /// The last `id` field that holds no NUL. It may be empty, which resets the client's cursor.
    pub id: Option<Bytes>,
    /// The last `event` field.
    pub event: Option<Bytes>,
    /// The last `retry` field that is a number, in milliseconds.
    pub retry: Option<u64>,
}

/// An event is larger than the splitter may hold. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLarge;

impl fmt::Display for EventTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event of the stream is too large")
    }
}

impl std::error::Error for EventTooLarge {}

/// Splits a stream into events as its chunks arrive.
///
/// An event is there as soon as the first byte of the line end of its blank line is. Chunks are not copied as long as
/// they hold whole events.
///
/// # Example
///
/// ```
/// use bytes::Bytes;
/// use mcp_gateway_core::wire::sse::Splitter;
///
/// let mut splitter = Splitter::new(1 << 20);
/// splitter.push(Bytes::from_static(b": ping\n\nid: 7\ndata: {\"jsonrpc\""));
/// assert!(!splitter.next_event()?.unwrap().has_data);
/// assert!(splitter.next_event()?.is_none());
/// splitter.push(Bytes::from_static(b":\"2.0\"}\n\n"));
/// let event = splitter.next_event()?.unwrap();
/// assert_eq!(event.data, r#"{"jsonrpc":"2.0"}"#);
/// assert_eq!(event.id.unwrap(), "7");
/// # Ok::<(), mcp_gateway_core::wire::sse::EventTooLarge>(())
/// ```
#[derive(Debug)]
pub struct Splitter {
    max_event: usize,
    /// The beginning of an event whose end has not come.
    held: BytesMut,
    /// Chunks that have not been searched.
    waiting: VecDeque<Bytes>,
    search: Search,
    /// Nothing has been split off yet: byte order marks may stand here.
    at_start: bool,
    failed: bool,
}

impl Splitter {
    /// A splitter at the beginning of a stream that holds at most `max_event` bytes of one event.
    #[must_use]
    pub fn new(max_event: usize) -> Self {
        Self {
            max_event,
            held: BytesMut::new(),
            waiting: VecDeque::new(),
            search: Search { first_line: true, ..Search::default() },
            at_start: true,
            failed: false,
        }
    }

    /// Takes the next chunk. Call [`Splitter::next_event`] until it is `None` before the next one.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() && !self.failed {
            self.waiting.push_back(chunk);
        }
    }

    /// The next whole event, if its end has arrived.
    ///
    /// # Errors
    ///
    /// [`EventTooLarge`], from then on for every call.
    pub fn next_event(&mut self) -> Result<Option<Event>, EventTooLarge> {
        if self.failed {
            return Err(EventTooLarge);
        }
        while let Some(mut chunk) = self.waiting.pop_front() {
            let end = self.search.advance(&chunk);
            if self.held.len() + end.unwrap_or(chunk.len()) > self.max_event {
                self.failed = true;
                self.held = BytesMut::new();
                self.waiting.clear();
                return Err(EventTooLarge);
            }
            let Some(end) = end else {
                self.held.extend_from_slice(&chunk);
                continue;
            };
            let mut raw = chunk.split_to(end);
            if !self.held.is_empty() {
                self.held.extend_from_slice(&raw);
                raw = self.held.split().freeze();
            }
            if !chunk.is_empty() {
                self.waiting.push_front(chunk);
            }
            let (bytes, mut longest) = (raw.len(), std::mem::take(&mut self.search.longest));
            let raw = self.unmarked(raw);
            if raw.len() != bytes {
                // It stands somewhere else now.
                longest = 0..0;
            }
            return Ok(Some(Event::parse(raw, &longest)));
        }
        Ok(None)
    }

    /// Ends the stream and returns the bytes after the last event. They are no event, but part of the stream.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        for chunk in std::mem::take(&mut self.waiting) {
            self.held.extend_from_slice(&chunk);
        }
        let rest = std::mem::take(&mut self.held).freeze();
        self.unmarked(rest)
    }

    /// The first bytes of the stream without byte order marks.
    fn unmarked(&mut self, mut bytes: Bytes) -> Bytes {
        let first = std::mem::take(&mut self.at_start);
        while first && bytes.starts_with(BOM) {
            bytes = bytes.slice(BOM.len()..);
        }
        bytes
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The search for a blank line, byte by byte through the stream.
#[derive(Debug, Default)]
struct Search {
    /// Bytes of the current line so far.
    line: usize,
    /// The last byte was a CR that ended a line; a LF here belongs to it.
    after_cr: bool,
    /// The current line is the first of the stream, and its first `mark` bytes are those of byte order marks.
    first_line: bool,
    mark: usize,
    /// Bytes of the event in earlier chunks.
    before: usize,
    /// Where the longest line of the event is: most events are one long line, which nobody has to search twice.
    longest: Range<usize>,
}

impl Search {
    /// Goes on through a chunk, up to the end of an event if there is one, and returns where that is.
    fn advance(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut pos = 0;
        while self.first_line
            && self.line == self.mark
            && chunk.get(pos).is_some_and(|&byte| BOM[self.mark % BOM.len()] == byte)
        {
            self.mark += 1;
            self.line += 1;
            pos += 1;
        }
        loop {
            if self.after_cr && pos < chunk.len() {
                self.after_cr = false;
                pos += usize::from(chunk[pos] == b'\n');
            }
            let Some(found) = memchr2(b'\r', b'\n', &chunk[pos..]) else {
                self.line += chunk.len() - pos;
                self.before += chunk.len();
                return None;
            };
            let length = self.line + found;
            if length > self.longest.len() {
                let end = self.before + pos + found;
                self.longest = end - length..end;
            }
            let blank = length == 0 || self.first_line && length == self.mark && length.is_multiple_of(BOM.len());
            self.line = 0;
            self.first_line = false;
            self.after_cr = chunk[pos + found] == b'\r';
            pos += found + 1;
            if blank {
                if self.after_cr && chunk.get(pos) == Some(&b'\n') {
                    self.after_cr = false;
                    pos += 1;
                }
                self.before = 0;
                return Some(pos);
            }
        }
    }
}

impl Event {
    /// `longest` is a line of it, or empty.
    fn parse(raw: Bytes, longest: &Range<usize>) -> Self {
        let mut event =
            Self { data: Bytes::new(), has_data: false, id: None, event: None, retry: None, raw: Bytes::new() };
        let mut joined: Option<BytesMut> = None;
        let mut rest = &raw[..];
        while !rest.is_empty() {
            let end = if raw.len() - rest.len() == longest.start && !longest.is_empty() {
                longest.len()
            } else {
                memchr2(b'\r', b'\n', rest).unwrap_or(rest.len())
            };
            let (line, tail) = rest.split_at(end);
            rest = match tail {
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => tail,
            };
            let (name, value) = field(line);
            match name {
                b"data" if !event.has_data => {
                    event.has_data = true;
                    event.data = raw.slice_ref(value);
                }
                b"data" => {
                    let joined = joined.get_or_insert_with(|| BytesMut::from(&event.data[..]));
                    joined.extend_from_slice(b"\n");
                    joined.extend_from_slice(value);
                }
                b"id" if memchr(0, value).is_none() => event.id = Some(raw.slice_ref(value)),
                b"event" => event.event = Some(raw.slice_ref(value)),
                b"retry" if value.iter().all(u8::is_ascii_digit) => {
                    event.retry = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).or(event.retry);
                }
                _ => {}
            }
        }
        if let Some(joined) = joined {
            event.data = joined.freeze();
        }
        event.raw = raw;
        event
    }
}

/// Whether an answer with these headers is a stream of events.
#[must_use]
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().get(..17).is_some_and(|start| start.eq_ignore_ascii_case(b"text/event-stream"))
    })
}

/// Name and value of a line; a comment has the empty name.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b':', line) {
        None => (line, &line[line.len()..]),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}

#[cfg(test)]
mod tests;
