//! The feed of a SQLite store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use mcp_gateway_core::contract::{Feed, FeedStream, Kind, Revision, StoreError, StoreErrorKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::resource_reader::Readers;
use super::resource_writer::Position;

/// How often a watcher hears that nothing happened.
const BOOKMARK_EVERY: Duration = Duration::from_millis(250);

/// One consumer of the feed. Reads the file only when something was logged; dropping it ends the watch.
pub(super) struct Watcher {
    readers: Arc<Readers>,
    store: watch::Receiver<Position>,
    kinds: Arc<[Kind]>,
    /// Everything up to here is in `ready` or was handed out.
    position: Revision,
    ready: VecDeque<Feed>,
    bookmark_at: Instant,
}

impl Watcher {
    pub(super) fn new(
        readers: &Arc<Readers>,
        store: watch::Receiver<Position>,
        kinds: &[Kind],
        after: Revision,
    ) -> Self {
        let readers = Arc::clone(readers);
        Self {
            readers,
            store,
            kinds: kinds.into(),
            position: after,
            ready: VecDeque::new(),
            bookmark_at: Instant::now(),
        }
    }

    /// Reads the first chunk, which finds out whether the log reaches back that far.
    pub(super) async fn start(mut self) -> Result<FeedStream, StoreError> {
        self.fill().await?;
        Ok(Box::pin(stream::unfold(Some(self), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(feed) => Some((Ok(feed), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn next(&mut self) -> Result<Feed, StoreError> {
        loop {
            if let Some(feed) = self.ready.pop_front() {
                return Ok(feed);
            }
            let store = *self.store.borrow_and_update();
            if store.logged > self.position {
                self.fill().await?;
                continue;
            }
            // What came since is of quiet kinds.
            self.position = self.position.max(store.revision);
            if Instant::now() >= self.bookmark_at {
                self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                return Ok(Feed::Bookmark(self.position));
            }
            tokio::select! {
                changed = self.store.changed() => {
                    let closed = |error| StoreError::new(StoreErrorKind::Unavailable, "watch").because(error);
                    changed.map_err(closed)?;
                }
                () = tokio::time::sleep_until(self.bookmark_at) => {}
            }
        }
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        let chunk = self.readers.log(Arc::clone(&self.kinds), self.position).await?;
        self.position = chunk.position;
        self.ready.extend(chunk.commits);
        // Under a steady flow of commits there would be no bookmark otherwise.
        if !self.ready.is_empty() && Instant::now() >= self.bookmark_at {
            self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
            self.ready.push_back(Feed::Bookmark(self.position));
        }
        Ok(())
    }
}
