//! ID tokens (`OpenID` Connect Core 1.0 §3.1.3.7).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use mcp_gateway_core::contract::KeyRing;
use serde::Deserialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use super::error::invalid;
use super::{OidcError, OidcLimits};
use crate::token::jws::Jws;
use crate::token::{TokenLimits, check_times, limit};

/// The claims that decide whether a token is believed.
#[derive(Debug, Deserialize)]
struct Binding {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    iat: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    at_hash: Option<String>,
    #[serde(default)]
    auth_time: Option<i64>,
    #[serde(default)]
    sid: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// What an ID token must agree with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a str,
    /// What the token came with; compared with `at_hash`.
    pub(crate) access_token: &'a str,
    /// When the person must have proved to the provider who they are, at the earliest, if that was asked for.
    pub(crate) after: Option<Timestamp>,
    /// Whether a token is believed even then that does not say when.
    pub(crate) may_omit_auth_time: bool,
    pub(crate) now: Timestamp,
}

/// An ID token that is believed.
#[derive(Debug)]
pub(crate) struct IdToken {
    pub(crate) subject: String,
    /// The provider's session.
    pub(crate) session: Option<String>,
    /// When the person proved to the provider who they are.
    pub(crate) authenticated_at: Option<Timestamp>,
    /// All that it says.
    pub(crate) claims: Map<String, Value>,
}

impl IdToken {
    /// Reads a token, and believes it if everything about it holds.
    pub(super) async fn verify(token: &str, keys: &dyn KeyRing, expected: &Expected<'_>) -> Result<Self, OidcError> {
        let jws = signed(token, OidcLimits::ID_TOKEN, keys, &["JWT"]).await?;
        Self::read(&jws.claims, &jws.header.alg, expected).map_err(OidcError::Invalid)
    }

    /// Checks the claims of a token that is signed with this algorithm.
    pub(crate) fn read(claims: &[u8], alg: &str, expected: &Expected<'_>) -> Result<Self, &'static str> {
        let bound: Binding = serde_json::from_slice(claims).map_err(|_| "the ID token lacks a claim")?;
        if bound.iss != expected.issuer {
            return Err("the ID token is of another issuer");
        }
        let audience = bound.aud.as_slice();
        if !audience.iter().any(|one| one == expected.client_id) {
            return Err("the ID token is for another client");
        }
        let authorized = bound.azp.as_deref();
        if authorized.is_some_and(|azp| azp != expected.client_id) || (audience.len() > 1 && authorized.is_none()) {
            return Err("the ID token was made for another client");
        }
        check_times(expected.now, bound.exp, bound.nbf, Some(bound.iat))?;
        let nonce = bound.nonce.unwrap_or_default();
        if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
            return Err("the ID token answers another login: its nonce differs");
        }
        if bound.at_hash.is_some_and(|hash| half_hash(alg, expected.access_token).is_none_or(|ours| ours != hash)) {
            return Err("the ID token came with another access token: at_hash differs");
        }
        if bound.sub.is_empty() {
            return Err("the ID token names nobody");
        }
        if let Some(after) = expected.after {
            let earliest = after.as_second().saturating_sub(limit(TokenLimits::CLOCK_SKEW));
            if bound.auth_time.map_or(!expected.may_omit_auth_time, |at| at < earliest) {
                return Err("the person did not sign in anew at the identity provider");
            }
        }
        let authenticated_at = bound.auth_time.map(|at| Timestamp::from_second(at).unwrap_or(super::NEVER));
        let claims = serde_json::from_slice(claims).map_err(|_| "the ID token is no object")?;
        Ok(Self { subject: bound.sub, session: bound.sid, authenticated_at, claims })
    }
}

