//! Who gives tokens for a server, by the words of both (RFC 9728, RFC 8414).

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use mcp_gateway_core::egress::get_json;
use serde::Deserialize;
use url::Url;

use super::challenge::{Challenge, scopes};
use super::error::{foreign, unfit};
use super::record::Endpoints;
use super::{AccountError, Fetchers};

/// An issuer, and what it says of itself.
#[derive(Debug, Clone)]
pub(super) struct Issuer {
    pub(super) issuer: String,
    pub(super) endpoints: Endpoints,
    pub(super) registration: Option<String>,
    /// Whether it reads documents of clients.
    pub(super) documents: bool,
    pub(super) basic: bool,
    pub(super) post: bool,
    /// Whether it knows clients without a secret.
    pub(super) public: bool,
    /// Whether `offline_access` is among its scopes.
    pub(super) offline: bool,
}

/// What a server says of who gives tokens for it.
#[derive(Debug)]
pub(super) struct Protected {
    pub(super) issuer: String,
    /// What tokens are for (RFC 8707).
    pub(super) resource: String,
    /// What it names, first of all in its challenge.
    pub(super) scopes: Vec<String>,
}

/// Asks a server.
pub(super) async fn of_server(fetchers: &Fetchers, server: &Url) -> Result<Protected, AccountError> {
    let challenge = challenge(fetchers, server).await;
    let named = challenge.resource_metadata.as_deref().and_then(|url| server.join(url).ok());
    let origin = server.origin().ascii_serialization();
    let path = server.path().trim_end_matches('/');
    let mut places = match named {
        Some(url) => vec![url.to_string()],
        None => vec![format!("{origin}/.well-known/oauth-protected-resource{path}")],
    };
    if places[0] != format!("{origin}/.well-known/oauth-protected-resource") && challenge.resource_metadata.is_none() {
        places.push(format!("{origin}/.well-known/oauth-protected-resource"));
    }
    for place in places {
        let Ok(url) = Url::parse(&place) else { continue };
        let fetch = fetchers.of(&url, server);
        let answer = fetch.fetch(get_json(&place).map_err(foreign)?).await.map_err(foreign)?;
        if answer.status == StatusCode::OK {
            return read_protected(&answer.body, server, &challenge);
        }
    }
    // Revision 2025-03-26 knew no such document: the server's origin is its own issuer.
    Ok(Protected { issuer: origin, resource: canonical(server), scopes: challenge.scopes() })
}

/// What it says to a request without a credential.
async fn challenge(fetchers: &Fetchers, server: &Url) -> Challenge {
    let ping = Bytes::from_static(br#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#);
    let request = Request::post(server.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, text/event-stream")
        .body(ping);
    let Ok(request) = request else { return Challenge::default() };
    match fetchers.of(server, server).fetch(request).await {
        Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {
            let all = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            let all: Vec<_> = all.collect();
            Challenge::read(&all.join(", "))
        }
        // It says so in its document, or not at all.
        _ => Challenge::default(),
    }
}

fn read_protected(document: &[u8], server: &Url, challenge: &Challenge) -> Result<Protected, AccountError> {
    #[derive(Deserialize)]
    struct Document {
        resource: String,
        #[serde(default)]
        authorization_servers: Vec<String>,
        #[serde(default)]
        scopes_supported: Vec<String>,
    }
    let Ok(found) = serde_json::from_slice::<Document>(document) else {
        return unfit("the server's metadata cannot be read");
    };
    if !covers(&found.resource, server) {
        return unfit("the server's metadata is about another server");
    }
    let Some(issuer) = found.authorization_servers.into_iter().next() else {
        return unfit("the server names no authorization server");
    };
    let scopes = match challenge.scopes() {
        named if !named.is_empty() => named,
        _ => scopes(&found.scopes_supported.join(" ")),
    };
    Ok(Protected { issuer, resource: found.resource, scopes })
}

/// Whether a resource is the server or the part of its origin that the server is in (RFC 9728 §3.3).
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else { return false };
    let (path, whole) = (resource.path().trim_end_matches('/'), server.path().trim_end_matches('/'));
    let below = whole.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.origin() == server.origin() && below && resource.query().is_none() && resource.fragment().is_none()
}

/// A server's URL as a resource: without query and fragment.
pub(super) fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_query(None);
    url.set_fragment(None);
    match url.path() {
        "/" => url.origin().ascii_serialization(),
        _ => url.to_string(),
    }
}

