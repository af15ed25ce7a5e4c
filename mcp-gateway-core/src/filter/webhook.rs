//! Filters that are HTTP services.
//!
//! The JSON-RPC message is posted as it is. 200 lets it go on, with a body as what the body says if the filter may change
//! messages, else only with none, `OK` or the message itself; anything else refuses it, or is a failure. `X-Obot-Signature-256` is `sha256=` and the HMAC-SHA256 of the body in hexadecimal;
//! `webhook-id`, `webhook-timestamp` and `webhook-signature` are those of <https://www.standardwebhooks.com>, by which the
//! service knows a message that somebody sends it again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use serde_json::Value;
use sha2::Sha256;
use tokio::sync::Semaphore;
use url::Url;

use super::judgement::{About, Judged};
use super::record::FilterLimits;
use crate::contract::Direction;
use crate::egress::{Fetch, FetchError};
use crate::record::Secret;
use crate::wire::duplicates;

/// An HTTP service that judges messages.
#[derive(Debug)]
pub(super) struct Webhook {
    uri: Uri,
    secret: Option<Secret>,
    mutation: bool,
    /// One for each call at once.
    calls: Semaphore,
}

impl Webhook {
    pub(super) fn new(url: &str, secret: Option<Secret>, mutation: bool) -> Result<Self, &'static str> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
        let parsed = parsed.filter(|url| url.username().is_empty() && url.password().is_none());
        let uri = parsed.and_then(|mut url| {
            url.set_fragment(None);
            url.as_str().parse().ok()
        });
        let uri = uri.ok_or("must be an https URL without a user's name")?;
        Ok(Self { uri, secret, mutation, calls: Semaphore::new(FilterLimits::CALLS) })
    }

    /// Asks once.
    pub(super) async fn ask(
        &self,
        fetch: &dyn Fetch,
        about: About<'_>,
        body: &Bytes,
        delivery: &str,
        now: Timestamp,
    ) -> Judged {
        let mut request = Request::new(body.clone());
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, self.uri.clone());
        *request.headers_mut() = self.headers(about, body, delivery, now);
        // It is never closed.
        let _call = self.calls.acquire().await;
        match fetch.fetch(request).await {
            Ok(fetched) => read(fetched.status, &fetched.body, body, self.mutation),
            Err(error @ FetchError::Failed(_)) => {
                let because = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                Judged::Failed(format!("{error}: {because}"))
            }
            // What follows the `?` may be a credential of the service's.
            Err(FetchError::Url(_)) => Judged::Failed("its URL may not be called: it is not https".to_owned()),
            Err(error) => Judged::Failed(error.to_string()),
        }
    }

    fn headers(&self, about: About<'_>, body: &[u8], delivery: &str, now: Timestamp) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("mcp-gateway/", env!("CARGO_PKG_VERSION"))));
        let mut put = |name: &'static str, value: &str| {
            // Whatever no header can carry is left out: it is said to help, and nothing is decided by it.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        let direction = match about.direction {
            Direction::Request => "request",
            Direction::Response => "response",
            Direction::Event => "event",
        };
        put("mcp-gateway-filter", about.filter);
        put("mcp-gateway-server", about.server);
        put("mcp-gateway-direction", direction);
        if let Some(method) = about.method {
            put("mcp-gateway-method", method);
        }
        let timestamp = now.as_second().to_string();
        put("webhook-id", delivery);
        put("webhook-timestamp", &timestamp);
        if let Some(secret) = &self.secret {
            let key = secret.expose().as_bytes();
            put("x-obot-signature-256", &format!("sha256={}", hexadecimal(&mac(key, &[body]))));
            let standard = mac(key, &[delivery.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
            put("webhook-signature", &format!("v1,{}", STANDARD.encode(standard)));
        }
        headers
    }
}

