//! The future of the audit service: looks at the head of the answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::CONTENT_ENCODING;
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use pin_project_lite::pin_project;

use super::body::{AuditBody, Reader};
use super::recorder::{Recorded, Recorder};
use crate::contract::{AuditFull, Seq};
use crate::record::Outcome;
use crate::refusal::Refusal;
use crate::wire::sse::is_event_stream;
use crate::{Body, BoxFuture, MaybeReady};

pin_project! {
    /// The future of an [`AuditService`](super::AuditService).
    pub struct AuditFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Refused { response: Option<Response<Body>> },
        Inner { #[pin] inner: F, recorder: Option<Recorder> },
        Recording { held: Option<(Response<Body>, Recorder)>, wait: BoxFuture<Result<Seq, AuditFull>> },
    }
}

impl<F> std::fmt::Debug for AuditFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditFuture(..)")
    }
}

impl<F> AuditFuture<F> {
    pub(super) fn refused(response: Response<Body>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }

    pub(super) fn inner(inner: F, recorder: Recorder) -> Self {
        Self { state: State::Inner { inner, recorder: Some(recorder) } }
    }
}

impl<F, E> Future for AuditFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let (response, recorder, recorded) = match state.as_mut().project() {
                Projected::Refused { response } => {
                    // Taken once: a future is not polled after it is ready.
                    return response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                }
                Projected::Inner { inner, recorder } => {
                    let response = ready!(inner.poll(task))?;
                    let Some(mut recorder) = recorder.take() else { return Poll::Pending };
                    match look(&response, &mut recorder) {
                        None => return Poll::Ready(Ok(wrap(response, recorder))),
                        Some(recorded) => (response, recorder, recorded),
                    }
                }
                Projected::Recording { held, wait } => {
                    let recorded = ready!(wait.as_mut().poll(task));
                    let Some((response, recorder)) = held.take() else { return Poll::Pending };
                    (response, recorder, MaybeReady::Ready(recorded))
                }
            };
            match recorded {
                MaybeReady::Ready(recorded) => return Poll::Ready(Ok(go_on(response, recorder, recorded))),
                MaybeReady::Wait(wait) => state.set(State::Recording { held: Some((response, recorder)), wait }),
            }
        }
    }
}

/// Records what can be recorded at the head; `None` when the body has to be read for it.
fn look(response: &Response<Body>, recorder: &mut Recorder) -> Option<Recorded> {
    recorder.head(response.status().as_u16(), response.headers());
    if let Some(recorded) = recorder.end_refused() {
        return Some(recorded);
    }
    if is_event_stream(response.headers()) {
        let message = recorder.cx().message();
        let listens = message.is_some_and(|message| message.method.as_deref() == Some("subscriptions/listen"));
        return (recorder.is_get() || listens).then(|| recorder.open());
    }
    if response.body().is_end_stream() {
        let ok = response.status().is_success();
        return Some(recorder.end(if ok { Outcome::Ok } else { Outcome::HttpError }, |_| {}));
    }
    None
}

fn go_on(response: Response<Body>, recorder: Recorder, recorded: Result<Seq, AuditFull>) -> Response<Body> {
    match recorder.goes_on(recorded) {
        Ok(()) => wrap(response, recorder),
        Err(full) => {
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The call cannot be recorded now.");
            refusal.retry_after(5).because(full).into_mcp(Some(recorder.cx()))
        }
    }
}

fn wrap(response: Response<Body>, recorder: Recorder) -> Response<Body> {
    // The recorder stays with the body also when its event is written: it holds the context, and with it the permits.
    let reader = match () {
        () if recorder.is_done() => Reader::Done,
        () if response.headers().contains_key(CONTENT_ENCODING) => Reader::opaque(),
        () if is_event_stream(response.headers()) => Reader::events(&recorder),
        () => Reader::json(),
    };
    let hold = recorder.is_done() && response.body().is_end_stream();
    if hold {
        return response;
    }
    response.map(|body| Body::new(AuditBody::new(body, recorder, reader)))
}

impl Recorder {
    fn is_get(&self) -> bool {
        *self.method() == Method::GET
    }
}
