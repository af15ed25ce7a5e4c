//! The suite of [`RateLimiter`].

use std::sync::Arc;
use std::time::Duration;

use super::ManualClock;
use crate::contract::{Allow, Budget, LimitKey, Limited, RateLimiter};

/// Runs every rule, each on a limiter of its own, whose time is the clock that it is made with.
///
/// A limiter that several replicas share must hold these rules while one replica alone draws on it.
///
/// ```
/// use mcp_gateway_core::conformance::rate_limiter;
/// use mcp_gateway_core::memory::MemoryRateLimiter;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// rate_limiter::suite(|clock| MemoryRateLimiter::new(clock, 1_000)).await;
/// # });
/// ```
///
/// # Panics
/// When a rule does not hold.
pub async fn suite<L: RateLimiter>(fresh: impl Fn(Arc<ManualClock>) -> Arc<L>) {
    let make = || {
        let clock = Arc::new(ManualClock::default());
        (fresh(Arc::clone(&clock)), clock)
    };
    let (limiter, clock) = make();
    a_budget_is_spent_to_its_last_unit(&*limiter, &clock).await;
    let (limiter, clock) = make();
    retry_after_is_true(&*limiter, &clock).await;
    let (limiter, clock) = make();
    an_unused_budget_holds_no_more_than_its_limit(&*limiter, &clock).await;
    let (limiter, _) = make();
    all_or_nothing(&*limiter).await;
    let (limiter, _) = make();
    keys_are_apart(&*limiter).await;
    let (limiter, _) = make();
    a_cost_of_nothing_takes_nothing(&*limiter).await;
    let (limiter, _) = make();
    a_cost_is_more_than_one(&*limiter).await;
}

const PERIOD: Duration = Duration::from_secs(60);

fn budget<'a>(scope: &'static str, id: &'a str, limit: u32, cost: u32) -> Budget<'a> {
    Budget { key: LimitKey { scope, id: id.into() }, cost, limit, period: PERIOD }
}

async fn take(limiter: &dyn RateLimiter, limit: u32) -> Result<Allow, Limited> {
    limiter.check(&[budget("principal", "ada", limit, 1)]).await
}

async fn a_budget_is_spent_to_its_last_unit(limiter: &dyn RateLimiter, clock: &ManualClock) {
    for left in (0..6).rev() {
        assert_eq!(take(limiter, 6).await, Ok(Allow { remaining: left }), "the burst is the limit");
    }
    assert_eq!(take(limiter, 6).await.expect_err("the seventh of six").scope, "principal");
    clock.advance(PERIOD);
    for left in (0..6).rev() {
        assert_eq!(take(limiter, 6).await, Ok(Allow { remaining: left }), "full again after its period");
    }
}

async fn retry_after_is_true(limiter: &dyn RateLimiter, clock: &ManualClock) {
    for _ in 0..6 {
        take(limiter, 6).await.expect("room");
    }
    let wait = take(limiter, 6).await.expect_err("empty").retry_after;
    assert!(wait > Duration::ZERO && wait <= PERIOD, "{wait:?}");
    let short = Duration::from_millis(1);
    clock.advance(wait.saturating_sub(short));
    take(limiter, 6).await.expect_err("refused until the time that was named");
    clock.advance(short);
    take(limiter, 6).await.expect("allowed from then on");
}

async fn an_unused_budget_holds_no_more_than_its_limit(limiter: &dyn RateLimiter, clock: &ManualClock) {
    take(limiter, 2).await.expect("room");
    clock.advance(PERIOD * 100);
    for _ in 0..2 {
        take(limiter, 2).await.expect("room");
    }
    take(limiter, 2).await.expect_err("what was not used is not saved up");
}

async fn all_or_nothing(limiter: &dyn RateLimiter) {
    limiter.check(&[budget("server", "s", 1, 1)]).await.expect("room");
    for _ in 0..3 {
        let refused = limiter.check(&[budget("tool", "t", 2, 1), budget("server", "s", 1, 1)]).await;
        assert_eq!(refused.expect_err("one of two is empty").scope, "server", "names the budget that refused");
    }
    for left in [1, 0] {
        let taken = limiter.check(&[budget("tool", "t", 2, 1)]).await;
        assert_eq!(taken, Ok(Allow { remaining: left }), "a refusal takes from no budget");
    }
    let both = limiter.check(&[budget("address", "a", 9, 1), budget("principal", "p", 3, 1)]).await;
    assert_eq!(both, Ok(Allow { remaining: 2 }), "what is left of the fullest-drawn");
}

async fn keys_are_apart(limiter: &dyn RateLimiter) {
    for (scope, id) in [("principal", "ada"), ("principal", "bob"), ("server", "ada")] {
        limiter.check(&[budget(scope, id, 1, 1)]).await.expect("each key has a budget of its own");
        limiter.check(&[budget(scope, id, 1, 1)]).await.expect_err("of one");
    }
}

async fn a_cost_of_nothing_takes_nothing(limiter: &dyn RateLimiter) {
    let look = [budget("principal", "ada", 1, 0)];
    for _ in 0..3 {
        limiter.check(&look).await.expect("a look at a budget that is not empty");
    }
    take(limiter, 1).await.expect("nothing was taken");
    limiter.check(&look).await.expect_err("a look at one that is");
    limiter.check(&[budget("principal", "bob", 0, 1)]).await.expect_err("a limit of nothing allows nothing");
}

async fn a_cost_is_more_than_one(limiter: &dyn RateLimiter) {
    let five = [budget("principal", "ada", 8, 5)];
    assert_eq!(limiter.check(&five).await, Ok(Allow { remaining: 3 }));
    limiter.check(&five).await.expect_err("five of three");
    assert_eq!(limiter.check(&[budget("principal", "ada", 8, 3)]).await, Ok(Allow { remaining: 0 }));
    limiter.check(&[budget("principal", "bob", 4, 5)]).await.expect_err("more than there ever is");
}
