//! Calls over plain HTTP/1.1 whose connections are driven by those who wait for the answers.
//!
//! The usual client gives each connection a task of its own: a call then passes through two channels and wakes three
//! tasks. Here the task that waits reads and writes the socket itself, and between calls nobody does.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, Uri};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use tokio::time::Instant;
use tower_service::Service;

use super::EgressConnector;
use crate::{Body, BoxError, Map};

/// How often idle connections are looked at, while there are any: those that their servers have closed, and those that
/// have been idle for too long, are closed.
const SWEEP: Duration = Duration::from_secs(5);

/// A client of plain HTTP/1.1 with a pool of connections.
#[derive(Clone)]
pub(crate) struct PlainClient(Arc<Pool>);

struct Pool {
    connector: EgressConnector,
    max_idle: usize,
    idle_for: Duration,
    idle: Mutex<Idle>,
}

/// The connections that wait for a call, by authority, the last used at the end.
#[derive(Default)]
struct Idle {
    connections: Map<Box<str>, Vec<(Instant, Box<Connection>)>>,
    /// Whether somebody looks after them.
    swept: bool,
}

/// A connection with one exchange at a time.
struct Connection {
    authority: Authority,
    sender: SendRequest<Body>,
    /// `None` once it is over.
    driven: Option<http1::Connection<<EgressConnector as Service<Uri>>::Response, Body>>,
}

/// Why a call got no answer.
#[derive(Debug)]
pub(crate) enum PlainError {
    /// There is no connection.
    Connect(BoxError),
    /// The server broke off.
    Exchange(hyper::Error),
}

impl PlainClient {
    /// Keeps at most `max_idle` connections to one authority, each for `idle_for`.
    pub(crate) fn new(connector: EgressConnector, max_idle: usize, idle_for: Duration) -> Self {
        Self(Arc::new(Pool { connector, max_idle, idle_for, idle: Mutex::default() }))
    }

    /// Sends a request, whose URI has an authority, and returns the answer when its head is there.
    ///
    /// Dropping the future, or the answer's body before its end, closes the connection at once.
    pub(crate) async fn request(&self, mut request: Request<Body>) -> Result<Response<Body>, PlainError> {
        let uri = request.uri_mut();
        let authority = uri.authority().cloned().ok_or_else(|| PlainError::Connect("the URL has no host".into()))?;
        *uri = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        loop {
            let kept = self.0.take(authority.as_str());
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                // In a box, because it would make the future of every call 12 KB large.
                None => Box::pin(self.0.connect(authority.clone())).await.map_err(PlainError::Connect)?,
            };
            match connection.exchange(request).await {
                Ok(answer) => return Ok(answer.map(|body| PlainBody::new(body, connection, &self.0).into())),
                Err(mut error) => match error.take_message() {
                    // The server has closed the connection before a byte of the request was written.
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(PlainError::Exchange(error.into_error())),
                },
            }
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, authority: &str) -> Option<Box<Connection>> {
        loop {
            let (since, mut connection) = self.lock().connections.get_mut(authority)?.pop()?;
            if since.elapsed() < self.idle_for && connection.is_idle() {
                return Some(connection);
            }
        }
    }

    fn give_back(self: &Arc<Self>, connection: Box<Connection>) {
        // Not ready: the server wants to close it, or has answered before it read the whole request.
        if !connection.sender.is_ready() {
            return;
        }
        let mut idle = self.lock();
        let authority = connection.authority.as_str();
        let kept = match idle.connections.get_mut(authority) {
            Some(kept) => kept,
            None => idle.connections.entry(authority.into()).or_default(),
        };
        if kept.len() >= self.max_idle {
            drop(idle);
            return drop(connection);
        }
        kept.push((Instant::now(), connection));
        if !idle.swept
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            idle.swept = true;
            runtime.spawn(Self::sweep(Arc::downgrade(self)));
        }
    }

    async fn sweep(pool: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(pool) = pool.upgrade() else { return };
            let mut idle = pool.lock();
            let mut over = Vec::new();
            idle.connections.retain(|_, kept| {
                over.extend(
                    kept.extract_if(.., |(since, connection)| {
                        since.elapsed() >= pool.idle_for || !connection.is_idle()
                    }),
                );
                !kept.is_empty()
            });
            idle.swept = !idle.connections.is_empty();
            let ended = !idle.swept;
            drop(idle);
            // Sockets are closed outside the lock.
            drop(over);
            if ended {
                return;
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the client that everybody else is sent to")]
    async fn connect(&self, authority: Authority) -> Result<Box<Connection>, BoxError> {
        let uri = Uri::builder().scheme("http").authority(authority.clone()).path_and_query("/").build()?;
        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await?;
        let (sender, driven) = http1::handshake(connector.call(uri).await?).await?;
        Ok(Box::new(Connection { authority, sender, driven: Some(driven) }))
    }
}

impl Connection {
    /// Reads and writes what there is to read and write.
    fn drive(&mut self, task: &mut Context<'_>) {
        if let Some(driven) = &mut self.driven
            && Pin::new(driven).poll(task).is_ready()
        {
            // Whoever waits for an answer or a body learns from the drop that there is none.
            self.driven = None;
        }
    }

    /// Whether it can take a call. Nobody is woken for what happens to it from here on.
    fn is_idle(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driven.is_some() && self.sender.is_ready()
    }

    async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|task| {
            self.drive(task);
            answer.as_mut().poll(task)
        })
        .await
    }
}

/// An answer's body; what polls it drives the connection.
pub(crate) struct PlainBody {
    incoming: Incoming,
    /// `None` once the body is over.
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
}

impl PlainBody {
    fn new(incoming: Incoming, connection: Box<Connection>, pool: &Arc<Pool>) -> Self {
        let mut body = Self { incoming, connection: Some(connection), pool: Arc::clone(pool) };
        body.give_back_at_end();
        body
    }

    fn give_back_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}

impl http_body::Body for PlainBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.incoming).poll_frame(task);
        if let (Poll::Pending, Some(connection)) = (&frame, &mut this.connection) {
            connection.drive(task);
            frame = Pin::new(&mut this.incoming).poll_frame(task);
        }
        match &frame {
            Poll::Ready(None) => this.give_back(),
            Poll::Ready(Some(Ok(_))) => this.give_back_at_end(),
            Poll::Ready(Some(Err(_))) => this.connection = None,
            Poll::Pending => {}
        }
        frame.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
