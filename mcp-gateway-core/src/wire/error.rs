//! Why a message is refused.

use std::fmt;

use super::rpc::code;

/// A message that is not let through, and where it went wrong.
///
/// Small and `Copy`: a refusal costs no allocation, so that a flood of bad messages stays cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeekError {
    fault: Fault,
    offset: usize,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// More bytes than [`Limits::max_bytes`](super::Limits::max_bytes).
    TooLarge,
    /// Not UTF-8 (RFC 8259 §8.1).
    NotUtf8,
    /// A byte order mark before the text (RFC 8259 §8.1).
    ByteOrderMark,
    /// Not JSON (RFC 8259).
    Syntax,
    /// The text ends inside a value.
    UnexpectedEnd,
    /// A raw control character in a string (RFC 8259 §7).
    ControlCharacter,
    /// Half of a surrogate pair as an escape; it names no character (RFC 8259 §8.2).
    LoneSurrogate,
    /// Something follows the value.
    TrailingData,
    /// Nested deeper than [`Limits::max_depth`](super::Limits::max_depth).
    TooDeep,
    /// An object has more members than [`Limits::max_members`](super::Limits::max_members).
    TooManyMembers,
    /// A string that is read is longer than [`Limits::max_string`](super::Limits::max_string).
    StringTooLong,
    /// A JSON array: batches are not accepted.
    Batch,
    /// A JSON value that is no object.
    NotObject,
    /// Two members of one object have the same name; parsers differ on which of them counts.
    RepeatedMember,
    /// A member differs from one that is read by letter case alone; some parsers take it for that one.
    CaseVariant,
    /// `jsonrpc` is absent or not `"2.0"`.
    BadVersion,
    /// `id` is `null` on a message that has a `method`.
    NullId,
    /// `id` is neither a string nor a number.
    BadId,
    /// `id` is longer than [`Limits::max_id`](super::Limits::max_id).
    IdTooLong,
    /// `method` is not a string.
    BadMethod,
    /// `params` is not an object.
    BadParams,
    /// `params._meta` is not an object.
    BadMeta,
    /// `error` is not an object.
    BadError,
    /// Members of a request and of a response, or both `result` and `error`, in one message.
    Ambiguous,
    /// Neither `method` nor `result` nor `error`, or a result without an id.
    NotAMessage,
    /// The member that names the target of this method (`name`, `uri`, `taskId`, `ref`) is absent or no string.
    NoTarget,
}

impl PeekError {
    /// A fault at a byte offset.
    pub(super) fn new(fault: Fault, offset: usize) -> Self {
        Self { fault, offset }
    }

    /// What is wrong.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Byte offset in the body at which it was noticed.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The JSON-RPC error code: not JSON, no acceptable message, or no target for the method (JSON-RPC 2.0 §5.1).
    #[must_use]
    pub fn code(&self) -> i64 {
        match self.fault {
            Fault::NotUtf8
            | Fault::ByteOrderMark
            | Fault::Syntax
            | Fault::UnexpectedEnd
            | Fault::ControlCharacter
            | Fault::LoneSurrogate
            | Fault::TrailingData => code::PARSE_ERROR,
            Fault::NoTarget => code::INVALID_PARAMS,
            _ => code::INVALID_REQUEST,
        }
    }

    /// A sentence for the caller. It says what to change and quotes nothing of the message.
    #[must_use]
    pub fn message(&self) -> &'static str {
        match self.fault {
            Fault::TooLarge => "Invalid Request: the message is too large",
            Fault::NotUtf8 => "Parse error: the body is not UTF-8",
            Fault::ByteOrderMark => "Parse error: the body starts with a byte order mark",
            Fault::Syntax => "Parse error: the body is not JSON",
            Fault::UnexpectedEnd => "Parse error: the body ends inside a JSON value",
            Fault::ControlCharacter => "Parse error: a control character in a string is not escaped",
            Fault::LoneSurrogate => "Parse error: half of a surrogate pair in a string",
            Fault::TrailingData => "Parse error: the body goes on after the JSON value",
            Fault::TooDeep => "Invalid Request: the message is nested too deeply",
            Fault::TooManyMembers => "Invalid Request: an object has too many members",
            Fault::StringTooLong => "Invalid Request: a string is too long",
            Fault::Batch => "Invalid Request: batches are not supported",
            Fault::NotObject => "Invalid Request: the message is not a JSON object",
            Fault::RepeatedMember => "Invalid Request: a member occurs twice in one object",
            Fault::CaseVariant => "Invalid Request: a member differs from a known one by letter case only",
            Fault::BadVersion => "Invalid Request: jsonrpc must be \"2.0\"",
            Fault::NullId => "Invalid Request: the id of a request must not be null",
            Fault::BadId => "Invalid Request: id must be a string or a number",
            Fault::IdTooLong => "Invalid Request: the id is too long",
            Fault::BadMethod => "Invalid Request: method must be a string",
            Fault::BadParams => "Invalid Request: params must be an object",
            Fault::BadMeta => "Invalid Request: params._meta must be an object",
            Fault::BadError => "Invalid Request: error must be an object",
            Fault::Ambiguous => {
                "Invalid Request: the message is both a request and a response, or both result and error"
            }
            Fault::NotAMessage => "Invalid Request: the message is no request, notification or response",
            Fault::NoTarget => "Invalid params: the member that names the target is missing or not a string",
        }
    }
}

impl fmt::Display for PeekError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {})", self.message(), self.offset)
    }
}

impl std::error::Error for PeekError {}
