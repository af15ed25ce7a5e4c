//! Events in a form that every reader splits alike.
//!
//! Readers of server-sent events were seen to end lines at a lone CR or not, at U+0085, U+2028 and U+2029, and at
//! control characters, and to keep a byte order mark. In canonical form lines end with LF, and none of these occurs.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;

use crate::wire::sse::Event;

/// The bytes as they came, if every reader splits them alike; else the event with this data in canonical form.
pub(super) fn unchanged(event: &Event, data: &Bytes) -> Bytes {
    if is_plain(&event.raw) { event.raw.clone() } else { self::event(event, data) }
}

/// An event with this data, which is [`escaped`], in canonical form; none without data.
///
/// Its comments, id and retry stay: clients resume by them. What would split a comment or a name is replaced; an id in
/// which it occurs is left out, since no other id would do.
pub(super) fn event(event: &Event, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(event.raw.len() + data.len() / 8 + 64);
    let mut line = |start: &[u8], value: &[u8]| {
        out.put_slice(start);
        out.put_slice(value);
        out.put_u8(b'\n');
    };
    for comment in lines(&event.raw).filter_map(|line| line.strip_prefix(b":")) {
        line(b":", &replaced(comment));
    }
    if let Some(id) = event.id.as_ref().filter(|id| is_plain(id)) {
        line(b"id: ", id);
    }
    if let Some(retry) = event.retry {
        line(b"retry: ", retry.to_string().as_bytes());
    }
    if !data.is_empty() {
        if let Some(name) = &event.event {
            line(b"event: ", &replaced(name));
        }
        // A line end between the tokens of a message stays one.
        for part in data.split(|&byte| byte == b'\n') {
            line(b"data: ", part);
        }
    }
    line(b"", b"");
    out.freeze()
}

/// A JSON text with everything escaped at which a line might end, but for LF. Its value is the same: what is escaped can
/// only stand in strings.
pub(super) fn escaped(json: &Bytes) -> Bytes {
    if is_plain(json) {
        return json.clone();
    }
    let mut out = BytesMut::with_capacity(json.len() + 16);
    split(json, |part, breaker| {
        out.put_slice(part);
        match breaker {
            // Outside strings they are blanks, and inside them no JSON.
            [b'\r'] => out.put_u8(b'\n'),
            [byte] => out.put_slice(format!("\\u{byte:04x}").as_bytes()),
            [0xc2, _] => out.put_slice(b"\\u0085"),
            [0xe2, _, 0xa8] => out.put_slice(b"\\u2028"),
            [0xe2, ..] => out.put_slice(b"\\u2029"),
            _ => {}
        }
    });
    out.freeze()
}

/// Whether the bytes are comments that every reader takes for comments.
pub(super) fn is_comment(bytes: &[u8]) -> bool {
    is_plain(bytes) && lines(bytes).all(|line| line.is_empty() || line.starts_with(b":"))
}

fn replaced(text: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(text.len());
    split(text, |part, breaker| {
        out.put_slice(part);
        if !breaker.is_empty() {
            out.put_u8(b'?');
        }
    });
    out.freeze()
}

fn is_plain(bytes: &[u8]) -> bool {
    breaker(bytes).is_none()
}

/// Calls with each part up to the next thing that might end a line, and that thing; at the end with the rest and nothing.
fn split(mut bytes: &[u8], mut each: impl FnMut(&[u8], &[u8])) {
    while let Some((at, length)) = breaker(bytes) {
        each(&bytes[..at], &bytes[at..at + length]);
        bytes = &bytes[at + length..];
    }
    each(bytes, &[]);
}

/// Where the first thing is that some reader takes for the end of a line or leaves out, but for LF, and how long.
fn breaker(bytes: &[u8]) -> Option<(usize, usize)> {
    // Most bytes are told by one comparison each.
    let suspect = |byte: u8| (byte < 0x20 && byte != b'\n' && byte != b'\t') || matches!(byte, 0xc2 | 0xe2 | 0xef);
    let mut from = 0;
    while let Some(found) = bytes[from..].iter().position(|&byte| suspect(byte)) {
        let at = from + found;
        match bytes[at..] {
            [byte, ..] if byte < 0x20 => return Some((at, 1)),
            [0xc2, 0x85, ..] => return Some((at, 2)),
            [0xe2, 0x80, 0xa8 | 0xa9, ..] | [0xef, 0xbb, 0xbf, ..] => return Some((at, 3)),
            _ => from = at + 1,
        }
    }
    None
}

