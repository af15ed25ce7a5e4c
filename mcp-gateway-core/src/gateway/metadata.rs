//! Protected resource metadata, to which every 401 of the data plane points.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::json;
use tower_service::Service;

use crate::Body;
use crate::record::{Mount, Scope};
use crate::refusal::Refusal;

/// Where the documents are (RFC 9728 §3.1), in front of the mount's path.
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// Serves protected resource metadata (RFC 9728 §2) of the servers at a mount.
///
/// A [`tower` service](tower_service) for requests whose path is whole; whatever is no such document is a 404. The
/// document is the same for servers that exist and those that do not: it must not tell which ones there are.
///
/// ```
/// use http::{Request, StatusCode};
/// use mcp_gateway_core::gateway::ResourceMetadata;
/// use mcp_gateway_core::record::Mount;
/// use tower::ServiceExt as _;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
/// let url = mount.resource("github").metadata.unwrap();
/// let answer = ResourceMetadata::new(mount).oneshot(Request::get(&*url).body(()).unwrap()).await.unwrap();
/// assert_eq!(answer.status(), StatusCode::OK);
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct ResourceMetadata(Arc<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    mount: Mount,
    /// Whether each server is its own issuer.
    own_issuers: bool,
    /// Further issuers.
    authorization_servers: Vec<String>,
}

impl ResourceMetadata {
    /// Documents that name no authorization server: keys are made by an administrator and sent as bearer tokens.
    ///
    /// A client that finds the member `authorization_servers` asks the named one for its metadata and begins a login;
    /// without it, clients say that they need a token.
    #[must_use]
    pub fn new(mount: Mount) -> Self {
        Self(Arc::new(Inner { mount, own_issuers: false, authorization_servers: Vec::new() }))
    }

    /// Documents that name these issuers.
    #[must_use]
    pub fn with_authorization_servers(self, issuers: Vec<String>) -> Self {
        Self(Arc::new(Inner { authorization_servers: issuers, ..Inner::clone(&self.0) }))
    }

    /// Documents that name the server's own URL as its issuer, in front of others.
    #[must_use]
    pub fn with_own_issuers(self) -> Self {
        Self(Arc::new(Inner { own_issuers: true, ..Inner::clone(&self.0) }))
    }

    /// The path of the documents, with `{id}` for the server's: a route of axum's.
    #[must_use]
    pub fn route(&self) -> String {
        format!("{WELL_KNOWN}{}/{{id}}", self.0.mount.path())
    }

    fn answer(&self, method: &Method, path: &str, host: Option<&str>) -> Result<Response<Body>, Refusal> {
        let below = path.strip_prefix(WELL_KNOWN).and_then(|path| path.strip_prefix(self.0.mount.path()));
        let id = below.and_then(|path| path.strip_prefix('/'));
        // With a slash at its end it is the same: clients compare prefixes.
        let id = id.map(|id| id.strip_suffix('/').unwrap_or(id)).filter(|id| is_id(id));
        let id = id.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "There is nothing at this address."))?;
        match *method {
            Method::GET | Method::HEAD => Ok(self.document(id, host)),
            Method::OPTIONS => Ok(preflight()),
            _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Metadata is read with GET.")
                .with_header(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"))),
        }
    }

    fn document(&self, id: &str, host: Option<&str>) -> Response<Body> {
        let own = &self.0.mount;
        // Clients compare with the address that they call: on loopback, it has three names.
        let resource = host.and_then(|host| own.on_loopback_as(host)).as_ref().unwrap_or(own).resource(id);
        let mut document = json!({
            "resource": resource.url,
            "resource_name": format!("{id} (MCP server)"),
            "bearer_methods_supported": ["header"],
            "scopes_supported": [Scope::Mcp],
        });
        let of_server = self.0.own_issuers.then(|| own.resource(id).url);
        let issuers = of_server.iter().map(|url| &**url).chain(self.0.authorization_servers.iter().map(String::as_str));
        let issuers: Vec<&str> = issuers.collect();
        if !issuers.is_empty() {
            document["authorization_servers"] = json!(issuers);
        }
        let mut response = Response::new(Body::from(Bytes::from(document.to_string())));
        // Public, and read by clients in browsers.
        put(
            response.headers_mut(),
            [
                (CONTENT_TYPE, "application/json"),
                (CACHE_CONTROL, "max-age=300"),
                (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ],
        );
        response
    }
}