/// Asks an issuer; `server` is the one that named it, or that it is asked for.
pub(super) async fn of_issuer(fetchers: &Fetchers, issuer: &str, server: &Url) -> Result<Issuer, AccountError> {
    let Ok(url) = Url::parse(issuer) else { return unfit("the authorization server's name is no URL") };
    let (origin, path) = (url.origin().ascii_serialization(), url.path().trim_end_matches('/'));
    let mut places = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        places.push(format!("{origin}{path}/.well-known/openid-configuration"));
    }
    let fetch = fetchers.of(&url, server);
    let mut last = AccountError::Unfit("the authorization server has no metadata".to_owned());
    for place in places {
        let answer = match fetch.fetch(get_json(&place).map_err(foreign)?).await {
            Ok(answer) if answer.status == StatusCode::OK => answer,
            Ok(_) => continue,
            Err(error) => {
                last = foreign(error);
                continue;
            }
        };
        match read_issuer(&answer.body, issuer) {
            Ok(issuer) => return Ok(issuer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    #[serde(default)]
    authorization_endpoint: Option<String>,
    token_endpoint: String,
    #[serde(default)]
    revocation_endpoint: Option<String>,
    #[serde(default)]
    registration_endpoint: Option<String>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    scopes_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    client_id_metadata_document_supported: bool,
}

fn read_issuer(document: &[u8], issuer: &str) -> Result<Issuer, AccountError> {
    let Ok(found) = serde_json::from_slice::<Metadata>(document) else {
        return unfit("the authorization server's metadata cannot be read");
    };
    // By plain comparison (RFC 8414 §3.3): a slash more is somebody else.
    if found.issuer != issuer {
        return unfit("the authorization server's metadata name another issuer");
    }
    let endpoints = [
        found.authorization_endpoint.as_deref(),
        Some(&*found.token_endpoint),
        found.revocation_endpoint.as_deref(),
        found.registration_endpoint.as_deref(),
    ];
    if !endpoints.into_iter().flatten().all(|endpoint| is_safe(endpoint, issuer)) {
        return unfit("an endpoint of the authorization server is no https URL");
    }
    // Without a word about methods the default is `client_secret_basic` (RFC 8414 §2).
    let methods = found.token_endpoint_auth_methods_supported.unwrap_or_else(|| vec!["client_secret_basic".to_owned()]);
    let takes = |method: &str| methods.iter().any(|one| one == method);
    let codes = found.code_challenge_methods_supported.iter().any(|method| method == "S256");
    Ok(Issuer {
        issuer: found.issuer,
        endpoints: Endpoints {
            // Without PKCE a code can be injected: such a server sends nobody anywhere (RFC 9700 §2.1.1).
            authorization: found.authorization_endpoint.filter(|_| codes).unwrap_or_default(),
            token: found.token_endpoint,
            revocation: found.revocation_endpoint,
            names_itself: found.authorization_response_iss_parameter_supported,
        },
        registration: found.registration_endpoint,
        documents: found.client_id_metadata_document_supported,
        basic: takes("client_secret_basic"),
        post: takes("client_secret_post"),
        public: takes("none"),
        offline: found.scopes_supported.iter().any(|scope| scope == "offline_access"),
    })
}

/// An https URL, or one of http where the issuer is itself of http: the fetcher decides whether that may be called. Nothing
/// else reaches a browser.
fn is_safe(endpoint: &str, issuer: &str) -> bool {
    let plain = issuer.starts_with("http://");
    Url::parse(endpoint).is_ok_and(|url| {
        let scheme = url.scheme() == "https" || (plain && url.scheme() == "http");
        scheme && url.host_str().is_some() && url.username().is_empty() && url.password().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_covers_the_servers_below_it_alone() {
        let server = Url::parse("https://a.example/mcp/x").unwrap();
        for good in ["https://a.example", "https://a.example/", "https://a.example/mcp", "https://a.example/mcp/x"] {
            assert!(covers(good, &server), "{good}");
        }
        for bad in [
            "https://b.example/mcp/x",
            "http://a.example/mcp/x",
            "https://a.example/mc",
            "https://a.example/mcp/x/y",
            "x",
        ] {
            assert!(!covers(bad, &server), "{bad}");
        }
    }

    #[test]
    fn metadata_of_others_and_unsafe_endpoints_are_refused() {
        let good = serde_json::json!({
            "issuer": "https://a.example", "authorization_endpoint": "https://a.example/authorize",
            "token_endpoint": "https://a.example/token", "code_challenge_methods_supported": ["S256"],
        });
        let read = |change: serde_json::Value| {
            let mut document = good.clone();
            document.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            read_issuer(document.to_string().as_bytes(), "https://a.example")
        };
        let issuer = read(serde_json::json!({})).unwrap();
        assert!(issuer.basic && !issuer.post && !issuer.public);
        assert_eq!(issuer.endpoints.authorization, "https://a.example/authorize");
        for (change, why) in [
            (serde_json::json!({ "code_challenge_methods_supported": ["plain"] }), "plain alone"),
            (serde_json::json!({ "code_challenge_methods_supported": [] }), "none"),
        ] {
            assert_eq!(read(change).unwrap().endpoints.authorization, "", "{why}");
        }
        for change in [
            serde_json::json!({ "issuer": "https://a.example/" }),
            serde_json::json!({ "authorization_endpoint": "javascript:alert(1)" }),
            serde_json::json!({ "token_endpoint": "http://a.example/token" }),
            serde_json::json!({ "revocation_endpoint": "http://a.example/revoke" }),
            serde_json::json!({ "registration_endpoint": "https://u@a.example/" }),
            serde_json::json!({ "token_endpoint": 1 }),
        ] {
            assert!(read(change.clone()).is_err(), "{change}");
        }
    }
}
