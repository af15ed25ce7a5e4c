//! What is under way on a connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use mcp_gateway_core::{Body, BoxError};
use tokio::time::{Instant, sleep_until};

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    since: Instant,
    begun: AtomicBool,
    under_way: AtomicUsize,
    /// When the last one ended, in milliseconds after `since`.
    left: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            begun: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            left: AtomicU64::new(0),
        }
    }

    /// When the connection began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// A request has come.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether one has come.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A request is under way until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Ready when nothing has been under way for this long, from `from` on.
    pub(super) async fn idle_for(&self, limit: Duration, mut from: Instant) {
        loop {
            sleep_until(from + limit).await;
            // Released by whoever left: the time of leaving is known when the count is.
            if self.under_way.load(Ordering::Acquire) > 0 {
                from = Instant::now();
                continue;
            }
            let left = self.since + Duration::from_millis(self.left.load(Ordering::Relaxed));
            if left <= from {
                return;
            }
            from = left;
        }
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let left = u64::try_from(self.0.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.left.store(left, Ordering::Relaxed);
        self.0.under_way.fetch_sub(1, Ordering::Release);
    }
}

/// The body of an answer that is under way until it has been read or dropped.
pub(super) struct UnderWayBody {
    inner: Body,
    _under_way: UnderWay,
}

impl UnderWayBody {
    pub(super) fn new(inner: Body, under_way: UnderWay) -> Self {
        Self { inner, _under_way: under_way }
    }
}

impl http_body::Body for UnderWayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn idleness_begins_when_the_last_request_has_ended() {
        let activity = Arc::new(Activity::new());
        let (first, second) = (activity.enter(), activity.enter());
        let idle = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.idle_for(LIMIT, activity.since()).await }
        });
        tokio::time::sleep(LIMIT * 3).await;
        drop(first);
        tokio::time::sleep(LIMIT * 2).await;
        drop(second);
        let last = Instant::now();
        assert!(!idle.is_finished());
        idle.await.unwrap();
        // Kept in milliseconds; the runtime's timer has them too.
        let waited = last.elapsed();
        assert!(waited + Duration::from_millis(2) >= LIMIT && waited <= LIMIT + Duration::from_millis(2), "{waited:?}");
    }
}
