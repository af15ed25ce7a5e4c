//! Small documents from elsewhere: keys, metadata, answers of other authorization servers.

#![expect(clippy::disallowed_types, reason = "this is the client that everybody else is sent to")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connector::connector_by;
use super::{EgressConnector, EgressPolicy, Names, System};
use crate::BoxError;

/// Gets documents, and posts forms, within limits. Redirects are answers like any other: nobody follows them.
///
/// [`Fetcher`] is one; a service that has to go through a proxy of its own brings another.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// Sends the request and reads the whole answer.
    ///
    /// Dropping the future closes the connection.
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError>;
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Any status, redirects among them.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// At most [`FetchOptions::body`] bytes.
    pub body: Bytes,
}

impl Fetched {
    /// The media type, in lower case and without parameters.
    #[must_use]
    pub fn media_type(&self) -> Option<String> {
        let text = self.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
        Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }
}

/// Why there is no answer. For the operator's log: nothing of it is told to whoever caused the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Neither https nor, where that is allowed, http; or user information in the URL.
    #[error("{0} is not an https URL without user information")]
    Url(Uri),
    /// It took too long.
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
    /// It is too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection failed, or the address may not be reached.
    #[error("the call failed")]
    Failed(#[source] BoxError),
}

/// How documents are fetched.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The holes of this purpose; for keys and metadata of identity providers `egress.identity.allow`.
    pub policy: EgressPolicy,
    /// Whether plain http may be called where `policy` has a hole for a private address; never by default.
    pub plain_http: bool,
    /// From the name's resolution to the last byte; 10 s.
    pub timeout: Duration,
    /// Bytes of a body; 256 KiB.
    pub body: usize,
    /// Who looks names up; the operating system.
    pub names: Arc<dyn Names>,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            policy: EgressPolicy::default(),
            plain_http: false,
            timeout: Duration::from_secs(10),
            body: 256 * 1024,
            names: Arc::new(System),
        }
    }
}

impl FetchOptions {
    /// The same with these holes.
    #[must_use]
    pub fn with_policy(mut self, policy: EgressPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The same, calling plain http too: for identity providers on the machine itself.
    #[must_use]
    pub fn with_plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// The same with at most this many bytes of a body.
    #[must_use]
    pub fn with_body(mut self, bytes: usize) -> Self {
        self.body = bytes;
        self
    }

    /// The same, with names looked up so.
    #[must_use]
    pub fn with_names(mut self, names: Arc<dyn Names>) -> Self {
        self.names = names;
        self
    }

    /// The same within this time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Fetches over connections to checked addresses. Clones share the connections.
#[derive(Clone)]
pub struct Fetcher {
    client: Client<EgressConnector, Full<Bytes>>,
    options: Arc<FetchOptions>,
}

impl Fetcher {
    /// Fetches with these limits.
    #[must_use]
    pub fn new(options: FetchOptions) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(2)
            .pool_timer(TokioTimer::new())
            .build(connector_by(
                Some(options.policy.clone()),
                options.timeout,
                Arc::default(),
                Arc::clone(&options.names),
            ));
        Self { client, options: Arc::new(options) }
    }
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("options", &self.options).finish_non_exhaustive()
    }
}

#[async_trait]
impl Fetch for Fetcher {
    async fn fetch(&self, request: Request<Bytes>) -> Result<Fetched, FetchError> {
        let options = &self.options;
        let uri = request.uri();
        let scheme = matches!((uri.scheme_str(), options.plain_http), (Some("https"), _) | (Some("http"), true));
        if !scheme || uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(FetchError::Url(uri.clone()));
        }
        let call = async {
            let failed = |error: BoxError| FetchError::Failed(error);
            let response = self.client.request(request.map(Full::new)).await.map_err(|error| failed(error.into()))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, options.body).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { FetchError::TooLarge(options.body) } else { failed(error) }
            })?;
            Ok(Fetched { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(options.timeout, call).await.map_err(|_| FetchError::TimedOut(options.timeout))?
    }
}

