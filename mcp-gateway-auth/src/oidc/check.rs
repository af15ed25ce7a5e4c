//! What holds of the parsers of what providers send, for any input.

use jiff::Timestamp;

use super::callback::Callback;
use super::discovery::Metadata;
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

/// Metadata that is read is of its issuer, and sends nobody to a place without TLS.
pub fn provider(data: &[u8]) {
    let Ok(metadata) = Metadata::read(data, ISSUER) else { return };
    assert!(!metadata.authorization_endpoint.contains('#'));
    let scheme = metadata.authorization_endpoint.trim_start().to_ascii_lowercase();
    assert!(scheme.starts_with("http"), "{scheme}");
}
