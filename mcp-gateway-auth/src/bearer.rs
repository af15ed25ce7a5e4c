//! Reading the headers that carry credentials.

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use mcp_gateway_core::contract::AuthError;

/// The value of a header that may occur once.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    problem: &'static str,
) -> Result<Option<&'a [u8]>, AuthError> {
    let mut all = headers.get_all(name).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err(AuthError::Malformed(problem));
    }
    Ok(first.map(http::HeaderValue::as_bytes))
}

/// The one `Authorization` field.
pub(crate) fn authorization(parts: &Parts) -> Result<Option<&[u8]>, AuthError> {
    single(&parts.headers, &AUTHORIZATION, "more than one Authorization field")
}

/// The token of the `Bearer` scheme (RFC 6750 §2.1), whose name has no case (RFC 9110 §11.1).
pub(crate) fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
