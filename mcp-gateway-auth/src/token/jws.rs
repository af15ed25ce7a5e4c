//! Signed tokens in the compact form (RFC 7515 §7.1), read strictly.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::TokenLimits;

/// A token whose signature nobody has looked at yet.
pub(crate) struct Jws<'a> {
    pub(crate) header: Header,
    /// The claims as they were signed.
    pub(crate) claims: Vec<u8>,
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// The members of a header that decide something. A key that the token itself brings (`jwk`, `jku`, `x5u`, `x5c`) is
/// never looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    #[serde(default)]
    pub(crate) typ: Option<String>,
    #[serde(default)]
    pub(crate) kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 §4.1.11): we understand none.
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl Header {
    /// Whether `typ` is this media type; `application/` may be left out and case does not matter (RFC 7515 §4.1.9).
    pub(crate) fn is(&self, typ: &str) -> bool {
        self.typ.as_deref().is_some_and(|given| {
            let bare = given.split_at_checked("application/".len());
            let bare = bare.filter(|(prefix, _)| prefix.eq_ignore_ascii_case("application/"));
            bare.map_or(given, |(_, bare)| bare).eq_ignore_ascii_case(typ)
        })
    }
}

/// Whether a token has the outer form of a JWS: three parts. Others are opaque.
pub(crate) fn is_compact(token: &[u8]) -> bool {
    token.iter().filter(|byte| **byte == b'.').count() == 2
}

impl<'a> Jws<'a> {
    /// Reads a token; nothing of it can be believed yet.
    pub(crate) fn parse(token: &'a [u8]) -> Result<Self, &'static str> {
        Self::parse_within(token, TokenLimits::BYTES)
    }

    /// The same for tokens of another kind, of at most so many bytes.
    pub(crate) fn parse_within(token: &'a [u8], longest: usize) -> Result<Self, &'static str> {
        if token.len() > longest {
            return Err("the token is longer than one may be");
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("the token has not three parts");
        };
        let signed = &token[..header.len() + 1 + claims.len()];
        let decode = |part| URL_SAFE_NO_PAD.decode(part).map_err(|_| "a part of the token is not base64url");
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        if header.len() > TokenLimits::HEADER {
            return Err("the header of the token is longer than 1 KiB");
        }
        // The reader would take an array for an object's values in their order.
        if !is_object(&header) || !is_object(&claims) {
            return Err("header and claims are not both JSON objects");
        }
        let header: Header = serde_json::from_slice(&header).map_err(|_| "the header of the token is not valid")?;
        if header.crit.is_some() {
            return Err("the token has critical extensions, of which none is known");
        }
        if signature.is_empty() {
            return Err("the token is not signed");
        }
        Ok(Self { header, claims, signed, signature })
    }

    /// Whether this key signed it with the key's own algorithm.
    pub(crate) fn verify(&self, key: &dyn mcp_gateway_core::contract::VerifyingKey) -> Result<(), &'static str> {
        if self.header.alg != key.algorithm() {
            return Err("the token's algorithm is not that of its key");
        }
        if key.verify(self.signed, &self.signature) { Ok(()) } else { Err("the signature is wrong") }
    }
}

/// Whether a JSON text can only be an object.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

/// Puts a token together from header, claims and what signs them.
pub(crate) fn compact<E>(
    header: &serde_json::Value,
    claims: &[u8],
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<String, E> {
    let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}