/// Lets pages read the document with headers of MCP, upon which browsers ask first (Fetch §4.8).
fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    put(
        response.headers_mut(),
        [
            (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (ACCESS_CONTROL_ALLOW_METHODS, "GET"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "*"),
            (ACCESS_CONTROL_MAX_AGE, "86400"),
        ],
    );
    response
}

fn put<const N: usize>(headers: &mut HeaderMap, fields: [(HeaderName, &'static str); N]) {
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn is_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

impl<B> Service<Request<B>> for ResourceMetadata {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
        let answer = self.answer(request.method(), request.uri().path(), host);
        ready(Ok(answer.unwrap_or_else(|refusal| refusal.into_problem(None))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(metadata: &ResourceMetadata, method: &str, path: &str) -> (u16, HeaderMap, serde_json::Value) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let (head, body) = metadata.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), head.headers, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn on_loopback_a_document_names_the_server_as_it_was_called() {
        let metadata = ResourceMetadata::new(Mount::new("http://127.0.0.1:8080", "/tools").unwrap());
        let metadata = metadata.with_authorization_servers(vec!["http://127.0.0.1:8080".to_owned()]);
        for (host, origin) in [
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("evil.example", "http://127.0.0.1:8080"),
        ] {
            let request = Request::get(format!("{WELL_KNOWN}/tools/a")).header(HOST, host).body(()).unwrap();
            let body = metadata.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["resource"], format!("{origin}/tools/a"));
            assert_eq!(document["authorization_servers"], json!(["http://127.0.0.1:8080"]));
        }
    }

    #[tokio::test]
    async fn documents_are_where_the_challenge_says() {
        let mount = Mount::new("https://gateway.example", "/tools").unwrap();
        let url = mount.resource("github").metadata.unwrap();
        let metadata = ResourceMetadata::new(mount);
        let path = url.strip_prefix("https://gateway.example").unwrap();
        let (status, headers, document) = ask(&metadata, "GET", path).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (200, &HeaderValue::from_static("*")));
        assert_eq!(document["resource"], "https://gateway.example/tools/github");
        assert!(document.get("authorization_servers").is_none());
        assert_eq!(ask(&metadata, "OPTIONS", path).await.0, 204);
        assert_eq!(ask(&metadata, "POST", path).await.1[ALLOW], "GET, HEAD, OPTIONS");
        let issuer = "https://login.example".to_owned();
        let named = metadata.clone().with_authorization_servers(vec![issuer.clone()]);
        assert_eq!(ask(&named, "GET", path).await.2["authorization_servers"], json!([issuer]));
        let own = metadata.clone().with_own_issuers();
        let url = json!(["https://gateway.example/tools/github"]);
        assert_eq!(ask(&own, "GET", path).await.2["authorization_servers"], url);
        let both = own.clone().with_authorization_servers(vec![issuer.clone()]);
        assert_eq!(ask(&both, "GET", path).await.2["authorization_servers"], json!([url[0], issuer]));
        assert_eq!(ask(&own, "GET", &format!("{path}/")).await.2["resource"], url[0]);
        for other in [
            "/",
            "/tools/github",
            WELL_KNOWN,
            &format!("{path}/x"),
            &format!("{path}//"),
            &format!("{path}%2f"),
            &format!("{WELL_KNOWN}/tools/A"),
        ] {
            assert_eq!(ask(&metadata, "GET", other).await.0, 404, "{other}");
        }
    }
}
