//! Budgets in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::MaybeReady;
use crate::contract::{Allow, Budget, Clock, Limited, RateLimiter};

/// Budgets of this process, by the generic cell rate algorithm (GCRA): one time per key, no timer, no sweep.
///
/// Bounded: with `max_keys` keys in a class, budgets that are full again are forgotten, and if none is, the fullest
/// one is. That lets its owner begin anew, never more; it is counted in [`overflows`](Self::overflows).
#[derive(Debug)]
pub struct MemoryRateLimiter<C = crate::contract::SystemClock> {
    clock: C,
    epoch: Instant,
    max_keys: usize,
    classes: Mutex<HashMap<&'static str, HashMap<Box<str>, u64>>>,
    overflows: AtomicU64,
}

impl<C: Clock> MemoryRateLimiter<C> {
    /// Budgets on this clock, at most `max_keys` of each class.
    pub fn new(clock: C, max_keys: usize) -> Arc<Self> {
        let epoch = clock.monotonic();
        Arc::new(Self {
            clock,
            epoch,
            max_keys: max_keys.max(1),
            classes: Mutex::default(),
            overflows: AtomicU64::new(0),
        })
    }

    /// How many budgets were forgotten before they were full.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    fn take(&self, budgets: &[Budget<'_>]) -> Result<Allow, Limited> {
        let now = nanos(self.clock.monotonic().saturating_duration_since(self.epoch));
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut remaining = u32::MAX;
        // All are looked at before any is drawn from.
        for budget in budgets {
            let full_at = classes.get(budget.key.scope).and_then(|keys| keys.get(&*budget.key.id)).copied();
            let cell = Cell::of(budget);
            remaining = remaining.min(cell.judge(full_at.unwrap_or(0).max(now), now, budget)?);
        }
        for budget in budgets.iter().filter(|budget| budget.cost > 0) {
            let keys = classes.entry(budget.key.scope).or_default();
            let cost = Cell::of(budget).each.saturating_mul(u64::from(budget.cost));
            if let Some(full_at) = keys.get_mut(&*budget.key.id) {
                *full_at = (*full_at).max(now).saturating_add(cost);
                continue;
            }
            if keys.len() >= self.max_keys {
                self.make_room(keys, now);
            }
            keys.insert(budget.key.id.as_ref().into(), now.saturating_add(cost));
        }
        Ok(Allow { remaining })
    }

    fn make_room(&self, keys: &mut HashMap<Box<str>, u64>, now: u64) {
        keys.retain(|_, full_at| *full_at > now);
        if keys.len() >= self.max_keys
            && let Some(fullest) = keys.iter().min_by_key(|(_, full_at)| **full_at).map(|(key, _)| key.clone())
        {
            keys.remove(&fullest);
            self.overflows.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<C: Clock> RateLimiter for MemoryRateLimiter<C> {
    fn check(&self, budgets: &[Budget<'_>]) -> MaybeReady<Result<Allow, Limited>> {
        self.take(budgets).into()
    }
}

/// A budget as times: what one unit takes to come back, and how far ahead the budget may be drawn.
struct Cell {
    each: u64,
    whole: u64,
}

impl Cell {
    fn of(budget: &Budget<'_>) -> Self {
        let whole = nanos(budget.period);
        Self { each: whole / u64::from(budget.limit.max(1)), whole }
    }

    /// What is left after the cost, if it fits. A cost of nothing fits when anything is left.
    fn judge(&self, full_at: u64, now: u64, budget: &Budget<'_>) -> Result<u32, Limited> {
        let refused = |wait| Err(Limited { scope: budget.key.scope, retry_after: Duration::from_nanos(wait) });
        if budget.limit == 0 {
            return refused(self.whole);
        }
        let wanted = self.each.saturating_mul(u64::from(budget.cost.max(1)));
        let used = full_at - now;
        if used.saturating_add(wanted) > self.each * u64::from(budget.limit) {
            return refused(used.saturating_add(wanted) - self.each * u64::from(budget.limit));
        }
        let cost = self.each.saturating_mul(u64::from(budget.cost));
        let left = (self.each * u64::from(budget.limit) - used - cost) / self.each.max(1);
        Ok(u32::try_from(left).unwrap_or(u32::MAX))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{LimitKey, SystemClock};

    fn budget(id: &str, limit: u32, cost: u32) -> Budget<'_> {
        Budget { key: LimitKey { scope: "test", id: id.into() }, cost, limit, period: Duration::from_secs(10) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_comes_back() {
        let limiter = MemoryRateLimiter::new(SystemClock, 10);
        for left in (0..5).rev() {
            assert_eq!(limiter.take(&[budget("a", 5, 1)]), Ok(Allow { remaining: left }));
        }
        let refused = limiter.take(&[budget("a", 5, 1)]).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(2));
        assert!(limiter.take(&[budget("a", 5, 0)]).is_err());
        assert!(limiter.take(&[budget("b", 5, 1)]).is_ok());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(limiter.take(&[budget("a", 5, 0)]).is_ok());
        assert!(limiter.take(&[budget("a", 5, 1)]).is_ok());
        assert!(limiter.take(&[budget("a", 5, 1)]).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn several_budgets_are_taken_from_all_or_none() {
        let limiter = MemoryRateLimiter::new(SystemClock, 10);
        assert!(limiter.take(&[budget("a", 2, 1), budget("b", 1, 1)]).is_ok());
        assert!(limiter.take(&[budget("a", 2, 1), budget("b", 1, 1)]).is_err());
        // The refusal took nothing from `a`.
        assert_eq!(limiter.take(&[budget("a", 2, 1)]), Ok(Allow { remaining: 0 }));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_emptiest_budget_survives() {
        let limiter = MemoryRateLimiter::new(SystemClock, 2);
        limiter.take(&[budget("spent", 2, 2)]).unwrap();
        for id in 0..100 {
            limiter.take(&[budget(&id.to_string(), 2, 1)]).unwrap();
        }
        assert!(limiter.take(&[budget("spent", 2, 1)]).is_err());
        assert_eq!(limiter.overflows(), 99);
        assert_eq!(limiter.classes.lock().unwrap()["test"].len(), 2);
    }
}
