use std::convert::Infallible;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

fn events(splitter: &mut Splitter, chunk: &'static [u8]) -> Vec<Event> {
    splitter.push(Bytes::from_static(chunk));
    std::iter::from_fn(|| splitter.next_event().unwrap()).collect()
}

fn datas(stream: &'static [u8]) -> Vec<Bytes> {
    events(&mut Splitter::new(1024), stream).into_iter().filter(|e| e.has_data).map(|e| e.data).collect()
}

#[test]
fn line_ends_are_lf_cr_and_crlf_and_nothing_else() {
    assert_eq!(datas(b"data: a\n\ndata: b\r\rdata: c\r\n\r\ndata: d\n\r\n"), ["a", "b", "c", "d"]);
    assert_eq!(datas(b": note\rdata: x\r\r"), ["x"]);
    let separators = "data: a\u{85}data: b\u{2028}c\u{b}d\u{c}e\n\n";
    assert_eq!(datas(separators.as_bytes()), [&separators[6..separators.len() - 2]]);
}

#[test]
fn fields_as_the_standard_says() {
    let stream = b"data:a\ndata:  b\ndata\ndata: c:d\nid: 1\nevent: m\nretry: 15\nid: x\0y\nretry: 1x\nretry:\nDATA: no\n data: no\n\n";
    let event = &events(&mut Splitter::new(1024), stream)[0];
    assert_eq!(event.data, "a\n b\n\nc:d");
    assert_eq!((event.id.as_deref(), event.event.as_deref()), (Some(&b"1"[..]), Some(&b"m"[..])));
    assert_eq!(event.retry, Some(15));
    assert_eq!(event.raw, &stream[..]);
}

#[test]
fn an_event_with_empty_data_is_one_and_an_event_without_is_none() {
    let events = events(&mut Splitter::new(1024), b"id: 7\ndata:\n\n: ping\n\nid\n\n\n");
    assert_eq!(events.iter().map(|e| e.has_data).collect::<Vec<_>>(), [true, false, false, false]);
    assert!(events[0].data.is_empty());
    assert_eq!(events[2].id.as_deref(), Some(&b""[..]));
    assert_eq!(events[3].raw, "\n");
}

