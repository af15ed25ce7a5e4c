//! Where an issuer's keys are, by its own word.

use std::time::Duration;

use http::StatusCode;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::egress::{Fetch, get_json};
use serde::Deserialize;
use url::{Host, Url};

/// How long all documents of an issuer may take together.
const DEADLINE: Duration = Duration::from_secs(20);

/// The address of an issuer's keys, from the first of its metadata documents that says so: at another place there may be
/// a page, or somebody else's.
pub(super) async fn jwks_uri(fetch: &dyn Fetch, issuer: &str) -> Result<String, BoxError> {
    let looked = async {
        let mut tried = Vec::new();
        for url in places(issuer)? {
            let found = match fetch.fetch(get_json(&url)?).await {
                Ok(answer) if answer.status == StatusCode::OK => read(&answer.body, issuer).map_err(str::to_owned),
                Ok(answer) => Err(format!("status {}", answer.status)),
                Err(error) => Err(error.to_string()),
            };
            match found {
                Ok(found) => return Ok(found),
                Err(why) => tried.push(format!("{url}: {why}")),
            }
        }
        Err(tried.join("; ").into())
    };
    tokio::time::timeout(DEADLINE, looked).await.unwrap_or_else(|_| Err("its metadata took longer than 20 s".into()))
}

/// In the order of the MCP authorization specification: with a path, inserted before it (RFC 8414 §3.1), and appended
/// for OpenID Connect.
fn places(issuer: &str) -> Result<Vec<String>, BoxError> {
    let url = Url::parse(issuer)?;
    let (origin, path) = (url.origin().ascii_serialization(), url.path().trim_end_matches('/'));
    let mut places = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        places.push(format!("{origin}{path}/.well-known/openid-configuration"));
    }
    Ok(places)
}

/// What a document says, if it is the issuer's own (RFC 8414 §3.3).
pub(crate) fn read(document: &[u8], issuer: &str) -> Result<String, &'static str> {
    #[derive(Deserialize)]
    struct Metadata {
        issuer: String,
        jwks_uri: String,
    }
    let found: Metadata = serde_json::from_slice(document).map_err(|_| "its metadata name no jwks_uri")?;
    if found.issuer != issuer {
        return Err("its metadata name another issuer");
    }
    let safe = Url::parse(&found.jwks_uri).is_ok_and(|url| {
        // An issuer on this machine has its keys there too.
        let here = |url: &Url| match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        let plain = url.scheme() == "http" && here(&url) && Url::parse(issuer).is_ok_and(|issuer| here(&issuer));
        (url.scheme() == "https" || plain) && url.username().is_empty() && url.password().is_none()
    });
    if safe { Ok(found.jwks_uri) } else { Err("its jwks_uri is no https URL") }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::{HeaderMap, Request};
    use mcp_gateway_core::egress::{FetchError, Fetched};

    use super::*;

    /// Answers at one place, with one document, and everywhere else with a page.
    struct Web {
        page: StatusCode,
        at: &'static str,
        says: String,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Fetch for Web {
        async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
            let url = request.uri().to_string();
            let (status, body) = match url == self.at {
                true => (StatusCode::OK, self.says.clone()),
                false => (self.page, "<html>".to_owned()),
            };
            self.asked.lock().unwrap().push(url);
            Ok(Fetched { status, headers: HeaderMap::new(), body: body.into() })
        }
    }

    async fn found(issuer: &str, at: &'static str, says: serde_json::Value) -> (Result<String, String>, Vec<String>) {
        found_among(StatusCode::NOT_FOUND, issuer, at, says).await
    }

    async fn found_among(
        page: StatusCode,
        issuer: &str,
        at: &'static str,
        says: serde_json::Value,
    ) -> (Result<String, String>, Vec<String>) {
        let web = Web { page, at, says: says.to_string(), asked: Mutex::default() };
        let found = jwks_uri(&web, issuer).await.map_err(|error| error.to_string());
        (found, web.asked.into_inner().unwrap())
    }

    #[tokio::test]
    async fn the_keys_of_an_issuer_are_found_by_its_own_metadata_and_nobody_elses() {
        let keys = "https://keys.example/set";
        let says = |issuer: &str, keys: &str| serde_json::json!({ "issuer": issuer, "jwks_uri": keys });
        let tenant = "https://a.example/tenant";
        for (issuer, at, asked) in [
            (tenant, "https://a.example/.well-known/oauth-authorization-server/tenant", 1),
            (tenant, "https://a.example/.well-known/openid-configuration/tenant", 2),
            (tenant, "https://a.example/tenant/.well-known/openid-configuration", 3),
            ("https://a.example", "https://a.example/.well-known/oauth-authorization-server", 1),
            ("https://a.example/", "https://a.example/.well-known/openid-configuration", 2),
        ] {
            let (found, all) = found(issuer, at, says(issuer, keys)).await;
            assert_eq!((found.as_deref(), all.len()), (Ok(keys), asked), "{issuer} {all:?}");
        }
        let last = "https://a.example/tenant/.well-known/openid-configuration";
        let (among, _) = found_among(StatusCode::OK, tenant, last, says(tenant, keys)).await;
        assert_eq!(among.as_deref(), Ok(keys), "whatever is at the other places");
        let at = "https://a.example/.well-known/oauth-authorization-server";
        for (issuer, wrong) in [
            ("https://a.example", says("https://a.example/", keys)),
            ("https://a.example", says("https://b.example", keys)),
            ("https://a.example", says("https://a.example", "http://127.0.0.1/keys")),
            ("https://a.example", says("https://a.example", "file:///etc/passwd")),
            ("https://a.example", serde_json::json!({ "issuer": "https://a.example" })),
        ] {
            let (found, _) = found(issuer, at, wrong.clone()).await;
            assert!(found.is_err(), "{wrong}");
        }
        let (absent, _) = found("https://a.example", "https://nowhere.example/", says("x", keys)).await;
        assert!(absent.unwrap_err().contains("404"));
    }
}
