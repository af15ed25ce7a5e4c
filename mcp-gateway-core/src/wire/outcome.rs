//! How a response ended, from its chunks as they pass, without keeping them.
//!
//! The scanner looks at the top level of a message, at `error` and at `result`, and skips the rest. It keeps at most a
//! few hundred bytes. It trusts the grammar: what is no JSON ends as [`Outcome::Opaque`] or as what its readable part
//! says, and never as a failure of the gateway.

use super::bytes::quote_or_backslash;
use super::id::same_id;
use super::message::Kind;
use super::text::Text;

/// How a call ended, as its response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// A result.
    Ok,
    /// A tool result with `isError: true`.
    ToolError,
    /// A JSON-RPC error.
    RpcError {
        /// `error.code`, 0 if it is no 64-bit integer.
        code: i64,
    },
    /// A result that asks the client for input (`resultType: input_required`).
    InputRequired,
    /// A result that stands for a task (`resultType: task`).
    Task,
    /// An array of messages.
    Batch,
    /// No response, or none that can be read.
    Opaque,
}

/// Most bytes of an id that are kept, as written; a longer id counts as unknown unless it may be the
/// [expected](Scanner::answering) one.
pub const MAX_ID: usize = 256;

/// How much longer a string can be with every character escaped.
const ESCAPED: usize = 6;

/// Most bytes of `error.message` that are kept.
pub const MAX_ERROR_MESSAGE: usize = 256;

/// Most bytes of a method that are kept; a longer one counts as unknown.
pub const MAX_METHOD: usize = 128;

/// Reads one JSON-RPC message from chunks of any size.
///
/// # Example
///
/// ```
/// use mcp_gateway_core::wire::outcome::{Outcome, Scanner};
///
/// let mut scanner = Scanner::new();
/// scanner.push(br#"{"jsonrpc":"2.0","id":7,"result":{"content":[],"isEr"#);
/// scanner.push(br#"ror":true}}"#);
/// assert_eq!(scanner.outcome(), Outcome::ToolError);
/// assert_eq!(scanner.id(), Some(&b"7"[..]));
/// ```
#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    level: Level,
    /// Containers that are open below the level that is read.
    skipped: u32,
    /// The member whose value is being read.
    member: Member,
    /// The name or value that is being read, and whether it was cut.
    capture: Capture,
    facts: Facts,
    /// Bytes of an id that are kept beyond [`MAX_ID`].
    more_id: usize,
}

#[derive(Debug, Default)]
struct Facts {
    id: Option<Vec<u8>>,
    has_id: bool,
    method: Option<String>,
    has_method: bool,
    has_result: bool,
    is_error: bool,
    result_type: ResultType,
    error: Option<Option<i64>>,
    error_message: Option<String>,
    batch: bool,
    complete: bool,
    broken: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the message.
    #[default]
    Start,
    /// Before a member name or the end of the object.
    Name,
    /// In a member name.
    InName(Escape),
    /// Between a member name and its value.
    Value,
    /// In a string that is kept.
    InString(Escape),
    /// In a number or word that is kept.
    InScalar,
    /// In a value that is skipped, outside strings.
    Skip,
    /// In a string of a value that is skipped.
    SkipString(Escape),
    /// The message is over, or nothing more can be learned.
    Done,
}

/// Whether the last byte was a backslash that escapes the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    No,
    Yes,
}

