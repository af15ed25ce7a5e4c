//! A JSON string as it stands in the body.

use std::borrow::Cow;
use std::cmp::Ordering;

/// The part between the quotes of a string whose escapes have been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) raw: &'a str,
    /// How many escapes there are. A whole word, because the copies of a flag and its padding stall the processor.
    pub(super) escapes: usize,
    /// Byte offset of `raw` in the body.
    pub(super) at: usize,
}

impl<'a> Text<'a> {
    /// The string that is meant. Borrowed unless it holds an escape.
    pub(super) fn decode(self) -> Cow<'a, str> {
        if self.escapes > 0 { Cow::Owned(self.chars().collect()) } else { Cow::Borrowed(self.raw) }
    }

    /// The characters that are meant.
    pub(super) fn chars(self) -> Chars<'a> {
        Chars { raw: self.raw.chars() }
    }

    pub(super) fn is(self, other: &str) -> bool {
        if self.escapes > 0 { self.chars().eq(other.chars()) } else { self.raw == other }
    }

    pub(super) fn same(self, other: Text<'_>) -> bool {
        if self.escapes + other.escapes > 0 { self.chars().eq(other.chars()) } else { self.raw == other.raw }
    }

    pub(super) fn order(self, other: Text<'_>) -> Ordering {
        if self.escapes + other.escapes > 0 { self.chars().cmp(other.chars()) } else { self.raw.cmp(other.raw) }
    }

    /// FNV-1a over the UTF-8 of what is meant.
    pub(super) fn hash(self) -> u32 {
        let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        if self.escapes == 0 {
            return self.raw.as_bytes().iter().fold(0x811c_9dc5, step);
        }
        let mut utf8 = [0; 4];
        self.chars().fold(0x811c_9dc5, |hash, c| c.encode_utf8(&mut utf8).as_bytes().iter().fold(hash, step))
    }

    /// Whether some parser that ignores case would take this string for `known`, which must be ASCII.
    pub(super) fn folds_to(self, known: &str) -> bool {
        if self.escapes == 0 && self.raw.is_ascii() {
            return self.raw.eq_ignore_ascii_case(known);
        }
        self.chars().map(fold).eq(known.chars().map(fold))
    }
}

/// Maps a character to the lower-case ASCII letter that it folds to.
///
/// Of all characters outside ASCII only U+017F and U+212A do so under Unicode simple case folding; the Turkish dotted
/// and dotless i do so in runtimes that compare by upper and lower case.
fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        c => c.to_ascii_lowercase(),
    }
}

/// Characters of a string, escapes resolved.
pub(super) struct Chars<'a> {
    raw: std::str::Chars<'a>,
}

impl Chars<'_> {
    fn unit(&mut self) -> u32 {
        (0..4).fold(0, |unit, _| unit << 4 | self.raw.next().and_then(|c| c.to_digit(16)).unwrap_or(0))
    }
}

impl Iterator for Chars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = self.raw.next()?;
        if c != '\\' {
            return Some(c);
        }
        Some(match self.raw.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let mut scalar = self.unit();
                if (0xd800..0xdc00).contains(&scalar) {
                    self.raw.nth(1);
                    scalar = 0x10000 + ((scalar - 0xd800) << 10) + (self.unit().wrapping_sub(0xdc00) & 0x3ff);
                }
                // The scanner has refused what is no pair; this arm is for readers of unchecked text.
                char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        })
    }
}
