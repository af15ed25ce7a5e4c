//! How much each caller has under way at once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Map;
use crate::record::Subject;

/// How much one caller may have under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnce {
    /// `limits.calls_per_principal`: whatever is no stream.
    pub calls: usize,
    /// `limits.streams_per_principal`: GET and listen streams.
    pub streams: usize,
}

impl Default for AtOnce {
    /// 250 calls, a quarter of what there is room for by default, and 50 streams.
    fn default() -> Self {
        Self { calls: 250, streams: 50 }
    }
}

/// Counts per subject: whoever has several keys has no more room for it.
#[derive(Debug)]
pub(super) struct PerCaller {
    pub(super) limit: usize,
    open: Arc<Mutex<Map<Subject, usize>>>,
}

impl PerCaller {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// A place, given back when it is dropped; `None` when all are taken.
    pub(super) fn enter(&self, subject: &Subject) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(subject) {
            Some(count) if *count >= self.limit => return None,
            Some(count) => *count += 1,
            None if self.limit == 0 => return None,
            None => drop(open.insert(subject.clone(), 1)),
        }
        drop(open);
        Some(Place { open: Arc::clone(&self.open), subject: subject.clone() })
    }

    #[cfg(test)]
    pub(super) fn callers(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

pub(super) struct Place {
    open: Arc<Mutex<Map<Subject, usize>>>,
    subject: Subject,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.subject);
            }
        }
    }
}
