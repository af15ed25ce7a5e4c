//! What holds of the parsers of what providers send, for any input.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use jiff::Timestamp;
use mcp_gateway_core::egress::{Fetch, FetchError, Fetched};
use mcp_gateway_core::record::Secret;

use super::callback::Callback;
use super::client::{self, Exchange};
use super::discovery::Metadata;
use super::github::Endpoints;
use super::id_token::{Expected, IdToken};
use super::logout_token::LogoutToken;
use super::{OidcLimits, ProviderOptions, person};

const ISSUER: &str = "https://login.example.com";

/// Only a whole answer with one code goes on, and what is told of an error is harmless.
pub fn callback(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    let Ok(callback) = Callback::read(query) else { return };
    assert!(query.len() <= OidcLimits::CALLBACK);
    match callback.code(ISSUER, true) {
        Ok(code) => assert!(!code.is_empty()),
        Err(super::OidcError::Denied(error)) => {
            assert!(error.len() <= 64 && error.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        Err(_) => {}
    }
}

/// Claims are believed for one issuer, client and login, and an address is verified for the provider's own domain alone.
pub fn id_token(data: &[u8]) {
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let expected = Expected {
        issuer: ISSUER,
        client_id: "gateway",
        nonce: "n",
        access_token: "a",
        after: None,
        may_omit_auth_time: false,
        now,
    };
    if let Ok(token) = IdToken::read(data, "RS256", &expected) {
        assert!(token.claims["iss"] == ISSUER && token.claims["nonce"] == "n" && !token.subject.is_empty());
        let mut company = ProviderOptions::keycloak("company", ISSUER, "gateway");
        company.email_domains = vec!["example.com".into()];
        if let Ok(person) = person::person(&company, &token.subject, &token.claims) {
            let email = person.email.expect("without one nobody gets in");
            assert!(email.verified && email.address.ends_with("@example.com"));
            assert_eq!((&*person.identity.issuer, person.identity.subject), (ISSUER, token.subject));
        }
    }
    if let Ok(token) = LogoutToken::read(data, ISSUER, "gateway", now) {
        assert!(!token.jti.is_empty() && (token.sub.is_some() || token.sid.is_some()));
    }
}

/// Says the same to whatever is asked: the line of the input that belongs to the place.
struct Says(Vec<Bytes>);

#[async_trait]
impl Fetch for Says {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        let place = ["/emails", "/orgs", "/teams"].iter().position(|end| request.uri().path().ends_with(end));
        let line = place.map_or(0, |place| place + 1);
        let body = self.0.get(line).cloned().unwrap_or_default();
        Ok(Fetched { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }
}

/// What comes of a future that waits for nothing.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here is waited for"),
    }
}

/// GitHub's answers about a person, a line each (user, addresses, organizations, teams), make somebody with a number, and
/// an address only if GitHub calls it verified.
pub fn github(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
    let mut options = ProviderOptions::github("github", "gateway");
    options.groups_claim = Some("teams".to_owned());
    let endpoints = Endpoints::of(&options.issuer);
    let Ok(person) = at_once(endpoints.person(&Says(lines), &options, &Secret::new("t"))) else { return };
    assert_eq!(person.identity.issuer, options.issuer);
    assert!(person.identity.subject.bytes().all(|byte| byte.is_ascii_digit()));
    let groups = person.groups.expect("they were asked for");
    assert!(groups.iter().all(|group| group.id.starts_with("org/") || group.id.starts_with("team/")));
    if person.email.is_some_and(|email| email.verified) {
        assert!(data.windows(4).any(|text| text == b"true"));
    }
}

/// A token endpoint's answer is tokens or a refusal, and only `invalid_grant` says that a person is gone.
pub fn token_answer(data: &[u8]) {
    let says = Says(vec![Bytes::copy_from_slice(data)]);
    let options = ProviderOptions::new("company", ISSUER, "gateway");
    let (endpoint, verifier) = ("https://login.example.com/token", Secret::new("v"));
    let exchange = Exchange { endpoint, basic: true, code: "c", redirect_uri: "r", verifier: &verifier };
    let refused =
        |data| serde_json::from_slice::<serde_json::Value>(data).ok().and_then(|json| json.get("error").cloned());
    if at_once(exchange.send(&says, &options)).is_ok() {
        assert!(!refused(data).is_some_and(|error| error.is_string()));
    }
    match at_once(client::refresh(&says, &options, endpoint, true, &Secret::new("r"))) {
        Err(super::OidcError::Denied(error)) => assert_eq!(error, "invalid_grant"),
        Ok(_) => assert!(!refused(data).is_some_and(|error| error.is_string())),
        Err(_) => {}
    }
}

/// Metadata that is read is of its issuer, and sends nobody to a place without TLS.
pub fn provider(data: &[u8]) {
    let Ok(metadata) = Metadata::read(data, ISSUER) else { return };
    assert!(!metadata.authorization_endpoint.contains('#'));
    let scheme = metadata.authorization_endpoint.trim_start().to_ascii_lowercase();
    assert!(scheme.starts_with("http"), "{scheme}");
}
