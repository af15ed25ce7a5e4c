//! Reading one JSON-RPC message.

use std::borrow::Cow;

use super::error::{Fault, PeekError};
use super::json::Json;
use super::limits::Limits;
use super::message::{Id, Kind, Message, Meta, Params, Reference};
use super::method;

#[derive(Clone, Copy)]
enum TopMember {
    JsonRpc,
    Id,
    Method,
    Params,
    Result,
    Error,
}

const TOP: &[(&str, TopMember)] = &[
    ("jsonrpc", TopMember::JsonRpc),
    ("id", TopMember::Id),
    ("method", TopMember::Method),
    ("params", TopMember::Params),
    ("result", TopMember::Result),
    ("error", TopMember::Error),
];

#[derive(Clone, Copy)]
enum ParamsMember {
    Name,
    Uri,
    TaskId,
    Reference,
    Arguments,
    RequestState,
    RequestId,
    Meta,
    ProtocolVersion,
    Capabilities,
    ClientInfo,
}

const PARAMS: &[(&str, ParamsMember)] = &[
    ("name", ParamsMember::Name),
    ("arguments", ParamsMember::Arguments),
    ("_meta", ParamsMember::Meta),
    ("uri", ParamsMember::Uri),
    ("taskId", ParamsMember::TaskId),
    ("ref", ParamsMember::Reference),
    ("requestState", ParamsMember::RequestState),
    ("requestId", ParamsMember::RequestId),
    ("protocolVersion", ParamsMember::ProtocolVersion),
    ("capabilities", ParamsMember::Capabilities),
    ("clientInfo", ParamsMember::ClientInfo),
];

#[derive(Clone, Copy)]
enum MetaMember {
    ProtocolVersion,
    ClientInfo,
    ClientCapabilities,
    LogLevel,
    ProgressToken,
    TraceParent,
}

const META: &[(&str, MetaMember)] = &[
    ("io.modelcontextprotocol/protocolVersion", MetaMember::ProtocolVersion),
    ("io.modelcontextprotocol/clientInfo", MetaMember::ClientInfo),
    ("io.modelcontextprotocol/clientCapabilities", MetaMember::ClientCapabilities),
    ("io.modelcontextprotocol/logLevel", MetaMember::LogLevel),
    ("progressToken", MetaMember::ProgressToken),
    ("traceparent", MetaMember::TraceParent),
];

#[derive(Clone, Copy)]
enum ReferenceMember {
    Type,
    Name,
    Uri,
}

const REFERENCE: &[(&str, ReferenceMember)] =
    &[("type", ReferenceMember::Type), ("name", ReferenceMember::Name), ("uri", ReferenceMember::Uri)];

#[derive(Clone, Copy)]
enum ClientInfoMember {
    Name,
    Version,
}

const CLIENT_INFO: &[(&str, ClientInfoMember)] =
    &[("name", ClientInfoMember::Name), ("version", ClientInfoMember::Version)];

#[derive(Clone, Copy)]
enum ErrorMember {
    Code,
    Message,
}

