//! How many children there are, whose, and how often they started.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mcp_gateway_core::record::Subject;
use tokio::time::Instant;

use super::options::ChildLimits;

/// The counters of one runtime.
#[derive(Clone)]
pub(super) struct Children(Arc<Inner>);

struct Inner {
    limits: ChildLimits,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    servers: HashMap<Arc<str>, usize>,
    subjects: HashMap<Subject, usize>,
    starts: HashMap<Starter, VecDeque<Instant>>,
}

/// Who starts children.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Starter {
    Subject(Subject),
    Server(Arc<str>),
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    PerPrincipal,
    PerServer,
    Total,
    Starts,
}

impl Reached {
    /// For callers.
    pub(super) fn public(self) -> &'static str {
        match self {
            Self::PerPrincipal => "You run as many servers and sessions as you may. End one, or try again later.",
            Self::PerServer => "The server has as many sessions as it may have. Try again later.",
            Self::Total => "The gateway runs as many servers as it may. Try again later.",
            Self::Starts => "Servers were started too often within a minute. Try again later.",
        }
    }

    /// For an owner.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::PerPrincipal => "limits.children.per_principal is reached",
            Self::PerServer => "limits.children.per_server is reached",
            Self::Total => "limits.children.total is reached",
            Self::Starts => "limits.children.starts_per_minute is reached",
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

impl Children {
    pub(super) fn new(limits: ChildLimits) -> Self {
        Self(Arc::new(Inner { limits, counts: Mutex::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one child more, for as long as the value is kept.
    pub(super) fn take(&self, server: &Arc<str>, subject: Option<&Subject>) -> Result<Counted, Reached> {
        let limits = self.0.limits;
        let mut counts = self.lock();
        if counts.total >= limits.total {
            return Err(Reached::Total);
        }
        if counts.servers.get(server).copied().unwrap_or(0) >= limits.per_server {
            return Err(Reached::PerServer);
        }
        if subject.is_some_and(|subject| counts.subjects.get(subject).copied().unwrap_or(0) >= limits.per_principal) {
            return Err(Reached::PerPrincipal);
        }
        let now = Instant::now();
        let starter =
            subject.map_or_else(|| Starter::Server(Arc::clone(server)), |subject| Starter::Subject(subject.clone()));
        // Starters that have rested are forgotten, so the table is no larger than what started within a minute.
        counts.starts.retain(|_, starts| starts.back().is_some_and(|&last| now - last < MINUTE));
        let starts = counts.starts.entry(starter).or_default();
        while starts.front().is_some_and(|&first| now - first >= MINUTE) {
            starts.pop_front();
        }
        if starts.len() >= limits.starts_per_minute {
            return Err(Reached::Starts);
        }
        starts.push_back(now);
        counts.total += 1;
        *counts.servers.entry(Arc::clone(server)).or_default() += 1;
        if let Some(subject) = subject {
            *counts.subjects.entry(subject.clone()).or_default() += 1;
        }
        Ok(Counted { children: self.clone(), server: Arc::clone(server), subject: subject.cloned() })
    }
}

/// One child that is counted.
pub(super) struct Counted {
    children: Children,
    server: Arc<str>,
    subject: Option<Subject>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.children.lock();
        counts.total -= 1;
        if let Some(count) = counts.servers.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                counts.servers.remove(&self.server);
            }
        }
        if let Some(subject) = &self.subject
            && let Some(count) = counts.subjects.get_mut(subject)
        {
            *count -= 1;
            if *count == 0 {
                counts.subjects.remove(subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[tokio::test(start_paused = true)]
    async fn every_limit_has_an_edge() {
        let limits = ChildLimits { per_principal: 2, per_server: 3, total: 4, starts_per_minute: 100 };
        let children = Children::new(limits);
        let (ada, eve) = (Subject::local("ada"), Subject::local("eve"));
        let first = children.take(&server("a"), Some(&ada)).ok().unwrap();
        let _second = children.take(&server("b"), Some(&ada)).ok().unwrap();
        assert_eq!(children.take(&server("c"), Some(&ada)).err(), Some(Reached::PerPrincipal));
        let _third = children.take(&server("a"), Some(&eve)).ok().unwrap();
        let fourth = children.take(&server("a"), None).ok().unwrap();
        assert_eq!(children.take(&server("d"), None).err(), Some(Reached::Total));
        drop(fourth);
        let _fourth = children.take(&server("a"), None).ok().unwrap();
        drop(first);
        assert!(children.take(&server("a"), Some(&ada)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_has_its_own_edge() {
        let children = Children::new(ChildLimits { per_server: 1, ..ChildLimits::default() });
        let _held = children.take(&server("a"), None).ok().unwrap();
        assert_eq!(children.take(&server("a"), None).err(), Some(Reached::PerServer));
        assert!(children.take(&server("b"), None).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn starts_are_counted_a_minute_and_a_starter() {
        let children = Children::new(ChildLimits { starts_per_minute: 2, ..ChildLimits::default() });
        let ada = Subject::local("ada");
        for _ in 0..2 {
            assert!(children.take(&server("a"), Some(&ada)).is_ok());
        }
        assert_eq!(children.take(&server("a"), Some(&ada)).err(), Some(Reached::Starts));
        assert!(children.take(&server("a"), Some(&Subject::local("eve"))).is_ok());
        tokio::time::advance(MINUTE).await;
        assert!(children.take(&server("a"), Some(&ada)).is_ok());
    }
}
