//! Shared budgets.

use std::borrow::Cow;
use std::time::Duration;

use crate::MaybeReady;

/// Takes from several budgets, all or nothing.
///
/// Called by the limit layers, at most twice a call. Answers from memory.
pub trait RateLimiter: Send + Sync + 'static {
    /// Takes the cost from every budget, or from none of them.
    fn check(&self, budgets: &[Budget<'_>]) -> MaybeReady<Result<Allow, Limited>>;
}

/// One budget that a call draws from.
#[derive(Debug, Clone)]
pub struct Budget<'a> {
    /// Which budget.
    pub key: LimitKey<'a>,
    /// How much this call takes.
    pub cost: u32,
    /// How much there is per `period`; also the burst.
    pub limit: u32,
    /// The time in which an empty budget fills up.
    pub period: Duration,
}

/// Names a budget. Keys hold resolved ids, never text that a caller may choose freely without bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitKey<'a> {
    /// The class: `address`, `principal`, `server`, `tool`.
    pub scope: &'static str,
    /// Within the class.
    pub id: Cow<'a, str>,
}

/// The call may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    /// What is left in the fullest-drawn budget.
    pub remaining: u32,
}

/// A budget is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// The class of the budget that refused.
    pub scope: &'static str,
    /// After this time the call would be allowed.
    pub retry_after: Duration,
}
