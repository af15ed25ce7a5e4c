//! The scanner: RFC 8259 to the letter, over borrowed bytes, without recursion.

use std::ops::Range;

use super::bytes;
use super::error::{Fault, PeekError};
use super::limits::Limits;
use super::text::Text;

/// A position in a JSON text, and the bounds that hold for it.
pub(super) struct Json<'a> {
    text: &'a str,
    bytes: &'a [u8],
    pos: usize,
    limits: Limits,
}

/// How a member of an object that is read relates to the names that are looked for.
enum Name<T> {
    Known(usize, T),
    Unknown,
}

impl<'a> Json<'a> {
    /// Checks encoding and size of the whole text and stands before its first value.
    pub(super) fn new(body: &'a [u8], limits: &Limits) -> Result<Self, PeekError> {
        if body.len() > limits.max_bytes {
            return Err(PeekError::new(Fault::TooLarge, limits.max_bytes));
        }
        let text = std::str::from_utf8(body).map_err(|e| PeekError::new(Fault::NotUtf8, e.valid_up_to()))?;
        if body.starts_with(b"\xef\xbb\xbf") {
            return Err(PeekError::new(Fault::ByteOrderMark, 0));
        }
        let mut json = Self { text, bytes: body, pos: 0, limits: *limits };
        json.space();
        Ok(json)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    pub(super) fn fail<T>(&self, fault: Fault) -> Result<T, PeekError> {
        Err(PeekError::new(fault, self.pos))
    }

    /// What stands here is not what the grammar asks for.
    pub(super) fn unexpected<T>(&self) -> Result<T, PeekError> {
        self.fail(if self.pos < self.bytes.len() { Fault::Syntax } else { Fault::UnexpectedEnd })
    }

    pub(super) fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.pos += 1;
        }
    }

    /// Demands the end of the text.
    pub(super) fn end(&mut self) -> Result<(), PeekError> {
        self.space();
        if self.pos < self.bytes.len() { self.fail(Fault::TrailingData) } else { Ok(()) }
    }

    pub(super) fn eat(&mut self, byte: u8) -> Result<(), PeekError> {
        if self.peek() == Some(byte) {
            self.pos += 1;
            Ok(())
        } else {
            self.unexpected()
        }
    }

    pub(super) fn enter(&self, depth: u32) -> Result<(), PeekError> {
        if depth > self.limits.depth() { self.fail(Fault::TooDeep) } else { Ok(()) }
    }

    /// Reads a string of any length; stands on the opening quote.
    pub(super) fn string(&mut self) -> Result<Text<'a>, PeekError> {
        self.eat(b'"')?;
        let start = self.pos;
        let mut escapes = 0;
        loop {
            let rest = &self.bytes[self.pos..];
            self.pos += bytes::special(rest).unwrap_or(rest.len());
            match self.peek() {
                None => return self.unexpected(),
                Some(b'"') => {
                    let raw = &self.text[start..self.pos];
                    self.pos += 1;
                    return Ok(Text { raw, escapes, at: start });
                }
                Some(b'\\') => {
                    escapes += 1;
                    self.escape()?;
                }
                Some(_) => return self.fail(Fault::ControlCharacter),
            }
        }
    }

    /// Reads a string whose content somebody will look at.
    pub(super) fn bounded_string(&mut self) -> Result<Text<'a>, PeekError> {
        let text = self.string()?;
        if text.raw.len() > self.limits.max_string {
            return Err(PeekError::new(Fault::StringTooLong, text.at));
        }
        Ok(text)
    }

    fn escape(&mut self) -> Result<(), PeekError> {
        self.pos += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.pos += 1;
                Ok(())
            }
            Some(b'u') => {
                let start = self.pos - 1;
                let lone = Err(PeekError::new(Fault::LoneSurrogate, start));
                match self.unit()? {
                    0xd800..=0xdbff => {
                        if self.bytes.get(self.pos..self.pos + 2) != Some(b"\\u") {
                            return lone;
                        }
                        self.pos += 1;
                        if matches!(self.unit()?, 0xdc00..=0xdfff) { Ok(()) } else { lone }
                    }
                    0xdc00..=0xdfff => lone,
                    _ => Ok(()),
                }
            }
            _ => self.unexpected(),
        }
    }

    /// Reads the four digits after the `u` that it stands on.
    fn unit(&mut self) -> Result<u32, PeekError> {
        self.pos += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|b| char::from(b).to_digit(16)) else {
                return self.unexpected();
            };
            unit = unit << 4 | digit;
            self.pos += 1;
        }
        Ok(unit)
    }

    /// The text from an earlier position up to here.
    pub(super) fn since(&self, from: usize) -> &'a [u8] {
        &self.bytes[from..self.pos]
    }

    /// Reads a number that somebody will keep.
    pub(super) fn bounded_number(&mut self) -> Result<(), PeekError> {
        let start = self.pos;
        self.number()?;
        if self.pos - start > self.limits.max_string {
            return Err(PeekError::new(Fault::StringTooLong, start));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), PeekError> {
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        if self.peek() == Some(b'0') {
            self.pos += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.pos += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.pos += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), PeekError> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return self.unexpected();
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.pos += 1;
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), PeekError> {
        for &byte in word {
            self.eat(byte)?;
        }
        Ok(())
    }

    /// Reads a string, number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<(), PeekError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => self.unexpected(),
        }
    }

    /// Reads `"name" :` and the space around it.
    pub(super) fn key(&mut self) -> Result<Text<'a>, PeekError> {
        self.space();
        let key = self.string()?;
        self.space();
        self.eat(b':')?;
        self.space();
        Ok(key)
    }

    /// Reads any value inside a container of level `depth` and returns it as written.
    pub(super) fn raw(&mut self, depth: u32) -> Result<&'a [u8], PeekError> {
        let start = self.pos;
        self.walk(depth, &mut Blind)?;
        Ok(self.since(start))
    }

    /// Reads any value and tells `keys` about every member.
    pub(super) fn walk<K: Keys<'a>>(&mut self, depth: u32, keys: &mut K) -> Result<(), PeekError> {
        // One bit per open container, the innermost lowest: 1 is an object. 128 bits are enough for `Limits::DEEPEST`.
        let mut kinds = 0_u128;
        let mut open = 0;
        'value: loop {
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.enter(depth + open + 1)?;
                    self.pos += 1;
                    self.space();
                    let object = bracket == b'{';
                    if self.peek() == Some(if object { b'}' } else { b']' }) {
                        self.pos += 1;
                    } else {
                        kinds = kinds << 1 | u128::from(object);
                        open += 1;
                        if object {
                            keys.open();
                            keys.key(self.key()?)?;
                        }
                        continue;
                    }
                }
                _ => {
                    let start = self.pos;
                    self.scalar()?;
                    keys.scalar(start..self.pos);
                }
            }
            while open > 0 {
                self.space();
                let object = kinds & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.pos += 1;
                        if object {
                            keys.key(self.key()?)?;
                        } else {
                            self.space();
                        }
                        continue 'value;
                    }
                    Some(b'}') if object => keys.close()?,
                    Some(b']') if !object => {}
                    _ => return self.unexpected(),
                }
                self.pos += 1;
                kinds >>= 1;
                open -= 1;
            }
            return Ok(());
        }
    }

    /// Reads an object of level `depth` member by member; stands on its brace.
    ///
    /// `on` is called for each member that has one of the `known` names (at most 32, ASCII), with what it is paired with,
    /// and must read the value. Repeated members and case variants of known names are refused.
    pub(super) fn object<T, F>(&mut self, depth: u32, known: &[(&str, T)], mut on: F) -> Result<(), PeekError>
    where
        T: Copy,
        F: FnMut(&mut Self, T) -> Result<(), PeekError>,
    {
        self.enter(depth)?;
        self.eat(b'{')?;
        self.space();
        if self.peek() == Some(b'}') {
            self.pos += 1;
            return Ok(());
        }
        let mut seen = 0_u32;
        let mut others = Others::default();
        let mut members = 0;
        loop {
            let key = self.key()?;
            members += 1;
            if members > self.limits.max_members {
                return Err(PeekError::new(Fault::TooManyMembers, key.at));
            }
            match classify(key, known)? {
                Name::Known(index, member) => {
                    if seen & 1 << index != 0 {
                        return Err(PeekError::new(Fault::RepeatedMember, key.at));
                    }
                    seen |= 1 << index;
                    on(self, member)?;
                }
                Name::Unknown => {
                    others.add(key)?;
                    self.walk(depth, &mut Blind)?;
                }
            }
            self.space();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => {
                    self.pos += 1;
                    return Ok(());
                }
                _ => return self.unexpected(),
            }
        }
    }

    /// Reads an array of level `depth`; stands on its bracket. `on` must read each element.
    pub(super) fn array<F>(&mut self, depth: u32, mut on: F) -> Result<(), PeekError>
    where
        F: FnMut(&mut Self) -> Result<(), PeekError>,
    {
        self.enter(depth)?;
        self.eat(b'[')?;
        self.space();
        if self.peek() == Some(b']') {
            self.pos += 1;
            return Ok(());
        }
        loop {
            on(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => {
                    self.pos += 1;
                    return Ok(());
                }
                _ => return self.unexpected(),
            }
            self.space();
        }
    }
}

