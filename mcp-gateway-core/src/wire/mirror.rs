//! The headers that mirror the body since revision 2026-07-28, compared with the body.
//!
//! A gateway may decide by `Mcp-Method` and `Mcp-Name` without reading the body. That is sound only if somebody who has
//! read the body refuses a request whose headers say something else, and if those headers mean nothing under the
//! earlier revisions, where nobody compares them.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::message::{Kind, Message};
use super::method::Method;
use super::rpc::code;
use super::version::{Claim, HeaderError, MCP_PROTOCOL_VERSION, claimed_era, text};

/// `Mcp-Method`: the method.
pub const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");

/// `Mcp-Name`: the tool or prompt, the resource, or the task.
pub const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// What the names of headers that mirror a tool's arguments begin with.
pub const MCP_PARAM_PREFIX: &str = "mcp-param-";

/// Longest `Mcp-Name` that is compared, in bytes as sent. Longer ones are refused before any decoding.
pub const MAX_NAME: usize = 16 << 10;

const ENCODED_PREFIX: &str = "=?base64?";
const ENCODED_SUFFIX: &str = "?=";

/// Headers and body disagree, or one of them lacks what the other needs. Always answered with HTTP 400.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MirrorError {
    /// The headers cannot be read in one way only.
    Header(HeaderError),
    /// A header that the body requires is absent.
    Missing(HeaderName),
    /// The value is longer than [`MAX_NAME`], or is no base64 of UTF-8 although it is marked as such.
    Malformed(HeaderName),
    /// The header says something else than the body.
    Mismatch(HeaderName),
    /// The header names a revision whose requests carry their version in `_meta`, and this one does not.
    NoMetaVersion,
}

impl MirrorError {
    /// The JSON-RPC error code that the specification gives to this fault.
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Self::NoMetaVersion => code::INVALID_PARAMS,
            _ => code::HEADER_MISMATCH,
        }
    }

    /// `error.data`: the header in question.
    #[must_use]
    pub fn data(&self) -> Option<Value> {
        self.header().map(|header| json!({ "header": header }))
    }

    fn header(&self) -> Option<&str> {
        match self {
            Self::Header(HeaderError::Repeated(name) | HeaderError::NotText(name))
            | Self::Missing(name)
            | Self::Malformed(name)
            | Self::Mismatch(name) => Some(canonical(name)),
            Self::NoMetaVersion => None,
        }
    }
}

/// A sentence for the caller; it quotes no value.
impl fmt::Display for MirrorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.header().unwrap_or_default();
        match self {
            Self::Header(HeaderError::Repeated(_)) => write!(f, "Header mismatch: {name} occurs more than once"),
            Self::Header(HeaderError::NotText(_)) => write!(f, "Header mismatch: {name} is not visible ASCII"),
            Self::Missing(_) => write!(f, "Header mismatch: {name} is required and missing"),
            Self::Malformed(_) => write!(f, "Header mismatch: {name} is malformed"),
            Self::Mismatch(_) => write!(f, "Header mismatch: {name} does not match the body"),
            Self::NoMetaVersion => f.write_str(
                "Invalid params: request _meta is missing or has a malformed required field: \
                 io.modelcontextprotocol/protocolVersion",
            ),
        }
    }
}

impl std::error::Error for MirrorError {}

impl From<HeaderError> for MirrorError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}

/// Compares the mirrored headers of a request with the message in its body.
///
/// Under any claim, a request whose `_meta` states a version must have the equal header: otherwise a caller could hide a
/// modern request from everything that goes by headers. Under a known modern claim the request must state its version,
/// `Mcp-Method` must be present and equal, and `Mcp-Name` must be so where the specification defines it.
/// `initialize` and notifications need none of these headers, but one that is there must be right.
/// `Mcp-Param-*` are not read, because only the server has the schema that gives them a meaning.
///
/// # Errors
///
/// See [`MirrorError`].
pub fn check(headers: &HeaderMap, message: &Message<'_>) -> Result<(), MirrorError> {
    check_claim(claimed_era(headers), headers, message)
}

