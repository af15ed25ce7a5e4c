//! How a connection ends, when its peer does not end it.

use std::fmt::Display;
use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::server::graceful::GracefulConnection;
use mcp_gateway_core::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};

use super::activity::Activity;
use super::{Drain, handover};

/// How long an idle connection stays that has been told to close.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// When a connection has to end.
pub(super) struct End {
    pub(super) peer: SocketAddr,
    pub(super) drain: Drain,
    pub(super) activity: Arc<Activity>,
    /// How long the first request may take.
    pub(super) head_timeout: Duration,
    /// How long nothing may be under way after it; `None` when the protocol's own code measures that.
    pub(super) keep_alive: Option<Duration>,
}

#[derive(Clone, Copy)]
enum Cause {
    NoRequest,
    Idle,
    Drain,
}

enum Step<T, N> {
    Ended,
    Left(T),
    News(N),
}

impl End {
    /// Serves the connection until it ends, or `left` has an answer with which its socket goes on alone.
    pub(super) async fn of<C, T>(&self, mut connection: Pin<&mut C>, left: impl Fn() -> Option<T>) -> Option<T>
    where
        C: GracefulConnection,
        C::Error: Display,
    {
        let peer = self.peer;
        let cause = match self.step(connection.as_mut(), &left, self.told()).await {
            Step::Ended => return None,
            Step::Left(answer) => return Some(answer),
            Step::News(cause) => cause,
        };
        if matches!(cause, Cause::NoRequest) {
            tracing::debug!(%peer, "the head of a request did not come in time");
            return None;
        }
        connection.as_mut().graceful_shutdown();
        match self.step(connection, &left, self.cut(cause)).await {
            Step::Ended => None,
            Step::Left(answer) => Some(answer),
            Step::News(()) => {
                tracing::debug!(%peer, "a connection was cut");
                None
            }
        }
    }

    async fn step<C, T, F>(&self, connection: Pin<&mut C>, left: impl Fn() -> Option<T>, news: F) -> Step<T, F::Output>
    where
        C: GracefulConnection,
        C::Error: Display,
        F: Future,
    {
        let peer = self.peer;
        let mut news = seldom(news);
        tokio::select! {
            biased;
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection broke");
                }
                Step::Ended
            }
            answer = poll_fn(|_| left().map_or(Poll::Pending, Poll::Ready)) => Step::Left(answer),
            Some(news) = news.next() => Step::News(news),
        }
    }

    /// Ready when the connection has to end.
    async fn told(&self) -> Cause {
        let silent = async {
            sleep(self.head_timeout).await;
            if !self.activity.has_begun() {
                return Cause::NoRequest;
            }
            let Some(keep_alive) = self.keep_alive else { return pending().await };
            self.activity.idle_for(keep_alive, self.activity.since()).await;
            Cause::Idle
        };
        tokio::select! {
            () = self.drain.begun.cancelled() => Cause::Drain,
            cause = silent => cause,
        }
    }

    /// Ready when it has had its time to end.
    async fn cut(&self, cause: Cause) {
        let idle = async {
            match cause {
                Cause::Idle => self.activity.idle_for(LAST_WORDS, Instant::now()).await,
                Cause::NoRequest | Cause::Drain => pending().await,
            }
        };
        tokio::select! {
            () = self.drain.cut.cancelled() => {}
            () = idle => {}
        }
    }
}

/// Sends an answer on a socket that has nothing else to do, until it ends or is cut.
pub(super) async fn of_stream<I>(mut socket: I, head: Vec<u8>, mut body: Body, peer: SocketAddr, drain: Drain)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut cut = seldom(drain.cut.cancelled());
    tokio::select! {
        biased;
        sent = handover::stream(&mut socket, head, &mut body) => if let Err(error) = sent {
            tracing::debug!(%peer, %error, "a stream broke off");
        },
        Some(()) = cut.next() => tracing::debug!(%peer, "a stream was cut"),
    }
}

/// A future that is polled when it has news, not each time that its task is: a connection's task runs for every frame.
fn seldom<F: Future>(future: F) -> FuturesUnordered<Pin<Box<F>>> {
    FuturesUnordered::from_iter([Box::pin(future)])
}
