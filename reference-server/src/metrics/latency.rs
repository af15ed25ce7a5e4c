//! A histogram of times.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts times by bucket: two additions to atomics an observation, no lock.
#[derive(Debug)]
pub(super) struct Latency {
    /// Upper bounds in microseconds, inclusive; what is longer is counted behind the last.
    bounds: &'static [u64],
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Latency {
    /// From a fast local answer to a tool that thinks for a quarter of an hour.
    pub(super) const CALL: &'static [u64] = &[
        500,
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
        900_000_000,
    ];

    /// The gateway's own time: microseconds when warm, seconds when a server has to be started.
    pub(super) const OWN: &'static [u64] =
        &[10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];

    pub(super) fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum_us: AtomicU64::new(0) }
    }

    pub(super) fn observe(&self, micros: u64) {
        let at = self.bounds.partition_point(|&bound| bound < micros);
        self.buckets[at].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros, Relaxed);
    }

    /// Sum in seconds, count, and the counts by upper bound in seconds, each bucket for itself.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().map(|&micros| seconds(micros)).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (seconds(self.sum_us.load(Relaxed)), count, buckets)
    }
}

/// Exact up to 2^53 microseconds, which is 285 years.
#[expect(clippy::cast_precision_loss, reason = "285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let latency = Latency::new(&[10, 20]);
        for micros in [0, 10, 11, 20, 21, 1_000_000] {
            latency.observe(micros);
        }
        let (sum, count, buckets) = latency.read();
        assert!((sum - 1.000_062).abs() < 1e-9, "{sum}");
        assert_eq!(count, 6);
        assert_eq!(buckets, [(0.000_01, 2), (0.000_02, 2), (f64::INFINITY, 2)]);
    }

    #[test]
    fn bounds_rise() {
        for bounds in [Latency::CALL, Latency::OWN] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
