//! The future of the CORS service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use super::{Answer, mark_readable};

pin_project! {
    /// The future of a [`CorsService`](super::CorsService).
    pub struct CorsFuture<F, R> {
        #[pin]
        state: State<F, R>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, R> {
        Answered {
            response: Option<Response<R>>,
        },
        Inner {
            #[pin]
            inner: F,
            answer: Answer,
        },
    }
}

impl<F, R> CorsFuture<F, R> {
    pub(super) fn answered(response: Response<R>) -> Self {
        Self { state: State::Answered { response: Some(response) } }
    }

    pub(super) fn inner(inner: F, answer: Answer) -> Self {
        Self { state: State::Inner { inner, answer } }
    }
}

impl<F, R> std::fmt::Debug for CorsFuture<F, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CorsFuture(..)")
    }
}

impl<F, R, E> Future for CorsFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            // Taken once: a future is not polled after it is ready.
            Projected::Answered { response } => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Projected::Inner { inner, answer } => {
                let mut response = ready!(inner.poll(cx))?;
                if let Answer::Readable(origin) = std::mem::replace(answer, Answer::Plain) {
                    mark_readable(response.headers_mut(), origin);
                }
                Poll::Ready(Ok(response))
            }
        }
    }
}