/// The same of headers whose claim was read already.
pub(crate) fn check_claim(
    claim: Result<Claim, HeaderError>,
    headers: &HeaderMap,
    message: &Message<'_>,
) -> Result<(), MirrorError> {
    let claim = claim?;
    let Some(method) = message.method.as_deref() else { return Ok(()) };
    let known = Method::parse(method);
    let handshake = known == Some(Method::Initialize);
    let required = message.kind == Kind::Request && !handshake;

    if !handshake {
        let stated = message.meta().and_then(|meta| meta.protocol_version.as_deref());
        match (stated, text(headers, &MCP_PROTOCOL_VERSION)?) {
            (Some(stated), Some(header)) if stated != header => {
                return Err(MirrorError::Mismatch(MCP_PROTOCOL_VERSION));
            }
            (Some(_), None) if required => return Err(MirrorError::Missing(MCP_PROTOCOL_VERSION)),
            (None, _) if required && claim.is_modern() => return Err(MirrorError::NoMetaVersion),
            _ => {}
        }
    }
    if !claim.is_modern() {
        return Ok(());
    }
    match text(headers, &MCP_METHOD)? {
        Some(header) if header != method => return Err(MirrorError::Mismatch(MCP_METHOD)),
        None if required => return Err(MirrorError::Missing(MCP_METHOD)),
        _ => {}
    }
    let Some(rule) = known.and_then(NameRule::of) else { return Ok(()) };
    match (decoded_name(headers)?, message.target()) {
        (Some(header), Some(target)) if header != target => Err(MirrorError::Mismatch(MCP_NAME)),
        (None, Some(_)) if required && rule == NameRule::Required => Err(MirrorError::Missing(MCP_NAME)),
        _ => Ok(()),
    }
}

/// Reads `Mcp-Name` and resolves its coding. Use it only under a modern claim, and only to refuse or to count.
///
/// # Errors
///
/// [`MirrorError::Malformed`], or a value outside visible ASCII.
pub fn decoded_name(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, MirrorError> {
    let Some(value) = text(headers, &MCP_NAME)? else { return Ok(None) };
    if value.len() > MAX_NAME {
        return Err(MirrorError::Malformed(MCP_NAME));
    }
    let coded = value.strip_prefix(ENCODED_PREFIX).and_then(|rest| rest.strip_suffix(ENCODED_SUFFIX));
    let Some(coded) = coded else { return Ok(Some(Cow::Borrowed(value))) };
    let bytes = STANDARD.decode(coded).map_err(|_| MirrorError::Malformed(MCP_NAME))?;
    match String::from_utf8(bytes) {
        Ok(name) => Ok(Some(Cow::Owned(name))),
        Err(_) => Err(MirrorError::Malformed(MCP_NAME)),
    }
}

/// Whether a header mirrors a part of the body.
#[must_use]
pub fn is_mirror(name: &HeaderName) -> bool {
    *name == MCP_METHOD || *name == MCP_NAME || name.as_str().starts_with(MCP_PARAM_PREFIX)
}

/// Removes the headers that must not be forwarded under a claim: the mirrors, if the claimed revision has none.
///
/// A server behind the gateway could otherwise be led by values that nobody has compared. Under an unknown revision they
/// stay, because their meaning is between client and server.
pub fn strip(headers: &mut HeaderMap, claim: Claim) {
    if claim.is_modern() || claim == Claim::Unknown {
        return;
    }
    let mirrors: Vec<_> = headers.keys().filter(|name| is_mirror(name)).cloned().collect();
    for name in mirrors {
        headers.remove(name);
    }
}

/// What the specification says about `Mcp-Name` for a method.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameRule {
    /// Must be there and equal.
    Required,
    /// Must be equal if it is there: the text of an extension demands it, or some servers read it.
    Compared,
}

impl NameRule {
    fn of(method: Method) -> Option<Self> {
        match method {
            Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead => Some(Self::Required),
            Method::TasksGet
            | Method::TasksUpdate
            | Method::TasksCancel
            | Method::ResourcesSubscribe
            | Method::ResourcesUnsubscribe => Some(Self::Compared),
            _ => None,
        }
    }
}

/// The spelling of a header in the specification.
fn canonical(name: &HeaderName) -> &str {
    match name.as_str() {
        "mcp-protocol-version" => "MCP-Protocol-Version",
        "mcp-method" => "Mcp-Method",
        "mcp-name" => "Mcp-Name",
        "mcp-session-id" => "Mcp-Session-Id",
        other => other,
    }
}

#[cfg(test)]
mod tests;
