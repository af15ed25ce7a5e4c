//! Who may record what is new: one at a time for each server, and so many in all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::read::{Fingerprint, Unfit};
use super::record::ToolInventory;

/// The recorders of all servers.
pub(super) struct Recorders {
    slots: Mutex<HashMap<Box<str>, Arc<Slot>>>,
    all: Arc<Semaphore>,
}

/// That of one server.
#[derive(Default)]
pub(super) struct Slot {
    writing: Arc<tokio::sync::Mutex<()>>,
    failed: Mutex<Option<Failed>>,
}

/// A list that did not fit.
struct Failed {
    list: Fingerprint,
    /// Beside what was known.
    known: Option<Arc<ToolInventory>>,
    why: Unfit,
}

/// The right to record. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held")] (OwnedMutexGuard<()>, Option<OwnedSemaphorePermit>));

impl Default for Recorders {
    fn default() -> Self {
        Self { slots: Mutex::default(), all: Arc::new(Semaphore::new(Self::MOST)) }
    }
}

impl Recorders {
    /// Servers of which something is recorded at the same time.
    pub(super) const MOST: usize = 16;
    /// Servers that are remembered; those of which nothing is recorded are forgotten beyond.
    const SERVERS: usize = 1_000;

    /// That of a server.
    pub(super) fn slot(&self, server: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(server) {
            return Arc::clone(slot);
        }
        if slots.len() >= Self::SERVERS {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(server.into()).or_default())
    }

    /// Waits for its turn; whoever gives up has recorded nothing.
    pub(super) async fn turn(&self, slot: &Slot) -> Turn {
        let writing = Arc::clone(&slot.writing).lock_owned().await;
        // It is never closed.
        let permit = Arc::clone(&self.all).acquire_owned().await.ok();
        Turn((writing, permit))
    }

    /// Why a list did not fit beside what is known, if it was tried.
    pub(super) fn failed(&self, server: &str, list: &Fingerprint, known: Option<&Arc<ToolInventory>>) -> Option<Unfit> {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(server).cloned()?;
        let failed = slot.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.as_ref().filter(|failed| failed.list == *list)?;
        let is_same = match (&failed.known, known) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        is_same.then_some(failed.why)
    }
}

impl Slot {
    /// Remembers that a list does not fit beside what is known.
    pub(super) fn fail(&self, list: Fingerprint, known: Option<Arc<ToolInventory>>, why: Unfit) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Failed { list, known, why });
    }
}
