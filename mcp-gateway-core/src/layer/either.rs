//! A future that is one of two.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

pin_project! {
    /// The quick way through a layer, or the slow one.
    pub struct Either<A, B> {
        #[pin]
        state: State<A, B>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<A, B> {
        Inner { #[pin] future: A },
        Slow { #[pin] future: B },
    }
}

impl<A, B> Either<A, B> {
    pub(crate) fn inner(future: A) -> Self {
        Self { state: State::Inner { future } }
    }

    pub(crate) fn slow(future: B) -> Self {
        Self { state: State::Slow { future } }
    }
}

impl<A, B> std::fmt::Debug for Either<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Either(..)")
    }
}

impl<A: Future, B: Future<Output = A::Output>> Future for Either<A, B> {
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A::Output> {
        match self.project().state.project() {
            Projected::Inner { future } => future.poll(cx),
            Projected::Slow { future } => future.poll(cx),
        }
    }
}
