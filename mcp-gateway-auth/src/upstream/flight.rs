//! What many ask for at once, and one gets for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{Mutex, MutexGuard};

use super::AccountError;

/// The attempts at one thing in this process: one at a time, with `S` kept between them.
#[derive(Debug, Default)]
pub(super) struct Flight<S> {
    landed: AtomicU64,
    last: Mutex<Last<S>>,
}

#[derive(Debug, Default)]
struct Last<S> {
    failed: Option<(Arc<AccountError>, Instant)>,
    kept: S,
}

/// Whose turn it is.
pub(super) struct Turn<'a, S> {
    flight: &'a Flight<S>,
    last: MutexGuard<'a, Last<S>>,
    /// Whether an attempt has ended while this one waited.
    pub(super) waited: bool,
}

impl<S> Flight<S> {
    /// Waits for whoever is under way.
    pub(super) async fn turn(&self) -> Turn<'_, S> {
        let landed = self.landed.load(Ordering::Acquire);
        let last = self.last.lock().await;
        Turn { waited: self.landed.load(Ordering::Acquire) != landed, flight: self, last }
    }

    /// What is kept, unless an attempt is under way.
    pub(super) fn peek<R>(&self, look: impl FnOnce(&S) -> R) -> Option<R> {
        self.last.try_lock().ok().map(|last| look(&last.kept))
    }
}

impl<S> Turn<'_, S> {
    pub(super) fn kept(&mut self) -> &mut S {
        &mut self.last.kept
    }

    /// The failure that is this one's, too: of the attempt that it has waited for, or of one so short ago that nobody is
    /// to be asked again.
    pub(super) fn failure(&self, now: Instant) -> Option<Arc<AccountError>> {
        let (error, until) = self.last.failed.as_ref()?;
        (self.waited || now < *until).then(|| Arc::clone(error))
    }

    /// The attempt has ended; a failure counts `until` then.
    pub(super) fn land(&mut self, failed: Option<(Arc<AccountError>, Instant)>) {
        self.last.failed = failed;
        self.flight.landed.fetch_add(1, Ordering::Release);
    }
}