/// Which object the scanner is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Top,
    Result,
    Error,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Member {
    #[default]
    Other,
    Id,
    Method,
    Result,
    Error,
    IsError,
    ResultType,
    Code,
    Message,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ResultType {
    #[default]
    Complete,
    InputRequired,
    Task,
}

impl Scanner {
    /// A scanner before the first byte of a message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, for a message that may answer the request with this id: as much of an id is kept as that one may take,
    /// however it is written.
    #[must_use]
    pub fn answering(id: Option<&[u8]>) -> Self {
        let longest = id.map_or(0, |id| id.len().saturating_mul(ESCAPED));
        Self { more_id: longest.saturating_sub(MAX_ID), ..Self::default() }
    }

    /// Whether the message is the response to the request with this id.
    #[must_use]
    pub fn answers(&self, id: Option<&[u8]>) -> bool {
        self.kind() == Some(Kind::Response) && id.zip(self.id()).is_some_and(|(asked, id)| same_id(asked, id))
    }

    /// Takes the next bytes. Never fails; any cut of the message into chunks gives the same answers.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() && self.state != State::Done {
            let used = self.step(rest);
            rest = &rest[used..];
        }
    }

    /// Whether later bytes cannot change the answers any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How the message ended. [`Outcome::Opaque`] until a response is complete.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let facts = &self.facts;
        if facts.batch {
            return Outcome::Batch;
        }
        if facts.broken || !facts.complete || facts.has_method {
            return Outcome::Opaque;
        }
        match (facts.error, facts.has_result) {
            (Some(code), _) => Outcome::RpcError { code: code.unwrap_or_default() },
            (None, false) => Outcome::Opaque,
            (None, true) => match facts.result_type {
                ResultType::InputRequired => Outcome::InputRequired,
                ResultType::Task => Outcome::Task,
                ResultType::Complete if facts.is_error => Outcome::ToolError,
                ResultType::Complete => Outcome::Ok,
            },
        }
    }

    /// Which message it is; `None` until it is complete, and if it is none or several at once.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        let facts = &self.facts;
        if facts.batch || facts.broken || !facts.complete {
            return None;
        }
        match (facts.has_method, facts.has_result || facts.error.is_some()) {
            (true, false) if facts.has_id => Some(Kind::Request),
            (true, false) => Some(Kind::Notification),
            (false, true) => Some(Kind::Response),
            _ => None,
        }
    }

    /// Whether it is a response as far as it has come: it has a result or an error, and no method yet.
    pub(crate) fn is_response_so_far(&self) -> bool {
        let facts = &self.facts;
        let answers = facts.has_result || facts.error.is_some();
        answers && !(facts.batch || facts.broken || facts.has_method)
    }

    /// The raw JSON of the id, if it is a string or a number of at most [`MAX_ID`] bytes, or not longer than the
    /// [expected](Self::answering) one can be.
    #[must_use]
    pub fn id(&self) -> Option<&[u8]> {
        self.facts.id.as_deref()
    }

    /// The method of a request or notification, if it has at most [`MAX_METHOD`] bytes.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.facts.method.as_deref()
    }

    /// The first [`MAX_ERROR_MESSAGE`] bytes of `error.message`. Foreign text: show it through
    /// [`Untrusted`](super::untrusted::Untrusted).
    #[must_use]
    pub fn error_message(&self) -> Option<&str> {
        self.facts.error_message.as_deref()
    }

    /// Reads at least one byte and returns how many were read.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        match self.state {
            State::InName(escape) | State::InString(escape) => return self.string(bytes, escape),
            State::SkipString(escape) => return self.skip_string(bytes, escape),
            State::Skip => return self.skip(bytes),
            State::InScalar => {
                if !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r') {
                    self.capture.push(byte);
                    return 1;
                }
                self.value_ends(false);
                return 0;
            }
            State::Start => match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {}
                b'{' => self.state = State::Name,
                b'[' => {
                    self.facts.batch = true;
                    self.state = State::Done;
                }
                _ => self.give_up(),
            },
            State::Name => match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => {}
                b'"' => {
                    self.capture.start(MAX_NAME);
                    self.state = State::InName(Escape::No);
                }
                b'}' => self.object_ends(),
                _ => self.give_up(),
            },
            State::Value => self.value_begins(byte),
            State::Done => return bytes.len(),
        }
        1
    }

    fn give_up(&mut self) {
        self.facts.broken = true;
        self.state = State::Done;
    }

    /// In a name or string that is kept.
    fn string(&mut self, bytes: &[u8], escape: Escape) -> usize {
        let in_name = matches!(self.state, State::InName(_));
        let next = |escape| if in_name { State::InName(escape) } else { State::InString(escape) };
        if escape == Escape::Yes {
            self.capture.push(bytes[0]);
            self.state = next(Escape::No);
            return 1;
        }
        let Some(end) = quote_or_backslash(bytes) else {
            self.capture.extend(bytes);
            return bytes.len();
        };
        self.capture.extend(&bytes[..end]);
        if bytes[end] == b'\\' {
            self.capture.push(b'\\');
            self.state = next(Escape::Yes);
        } else if in_name {
            self.member = self.named();
            self.state = State::Value;
        } else {
            self.value_ends(true);
        }
        end + 1
    }

    fn skip_string(&mut self, bytes: &[u8], escape: Escape) -> usize {
        match string_end(bytes, escape) {
            Ok(end) => {
                self.state = if self.skipped > 0 { State::Skip } else { State::Name };
                end
            }
            Err(escape) => {
                self.state = State::SkipString(escape);
                bytes.len()
            }
        }
    }

    /// In a value that is skipped: only brackets and strings matter.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            at += 1;
            match CLASSES[usize::from(byte)] {
                Class::Plain => {}
                Class::Quote => match string_end(&bytes[at..], Escape::No) {
                    Ok(length) if self.skipped > 0 => at += length,
                    Ok(length) => {
                        self.state = State::Name;
                        return at + length;
                    }
                    Err(escape) => {
                        self.state = State::SkipString(escape);
                        return bytes.len();
                    }
                },
                Class::Open => self.skipped = self.skipped.saturating_add(1),
                Class::Close if self.skipped > 1 => self.skipped -= 1,
                Class::Close => {
                    // A number or word at the level that is read ends with its object, which is still to be closed.
                    at -= usize::from(self.skipped == 0);
                    self.skipped = 0;
                    self.state = State::Name;
                    return at;
                }
                Class::Comma if self.skipped > 0 => {}
                Class::Comma => {
                    self.state = State::Name;
                    return at;
                }
            }
        }
        at
    }

    /// Which member the captured name stands for on this level.
    fn named(&self) -> Member {
        let known: &[(&str, Member)] = match self.level {
            Level::Top => {
                &[("id", Member::Id), ("method", Member::Method), ("result", Member::Result), ("error", Member::Error)]
            }
            Level::Result => &[("isError", Member::IsError), ("resultType", Member::ResultType)],
            Level::Error => &[("code", Member::Code), ("message", Member::Message)],
        };
        let raw = &self.capture.bytes;
        if let Some((_, member)) = known.iter().find(|(known, _)| known.as_bytes() == raw) {
            return *member;
        }
        // Spelled otherwise, it is a known one only by escapes.
        if !raw.contains(&b'\\') {
            return Member::Other;
        }
        let Some(name) = self.capture.text() else { return Member::Other };
        known.iter().find(|(known, _)| name.is(known)).map_or(Member::Other, |(_, member)| *member)
    }

    fn value_begins(&mut self, byte: u8) {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b':') {
            return;
        }
        let facts = &mut self.facts;
        // A repeated member counts as its last value.
        let limit = match self.member {
            Member::Other => 0,
            Member::Id => {
                facts.has_id = byte != b'n';
                facts.id = None;
                MAX_ID + self.more_id
            }
            Member::Method => {
                facts.has_method = true;
                facts.method = None;
                // Room for escapes; the decoded text is measured again.
                MAX_METHOD * 6
            }
            Member::Result => {
                facts.has_result = true;
                facts.is_error = false;
                facts.result_type = ResultType::Complete;
                0
            }
            Member::Error => {
                facts.error = Some(None);
                facts.error_message = None;
                0
            }
            Member::IsError | Member::ResultType | Member::Code => MAX_NAME,
            Member::Message => MAX_ERROR_MESSAGE * 6,
        };
        match (self.member, byte) {
            (Member::Result, b'{') => {
                self.level = Level::Result;
                self.state = State::Name;
            }
            (Member::Error, b'{') => {
                self.level = Level::Error;
                self.state = State::Name;
            }
            (_, b'{' | b'[') => {
                self.forget();
                self.skipped = 1;
                self.state = State::Skip;
            }
            (_, b'"') if limit == 0 => self.state = State::SkipString(Escape::No),
            (_, b'"') => {
                self.capture.start(limit);
                self.state = State::InString(Escape::No);
            }
            (_, b',' | b'}' | b']') => self.give_up(),
            _ if limit == 0 => self.state = State::Skip,
            _ => {
                self.capture.start(limit);
                self.capture.push(byte);
                self.state = State::InScalar;
            }
        }
    }

    /// The member has a value of a type that says nothing.
    fn forget(&mut self) {
        match self.member {
            Member::IsError => self.facts.is_error = false,
            Member::ResultType => self.facts.result_type = ResultType::Complete,
            Member::Code => self.facts.error = Some(None),
            Member::Message => self.facts.error_message = None,
            _ => {}
        }
    }

    /// A string, number or word that was kept has ended.
    fn value_ends(&mut self, is_string: bool) {
        self.state = State::Name;
        self.forget();
        let capture = &self.capture;
        let facts = &mut self.facts;
        match self.member {
            Member::Id => facts.id = capture.id(is_string),
            Member::Method if is_string => {
                facts.method = capture.text().map(|text| text.decode().into_owned()).filter(|m| m.len() <= MAX_METHOD);
            }
            Member::IsError => facts.is_error = !is_string && capture.bytes == b"true",
            Member::ResultType if is_string => {
                if let Some(text) = capture.text() {
                    facts.result_type = match () {
                        () if text.is("input_required") => ResultType::InputRequired,
                        () if text.is("task") => ResultType::Task,
                        () => ResultType::Complete,
                    };
                }
            }
            Member::Code if !is_string && !capture.cut => {
                facts.error = Some(super::peeker::integer(&capture.bytes));
            }
            Member::Message if is_string => facts.error_message = Some(capture.start_of_text()),
            _ => {}
        }
    }

    fn object_ends(&mut self) {
        if self.level == Level::Top {
            self.facts.complete = true;
            self.state = State::Done;
        } else {
            self.level = Level::Top;
            self.state = State::Name;
        }
    }
}

