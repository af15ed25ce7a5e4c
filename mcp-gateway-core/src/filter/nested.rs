//! Texts that are JSON themselves, as those of tool results often are.

use std::ops::Range;

/// A text with its escapes resolved, once, wherever it has some: `{"log":"a\nb"}` with a line end.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) text: String,
    escapes: Vec<Escape>,
}

/// Where one stands in the text as it is, and what it stands for in the other.
#[derive(Debug)]
struct Escape {
    written: Range<usize>,
    meant: Range<usize>,
}

impl Inner {
    /// `None` of a text without any.
    pub(super) fn of(written: &str) -> Option<Self> {
        let mut text = String::new();
        let mut escapes = Vec::new();
        let mut from = 0;
        let mut rest = 0;
        while let Some(found) = memchr::memchr(b'\\', &written.as_bytes()[rest..]) {
            let at = rest + found;
            let Some((c, length)) = resolved(&written[at + 1..]) else {
                rest = at + 1;
                continue;
            };
            text.push_str(&written[from..at]);
            let start = text.len();
            text.push(c);
            rest = at + 1 + length;
            escapes.push(Escape { written: at..rest, meant: start..text.len() });
            from = rest;
        }
        if escapes.is_empty() {
            return None;
        }
        text.push_str(&written[from..]);
        Some(Self { text, escapes })
    }

    /// Where a part of this text is written, whole escapes.
    pub(super) fn written(&self, meant: &Range<usize>) -> Range<usize> {
        let start = match self.last(|escape| escape.meant.start <= meant.start) {
            Some(escape) if meant.start < escape.meant.end => escape.written.start,
            Some(escape) => escape.written.end + (meant.start - escape.meant.end),
            None => meant.start,
        };
        let end = match self.last(|escape| escape.meant.start < meant.end) {
            Some(escape) if meant.end <= escape.meant.end => escape.written.end,
            Some(escape) => escape.written.end + (meant.end - escape.meant.end),
            None => meant.end,
        };
        start..end
    }

    /// A part of the text as it is written, with the whole of the escapes that it cuts: what is left of one would be
    /// another.
    pub(super) fn whole(&self, written: Range<usize>) -> Range<usize> {
        let start = self.last(|escape| escape.written.start < written.start);
        let end = self.last(|escape| escape.written.start < written.end);
        let start = start.filter(|escape| written.start < escape.written.end);
        start.map_or(written.start, |escape| escape.written.start)
            ..end.map_or(written.end, |escape| escape.written.end.max(written.end))
    }

    fn last(&self, before: impl Fn(&Escape) -> bool) -> Option<&Escape> {
        self.escapes[..self.escapes.partition_point(before)].last()
    }
}

/// What stands after a backslash, and how long it is written.
fn resolved(rest: &str) -> Option<(char, usize)> {
    let unit = |rest: &str| {
        let digits = rest.strip_prefix('u')?.get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    Some(match rest.bytes().next()? {
        b'"' => ('"', 1),
        b'\\' => ('\\', 1),
        b'/' => ('/', 1),
        b'b' => ('\u{8}', 1),
        b'f' => ('\u{c}', 1),
        b'n' => ('\n', 1),
        b'r' => ('\r', 1),
        b't' => ('\t', 1),
        _ => match unit(rest)? {
            high @ 0xd800..0xdc00 => {
                let low = rest[5..].strip_prefix('\\').and_then(unit).filter(|low| (0xdc00..0xe000).contains(low))?;
                (char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?, 11)
            }
            scalar => (char::from_u32(scalar)?, 5),
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn places_are_known_in_both_texts() {
        let written = r"a\nb\u00e9\ud83d\ude00c\x\ud800";
        let inner = Inner::of(written).unwrap();
        assert_eq!(inner.text, "a\nbé\u{1f600}c\\x\\ud800", "what is no escape stays");
        for (meant, expected) in [
            ("a", "a"),
            ("\n", r"\n"),
            ("b", "b"),
            ("\nb", r"\nb"),
            ("é\u{1f600}", r"\u00e9\ud83d\ude00"),
            ("c\\x", r"c\x"),
        ] {
            let at = inner.text.find(meant).unwrap();
            assert_eq!(&written[inner.written(&(at..at + meant.len()))], expected);
        }
        assert_eq!((inner.whole(2..3), inner.whole(5..7), inner.whole(3..4)), (1..3, 4..10, 3..4));
        assert!(Inner::of("plain").is_none() && Inner::of(r"C:\x").is_none());
    }

    proptest! {
        #[test]
        fn it_is_what_a_reader_of_json_reads(text: String, from: usize, length in 0_usize..8) {
            let quoted = Value::from(text.as_str()).to_string();
            let written = &quoted[1..quoted.len() - 1];
            let Some(inner) = Inner::of(written) else {
                prop_assert_eq!(written, text);
                return Ok(());
            };
            prop_assert_eq!(&inner.text, &text);
            let start = text.floor_char_boundary(from % (text.len() + 1));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            if start < end {
                let part = &written[inner.written(&(start..end))];
                prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{part}\"")).unwrap(), &text[start..end]);
            }
        }
    }
}
