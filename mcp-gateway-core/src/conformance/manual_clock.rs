//! A clock that a test moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::contract::Clock;

/// A [`Clock`] that stands still until it is moved.
///
/// ```
/// use std::time::Duration;
/// use mcp_gateway_core::conformance::ManualClock;
/// use mcp_gateway_core::contract::Clock;
///
/// let clock = ManualClock::default();
/// let before = clock.monotonic();
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.monotonic() - before, Duration::from_secs(5));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    now: Timestamp,
    monotonic: Instant,
    /// Nanoseconds since it was made.
    passed: AtomicU64,
}

impl ManualClock {
    /// A clock that shows this time.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { now, monotonic: Instant::now(), passed: AtomicU64::new(0) }
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.passed.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Default for ManualClock {
    /// Shows the time at which it is made.
    fn default() -> Self {
        Self::at(Timestamp::now())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::from_nanos(i64::try_from(self.passed()).unwrap_or(i64::MAX));
        self.now.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Instant {
        self.monotonic + Duration::from_nanos(self.passed())
    }
}
