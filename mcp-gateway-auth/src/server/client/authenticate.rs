//! How a client proves at an endpoint who it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::super::ServerLimits;
use super::super::form::Form;
use super::{ClientAuthentication, OAuthClient};
use crate::token::jws::Jws;
use crate::token::{PublicKey, check_times, limit};

/// The type of a client's assertion (RFC 7523 §2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a request brings to prove which client sends it.
#[derive(Debug)]
pub(crate) enum ClientProof {
    /// Only a name.
    Name(String),
    /// A name and a secret, in the header or in the form.
    Secret(String, String),
    /// A signed assertion, and the name in it.
    Assertion(String, String),
}

/// An assertion that was found good; its id must not be used again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UsedAssertion {
    /// Unique for the client.
    pub(crate) id: String,
    /// When it ends.
    pub(crate) expires_at: i64,
}

impl ClientProof {
    /// Reads what there is; exactly one way may be used (RFC 6749 §2.3).
    pub(crate) fn read(headers: &HeaderMap, form: &Form) -> Result<Self, &'static str> {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let header = fields.next();
        if fields.next().is_some() {
            return Err("there are two Authorization fields");
        }
        let named = form.find("client_id");
        let secret = form.find("client_secret");
        let assertion = form.find("client_assertion");
        match (header, secret, assertion) {
            (None, None, None) => named.map(|name| Self::Name(name.to_owned())).ok_or("there is no client_id"),
            (Some(header), None, None) => {
                let (id, secret) =
                    basic(header.as_bytes()).ok_or("the Authorization field is not of the Basic form")?;
                if named.is_some_and(|name| name != id) {
                    return Err("the Authorization field and client_id name different clients");
                }
                Ok(Self::Secret(id, secret))
            }
            (None, Some(secret), None) => {
                let name = named.ok_or("there is a client_secret but no client_id")?;
                Ok(Self::Secret(name.to_owned(), secret.to_owned()))
            }
            (None, None, Some(assertion)) => {
                if form.find("client_assertion_type") != Some(ASSERTION_TYPE) {
                    return Err("the client_assertion_type is not that of a JWT");
                }
                let jws = Jws::parse(assertion.as_bytes())?;
                let claims: AssertionClaims =
                    serde_json::from_slice(&jws.claims).map_err(|_| "the client_assertion lacks a claim")?;
                if named.is_some_and(|name| name != claims.sub) {
                    return Err("the client_assertion and client_id name different clients");
                }
                Ok(Self::Assertion(claims.sub, assertion.to_owned()))
            }
            _ => Err("more than one way of client authentication is used"),
        }
    }

    /// Which client it claims to be.
    pub(crate) fn client_id(&self) -> &str {
        match self {
            Self::Name(id) | Self::Secret(id, _) | Self::Assertion(id, _) => id,
        }
    }

    /// Whether it is worth to ask the client's host what holds of a client now: only a name is enough of a public one, and
    /// an assertion needs keys only when all else in it is right.
    pub(crate) fn may_hold(&self, client: &OAuthClient, audiences: &[&str], now: Timestamp) -> bool {
        match self {
            Self::Name(_) => client.is_public(),
            Self::Secret(..) => false,
            Self::Assertion(id, assertion) => unsigned_assertion(id, assertion, audiences, now).is_ok(),
        }
    }

    /// Whether it names a key that is not among these.
    pub(crate) fn lacks_key(&self, keys: &str) -> bool {
        let Self::Assertion(_, assertion) = self else { return false };
        let named = Jws::parse(assertion.as_bytes()).ok().and_then(|jws| jws.header.kid);
        let held = |kid: &str| {
            PublicKey::read_set(keys.as_bytes()).is_ok_and(|keys| keys.iter().any(|key| key.id() == Some(kid)))
        };
        named.is_some_and(|kid| !held(&kid))
    }

    /// Whether it proves what it claims: exactly in the way that the client is registered for. `audiences` are the
    /// names under which an assertion may address us.
    pub(crate) fn check(
        &self,
        client: &OAuthClient,
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<Option<UsedAssertion>, &'static str> {
        match (self, &client.authentication) {
            (Self::Name(_), ClientAuthentication::None) => Ok(None),
            (Self::Secret(_, secret), ClientAuthentication::Secret { sha256 }) => {
                if same_hash(secret, sha256) {
                    Ok(None)
                } else {
                    Err("the client's secret is wrong")
                }
            }
            (Self::Assertion(id, assertion), ClientAuthentication::PrivateKeyJwt { keys }) => {
                check_assertion(id, assertion, keys, audiences, now).map(Some)
            }
            (Self::Assertion(..), ClientAuthentication::PrivateKeyJwtAt { .. }) => {
                Err("the client's keys were not fetched")
            }
            _ => Err("the client is registered for another way of authentication"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct AssertionClaims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    jti: String,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(default)]
    iat: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// RFC 7523 §3, all but the signature. The audience is one value, as draft-ietf-oauth-rfc7523bis demands: an assertion for
/// two is one that the other may use here.
fn unsigned_assertion<'a>(
    id: &str,
    assertion: &'a str,
    audiences: &[&str],
    now: Timestamp,
) -> Result<(Jws<'a>, UsedAssertion), &'static str> {
    let jws = Jws::parse(assertion.as_bytes())?;
    let claims: AssertionClaims =
        serde_json::from_slice(&jws.claims).map_err(|_| "the client_assertion lacks a claim")?;
    if claims.iss != id || claims.sub != id {
        return Err("iss and sub of the client_assertion are not both the client");
    }
    let audience = match &claims.aud {
        Audience::One(one) => one,
        Audience::Many(many) if many.len() == 1 => &many[0],
        Audience::Many(_) => return Err("the client_assertion has not one audience"),
    };
    if !audiences.contains(&&**audience) {
        return Err("the client_assertion is for somebody else");
    }
    check_times(now, claims.exp, claims.nbf, claims.iat)?;
    if claims.exp > now.as_second().saturating_add(limit(ServerLimits::ASSERTION)) {
        return Err("the client_assertion lives longer than 10 minutes");
    }
    if claims.jti.len() > 255 {
        return Err("the jti of the client_assertion is longer than 255 bytes");
    }
    Ok((jws, UsedAssertion { id: claims.jti, expires_at: claims.exp }))
}

fn check_assertion(
    id: &str,
    assertion: &str,
    keys: &str,
    audiences: &[&str],
    now: Timestamp,
) -> Result<UsedAssertion, &'static str> {
    let (jws, used) = unsigned_assertion(id, assertion, audiences, now)?;
    let keys = PublicKey::read_set(keys.as_bytes()).map_err(|_| "the client's keys cannot be read")?;
    // A client may leave out the key's id when it has one key.
    let key = match &jws.header.kid {
        Some(kid) => keys.iter().find(|key| key.id() == Some(kid)),
        None => keys.first().filter(|_| keys.len() == 1),
    };
    jws.verify(key.ok_or("the client has no such key")?)?;
    Ok(used)
}

/// Compares a secret with the hash of one, in constant time.
pub(crate) fn same_hash(secret: &str, sha256: &str) -> bool {
    hex_hash(secret).as_bytes().ct_eq(sha256.as_bytes()).into()
}

/// SHA-256, lowercase hexadecimal.
pub(crate) fn hex_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 6749 §2.3.1: both parts are form-encoded.
fn basic(header: &[u8]) -> Option<(String, String)> {
    let (scheme, rest) = header.split_at_checked(b"basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let joined = String::from_utf8(STANDARD.decode(rest.trim_ascii()).ok()?).ok()?;
    let (id, secret) = joined.split_once(':')?;
    let decode = |part: &str| {
        let mut pairs = form_urlencoded::parse(part.as_bytes());
        let (decoded, value) = pairs.next()?;
        (value.is_empty() && pairs.next().is_none() && !part.contains(['=', '&'])).then(|| decoded.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}
