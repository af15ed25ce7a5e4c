//! What holds of the parsers of tokens and keys, for any input.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use mcp_gateway_core::contract::VerifyingKey as _;
use mcp_gateway_core::record::{Mount, Roles, ServerList};

use super::foreign::{ForeignClaims, is_active};
use super::jws::{self, Jws};
use super::{AccessClaims, PublicKey, TokenLimits, TrustedIssuer, limit};

/// A token that is read has one form: its parts, encoded again, are the same bytes. Nothing signs it.
pub fn token(data: &[u8]) {
    let Ok(jws) = Jws::parse(data) else { return };
    assert!(jws::is_compact(data) && data.len() <= TokenLimits::BYTES);
    let parts: Vec<&[u8]> = data.split(|byte| *byte == b'.').collect();
    assert_eq!(URL_SAFE_NO_PAD.encode(&jws.claims).as_bytes(), parts[1]);
    let bytes = URL_SAFE_NO_PAD.decode(parts[0]).expect("it was decoded before");
    // Members that are not looked at may hold what this reader does not take.
    if let Ok(header) = serde_json::from_slice::<serde_json::Value>(&bytes) {
        assert_eq!(header["alg"], jws.header.alg.as_str());
        assert!(header.get("crit").is_none_or(serde_json::Value::is_null));
    }
    if let Ok(claims) = serde_json::from_slice::<AccessClaims>(&jws.claims) {
        let _ = claims.into_verified();
    }
    let document = br#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
    let keys = PublicKey::read_set(document).expect("the example of RFC 7517 §A.1");
    assert!(jws.verify(&keys[0]).is_err(), "nobody here has the private key");
}

/// Claims of another issuer are believed for what they name, and not for ever; an answer of introspection only says yes
/// by `active: true`.
pub fn foreign(data: &[u8]) {
    let active = is_active(data);
    assert!(active.is_err() || serde_json::from_slice::<serde_json::Value>(data).is_ok());
    let Ok(claims) = serde_json::from_slice::<ForeignClaims>(data) else { return };
    let _ = claims.is_something_else();
    let issuer = TrustedIssuer::opaque("https://idp.example").with_audience("api://tools", ServerList::All);
    let resource = Mount::new("https://gateway.example", "/mcp-connect").expect("a constant").resource("github");
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    if claims.check(&issuer, &resource, now).is_err() {
        return;
    }
    let Ok(verified) = claims.into_verified(&issuer, &resource) else { return };
    let principal = &verified.principal;
    assert!(*principal.subject.issuer == *issuer.issuer && principal.actor.id.starts_with("https://idp.example "));
    assert!(principal.roles == Roles::NONE && !principal.servers.contains("gitlab"));
    let latest = now.as_second() + limit(TokenLimits::LIFETIME) + 2 * limit(TokenLimits::CLOCK_SKEW);
    assert!(verified.good_until.as_second() <= latest);
}

/// A key is for one algorithm that we know, and accepts nothing that it did not sign.
pub fn keys(data: &[u8]) {
    let Ok(keys) = PublicKey::read_set(data) else { return };
    assert!(keys.len() <= TokenLimits::KEYS);
    for key in keys {
        assert!(!matches!(key.algorithm(), "none" | "HS256" | "HS384" | "HS512"));
        assert!(!key.verify(b"message", b"signature"));
    }
}
