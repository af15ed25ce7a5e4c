//! What holds of the parsers of requests and documents, for any input.

use std::collections::HashSet;

use jiff::Timestamp;
use mcp_gateway_core::record::Mount;
use url::Url;

use super::client::{ClientMetadata, matches};
use super::device::UserCode;
use super::form::{Form, append};
use super::grant::RefreshToken;
use super::target::server_id;
use super::{ClientAuthentication, KnownBy, RedirectKind, RegistrationPolicy, ServerLimits};

/// A form has each parameter once, none of them empty.
pub fn form(data: &[u8]) {
    let Ok(form) = Form::parse(data) else { return };
    let mut seen = HashSet::new();
    for (name, value) in form.iter() {
        assert!(!value.is_empty() && !value.chars().any(char::is_control));
        assert!(seen.insert(name) || name == "resource");
        let _ = RefreshToken::parse(value);
    }
    assert!(seen.len() <= ServerLimits::PARAMETERS);
}

/// A redirect URI is printable ASCII and leads where it seems to lead, with our parameters too.
pub fn redirect(data: &[u8]) {
    let Ok(uri) = std::str::from_utf8(data) else { return };
    let Ok(kind) = RedirectKind::of(uri) else { return };
    assert!(uri.bytes().all(|byte| byte.is_ascii_graphic()) && !uri.contains('#'));
    assert!(matches(uri, uri));
    let url = Url::parse(uri).expect("it was parsed before");
    if kind == RedirectKind::Loopback {
        assert!(matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")));
    }
    let sent = append(uri, &[("code", Some("a&b #c")), ("state", None)]);
    let sent = Url::parse(&sent).expect("parameters do no harm");
    assert_eq!((sent.scheme(), sent.host_str(), sent.port()), (url.scheme(), url.host_str(), url.port()));
    assert_eq!((sent.username(), sent.password(), sent.fragment()), ("", None, None));
    assert!(sent.query_pairs().any(|(name, value)| name == "code" && value == "a&b #c"));
    for registered in ["http://127.0.0.1:33418/callback", "https://claude.ai/cb"] {
        if matches(registered, uri) {
            assert_eq!(RedirectKind::of(registered).as_ref(), Ok(&kind));
            assert_eq!(Url::parse(registered).expect("a constant").path(), url.path());
        }
    }
}

/// A client that is accepted can be sent back to safe places alone; one with a document has no secret.
pub fn registration(data: &[u8]) {
    let Ok(metadata) = serde_json::from_slice::<ClientMetadata>(data) else { return };
    let policy = RegistrationPolicy::default();
    for known_by in [KnownBy::Registration, KnownBy::Document] {
        let accepted = metadata.clone().accept(known_by, &policy, Timestamp::UNIX_EPOCH, || "secret".to_owned());
        let Ok(registered) = accepted else { continue };
        let client = registered.client;
        assert!((1..=ServerLimits::REDIRECT_URIS).contains(&client.redirect_uris.len()));
        for uri in &client.redirect_uris {
            let kind = RedirectKind::of(uri).expect("each was judged");
            assert!(policy.allows(&kind) || matches!(kind, RedirectKind::Https(_)));
        }
        let secret = matches!(client.authentication, ClientAuthentication::Secret { .. });
        assert_eq!(secret, registered.secret.is_some());
        assert!(!secret || known_by == KnownBy::Registration);
    }
}

/// A resource that is one of ours names a server by plain characters, and its canonical form names the same.
pub fn resource(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mount = Mount::new("https://gateway.example", "/mcp-connect").expect("a constant");
    let Ok(Some(id)) = server_id(&mount, std::iter::once(text)) else { return };
    assert!(!id.contains(['/', '%', '\\', '?', '#']) && id != "." && id != "..");
    let canonical = mount.resource(&id).url;
    assert_eq!(server_id(&mount, std::iter::once(&*canonical)), Ok(Some(id.clone())));
    assert!(Url::parse(text).expect("it was parsed before").path().starts_with(&format!("/mcp-connect/{id}")));
}

/// A user code that is read is eight letters, and what is shown of it is read as the same.
pub fn user_code(data: &[u8]) {
    let Ok(typed) = std::str::from_utf8(data) else { return };
    let Some(code) = UserCode::parse(typed) else { return };
    let shown = code.to_string();
    assert!(shown.len() == UserCode::LENGTH + 1 && shown.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-'));
    let letters = |text: &str| text.chars().filter(char::is_ascii_alphabetic).collect::<String>();
    assert!(letters(typed).eq_ignore_ascii_case(&letters(&shown)));
    assert_eq!(UserCode::parse(&shown), Some(code));
}
