use bytes::Bytes;

use crate::wire::sse::{Event, Splitter};

/// What a reader of the standard makes of one blank line and what stands before it.
#[derive(Debug, PartialEq)]
struct Expected {
    data: Vec<u8>,
    has_data: bool,
    id: Option<Vec<u8>>,
    event: Option<Vec<u8>>,
    retry: Option<u64>,
    /// How many bytes must have arrived for the event to be complete.
    complete_at: usize,
}

/// Any cut of a stream gives the same events, those of the standard, at once, and not a byte is lost but for marks at the
/// start.
pub fn sse(data: &[u8]) {
    let expected = reference(data);
    let bytes: Vec<_> = data.chunks(1).collect();
    for chunks in [vec![data], bytes, super::cut(data)] {
        let mut splitter = Splitter::new(usize::MAX);
        let (mut raw, mut found, mut arrived) = (Vec::new(), 0, 0);
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk));
            arrived += chunk.len();
            while let Some(event) = splitter.next_event().expect("there is no limit") {
                assert_eq!(normal(&event, expected[found].complete_at), expected[found]);
                raw.extend_from_slice(&event.raw);
                found += 1;
            }
            assert!(expected.get(found).is_none_or(|next| next.complete_at > arrived), "an event is held back");
        }
        assert_eq!(found, expected.len());
        raw.extend_from_slice(&splitter.finish());
        assert_eq!(raw, data[marks(data)..]);
    }
}

/// How many bytes of byte order marks a stream begins with. The standard knows of one; each more is removed as well.
fn marks(mut stream: &[u8]) -> usize {
    let length = stream.len();
    while let Some(rest) = stream.strip_prefix("\u{feff}".as_bytes()) {
        stream = rest;
    }
    length - stream.len()
}

fn normal(event: &Event, complete_at: usize) -> Expected {
    let owned = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| bytes.to_vec());
    Expected {
        data: event.data.to_vec(),
        has_data: event.has_data,
        id: owned(&event.id),
        event: owned(&event.event),
        retry: event.retry,
        complete_at,
    }
}

/// The algorithm of WHATWG HTML §9.2.6, word by word, on the whole stream.
fn reference(stream: &[u8]) -> Vec<Expected> {
    let empty = || Expected { data: vec![], has_data: false, id: None, event: None, retry: None, complete_at: 0 };
    let mut events = Vec::new();
    let mut event = empty();
    let mut at = marks(stream);
    let mut line = Vec::new();
    while at < stream.len() {
        let byte = stream[at];
        at += 1;
        if byte != b'\r' && byte != b'\n' {
            line.push(byte);
            continue;
        }
        let complete_at = at;
        if byte == b'\r' && stream.get(at) == Some(&b'\n') {
            at += 1;
        }
        if line.is_empty() {
            if event.data.ends_with(b"\n") {
                event.data.pop();
            }
            event.complete_at = complete_at;
            events.push(std::mem::replace(&mut event, empty()));
            continue;
        }
        let (name, value) = match line.iter().position(|&b| b == b':') {
            None => (line.clone(), Vec::new()),
            Some(colon) => {
                let value = &line[colon + 1..];
                (line[..colon].to_vec(), value.strip_prefix(b" ").unwrap_or(value).to_vec())
            }
        };
        match name.as_slice() {
            b"data" => {
                event.has_data = true;
                event.data.extend(value);
                event.data.push(b'\n');
            }
            b"event" => event.event = Some(value),
            b"id" if !value.contains(&0) => event.id = Some(value),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                if let Ok(retry) = String::from_utf8_lossy(&value).parse() {
                    event.retry = Some(retry);
                }
            }
            _ => {}
        }
        line.clear();
    }
    events
}