/// The lines as the standard has them (WHATWG HTML §9.2.6), without their ends.
fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let end = memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len());
        let (line, rest) = bytes.split_at(end);
        bytes = match rest {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => rest,
        };
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::sse::Splitter;

    fn parsed(stream: &[u8]) -> Vec<Event> {
        let mut splitter = Splitter::new(usize::MAX);
        splitter.push(Bytes::copy_from_slice(stream));
        std::iter::from_fn(|| splitter.next_event().unwrap()).collect()
    }

    fn rewritten(stream: &str) -> String {
        let events = parsed(stream.as_bytes());
        let all = events.iter().map(|event| unchanged(event, &escaped(&event.data))).collect::<Vec<_>>().concat();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn what_every_reader_splits_alike_keeps_its_bytes() {
        for stream in ["x: y\nevent: e\nid:1\ndata:{\ndata: }\n\n", ": p\u{e9}\n\n", "data: \"\u{2027}\t\"\n\n"] {
            assert_eq!(rewritten(stream), stream);
        }
    }

    #[test]
    fn comments_id_and_retry_stay_when_an_event_is_written_anew() {
        assert_eq!(
            rewritten(":a\r\nretry: 5\r\ndata: {\r\nid: 7\r\n: b\r\nevent: m\r\ndata: }\r\nother: x\r\n\r\n"),
            ":a\n: b\nid: 7\nretry: 5\nevent: m\ndata: {\ndata: }\n\n"
        );
        let event = &parsed(b": c\nid: 7\nretry: 5\nevent: m\ndata: 1\n\n")[0];
        assert_eq!(super::event(event, b""), ": c\nid: 7\nretry: 5\n\n");
        assert_eq!(super::event(event, b"2"), ": c\nid: 7\nretry: 5\nevent: m\ndata: 2\n\n");
        assert_eq!(rewritten("id\r\r"), "id: \n\n", "an empty id resets the cursor");
    }

    #[test]
    fn nothing_hides_behind_what_only_some_readers_take_for_the_end_of_a_line() {
        let hidden = "data: {\"x\":1}";
        for end in ["\u{85}", "\u{2028}", "\u{2029}", "\u{b}", "\u{c}", "\u{1c}", "\u{1d}", "\u{1e}"] {
            let stream =
                format!(": a{end}{hidden}\nid: 1{end}{hidden}\nevent: e{end}{hidden}\ndata: \"{end}{hidden}\"\n\n");
            let escape = format!("\\u{:04x}", u32::from(end.chars().next().unwrap()));
            assert_eq!(rewritten(&stream), format!(": a?{hidden}\nevent: e?{hidden}\ndata: \"{escape}{hidden}\"\n\n"));
            assert!(!is_comment(format!(": a{end}{hidden}").as_bytes()));
        }
        assert_eq!(rewritten(&format!(": note\r{hidden}\n\n")), format!(": note\n{hidden}\n\n"));
        assert_eq!(rewritten(&format!("\u{feff}{hidden}\n\n")), format!("{hidden}\n\n"));
        assert!(is_comment(b": rest") && !is_comment(hidden.as_bytes()) && !is_comment(b"id: 1"));
    }

    proptest! {
        #[test]
        fn the_value_is_the_same_and_so_is_the_event(text: String, id in "[a-z0-9]{1,4}", end in "\r|\n|\r\n") {
            // Raw where JSON permits it: no control characters in strings.
            let json = serde_json::Value::from(text.as_str()).to_string();
            let stream = format!("id: {id}{end}: c{end}data: {json}{end}{end}");
            let written = rewritten(&stream);
            let event = &parsed(written.as_bytes())[0];
            prop_assert_eq!(serde_json::from_slice::<String>(&event.data).unwrap(), text);
            prop_assert_eq!(event.id.as_deref(), Some(id.as_bytes()));
            prop_assert!(is_plain(&event.raw));
            prop_assert_eq!(rewritten(&written), written);
        }
    }
}
