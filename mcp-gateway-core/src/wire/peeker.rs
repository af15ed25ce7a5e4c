//! Reading one JSON-RPC message.

use std::borrow::Cow;

use super::error::{Fault, PeekError};
use super::json::Json;
use super::limits::Limits;
use super::message::{Id, Kind, Message, Meta, Params, Reference};
use super::method;

const TOP: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: &[&str] = &[
    "name",
    "uri",
    "taskId",
    "ref",
    "arguments",
    "requestState",
    "requestId",
    "_meta",
    "protocolVersion",
    "clientInfo",
];
const META: &[&str] = &[
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/logLevel",
    "progressToken",
    "traceparent",
];
const REFERENCE: &[&str] = &["type", "name", "uri"];
const CLIENT_INFO: &[&str] = &["name", "version"];
const ERROR: &[&str] = &["code", "message"];

/// Reads one JSON-RPC 2.0 message in one pass, strictly, without copying it.
///
/// Accepts exactly one JSON object that is a request, a notification or a response. Allocates only for strings with
/// escapes and for objects with more than twelve members that nobody reads.
///
/// What a server might read in another way than this function does is refused: repeated members and case variants of
/// known members wherever members are read, arrays, byte order marks, half surrogate pairs, trailing data.
///
/// # Errors
///
/// The first fault that is found; see [`Fault`]. Whatever `serde_json` refuses is refused.
///
/// # Example
///
/// ```
/// use mcp_gateway_core::wire::{Kind, Limits, peek};
///
/// let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools\u002fcall","params":{"name":"echo"}}"#;
/// let message = peek(body, &Limits::default())?;
/// assert_eq!(message.kind, Kind::Request);
/// assert_eq!(message.method(), "tools/call");
/// assert_eq!(message.target(), Some("echo"));
/// # Ok::<(), mcp_gateway_core::wire::PeekError>(())
/// ```
pub fn peek<'a>(body: &'a [u8], limits: &Limits) -> Result<Message<'a>, PeekError> {
    let mut json = Json::new(body, limits)?;
    match json.peek() {
        Some(b'{') => {}
        Some(b'[') => return json.fail(Fault::Batch),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            json.raw(0)?;
            json.end()?;
            return Err(PeekError::new(Fault::NotObject, 0));
        }
        _ => return json.unexpected(),
    }
    let start = json.pos();
    let mut top = Top::default();
    json.object(1, TOP, |json, member| top.member(json, member))?;
    json.end()?;
    top.finish().map_err(|fault| PeekError::new(fault, start))
}

/// The message as far as it has been read.
#[derive(Default)]
struct Top<'a> {
    version: bool,
    id: Option<Option<Id<'a>>>,
    method: Option<Cow<'a, str>>,
    params: Option<Params<'a>>,
    result: bool,
    error: Option<Option<i64>>,
}

impl<'a> Top<'a> {
    fn member(&mut self, json: &mut Json<'a>, member: usize) -> Result<(), PeekError> {
        match TOP[member] {
            "jsonrpc" => match json.peek() {
                Some(b'"') => {
                    let at = json.pos();
                    self.version = json.string()?.is("2.0");
                    if !self.version {
                        return Err(PeekError::new(Fault::BadVersion, at));
                    }
                }
                _ => return refuse(json, Fault::BadVersion),
            },
            "id" => {
                self.id = Some(match json.peek() {
                    Some(b'n') => {
                        json.raw(1)?;
                        None
                    }
                    _ => match id(json)? {
                        Some(id) => Some(id),
                        None => return refuse(json, Fault::BadId),
                    },
                });
            }
            "method" => match text(json)? {
                Some(method) => self.method = Some(method),
                None => return refuse(json, Fault::BadMethod),
            },
            "params" if json.peek() == Some(b'{') => self.params = Some(params(json)?),
            "params" => return refuse(json, Fault::BadParams),
            "result" => {
                json.raw(1)?;
                self.result = true;
            }
            _ if json.peek() == Some(b'{') => self.error = Some(error(json)?),
            _ => return refuse(json, Fault::BadError),
        }
        Ok(())
    }

    fn finish(self) -> Result<Message<'a>, Fault> {
        if !self.version {
            return Err(Fault::BadVersion);
        }
        let is_error = self.error.is_some();
        let (kind, id) = match (&self.method, self.result, is_error) {
            (Some(_), false, false) => match self.id {
                None => (Kind::Notification, None),
                Some(None) => return Err(Fault::NullId),
                Some(id) => (Kind::Request, id),
            },
            (None, true, false) => match self.id.flatten() {
                None => return Err(Fault::NotAMessage),
                id => (Kind::Response, id),
            },
            (None, false, true) => (Kind::Response, self.id.flatten()),
            (None, false, false) => return Err(Fault::NotAMessage),
            _ => return Err(Fault::Ambiguous),
        };
        if kind == Kind::Response && self.params.is_some() {
            return Err(Fault::Ambiguous);
        }
        let error_code = self.error.flatten();
        let message = Message { kind, id, method: self.method, params: self.params, error_code, is_error };
        if method::target(message.method()).is_some() && message.target().is_none() {
            return Err(Fault::NoTarget);
        }
        Ok(message)
    }
}

