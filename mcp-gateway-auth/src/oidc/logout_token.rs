//! Logout tokens (`OpenID` Connect Back-Channel Logout 1.0 §2.4).

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::id_token::Audience;
use crate::token::{check_times, limit};

/// What makes a token a logout token.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// The longest life of one: its id is remembered for so long. Providers use two minutes.
pub(super) const LONGEST: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Which logins have ended at the provider.
#[derive(Debug, Deserialize)]
pub(crate) struct LogoutToken {
    iss: String,
    aud: Audience,
    iat: i64,
    exp: i64,
    /// Unique: a second time, it is no news.
    pub(crate) jti: String,
    events: Map<String, Value>,
    /// The person.
    #[serde(default)]
    pub(crate) sub: Option<String>,
    /// One session of theirs; without it, all.
    #[serde(default)]
    pub(crate) sid: Option<String>,
    #[serde(default)]
    nonce: Option<IgnoredAny>,
}

impl LogoutToken {
    /// Checks the claims of a token that the provider has signed.
    pub(crate) fn read(claims: &[u8], issuer: &str, client_id: &str, now: Timestamp) -> Result<Self, &'static str> {
        let token: Self = serde_json::from_slice(claims).map_err(|_| "the logout token lacks a claim")?;
        if token.iss != issuer {
            return Err("the logout token is of another issuer");
        }
        if !token.aud.as_slice().iter().any(|one| one == client_id) {
            return Err("the logout token is for another client");
        }
        check_times(now, token.exp, None, Some(token.iat))?;
        if token.exp.saturating_sub(token.iat) > limit(LONGEST) {
            return Err("the logout token lives longer than an hour");
        }
        if !token.events.get(EVENT).is_some_and(Value::is_object) {
            return Err("the token is no logout token");
        }
        // An ID token is not to be taken for one (§2.6, step 6).
        if token.nonce.is_some() {
            return Err("the token is an ID token");
        }
        if token.jti.is_empty() || token.sub.as_ref().or(token.sid.as_ref()).is_none_or(String::is_empty) {
            return Err("the logout token names no login");
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logout_tokens_for_us_end_anything() {
        let now = 1_800_000_000;
        let read = |change: &Value| {
            let mut claims = serde_json::json!({
                "iss": "https://a.example", "aud": "gateway", "iat": now, "exp": now + 120, "jti": "1", "sid": "s",
                "events": { EVENT: {} },
            });
            for (name, value) in change.as_object().unwrap() {
                match value {
                    Value::Null => claims.as_object_mut().unwrap().remove(name),
                    value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
                };
            }
            let now = Timestamp::from_second(now).unwrap();
            LogoutToken::read(claims.to_string().as_bytes(), "https://a.example", "gateway", now)
        };
        for change in [serde_json::json!({}), serde_json::json!({ "sid": null, "sub": "248289" })] {
            assert!(read(&change).is_ok(), "{change}");
        }
        for change in [
            serde_json::json!({ "iss": "https://b.example" }),
            serde_json::json!({ "aud": "other" }),
            serde_json::json!({ "exp": now - 30 }),
            serde_json::json!({ "exp": now + 3_601 }),
            serde_json::json!({ "exp": null }),
            serde_json::json!({ "iat": now + 31, "exp": now + 60 }),
            serde_json::json!({ "jti": null }),
            serde_json::json!({ "jti": "" }),
            serde_json::json!({ "sid": null }),
            serde_json::json!({ "sid": "" }),
            serde_json::json!({ "events": {} }),
            serde_json::json!({ "events": { EVENT: true } }),
            serde_json::json!({ "nonce": "n" }),
            serde_json::json!({ "nonce": 1 }),
        ] {
            assert!(read(&change).is_err(), "{change}");
        }
    }
}