fn classify<T: Copy>(key: Text<'_>, known: &[(&str, T)]) -> Result<Name<T>, PeekError> {
    let plain = key.escapes == 0 && key.raw.is_ascii();
    for (index, (name, member)) in known.iter().enumerate() {
        // Most names differ in length, and a plain key is as long as what it means.
        if plain && key.raw.len() != name.len() {
            continue;
        }
        if key.is(name) {
            return Ok(Name::Known(index, *member));
        }
        if key.folds_to(name) {
            return Err(PeekError::new(Fault::CaseVariant, key.at));
        }
    }
    Ok(Name::Unknown)
}

/// Members of one object that nobody looks for, kept to find a repeated one.
#[derive(Default)]
struct Others<'a> {
    near: [Option<(u32, Text<'a>)>; 12],
    len: usize,
    far: Vec<(u32, Text<'a>)>,
}

impl<'a> Others<'a> {
    fn add(&mut self, key: Text<'a>) -> Result<(), PeekError> {
        // So that many long or escaped names are not compared one with each other.
        let hash = key.hash();
        let mut others = self.near[..self.len].iter().flatten().chain(&self.far);
        if others.any(|(other_hash, other)| *other_hash == hash && other.same(key)) {
            return Err(PeekError::new(Fault::RepeatedMember, key.at));
        }
        if let Some(slot) = self.near.get_mut(self.len) {
            *slot = Some((hash, key));
            self.len += 1;
        } else {
            self.far.push((hash, key));
        }
        Ok(())
    }
}

/// Who is told about the members of the objects that [`Json::walk`] passes.
pub(super) trait Keys<'a> {
    fn open(&mut self);
    fn key(&mut self, key: Text<'a>) -> Result<(), PeekError>;
    fn close(&mut self) -> Result<(), PeekError>;

    /// A string, with its quotes, a number, `true`, `false` or `null` stands here.
    fn scalar(&mut self, _: Range<usize>) {}
}

/// Nobody.
struct Blind;

impl<'a> Keys<'a> for Blind {
    fn open(&mut self) {}

    fn key(&mut self, _: Text<'a>) -> Result<(), PeekError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), PeekError> {
        Ok(())
    }
}