/// What a byte outside strings means to a reader that skips.
#[derive(Clone, Copy)]
enum Class {
    Plain,
    Quote,
    Open,
    Close,
    Comma,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    classes[b'"' as usize] = Class::Quote;
    classes[b'{' as usize] = Class::Open;
    classes[b'[' as usize] = Class::Open;
    classes[b'}' as usize] = Class::Close;
    classes[b']' as usize] = Class::Close;
    classes[b',' as usize] = Class::Comma;
    classes
};

/// The length of the rest of a string with its closing quote, or how it stands at the end of the bytes.
fn string_end(bytes: &[u8], escape: Escape) -> Result<usize, Escape> {
    let mut at = usize::from(escape == Escape::Yes);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        match quote_or_backslash(rest).map(|found| (found, rest[found])) {
            None => return Err(Escape::No),
            Some((found, b'"')) => return Ok(at + found + 1),
            Some((found, _)) if found + 1 == rest.len() => return Err(Escape::Yes),
            Some((found, _)) => at += found + 2,
        }
    }
}

/// Most bytes of a name or of a short value that are looked at; every known one fits even if all of it is escaped.
const MAX_NAME: usize = 96;

/// The first bytes of what is being read.
#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    limit: usize,
    cut: bool,
}

impl Capture {
    fn start(&mut self, limit: usize) {
        self.bytes.clear();
        self.limit = limit;
        self.cut = false;
    }

    fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = self.limit - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The whole string, if it was not cut and is UTF-8.
    fn text(&self) -> Option<Text<'_>> {
        let raw = std::str::from_utf8(&self.bytes).ok().filter(|_| !self.cut)?;
        Some(Text { raw, escapes: raw.matches('\\').count(), at: 0 })
    }

    /// As much of the string as is kept of a message.
    fn start_of_text(&self) -> String {
        let raw = String::from_utf8_lossy(&self.bytes);
        let mut start = String::new();
        for c in (Text { raw: &raw, escapes: 1, at: 0 }).chars() {
            if start.len() + c.len_utf8() > MAX_ERROR_MESSAGE {
                break;
            }
            start.push(c);
        }
        start
    }

    /// The raw JSON of an id.
    fn id(&self, is_string: bool) -> Option<Vec<u8>> {
        if self.cut {
            return None;
        }
        if is_string {
            return Some([b"\"", &self.bytes[..], b"\""].concat()).filter(|id| id.len() <= self.limit);
        }
        matches!(self.bytes.first(), Some(b'-' | b'0'..=b'9')).then(|| self.bytes.clone())
    }
}

#[cfg(test)]
mod tests;