/// What an answer says of the message that was sent.
fn read(status: StatusCode, answer: &[u8], sent: &[u8], mutation: bool) -> Judged {
    match status {
        StatusCode::OK => {}
        status if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
            return Judged::Failed(format!("it answered {status}"));
        }
        _ => return Judged::Refuse(None),
    }
    if answer.is_empty() || answer == sent {
        return Judged::Pass;
    }
    if mutation {
        // Which of two members of one name was meant, nobody knows.
        return match duplicates(answer) {
            Ok(()) => Judged::Replace(Bytes::copy_from_slice(answer)),
            Err(error) => Judged::Failed(format!("its answer cannot be read: {error}")),
        };
    }
    if answer.trim_ascii() == b"OK" {
        return Judged::Pass;
    }
    let Ok(message) = serde_json::from_slice::<Value>(answer) else {
        return Judged::Failed("its answer is neither empty, nor `OK`, nor the message".to_owned());
    };
    if serde_json::from_slice::<Value>(sent).is_ok_and(|sent| sent == message) {
        return Judged::Pass;
    }
    match message.get("jsonrpc") {
        // One that it may not put there.
        Some(_) => Judged::Refuse(None),
        None => Judged::Failed("its answer is JSON, but no message".to_owned()),
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Reads arbitrary bytes as an answer: for fuzzing.
///
/// # Panics
/// When a message is replaced by what cannot be read in one way only, or without leave.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check(data: &[u8]) {
    const SENT: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":{"b":1}}}"#;
    for mutation in [false, true] {
        match read(StatusCode::OK, data, SENT, mutation) {
            Judged::Replace(body) => {
                assert!(mutation && body != SENT && duplicates(&body).is_ok());
                // The chain looks whether it is the same message still.
                let _ = crate::layer::filter::is_same(SENT, &body);
            }
            Judged::Pass => {
                let value = |text| serde_json::from_slice::<Value>(text).ok();
                let same = data.trim_ascii() == b"OK" || value(data).is_some_and(|data| Some(data) == value(SENT));
                assert!(data.is_empty() || data == SENT || (!mutation && same));
            }
            Judged::Refuse(_) => assert!(!mutation),
            Judged::Failed(_) | Judged::Flag => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_signed_in_both_ways() {
        let webhook = Webhook::new("https://a.example/x", Some(Secret::new("secret")), false).unwrap();
        let (direction, era) = (Direction::Response, crate::wire::version::Era::Legacy);
        let about = About { filter: "f", server: "s", direction, method: Some("tools/call"), era };
        let body = br#"{"jsonrpc":"2.0"}"#;
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let headers = webhook.headers(about, body, "msg_1", now);
        // Computed with openssl: `printf %s BODY | openssl dgst -sha256 -hmac secret`.
        let text = |name: &str| headers[name].to_str().unwrap();
        assert_eq!(text("x-obot-signature-256"), OBOT);
        assert_eq!(text("webhook-signature"), STANDARD_WEBHOOKS);
        assert_eq!((text("webhook-id"), text("webhook-timestamp")), ("msg_1", "1700000000"));
        assert_eq!((text("mcp-gateway-direction"), text("mcp-gateway-method")), ("response", "tools/call"));
        let unsigned = Webhook::new("https://a.example/x", None, false).unwrap().headers(about, body, "msg_1", now);
        assert!(!unsigned.contains_key("x-obot-signature-256") && !unsigned.contains_key("webhook-signature"));
    }

    const OBOT: &str = "sha256=ee0790d0573e514bb47616a2fc240cbeac5cd412e0e684d0922fb6bb94a47644";
    const STANDARD_WEBHOOKS: &str = "v1,z440LnavvoOhB3NtiCjGCKzpnMn8RzvVEAIfO+QiyTs=";

    #[test]
    fn only_200_lets_a_message_go_on() {
        const SENT: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        let judge = |status: u16, answer: &str, mutation| match read(
            StatusCode::from_u16(status).unwrap(),
            answer.as_bytes(),
            SENT.as_bytes(),
            mutation,
        ) {
            Judged::Pass => "pass",
            Judged::Replace(_) => "replace",
            Judged::Refuse(_) => "refuse",
            Judged::Failed(_) => "fail",
            Judged::Flag => "flag",
        };
        let other = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}"#;
        let list = format!("[{SENT}]");
        let spaced = r#"{"jsonrpc": "2.0", "id": 1, "method": "ping"}"#;
        for (status, answer, fixed, mutable) in [
            (200, "", "pass", "pass"),
            (200, SENT, "pass", "pass"),
            (200, spaced, "pass", "replace"),
            (200, other, "refuse", "replace"),
            (200, "OK", "pass", "fail"),
            (200, "OK\n", "pass", "fail"),
            (200, "No.", "fail", "fail"),
            (200, "<html>OK</html>", "fail", "fail"),
            (200, &SENT[..20], "fail", "fail"),
            (200, "[]", "fail", "replace"),
            (200, &*list, "fail", "replace"),
            (200, "{\"accept\":false}", "fail", "replace"),
            (200, r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, "refuse", "fail"),
            (201, "", "refuse", "refuse"),
            (204, "", "refuse", "refuse"),
            (302, "", "refuse", "refuse"),
            (400, SENT, "refuse", "refuse"),
            (403, "", "refuse", "refuse"),
            (408, "", "fail", "fail"),
            (429, "", "fail", "fail"),
            (500, "", "fail", "fail"),
            (503, "", "fail", "fail"),
        ] {
            assert_eq!(judge(status, answer, false), fixed, "{status} {answer}");
            assert_eq!(judge(status, answer, true), mutable, "{status} {answer}, mutable");
        }
    }
}
