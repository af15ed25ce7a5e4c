//! The future of the peek service: reads the body, then calls the service inside.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::{PeekOptions, inspect};
use crate::context::McpContext;
use crate::layer::admit::too_large;
use crate::refusal::Refusal;
use crate::wire::mirror::MCP_METHOD;
use crate::{Body, BoxError};

pin_project! {
    /// The future of a [`PeekService`](super::PeekService).
    pub struct PeekFuture<B, S, F, R> {
        #[pin]
        state: State<B, S, F, R>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<B, S, F, R> {
        Refused { response: Option<Response<R>> },
        Reading { #[pin] body: B, reading: Reading, inner: S },
        Inner { #[pin] inner: F },
    }
}

struct Reading {
    parts: Option<Parts>,
    cx: McpContext,
    options: Arc<PeekOptions>,
    /// The usual body is one chunk, which is not copied.
    first: Option<Bytes>,
    more: BytesMut,
    /// Armed only when the body lets us wait.
    timeout: Option<Pin<Box<Sleep>>>,
    /// When the whole body must be there; known once it has let us wait.
    deadline: Option<Instant>,
}

impl<B, S, F, R> std::fmt::Debug for PeekFuture<B, S, F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeekFuture(..)")
    }
}

impl<B, S, F, R: From<Bytes>> PeekFuture<B, S, F, R> {
    pub(super) fn refused(refusal: Refusal, cx: Option<&McpContext>) -> Self {
        Self { state: State::Refused { response: Some(refusal.into_mcp(cx)) } }
    }

    pub(super) fn inner(inner: F) -> Self {
        Self { state: State::Inner { inner } }
    }

    pub(super) fn reading(body: B, parts: Parts, cx: McpContext, options: Arc<PeekOptions>, inner: S) -> Self {
        let (first, more) = (None, BytesMut::new());
        let reading = Reading { parts: Some(parts), cx, options, first, more, timeout: None, deadline: None };
        Self { state: State::Reading { body, reading, inner } }
    }
}

impl<B, S, R, E> Future for PeekFuture<B, S, S::Future, R>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    S: Service<Request<Body>, Response = Response<R>, Error = E>,
    R: From<Bytes>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projected::Refused { response } => {
                    // Taken once: a future is not polled after it is ready.
                    return response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
                Projected::Inner { inner } => return inner.poll(task),
                Projected::Reading { body, reading, inner } => match ready!(reading.poll(body, task)) {
                    Ok(request) => State::Inner { inner: inner.call(request) },
                    Err(refusal) => State::Refused { response: Some(refusal.into_mcp(Some(&reading.cx))) },
                },
            };
            state.set(next);
        }
    }
}

impl Reading {
    fn poll<B>(&mut self, mut body: Pin<&mut B>, task: &mut Context<'_>) -> Poll<Result<Request<Body>, Refusal>>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        loop {
            let frame = match body.as_mut().poll_frame(task) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let over = ready!(self.poll_timeout(task));
                    return Poll::Ready(Err(self.too_slow(over)));
                }
            };
            self.timeout = None;
            match frame {
                None => return Poll::Ready(self.read()),
                Some(Err(error)) => {
                    let refusal = Refusal::new(StatusCode::BAD_REQUEST, "The body could not be read.");
                    return Poll::Ready(Err(refusal.because(error)));
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let limit = self.options.message.max_bytes;
                    if self.length() + data.len() > limit {
                        return Poll::Ready(Err(too_large(limit as u64)));
                    }
                    self.push(data);
                    if body.is_end_stream() {
                        return Poll::Ready(self.read());
                    }
                }
            }
        }
    }

    /// Ready when the next bytes, or the whole body, should have been there; with that time.
    fn poll_timeout(&mut self, task: &mut Context<'_>) -> Poll<Instant> {
        let timeout = match &mut self.timeout {
            Some(timeout) => timeout,
            none => {
                let now = Instant::now();
                let deadline = *self.deadline.get_or_insert(now + self.options.total);
                let empty = self.first.is_none() && self.more.is_empty();
                let next = now + if empty { self.options.first_byte } else { self.options.chunk };
                none.insert(Box::pin(tokio::time::sleep_until(next.min(deadline))))
            }
        };
        timeout.as_mut().poll(task).map(|()| timeout.deadline())
    }

    fn too_slow(&self, over: Instant) -> Refusal {
        let public = match self.deadline {
            Some(deadline) if deadline <= over => {
                format!("The body came too slowly: it may take {} seconds in all.", self.options.total.as_secs()).into()
            }
            _ => Cow::Borrowed("The body came too slowly."),
        };
        Refusal::new(StatusCode::REQUEST_TIMEOUT, public)
    }

    fn length(&self) -> usize {
        self.first.as_ref().map_or(0, Bytes::len) + self.more.len()
    }

    fn push(&mut self, data: Bytes) {
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(data);
            return;
        }
        if let Some(first) = self.first.take() {
            self.more.extend_from_slice(&first);
        }
        self.more.extend_from_slice(&data);
    }

    fn read(&mut self) -> Result<Request<Body>, Refusal> {
        let mut bytes = self.first.take().unwrap_or_else(|| self.more.split().freeze());
        // The head is taken once, when the body is whole.
        let parts = self.parts.take().ok_or_else(|| Refusal::layer_absent("head", "PeekLayer"))?;
        if parts.headers.get(MCP_METHOD).is_some_and(|method| method == "subscriptions/listen") {
            // Kept for hours: a slice would keep the buffer alive that the connection was read into.
            bytes = Bytes::copy_from_slice(&bytes);
        }
        match inspect(&parts.headers, &bytes, &self.options) {
            Ok(facts) => {
                self.cx.set_message(facts).map_err(Refusal::fact_set)?;
                Ok(Request::from_parts(parts, Body::from(bytes)))
            }
            Err((refusal, facts)) => {
                if let Some(facts) = facts {
                    self.cx.set_message(*facts).map_err(Refusal::fact_set)?;
                }
                Err(refusal)
            }
        }
    }
}
