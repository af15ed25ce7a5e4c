//! A session's events on their way to the client: their ids get a tag, every other byte stays.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use memchr::memchr2;

use crate::seal::{EventIds, EventTag};
use crate::{Body, BoxError};

/// A stream of events whose ids are tagged. Nothing is held back.
pub(super) struct TaggedBody {
    inner: Body,
    tagger: Tagger,
}

impl TaggedBody {
    pub(super) fn new(inner: Body, ids: EventIds) -> Self {
        Self { inner, tagger: Tagger::new(ids) }
    }
}

impl http_body::Body for TaggedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(task));
        let tagged = |frame: Frame<Bytes>| frame.map_data(|data| self.tagger.tag(data));
        Poll::Ready(frame.map(|frame| frame.map(tagged)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.inner.size_hint().lower());
        hint
    }
}

/// Finds `id` lines (WHATWG HTML §9.2.6) as the stream passes.
struct Tagger {
    ids: EventIds,
    at: At,
}

/// Where in the stream the next byte is.
enum At {
    /// At its beginning, behind so many bytes of a byte order mark.
    Mark(usize),
    /// In a line that so far is the beginning of `id:`.
    Name(usize),
    /// In the value of an `id` line; with its tag once it is not blank.
    Id(Option<EventTag>),
    /// In the rest of a line.
    Line,
}

const BOM: [u8; 3] = *b"\xef\xbb\xbf";
const ID: [u8; 3] = *b"id:";

impl Tagger {
    fn new(ids: EventIds) -> Self {
        Self { ids, at: At::Mark(0) }
    }

    fn tag(&mut self, chunk: Bytes) -> Bytes {
        let mut tags = Vec::new();
        let mut pos = 0;
        while let Some(&byte) = chunk.get(pos) {
            match &mut self.at {
                // Each mark at the start is left out, as by whoever splits the stream.
                At::Mark(3) => self.at = At::Mark(0),
                At::Mark(known) if BOM[*known] == byte => {
                    *known += 1;
                    pos += 1;
                }
                At::Mark(0) => self.at = At::Name(0),
                At::Name(3) => self.at = At::Id(None),
                At::Name(known) if ID[*known] == byte => {
                    *known += 1;
                    pos += 1;
                }
                At::Mark(_) | At::Name(_) => self.at = At::Line,
                At::Line => {
                    let Some(end) = memchr2(b'\r', b'\n', &chunk[pos..]) else { break };
                    pos += end + 1;
                    self.at = At::Name(0);
                }
                At::Id(tag) => {
                    let rest = &chunk[pos..];
                    let end = memchr2(b'\r', b'\n', rest);
                    let value = &rest[..end.unwrap_or(rest.len())];
                    let id = if tag.is_none() { unblanked(value) } else { value };
                    if !id.is_empty() {
                        tag.get_or_insert_with(|| self.ids.begin()).update(id);
                    }
                    pos += value.len();
                    if end.is_some() {
                        tags.extend(tag.take().map(|tag| (pos, tag.finish())));
                        self.at = At::Line;
                    }
                }
            }
        }
        insert(chunk, &tags)
    }
}

/// An id as it comes back in a header.
fn unblanked(id: &[u8]) -> &[u8] {
    let blanks = id.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &id[blanks..]
}

/// The chunk with each tag before its place.
fn insert(chunk: Bytes, tags: &[(usize, [u8; EventIds::TAG])]) -> Bytes {
    if tags.is_empty() {
        return chunk;
    }
    let mut out = BytesMut::with_capacity(chunk.len() + tags.len() * EventIds::TAG);
    let mut from = 0;
    for (at, tag) in tags {
        out.extend_from_slice(&chunk[from..*at]);
        out.extend_from_slice(tag);
        from = *at;
    }
    out.extend_from_slice(&chunk[from..]);
    out.freeze()
}

/// Tags arbitrary streams, for fuzz targets and property tests: any cut gives the same bytes; readers see the same
/// events, with ids that open to those of the server; nothing else opens.
#[cfg(any(test, feature = "fuzzing"))]
pub fn check(data: &[u8]) {
    use crate::wire::check::cut;
    use crate::wire::sse::{Event, Splitter};

    let ids = EventIds::new(&[7; 32]);
    assert_eq!(ids.open(data), None, "a forged id opened");
    let tagged = |chunks: Vec<&[u8]>| {
        let mut tagger = Tagger::new(ids.clone());
        chunks.into_iter().map(|chunk| tagger.tag(Bytes::copy_from_slice(chunk))).collect::<Vec<_>>().concat()
    };
    let whole = tagged(vec![data]);
    assert_eq!(tagged(data.chunks(1).collect()), whole);
    assert_eq!(tagged(cut(data)), whole);

    let events = |stream: &[u8]| -> Vec<Event> {
        let mut splitter = Splitter::new(usize::MAX);
        splitter.push(Bytes::copy_from_slice(stream));
        std::iter::from_fn(|| splitter.next_event().expect("there is no limit")).collect()
    };
    let (before, after) = (events(data), events(&whole));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.into_iter().zip(after) {
        assert_eq!((&before.data, &before.event, before.retry), (&after.data, &after.event, after.retry));
        match (before.id.as_deref().map(unblanked), after.id.as_deref().map(unblanked)) {
            (Some(own), Some(issued)) if !own.is_empty() => assert_eq!(ids.open(issued), Some(own)),
            (before, after) => assert_eq!(before, after),
        }
    }
}
