//! Answers that are ready before their request's body has arrived.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use mcp_gateway_core::{Body, BoxFuture, Unread};
use pin_project_lite::pin_project;

/// How much of a body that nobody wants is read, so that its connection can carry the next request.
const BYTES: u64 = 64 << 10;
/// How long the answer waits for it.
const TIME: Duration = Duration::from_secs(1);

pin_project! {
    /// An answer over HTTP/1.1, and then the rest of its request's body.
    ///
    /// A client that has sent all of its body goes on with its connection. Closed without a word, it would meet the end
    /// in the middle of its next request. So the rest is read, or the answer says that the connection closes
    /// (RFC 9112 §9.6).
    pub(super) struct Concluded<F> {
        #[pin]
        answer: F,
        unread: Arc<Unread>,
        expects: bool,
        end: Option<BoxFuture<Response<Body>>>,
    }
}

impl<F> Concluded<F> {
    pub(super) fn new(answer: F, unread: Arc<Unread>, expects: bool) -> Self {
        Self { answer, unread, expects, end: None }
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Concluded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let end = match this.end {
            Some(end) => end,
            none => {
                let Ok(answer) = ready!(this.answer.poll(cx));
                let Some(body) = this.unread.take() else { return Poll::Ready(Ok(answer)) };
                none.insert(Box::pin(conclude(answer, body, *this.expects)))
            }
        };
        end.as_mut().poll(cx).map(Ok)
    }
}

/// Whether the client waits with its body until it is asked for it. Reading would ask (RFC 9110 §10.1.1).
pub(super) fn expects(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

async fn conclude(mut answer: Response<Body>, body: Body, expects: bool) -> Response<Body> {
    let is_small = body.size_hint().lower() <= BYTES;
    if expects || !is_small || !matches!(tokio::time::timeout(TIME, drop_rest(body)).await, Ok(true)) {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Whether the body ended in time.
async fn drop_rest(mut body: Body) -> bool {
    let mut left = BYTES;
    while let Some(frame) = body.frame().await {
        let length = frame.map(|frame| frame.data_ref().map_or(0, |data| data.len() as u64));
        match length.ok().and_then(|length| left.checked_sub(length)) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}
