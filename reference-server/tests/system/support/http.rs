//! An HTTP client that sends what it is told and shows what came, one connection a request.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::PATIENCE;

/// A request to be.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer whose body is still coming. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    read: BytesMut,
    connection: AbortHandle,
}

impl Call {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn delete(path: &str) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::POST, path) }
    }

    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a header line, beside others of that name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.parse().unwrap(), value.parse().unwrap()));
        self
    }

    /// Takes away the lines of a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(one, _)| one.as_str() != name);
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sends, and waits for the head of the answer.
    pub(crate) async fn open(self, address: SocketAddr) -> Open {
        timeout(PATIENCE, self.try_open(address)).await.expect("the head of the answer came").unwrap()
    }

    /// The same, where the far side may be gone.
    pub(crate) async fn try_open(self, address: SocketAddr) -> Result<Open, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection).abort_handle();
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse()?;
        let headers = request.headers_mut();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if !headers.contains_key(http::header::HOST) {
            headers.insert(http::header::HOST, address.to_string().parse()?);
        }
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        Ok(Open { status: head.status, headers: head.headers, body, read: BytesMut::new(), connection })
    }

    /// Sends, and waits for the whole answer.
    pub(crate) async fn send(self, address: SocketAddr) -> Answer {
        self.open(address).await.finish().await
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON document, or the last JSON-RPC message of an event stream.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let is_stream =
            self.headers.get("content-type").is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        if !is_stream {
            return serde_json::from_slice(&self.body)
                .unwrap_or_else(|error| panic!("{} {}: {error}", self.status, self.text()));
        }
        let text = self.text();
        let events: Vec<Event> = text.split("\n\n").filter_map(Event::parse).collect();
        let last = events.iter().rev().find(|event| !event.data.is_empty());
        last.unwrap_or_else(|| panic!("no message in {text:?}")).json()
    }

    /// The text of a tool's result.
    #[track_caller]
    pub(crate) fn tool_text(&self) -> String {
        let json = self.json();
        json["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {json}")).to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    /// A JSON-RPC error of this status and code.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, code: i64) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.json()["error"]["code"], code, "{}", self.text());
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }
}

impl Open {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            let frame = timeout(PATIENCE * 2, self.body.frame()).await.expect("the body goes on")?;
            // A body that breaks off has ended for whoever reads events.
            let Ok(frame) = frame else { return None };
            if let Ok(data) = frame.into_data() {
                return Some(data);
            }
        }
    }

    /// Reads to the end; whether that was an end, and not a break.
    pub(crate) async fn ends_well(&mut self) -> bool {
        loop {
            match timeout(PATIENCE * 2, self.body.frame()).await.expect("the body ends") {
                None => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
            }
        }
    }

    /// The next event, comments included; `None` at the end of the stream.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.read.windows(2).position(|window| window == b"\n\n") {
                let event = self.read.split_to(end + 2);
                if let Some(event) = Event::parse(&String::from_utf8_lossy(&event)) {
                    return Some(event);
                }
                continue;
            }
            let chunk = self.chunk().await?;
            self.read.extend_from_slice(&chunk);
        }
    }

    /// The next event with a JSON-RPC message.
    pub(crate) async fn message(&mut self) -> Option<Value> {
        loop {
            let event = self.event().await?;
            if !event.data.is_empty() {
                return Some(event.json());
            }
        }
    }

    /// Whether nothing comes for this long.
    pub(crate) async fn is_quiet_for(&mut self, time: Duration) -> bool {
        timeout(time, self.chunk()).await.is_err()
    }

    pub(crate) async fn finish(mut self) -> Answer {
        let mut body = std::mem::take(&mut self.read);
        while let Some(chunk) = self.chunk().await {
            body.extend_from_slice(&chunk);
        }
        Answer { status: self.status, headers: self.headers.clone(), body: body.freeze() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A server-sent event, or a comment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) data: String,
    pub(crate) comment: Option<String>,
}

impl Event {
    fn parse(text: &str) -> Option<Self> {
        let mut event = Self::default();
        let mut any = false;
        for line in text.lines().filter(|line| !line.is_empty()) {
            any = true;
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => event.comment = Some(value.to_owned()),
                "id" => event.id = Some(value.to_owned()),
                "data" => event.data.push_str(value),
                _ => {}
            }
        }
        any.then_some(event)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{:?}: {error}", self.data))
    }
}
