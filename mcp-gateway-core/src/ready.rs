//! Answers that are usually there at once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A value that is ready now, or a boxed future of it.
///
/// Contracts on the path of every call return this, so that the usual call (a hit in memory) allocates nothing and
/// the unusual one (a database read, an HTTP request) may still wait. The future is `'static`: it owns what it needs,
/// which lets a layer hold it next to the request without borrowing from it.
///
/// ```
/// use mcp_gateway_core::MaybeReady;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let hit: MaybeReady<u32> = 7.into();
/// let miss = MaybeReady::wait(async { 8 });
/// assert_eq!((hit.await, miss.await), (7, 8));
/// # });
/// ```
#[must_use = "a MaybeReady does nothing unless it is awaited or matched"]
pub enum MaybeReady<T> {
    /// The answer.
    Ready(T),
    /// The answer will come.
    Wait(BoxFuture<T>),
}

/// A boxed, sendable future that owns everything it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

impl<T> MaybeReady<T> {
    /// Boxes a future that must be waited for.
    pub fn wait(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Wait(Box::pin(future))
    }
}

impl<T> From<T> for MaybeReady<T> {
    fn from(value: T) -> Self {
        Self::Ready(value)
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for MaybeReady<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready(value) => f.debug_tuple("Ready").field(value).finish(),
            Self::Wait(_) => f.write_str("Wait(..)"),
        }
    }
}

impl<T: Send + 'static> IntoFuture for MaybeReady<T> {
    type Output = T;
    type IntoFuture = MaybeReadyFuture<T>;

    fn into_future(self) -> MaybeReadyFuture<T> {
        match self {
            Self::Ready(value) => MaybeReadyFuture(State::Ready(Some(value))),
            Self::Wait(future) => MaybeReadyFuture(State::Wait(future)),
        }
    }
}

/// The future of a [`MaybeReady`].
pub struct MaybeReadyFuture<T>(State<T>);

enum State<T> {
    Ready(Option<T>),
    Wait(BoxFuture<T>),
}

// Nothing in here is pinned structurally: the boxed future is pinned by its box.
impl<T> Unpin for MaybeReadyFuture<T> {}

impl<T> std::fmt::Debug for MaybeReadyFuture<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaybeReadyFuture(..)")
    }
}

impl<T> Future for MaybeReadyFuture<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            State::Ready(value) => match value.take() {
                Some(value) => Poll::Ready(value),
                // Polled again after completion: a future that is over never wakes.
                None => Poll::Pending,
            },
            State::Wait(future) => future.as_mut().poll(cx),
        }
    }
}