/// Reads a token whose signature one of the provider's keys has made. Its `typ` must be one of these, where it has one.
pub(super) async fn signed<'a>(
    token: &'a str,
    longest: usize,
    keys: &dyn KeyRing,
    types: &[&str],
) -> Result<Jws<'a>, OidcError> {
    let jws = Jws::parse_within(token.as_bytes(), longest).map_err(OidcError::Invalid)?;
    if jws.header.typ.is_some() && !types.iter().any(|typ| jws.header.is(typ)) {
        return invalid("the token is of another type");
    }
    let Some(kid) = jws.header.kid.as_deref() else { return invalid("the token names no key") };
    let key = keys.key(kid).await.map_err(|error| OidcError::Provider(error.into()))?;
    let Some(key) = key else { return invalid("the token is signed with a key that the provider does not publish") };
    jws.verify(&*key).map_err(OidcError::Invalid)?;
    Ok(jws)
}

/// The left half of the hash of an access token, with the hash of the signature (§3.1.3.6).
pub(super) fn half_hash(alg: &str, access_token: &str) -> Option<String> {
    let algorithm = match alg {
        "ES256" | "RS256" | "PS256" => &digest::SHA256,
        "ES384" | "RS384" => &digest::SHA384,
        "RS512" | "EdDSA" => &digest::SHA512,
        _ => return None,
    };
    let hash = digest::digest(algorithm, access_token.as_bytes());
    let hash = hash.as_ref();
    Some(URL_SAFE_NO_PAD.encode(&hash[..hash.len() / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn expected() -> Expected<'static> {
        Expected {
            issuer: "https://a.example",
            client_id: "gateway",
            nonce: "n",
            access_token: "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y",
            after: None,
            may_omit_auth_time: false,
            now: Timestamp::from_second(NOW).unwrap(),
        }
    }

    fn read(change: &Value, expected: &Expected<'_>) -> Result<IdToken, &'static str> {
        let mut claims = serde_json::json!({
            "iss": "https://a.example", "sub": "248289", "aud": "gateway", "exp": NOW + 60, "iat": NOW, "nonce": "n",
        });
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        IdToken::read(claims.to_string().as_bytes(), "RS256", expected)
    }

    #[test]
    fn every_claim_that_binds_a_token_is_checked() {
        for change in [
            serde_json::json!({}),
            serde_json::json!({ "aud": ["gateway"] }),
            serde_json::json!({ "aud": ["gateway", "other"], "azp": "gateway" }),
            serde_json::json!({ "azp": "gateway" }),
            // The example of OpenID Connect Core §A.3.
            serde_json::json!({ "at_hash": "77QmUPtjPfzWtF2AnpK9RQ" }),
            serde_json::json!({ "exp": NOW - 29 }),
        ] {
            assert_eq!(read(&change, &expected()).unwrap().subject, "248289", "{change}");
        }
        for change in [
            serde_json::json!({ "iss": "https://a.example/" }),
            serde_json::json!({ "aud": "other" }),
            serde_json::json!({ "aud": [] }),
            serde_json::json!({ "aud": ["gateway", "other"] }),
            serde_json::json!({ "azp": "other" }),
            serde_json::json!({ "exp": NOW - 30 }),
            serde_json::json!({ "exp": null }),
            serde_json::json!({ "iat": NOW + 31 }),
            serde_json::json!({ "iat": null }),
            serde_json::json!({ "nbf": NOW + 31 }),
            serde_json::json!({ "nonce": "m" }),
            serde_json::json!({ "nonce": null }),
            serde_json::json!({ "at_hash": "77QmUPtjPfzWtF2AnpK9RA" }),
            serde_json::json!({ "sub": "" }),
            serde_json::json!({ "sub": null }),
        ] {
            assert!(read(&change, &expected()).is_err(), "{change}");
        }
    }

    #[test]
    fn a_login_that_must_be_new_is_new() {
        let anew = Expected { after: Timestamp::from_second(NOW).ok(), ..expected() };
        assert!(read(&serde_json::json!({ "auth_time": NOW - 30 }), &anew).is_ok());
        assert!(read(&serde_json::json!({ "auth_time": NOW - 31 }), &anew).is_err());
        assert!(read(&serde_json::json!({}), &anew).is_err());
    }
}
