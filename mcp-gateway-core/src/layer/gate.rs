//! The shape of every layer that lets a request pass or refuses it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::context::McpContext;
use crate::refusal::Refusal;
use crate::{BoxFuture, MaybeReady};

/// Judges the head of a request.
///
/// A gate is cheap to clone (an `Arc` inside). What it finds out it sets as a fact of the context. The usual judgement
/// is ready at once and allocates nothing; one that must wait owns what it needs.
pub trait Gate: Clone + Send + Sync + 'static {
    /// Lets the request pass, or says why not.
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>>;

    /// Renders its refusals; for the data plane unless it says otherwise.
    fn render<R: From<Bytes>>(&self, refusal: Refusal, cx: Option<&McpContext>) -> Response<R> {
        refusal.into_mcp(cx)
    }
}

/// A service behind a gate.
#[derive(Debug, Clone)]
pub struct Gated<G, S> {
    gate: G,
    inner: S,
}

impl<G, S> Gated<G, S> {
    /// Puts a gate in front of a service.
    pub fn new(gate: G, inner: S) -> Self {
        Self { gate, inner }
    }
}

impl<G, S, B, R> Service<Request<B>> for Gated<G, S>
where
    G: Gate,
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: From<Bytes> + Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = GatedFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let state = match self.gate.judge(&mut parts) {
            MaybeReady::Ready(Ok(())) => State::Inner { inner: self.inner.call(Request::from_parts(parts, body)) },
            MaybeReady::Ready(Err(refusal)) => {
                let response = self.gate.render(refusal, McpContext::of(&parts.extensions));
                State::Refused { response: Some(response) }
            }
            MaybeReady::Wait(judgement) => {
                let gate = self.gate.clone();
                let clone = self.inner.clone();
                // The service that was polled ready is the one that is called.
                let mut inner = std::mem::replace(&mut self.inner, clone);
                State::Waiting {
                    future: Box::pin(async move {
                        match judgement.await {
                            Ok(()) => inner.call(Request::from_parts(parts, body)).await,
                            Err(refusal) => Ok(gate.render(refusal, McpContext::of(&parts.extensions))),
                        }
                    }),
                }
            }
        };
        GatedFuture { state }
    }
}

pin_project! {
    /// The future of a [`Gated`] service.
    pub struct GatedFuture<F, R, E> {
        #[pin]
        state: State<F, R, E>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F, R, E> {
        Refused {
            response: Option<Response<R>>,
        },
        Inner {
            #[pin]
            inner: F,
        },
        Waiting {
            future: BoxFuture<Result<Response<R>, E>>,
        },
    }
}

impl<F, R, E> std::fmt::Debug for GatedFuture<F, R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GatedFuture(..)")
    }
}

impl<F, R, E> Future for GatedFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            // Taken once: a future is not polled after it is ready.
            Projected::Refused { response } => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
            Projected::Inner { inner } => inner.poll(cx),
            Projected::Waiting { future } => future.as_mut().poll(cx),
        }
    }
}

/// Implements `Layer` for a gate.
macro_rules! gate_layer {
    ($gate:ty) => {
        impl<S> tower_layer::Layer<S> for $gate {
            type Service = $crate::layer::Gated<Self, S>;

            fn layer(&self, inner: S) -> Self::Service {
                $crate::layer::Gated::new(self.clone(), inner)
            }
        }
    };
}
pub(crate) use gate_layer;
