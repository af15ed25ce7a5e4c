//! Protocol revisions, and which of the two eras a request claims to belong to.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// `MCP-Protocol-Version`.
pub const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// A published revision of MCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProtocolVersion {
    /// 2024-11-05: the first; its HTTP+SSE transport is not served.
    V20241105,
    /// 2025-03-26: streamable HTTP. Assumed where nothing is said.
    V20250326,
    /// 2025-06-18: the version header.
    V20250618,
    /// 2025-11-25: the last with a handshake.
    V20251125,
    /// 2026-07-28: stateless requests that carry their own `_meta`.
    V20260728,
}

/// The two ways to speak MCP over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// A handshake (`initialize`) and, often, a session. Up to 2025-11-25.
    Legacy,
    /// No handshake, no session; every request stands for itself. Since 2026-07-28.
    Modern,
}

impl ProtocolVersion {
    /// All known revisions, oldest first.
    pub const ALL: &[Self] = &[Self::V20241105, Self::V20250326, Self::V20250618, Self::V20251125, Self::V20260728];

    /// Finds a revision by its exact name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|version| version.as_str() == name)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V20241105 => "2024-11-05",
            Self::V20250326 => "2025-03-26",
            Self::V20250618 => "2025-06-18",
            Self::V20251125 => "2025-11-25",
            Self::V20260728 => "2026-07-28",
        }
    }

    /// The era of the revision.
    #[must_use]
    pub const fn era(self) -> Era {
        match self {
            Self::V20260728 => Era::Modern,
            _ => Era::Legacy,
        }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the headers of a request say about its revision.
///
/// It is a claim: only the body tells, and [`mirror::check`](super::mirror::check) compares the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// No version header: a handshake, or a client of 2025-03-26.
    Absent,
    /// A revision of the list.
    Known(ProtocolVersion),
    /// Some other text. It is for the server to accept or refuse; nothing else that the headers say may be relied on.
    Unknown,
}

impl Claim {
    /// The claimed era; `None` if the revision is unknown.
    #[must_use]
    pub const fn era(self) -> Option<Era> {
        match self {
            Self::Absent => Some(Era::Legacy),
            Self::Known(version) => Some(version.era()),
            Self::Unknown => None,
        }
    }

    /// Whether the request claims a known revision whose headers mirror the body.
    ///
    /// Under any other claim `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` mean nothing: nobody has checked them.
    #[must_use]
    pub const fn is_modern(self) -> bool {
        matches!(self.era(), Some(Era::Modern))
    }
}

/// Headers that cannot be read in one way only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// An `Mcp-*` header occurs twice; intermediaries and servers differ on which one counts.
    Repeated(HeaderName),
    /// A value with bytes outside visible ASCII.
    NotText(HeaderName),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repeated(name) => write!(f, "the header {name} occurs more than once"),
            Self::NotText(name) => write!(f, "the header {name} is not visible ASCII"),
        }
    }
}

impl std::error::Error for HeaderError {}

/// Reads which era the headers claim.
///
/// # Errors
///
/// Two values of any one `Mcp-*` header, or a version that is not visible ASCII.
pub fn claimed_era(headers: &HeaderMap) -> Result<Claim, HeaderError> {
    // The usual head repeats no field at all.
    if headers.len() != headers.keys_len() {
        for name in headers.keys() {
            if name.as_str().starts_with("mcp-") && headers.get_all(name).iter().nth(1).is_some() {
                return Err(HeaderError::Repeated(name.clone()));
            }
        }
    }
    let Some(value) = headers.get(&MCP_PROTOCOL_VERSION) else { return Ok(Claim::Absent) };
    // As every client writes a version that is known.
    let plain = ProtocolVersion::ALL.iter().find(|version| version.as_str().as_bytes() == value.as_bytes());
    if let Some(version) = plain {
        return Ok(Claim::Known(*version));
    }
    let version = text_of(value, &MCP_PROTOCOL_VERSION)?;
    Ok(ProtocolVersion::parse(version).map_or(Claim::Unknown, Claim::Known))
}

/// The value of a header without the blanks around it (RFC 9110 §5.5).
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, HeaderError> {
    headers.get(name).map(|value| text_of(value, name)).transpose()
}

fn text_of<'h>(value: &'h HeaderValue, name: &HeaderName) -> Result<&'h str, HeaderError> {
    value.to_str().map(trim).map_err(|_| HeaderError::NotText(name.clone()))
}

fn trim(value: &str) -> &str {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    if blank(bytes.first()) || blank(bytes.last()) { value.trim_matches([' ', '\t']) } else { value }
}

/// The value of a version header for a revision.
impl From<ProtocolVersion> for HeaderValue {
    fn from(version: ProtocolVersion) -> Self {
        Self::from_static(version.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn eras_by_header() {
        let claim = |value| claimed_era(&headers(&[("mcp-protocol-version", value)])).unwrap();
        assert_eq!(claimed_era(&headers(&[])).unwrap(), Claim::Absent);
        assert_eq!(Claim::Absent.era(), Some(Era::Legacy));
        assert_eq!(claim("2025-11-25").era(), Some(Era::Legacy));
        assert_eq!(claim("2026-07-28").era(), Some(Era::Modern));
        assert_eq!(claim(" \t2026-07-28 "), Claim::Known(ProtocolVersion::V20260728));
    }

    #[test]
    fn unknown_revisions_are_neither_legacy_nor_modern() {
        for value in ["2026-07-29", "2027-01-01", "v999.0.0", "2026-07-28x", "", "2026-07-28, 2025-11-25", "DRAFT"] {
            let claim = claimed_era(&headers(&[("mcp-protocol-version", value)])).unwrap();
            assert_eq!((claim, claim.era(), claim.is_modern()), (Claim::Unknown, None, false), "{value}");
        }
    }

    #[test]
    fn two_values_of_one_mcp_header_are_refused() {
        for name in ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id", "mcp-param-region"] {
            let twice = headers(&[(name, "a"), (name, "a")]);
            assert_eq!(claimed_era(&twice), Err(HeaderError::Repeated(HeaderName::from_static(name))));
        }
        assert!(claimed_era(&headers(&[("accept", "a"), ("accept", "b")])).is_ok());
    }

    #[test]
    fn a_version_outside_visible_ascii_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(MCP_PROTOCOL_VERSION, HeaderValue::from_bytes(b"2026-07-28\xff").unwrap());
        assert_eq!(claimed_era(&headers), Err(HeaderError::NotText(MCP_PROTOCOL_VERSION)));
    }
}