fn params<'a>(json: &mut Json<'a>) -> Result<Params<'a>, PeekError> {
    let mut params = Params::default();
    let from = json.pos();
    json.object(2, PARAMS, |json, member| {
        match PARAMS[member] {
            "name" => params.name = text_or_skip(json, 2)?,
            "uri" => params.uri = text_or_skip(json, 2)?,
            "taskId" => params.task_id = text_or_skip(json, 2)?,
            "protocolVersion" => params.protocol_version = text_or_skip(json, 2)?,
            "arguments" => params.arguments = Some(json.raw(2)?),
            "requestState" => params.request_state = Some(json.raw(2)?),
            "requestId" => params.request_id = id_or_skip(json, 2)?,
            "_meta" if json.peek() == Some(b'{') => params.meta = Some(meta(json)?),
            "_meta" => return refuse(json, Fault::BadMeta),
            "ref" if json.peek() == Some(b'{') => params.reference = Some(reference(json)?),
            "clientInfo" if json.peek() == Some(b'{') => {
                (params.client_name, params.client_version) = client_info(json, 3)?;
            }
            _ => json.raw(2).map(drop)?,
        }
        Ok(())
    })?;
    params.raw = json.since(from);
    Ok(params)
}

fn meta<'a>(json: &mut Json<'a>) -> Result<Meta<'a>, PeekError> {
    let mut meta = Meta::default();
    json.object(3, META, |json, member| {
        match META[member] {
            "io.modelcontextprotocol/protocolVersion" => meta.protocol_version = text_or_skip(json, 3)?,
            "io.modelcontextprotocol/clientInfo" if json.peek() == Some(b'{') => {
                (meta.client_name, meta.client_version) = client_info(json, 4)?;
            }
            "io.modelcontextprotocol/clientCapabilities" => {
                meta.client_capabilities = json.peek() == Some(b'{');
                json.raw(3)?;
            }
            "io.modelcontextprotocol/logLevel" => {
                meta.log_level = json.peek() == Some(b'"');
                json.raw(3)?;
            }
            "progressToken" => meta.progress_token = id_or_skip(json, 3)?,
            "traceparent" => meta.traceparent = text_or_skip(json, 3)?,
            _ => json.raw(3).map(drop)?,
        }
        Ok(())
    })?;
    Ok(meta)
}

fn reference<'a>(json: &mut Json<'a>) -> Result<Reference<'a>, PeekError> {
    let mut reference = Reference::default();
    json.object(3, REFERENCE, |json, member| {
        let slot = match REFERENCE[member] {
            "type" => &mut reference.kind,
            "name" => &mut reference.name,
            _ => &mut reference.uri,
        };
        *slot = text_or_skip(json, 3)?;
        Ok(())
    })?;
    Ok(reference)
}

type Texts<'a> = (Option<Cow<'a, str>>, Option<Cow<'a, str>>);

fn client_info<'a>(json: &mut Json<'a>, depth: u32) -> Result<Texts<'a>, PeekError> {
    let mut info = (None, None);
    json.object(depth, CLIENT_INFO, |json, member| {
        *(if member == 0 { &mut info.0 } else { &mut info.1 }) = text_or_skip(json, depth)?;
        Ok(())
    })?;
    Ok(info)
}

fn error(json: &mut Json<'_>) -> Result<Option<i64>, PeekError> {
    let mut code = None;
    json.object(2, ERROR, |json, member| {
        let raw = json.raw(2)?;
        if member == 0 {
            code = integer(raw);
        }
        Ok(())
    })?;
    Ok(code)
}

/// A JSON number without fraction and exponent, if it fits.
pub(super) fn integer(raw: &[u8]) -> Option<i64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// A string, or nothing read.
fn text<'a>(json: &mut Json<'a>) -> Result<Option<Cow<'a, str>>, PeekError> {
    match json.peek() {
        Some(b'"') => Ok(Some(json.bounded_string()?.decode())),
        _ => Ok(None),
    }
}

fn text_or_skip<'a>(json: &mut Json<'a>, depth: u32) -> Result<Option<Cow<'a, str>>, PeekError> {
    let text = text(json)?;
    if text.is_none() {
        json.raw(depth)?;
    }
    Ok(text)
}

/// A string or number as written, or nothing read.
fn id<'a>(json: &mut Json<'a>) -> Result<Option<Id<'a>>, PeekError> {
    let from = json.pos();
    match json.peek() {
        Some(b'"') => drop(json.bounded_string()?),
        Some(b'-' | b'0'..=b'9') => json.bounded_number()?,
        _ => return Ok(None),
    }
    Ok(Some(Id::new(json.since(from))))
}

fn id_or_skip<'a>(json: &mut Json<'a>, depth: u32) -> Result<Option<Id<'a>>, PeekError> {
    let id = id(json)?;
    if id.is_none() {
        json.raw(depth)?;
    }
    Ok(id)
}

/// Refuses a value of the wrong type, or what is no value at all as such.
fn refuse<T>(json: &mut Json<'_>, fault: Fault) -> Result<T, PeekError> {
    let at = json.pos();
    json.raw(1)?;
    Err(PeekError::new(fault, at))
}
