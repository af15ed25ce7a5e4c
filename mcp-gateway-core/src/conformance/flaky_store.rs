//! A store that fails when it is told to.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use crate::contract::{
    FeedStream, Key, Kind, Page, Query, Record, ResourceStore, Revision, StoreError, StoreErrorKind, Write,
};

/// Wraps a [`ResourceStore`] and puts scripted failures between it and its consumer.
///
/// One store behind two of these is one database seen by two gateways, of which each can be cut off alone.
pub struct FlakyStore {
    inner: Arc<dyn ResourceStore>,
    link: watch::Sender<Link>,
    script: Mutex<Script>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Down,
    Silent,
}

#[derive(Default)]
struct Script {
    compact_watches: u32,
    fail_lists: u32,
    lose_commit: Option<bool>,
    cut_after: Option<u32>,
}

impl FlakyStore {
    /// Passes everything on until told otherwise.
    pub fn new(inner: Arc<dyn ResourceStore>) -> Arc<Self> {
        Arc::new(Self { inner, link: watch::Sender::new(Link::Up), script: Mutex::default() })
    }

    /// From now on every call and every open feed fails with [`StoreErrorKind::Unavailable`].
    pub fn cut(&self) {
        self.link.send_replace(Link::Down);
    }

    /// The same once so many more commits were done.
    pub fn cut_after(&self, commits: u32) {
        self.script().cut_after = Some(commits);
    }

    /// From now on nothing answers and no feed says anything, as behind a network that drops packets.
    pub fn silence(&self) {
        self.link.send_replace(Link::Silent);
    }

    /// Works again. A call that hangs since [`silence`](Self::silence) goes on.
    pub fn restore(&self) {
        self.link.send_replace(Link::Up);
    }

    /// The next `times` watches fail with [`StoreErrorKind::Compacted`].
    pub fn compact_watches(&self, times: u32) {
        self.script().compact_watches = times;
    }

    /// The next `times` lists fail with [`StoreErrorKind::Unavailable`].
    pub fn fail_lists(&self, times: u32) {
        self.script().fail_lists = times;
    }

    /// The next commit fails with [`StoreErrorKind::Unknown`], after it was written or instead of it.
    pub fn lose_next_commit(&self, written: bool) {
        self.script().lose_commit = Some(written);
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_down(&self) {
        let left = &mut self.script().cut_after;
        *left = left.map(|left| left.saturating_sub(1));
        if *left == Some(0) {
            *left = None;
            self.cut();
        }
    }

    async fn pass(&self, op: &'static str) -> Result<(), StoreError> {
        let mut link = self.link.subscribe();
        // The sender is a field of `self`.
        let now = link.wait_for(|link| *link != Link::Silent).await.map_or(Link::Down, |link| *link);
        if now == Link::Down { Err(StoreError::new(StoreErrorKind::Unavailable, op)) } else { Ok(()) }
    }
}

impl std::fmt::Debug for FlakyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlakyStore").field("link", &*self.link.borrow()).finish_non_exhaustive()
    }
}

fn taken(times: &mut u32) -> bool {
    let left = *times > 0;
    *times = times.saturating_sub(1);
    left
}

#[async_trait]
impl ResourceStore for FlakyStore {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.pass("get").await?;
        self.inner.get(keys).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        self.pass("list").await?;
        if taken(&mut self.script().fail_lists) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "list"));
        }
        self.inner.list(query).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        self.pass("commit").await?;
        let lost = self.script().lose_commit.take();
        if lost != Some(false) {
            let done = self.inner.commit(writes).await;
            self.count_down();
            if lost.is_none() {
                return done;
            }
        }
        Err(StoreError::new(StoreErrorKind::Unknown, "commit"))
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        self.pass("watch").await?;
        if taken(&mut self.script().compact_watches) {
            return Err(StoreError::new(StoreErrorKind::Compacted, "watch"));
        }
        let feed = self.inner.watch(kinds, after).await?;
        let link = self.link.subscribe();
        Ok(Box::pin(stream::unfold(Some((feed, link)), |state| async move {
            let (mut feed, mut link) = state?;
            loop {
                let now = *link.borrow_and_update();
                match now {
                    Link::Down => return Some((Err(StoreError::new(StoreErrorKind::Unavailable, "watch")), None)),
                    // An error means that the store was dropped: nothing will be said any more.
                    Link::Silent => link.changed().await.ok()?,
                    Link::Up => {
                        tokio::select! {
                            biased;
                            changed = link.changed() => changed.ok()?,
                            item = feed.next() => return Some((item?, Some((feed, link)))),
                        }
                    }
                }
            }
        })))
    }
}
