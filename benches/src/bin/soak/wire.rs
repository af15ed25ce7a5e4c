//! One request, and how it ended.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::{World, now};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With a whole answer.
    Answered,
    /// With a whole answer that is a JSON-RPC error.
    Error,
    /// The client hung up.
    HungUp,
    /// The connection broke.
    Broken,
}

impl End {
    pub(super) const ALL: [Self; 4] = [Self::Answered, Self::Error, Self::HungUp, Self::Broken];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Error => "error",
            Self::HungUp => "hung-up",
            Self::Broken => "broken",
        }
    }
}

/// A request that is over.
pub(super) struct Exchange {
    pub(super) began: u128,
    pub(super) ended: u128,
    pub(super) status: u16,
    pub(super) end: End,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A client with one connection, opened anew after each hang-up.
pub(super) struct Client {
    world: &'static World,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // With its task goes the socket, whatever is on its way.
        self.task.abort();
    }
}

impl Client {
    pub(super) fn new(world: &'static World) -> Self {
        Self { world, connection: None }
    }

    /// Sends a request and reads its answer; hangs up when that is not over after `leave`.
    pub(super) async fn send(
        &mut self,
        method: Method,
        server: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
        leave: Option<Duration>,
    ) -> anyhow::Result<Exchange> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/{server}", self.world.path))
            .header(HOST, &self.world.authority)
            .header(AUTHORIZATION, &self.world.authorization)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let mut kept = self.connection.take();
        if let Some(open) = &mut kept
            && open.sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(open) => open,
            None => connect(&self.world.authority).await?,
        };
        let began = now();
        let mut head = (0, HeaderMap::new());
        let read = read(&mut connection, request, &mut head);
        let outcome = match leave {
            Some(leave) => tokio::time::timeout(leave, read).await.ok(),
            None => Some(read.await),
        };
        let (end, body) = match outcome {
            Some(Ok(body)) => {
                self.connection = Some(connection);
                let error = memmem::find(&body, b"\"error\":").is_some();
                (if error { End::Error } else { End::Answered }, body)
            }
            Some(Err(_)) => (End::Broken, Bytes::new()),
            None => (End::HungUp, Bytes::new()),
        };
        Ok(Exchange { began, ended: now(), status: head.0, end, headers: head.1, body })
    }
}

async fn read(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    head: &mut (u16, HeaderMap),
) -> Result<Bytes, hyper::Error> {
    let response = connection.sender.send_request(request).await?;
    *head = (response.status().as_u16(), response.headers().clone());
    Ok(response.into_body().collect().await?.to_bytes())
}

async fn connect(authority: &str) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // What breaks a connection shows in the request that it carried.
    let task = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { sender, task: task.abort_handle() })
}