#[test]
fn byte_order_marks_count_only_at_the_start_and_are_left_out_there() {
    assert_eq!(datas(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n"), ["a", "c"]);
    // One that was left in would be the first, and removed by the client.
    let found = events(&mut Splitter::new(1024), b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n");
    assert_eq!((&found[0].data[..], &found[0].raw[..]), (&b"a"[..], &b"data: a\n\n"[..]));
    let mut splitter = Splitter::new(1024);
    assert!(events(&mut splitter, b"\xef\xbb\xbfdata: a").is_empty());
    assert_eq!(splitter.finish(), "data: a");
}

#[test]
fn an_event_is_there_with_the_first_byte_of_its_end() {
    let mut splitter = Splitter::new(1024);
    assert!(events(&mut splitter, b"data: a\r\n").is_empty());
    let first = events(&mut splitter, b"\r");
    assert_eq!(first[0].raw, "data: a\r\n\r");
    let second = events(&mut splitter, b"\ndata: b\n\n");
    assert_eq!((second.len(), &second[0].raw[..]), (1, &b"\ndata: b\n\n"[..]));
    assert!(events(&mut splitter, b"data: c\r").is_empty());
    assert!(events(&mut splitter, b"\n").is_empty());
    assert_eq!(splitter.finish(), "data: c\r\n");
}

#[test]
fn whole_events_are_not_copied() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
    let mut splitter = Splitter::new(1024);
    splitter.push(chunk.clone());
    let first = splitter.next_event().unwrap().unwrap();
    assert_eq!(first.raw.as_ptr(), chunk.as_ptr());
    assert_eq!(first.data.as_ptr(), chunk[6..].as_ptr());
}

#[test]
fn the_size_of_an_event_is_limited() {
    for cut in 1..10 {
        let stream = Bytes::from_static(b"data: ab\n\n");
        let mut splitter = Splitter::new(stream.len());
        splitter.push(stream.slice(..cut));
        splitter.push(stream.slice(cut..));
        assert!(splitter.next_event().unwrap().is_some());
        let mut splitter = Splitter::new(stream.len() - 1);
        splitter.push(stream.slice(..cut));
        splitter.push(stream.slice(cut..));
        assert_eq!(splitter.next_event(), Err(EventTooLarge));
        splitter.push(Bytes::from_static(b"data: x\n\n"));
        assert_eq!(splitter.next_event(), Err(EventTooLarge), "a stream that lost its place is over");
    }
    let mut splitter = Splitter::new(8);
    splitter.push(Bytes::from_static(b"data: without end"));
    assert_eq!(splitter.next_event(), Err(EventTooLarge));
}

/// Data, id, event and retry.
type Seen = (Option<String>, Option<String>, Option<String>, Option<u64>);

/// What the Rust SDK's reader sees of a stream in chunks.
fn foreign(chunks: &[Bytes]) -> Vec<Seen> {
    let body = stream::iter(chunks.to_vec()).map(Ok::<_, Infallible>);
    let events = sse_stream::SseStream::from_bytes_stream(body).map(Result::unwrap);
    let seen = events.map(|event| (event.data, event.id, event.event, event.retry));
    seen.collect().now_or_never().expect("everything is there")
}

fn own(chunks: &[Bytes]) -> Vec<Seen> {
    let mut splitter = Splitter::new(usize::MAX);
    let mut seen = Vec::new();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    for chunk in chunks {
        splitter.push(chunk.clone());
        while let Some(event) = splitter.next_event().unwrap() {
            let data = event.has_data.then(|| text(&event.data));
            seen.push((data, event.id.as_ref().map(text), event.event.as_ref().map(text), event.retry));
        }
    }
    // The other reader keeps silent about blocks in which nothing stands.
    seen.retain(|event| *event != (None, None, None, None));
    seen
}

/// Blocks of lines as the standard has them and the other reader takes them: it gives up at names that it does not know,
/// at lines without a colon, at a field that only `data` may repeat, and at bytes that are not UTF-8.
fn blocks() -> impl Strategy<Value = String> {
    let value = || {
        vec(select(vec!["", " ", "  ", "a", ":", "\u{e9}", "\u{2028}", "\u{85}", "\0", "\t", "{}", "\u{feff}"]), 0..4)
    };
    let data =
        vec(prop_oneof![value().prop_map(|value| format!("data:{}", value.concat())), Just(": note".into())], 0..4);
    let once =
        |name: &'static str| proptest::option::of(value().prop_map(move |value| format!("{name}:{}", value.concat())));
    let retry = proptest::option::of((0_u32..).prop_map(|retry| format!("retry: {retry}")));
    let end = || select(vec!["\n", "\r", "\r\n"]);
    let block =
        (data, once("id"), once("event"), retry, any::<Index>()).prop_map(|(mut lines, id, event, retry, at)| {
            for field in [id, event, retry].into_iter().flatten() {
                lines.insert(at.index(lines.len() + 1), field);
            }
            lines
        });
    let blocks = vec((block, end(), end()), 0..6).prop_map(|blocks| {
        let text = |(lines, end, blank): (Vec<String>, &str, &str)| {
            // Of CR and a blank line of LF, standards make one line end.
            let blank = if (end, blank) == ("\r", "\n") && !lines.is_empty() { "\n\n" } else { blank };
            lines.iter().map(|line| format!("{line}{end}")).collect::<String>() + blank
        };
        blocks.into_iter().map(text).collect::<String>()
    });
    // The other reader takes one mark at most.
    (0..2_usize, blocks).prop_map(|(marks, blocks)| format!("{}{blocks}", "\u{feff}".repeat(marks)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn another_reader_sees_the_same_events(stream in blocks(), cuts in vec(any::<Index>(), 0..6)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let bytes = Bytes::from(stream.into_bytes());
        let chunks: Vec<_> = cuts.windows(2).map(|cut| bytes.slice(cut[0]..cut[1])).collect();
        let chunks: Vec<_> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        prop_assert_eq!(own(&chunks), foreign(&chunks));
    }
}