const ERROR: &[(&str, ErrorMember)] = &[("code", ErrorMember::Code), ("message", ErrorMember::Message)];

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
    fn member(&mut self, json: &mut Json<'a>, member: TopMember) -> Result<(), PeekError> {
        match member {
            TopMember::JsonRpc => match json.peek() {
                Some(b'"') => {
                    let at = json.pos();
                    self.version = json.string()?.is("2.0");
                    if !self.version {
                        return Err(PeekError::new(Fault::BadVersion, at));
                    }
                }
                _ => return refuse(json, Fault::BadVersion),
            },
            TopMember::Id => {
                self.id = Some(match json.peek() {
                    Some(b'n') => {
                        json.raw(1)?;
                        None
                    }
                    _ => {
                        let at = json.pos();
                        match id(json)? {
                            Some(id) if id.raw().len() > json.limits().max_id => {
                                return Err(PeekError::new(Fault::IdTooLong, at));
                            }
                            Some(id) => Some(id),
                            None => return refuse(json, Fault::BadId),
                        }
                    }
                });
            }
            TopMember::Method => match text(json)? {
                Some(method) => self.method = Some(method),
                None => return refuse(json, Fault::BadMethod),
            },
            TopMember::Params if json.peek() == Some(b'{') => self.params = Some(params(json)?),
            TopMember::Params => return refuse(json, Fault::BadParams),
            TopMember::Result => {
                json.raw(1)?;
                self.result = true;
            }
            TopMember::Error if json.peek() == Some(b'{') => self.error = Some(error(json)?),
            TopMember::Error => return refuse(json, Fault::BadError),
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
        match member {
            ParamsMember::Name => params.name = text_or_skip(json, 2)?,
            ParamsMember::Uri => params.uri = text_or_skip(json, 2)?,
            ParamsMember::TaskId => params.task_id = text_or_skip(json, 2)?,
            ParamsMember::ProtocolVersion => params.protocol_version = text_or_skip(json, 2)?,
            ParamsMember::Arguments => params.arguments = Some(json.raw(2)?),
            ParamsMember::Capabilities => params.capabilities = Some(json.raw(2)?),
            ParamsMember::RequestState => params.request_state = Some(json.raw(2)?),
            ParamsMember::RequestId => params.request_id = id_or_skip(json, 2)?,
            ParamsMember::Meta if json.peek() == Some(b'{') => params.meta = Some(meta(json)?),
            ParamsMember::Meta => return refuse(json, Fault::BadMeta),
            ParamsMember::Reference if json.peek() == Some(b'{') => params.reference = Some(reference(json)?),
            ParamsMember::ClientInfo if json.peek() == Some(b'{') => {
                (params.client_name, params.client_version) = client_info(json, 3)?;
            }
            ParamsMember::Reference | ParamsMember::ClientInfo => json.raw(2).map(drop)?,
        }
        Ok(())
    })?;
    params.raw = json.since(from);
    Ok(params)
}

fn meta<'a>(json: &mut Json<'a>) -> Result<Meta<'a>, PeekError> {
    let mut meta = Meta::default();
    json.object(3, META, |json, member| {
        match member {
            MetaMember::ProtocolVersion => meta.protocol_version = text_or_skip(json, 3)?,
            MetaMember::ClientInfo if json.peek() == Some(b'{') => {
                (meta.client_name, meta.client_version) = client_info(json, 4)?;
            }
            MetaMember::ClientCapabilities => {
                meta.client_capabilities = json.peek() == Some(b'{');
                json.raw(3)?;
            }
            MetaMember::LogLevel => {
                meta.log_level = json.peek() == Some(b'"');
                json.raw(3)?;
            }
            MetaMember::ProgressToken => meta.progress_token = id_or_skip(json, 3)?,
            MetaMember::TraceParent => meta.traceparent = text_or_skip(json, 3)?,
            MetaMember::ClientInfo => json.raw(3).map(drop)?,
        }
        Ok(())
    })?;
    Ok(meta)
}

fn reference<'a>(json: &mut Json<'a>) -> Result<Reference<'a>, PeekError> {
    let mut reference = Reference::default();
    json.object(3, REFERENCE, |json, member| {
        let slot = match member {
            ReferenceMember::Type => &mut reference.kind,
            ReferenceMember::Name => &mut reference.name,
            ReferenceMember::Uri => &mut reference.uri,
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
        let slot = match member {
            ClientInfoMember::Name => &mut info.0,
            ClientInfoMember::Version => &mut info.1,
        };
        *slot = text_or_skip(json, depth)?;
        Ok(())
    })?;
    Ok(info)
}

fn error(json: &mut Json<'_>) -> Result<Option<i64>, PeekError> {
    let mut code = None;
    json.object(2, ERROR, |json, member| {
        let raw = json.raw(2)?;
        match member {
            ErrorMember::Code => code = integer(raw),
            ErrorMember::Message => {}
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

#[cfg(test)]
mod tests;