/// A request that asks for JSON.
///
/// # Errors
/// The URL is none.
pub fn get_json(url: &str) -> Result<Request<Bytes>, http::Error> {
    let accept = (http::header::ACCEPT, "application/json");
    Request::builder().method(Method::GET).uri(url).header(accept.0, accept.1).body(Bytes::new())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Answers every connection with these bytes.
    async fn server(answer: String) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}/")
    }

    fn ok(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: Application/JSON; x=y\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn local() -> FetchOptions {
        let policy = EgressPolicy::new(["127.0.0.0/8".parse().unwrap()]);
        FetchOptions::default().with_policy(policy).with_plain_http()
    }

    #[tokio::test]
    async fn plain_http_stays_in_the_holes_where_that_is_asked_for() {
        let policy = || EgressPolicy::new(["127.0.0.0/8".parse().unwrap()]).with_plain_http_in_holes_alone();
        let options = |policy| FetchOptions::default().with_policy(policy).with_plain_http();
        let url = server(ok("{}")).await;
        assert!(Fetcher::new(options(policy())).fetch(get_json(&url).unwrap()).await.is_ok());
        // A public address, which nobody calls here.
        let elsewhere = Fetcher::new(options(policy())).fetch(get_json("http://8.8.8.8:9/").unwrap()).await;
        let Err(FetchError::Failed(error)) = elsewhere else { panic!("{elsewhere:?}") };
        let mut causes = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source());
        assert!(causes.any(|error| error.to_string().contains("plain http is only for")), "{error:?}");
    }

    #[tokio::test]
    async fn reads_to_the_limit_and_not_a_byte_more() {
        let url = server(ok("{\"a\":1}")).await;
        let get = |body| {
            let request = get_json(&url).unwrap();
            async move { Fetcher::new(local().with_body(body)).fetch(request).await }
        };
        let fetched = get(7).await.unwrap();
        assert_eq!((&*fetched.body, fetched.media_type().as_deref()), (&b"{\"a\":1}"[..], Some("application/json")));
        assert!(matches!(get(6).await, Err(FetchError::TooLarge(6))));
    }

    /// Gives the answers one after the other, the last one for ever.
    #[derive(Debug)]
    struct Scripted(std::sync::Mutex<std::collections::VecDeque<std::net::IpAddr>>);

    #[async_trait]
    impl Names for Scripted {
        async fn addresses(&self, _: &str, _: u16) -> std::io::Result<Vec<std::net::IpAddr>> {
            let mut answers = self.0.lock().unwrap();
            let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() };
            Ok(next.into_iter().collect())
        }
    }

    /// A name that leads elsewhere as soon as it was checked (DNS rebinding): the connection goes to the address that was
    /// checked, and the next one is checked anew.
    #[tokio::test]
    async fn a_name_is_looked_up_once_and_called_where_that_was() {
        let url = server(ok("{}")).await;
        let port = url.trim_end_matches('/').rsplit(':').next().unwrap();
        let url = format!("http://rebinding.example:{port}/");
        let names =
            Scripted(std::sync::Mutex::new(["127.0.0.1", "169.254.169.254"].map(|ip| ip.parse().unwrap()).into()));
        let names = Arc::new(names);
        let fetcher = Fetcher::new(local().with_names(names.clone()));
        assert_eq!(fetcher.fetch(get_json(&url).unwrap()).await.unwrap().status, StatusCode::OK);
        assert_eq!(names.0.lock().unwrap().len(), 1, "it was asked once");
        let again = Fetcher::new(local().with_names(names)).fetch(get_json(&url).unwrap()).await;
        assert!(matches!(again, Err(FetchError::Failed(_))), "{again:?}");
    }

    #[tokio::test]
    async fn follows_no_redirect() {
        let url =
            server("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n".into()).await;
        let fetched = Fetcher::new(local()).fetch(get_json(&url).unwrap()).await.unwrap();
        assert_eq!(fetched.status, StatusCode::FOUND);
    }

    #[tokio::test]
    async fn refuses_private_addresses_plain_http_and_user_information() {
        let url = server(ok("{}")).await;
        let closed = Fetcher::new(FetchOptions::default().with_plain_http()).fetch(get_json(&url).unwrap()).await;
        assert!(matches!(closed, Err(FetchError::Failed(_))), "{closed:?}");
        let https_only = Fetcher::new(FetchOptions { plain_http: false, ..local() });
        assert!(matches!(https_only.fetch(get_json(&url).unwrap()).await, Err(FetchError::Url(_))));
        let user = url.replace("127.0.0.1", "ada@127.0.0.1");
        assert!(matches!(Fetcher::new(local()).fetch(get_json(&user).unwrap()).await, Err(FetchError::Url(_))));
    }

    #[tokio::test]
    async fn a_silent_server_is_left() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let fetcher = Fetcher::new(local().with_timeout(Duration::from_millis(50)));
        assert!(matches!(fetcher.fetch(get_json(&url).unwrap()).await, Err(FetchError::TimedOut(_))));
    }
}
