//! Whether a browser sent a request on purpose.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderName, Method};
use mcp_gateway_core::contract::AuthError;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Carries the token of [`csrf_token`] with every request of a session that is not a read.
pub const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The token that belongs to the value of a cookie: who can read one page of the gateway has it, who can only make a
/// browser send the cookie has not.
#[must_use]
pub fn csrf_token(cookie: &str) -> String {
    let mut hash = Sha256::new();
    hash.update("mcp-gateway csrf v1\0");
    hash.update(cookie);
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// Whether this is the token of that cookie; in constant time.
#[must_use]
pub fn is_csrf_token(cookie: &str, token: &str) -> bool {
    csrf_token(cookie).as_bytes().ct_eq(token.as_bytes()).into()
}

/// Reads pass. Everything else must come from a page of the same origin, and carry the token.
pub(super) fn check(parts: &Parts, cookie: &str, origin: &str) -> Result<(), AuthError> {
    if matches!(parts.method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let text = |name: &HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let same_origin = match text(&SEC_FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => text(&http::header::ORIGIN).is_some_and(|sent| sent == origin),
    };
    if !same_origin {
        return Err(AuthError::Forged("the request of a session comes from another site"));
    }
    if !text(&CSRF_HEADER).is_some_and(|token| is_csrf_token(cookie, token)) {
        return Err(AuthError::Forged("the request of a session lacks its X-CSRF-Token"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_belong_to_one_cookie() {
        let token = csrf_token("one");
        assert!(is_csrf_token("one", &token));
        assert!(!is_csrf_token("two", &token) && !is_csrf_token("one", "") && !is_csrf_token("one", &token[1..]));
    }
}
