//! What holds of the parsers of requests and documents, for any input.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use mcp_gateway_core::egress::Fetched;
use mcp_gateway_core::record::Mount;
use url::Url;

use super::assertion::IdentityClaims;
use super::client::{ClientMetadata, ClientProof, matches, read_document};
use super::device::UserCode;
use super::form::{Form, append};
use super::grant::RefreshToken;
use super::target::server_id;
use super::{ClientAuthentication, DocumentClients, KnownBy, RedirectKind, RegistrationPolicy, ServerLimits};

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

/// A client by document is the one that its URL names, and has no secret.
pub fn document(data: &[u8]) {
    const ID: &str = "https://client.example/client.json";
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = Fetched { status: StatusCode::OK, headers, body: Bytes::copy_from_slice(data) };
    let read = read_document(ID, &answer, &RegistrationPolicy::default(), Timestamp::UNIX_EPOCH);
    let Ok(client) = read else { return };
    assert!(data.len() <= ServerLimits::DOCUMENT && client.known_by == KnownBy::Document && client.name.is_some());
    assert!(!matches!(client.authentication, ClientAuthentication::Secret { .. }));
    if let ClientAuthentication::PrivateKeyJwtAt { jwks_uri } = &client.authentication {
        assert!(DocumentClients::is_url(jwks_uri));
    }
    let document: serde_json::Value = serde_json::from_slice(data).expect("it was read before");
    assert!(document["client_id"] == ID && document.get("client_secret").is_none_or(serde_json::Value::is_null));
}

/// Claims of a client's assertion prove nothing without its signature.
pub fn client_assertion(data: &[u8]) {
    const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
    let assertion = format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(data), URL_SAFE_NO_PAD.encode([1; 64]));
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("client_assertion", &assertion)
        .append_pair("client_assertion_type", kind)
        .finish();
    let form = Form::parse(form.as_bytes()).expect("two parameters");
    let Ok(proof) = ClientProof::read(&HeaderMap::new(), &form) else { return };
    let metadata = format!(
        r#"{{"redirect_uris":["http://127.0.0.1/"],"token_endpoint_auth_method":"private_key_jwt","jwks":{KEYS}}}"#
    );
    let metadata: ClientMetadata = serde_json::from_str(&metadata).expect("a constant");
    let policy = RegistrationPolicy::default();
    let client = metadata.accept(KnownBy::Registration, &policy, Timestamp::UNIX_EPOCH, String::new);
    let client = client.expect("a constant").client;
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    assert!(proof.check(&client, &["https://gateway.example"], now).is_err(), "nobody here has the private key");
}

/// An identity provider's decision that is taken is for us, the client and now.
pub fn id_jag(data: &[u8]) {
    let Ok(claims) = serde_json::from_slice::<IdentityClaims>(data) else { return };
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    if claims.check("https://gateway.example", "agent", now).is_err() {
        return;
    }
    // Of a member that is there twice, no reader says which one it takes.
    let json: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    if json.is_object() {
        assert_eq!((&json["aud"], &json["client_id"]), (&"https://gateway.example".into(), &"agent".into()));
        assert!(json["exp"].as_i64().is_some_and(|exp| (1_799_999_970..=1_800_000_600).contains(&exp)));
        let scope = json["scope"].as_str();
        assert_eq!(claims.is_for_mcp(), scope.is_none_or(|scope| scope.split(' ').any(|one| one == "mcp")));
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
