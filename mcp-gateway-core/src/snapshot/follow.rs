//! The task that keeps a snapshot up to date.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::replica::{KINDS, Replica};
use super::{Shared, SnapshotOptions};
use crate::contract::{Feed, FeedStream, Query, ResourceStore, Revision, StoreError, StoreErrorKind, StoreLimits};

/// Between two attempts to reach the store, doubling.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// A feed that says nothing for so long (eight bookmarks) is dropped and asked for again.
const SILENCE: Duration = Duration::from_secs(2);
/// The longest answer of the store that is waited for.
const ANSWER: Duration = Duration::from_secs(30);
/// Between two attempts to read entries whose key was away.
const REREAD: Duration = Duration::from_secs(5);
/// How often the first reading is begun again because the log was shorter than it took.
const FIRST_ATTEMPTS: u32 = 3;

pub(super) struct Driver {
    store: Arc<dyn ResourceStore>,
    options: SnapshotOptions,
    shared: Arc<Shared>,
    replica: Replica,
    feed: FeedStream,
    published: Instant,
    attempts: u32,
}

/// Why a feed is not followed any more.
enum End {
    /// It failed.
    Failed(StoreError),
    /// Entries that could not be read are to be tried again.
    Reread,
    /// Nobody has a handle any more.
    Abandoned,
}

impl Driver {
    /// Reads everything and publishes the first snapshot.
    pub(super) async fn start(
        store: Arc<dyn ResourceStore>,
        options: SnapshotOptions,
        shared: Arc<Shared>,
    ) -> Result<Self, StoreError> {
        let mut attempt = 1;
        let (replica, feed) = loop {
            match read(&*store, &options, &shared).await {
                Err(error) if error.kind() == StoreErrorKind::Compacted && attempt < FIRST_ATTEMPTS => attempt += 1,
                done => break done?,
            }
        };
        let mut driver = Self { store, options, shared, replica, feed, published: Instant::now(), attempts: 0 };
        driver.publish();
        Ok(driver)
    }

    pub(super) async fn run(mut self) {
        loop {
            let mut end = self.follow().await;
            self.publish();
            loop {
                let again = match &end {
                    End::Abandoned => return,
                    End::Reread => true,
                    End::Failed(error) => {
                        tracing::warn!(%error, attempt = self.attempts, "the feed of the store failed; asking again");
                        sleep(self.delay()).await;
                        error.kind() == StoreErrorKind::Compacted
                    }
                };
                if Arc::strong_count(&self.shared) == 1 {
                    return;
                }
                match self.resume(again).await {
                    Ok(()) => break,
                    // A list that is due stays due.
                    Err(error) if again && error.kind() != StoreErrorKind::Compacted => {
                        end = End::Failed(StoreError::new(StoreErrorKind::Compacted, "watch").because(error));
                    }
                    Err(error) => end = End::Failed(error),
                }
            }
        }
    }

    async fn resume(&mut self, list: bool) -> Result<(), StoreError> {
        if list {
            (self.replica, self.feed) = read(&*self.store, &self.options, &self.shared).await?;
            self.publish();
        } else {
            self.feed = answer("watch", self.store.watch(&KINDS, self.replica.position)).await?;
        }
        Ok(())
    }

    /// Applies the feed until it ends.
    async fn follow(&mut self) -> End {
        let reread_at = Instant::now() + REREAD;
        let mut publish_at = None;
        loop {
            if publish_at.is_some_and(|at| Instant::now() >= at) {
                self.publish();
                publish_at = None;
            }
            let item = tokio::select! {
                biased;
                item = timeout(SILENCE, self.feed.next()) => item,
                () = sleep_until(publish_at.unwrap_or(reread_at)), if publish_at.is_some() => continue,
            };
            match item {
                Ok(Some(Ok(Feed::Commit { revision, changes }))) => {
                    self.replica.apply(revision, changes);
                    if self.replica.changed {
                        // At once after a quiet time, then at most once in a while.
                        publish_at.get_or_insert(self.published + self.options.coalesce);
                    }
                }
                Ok(Some(Ok(Feed::Bookmark(revision)))) => self.replica.position = self.replica.position.max(revision),
                Ok(Some(Err(error))) => return End::Failed(error),
                Ok(None) => return End::Failed(unavailable("the feed ended")),
                Err(_) => return End::Failed(unavailable("the feed is silent")),
            }
            self.attempts = 0;
            self.shared.hear();
            if publish_at.is_none() {
                self.shared.apply(self.replica.position);
            }
            if Arc::strong_count(&self.shared) == 1 {
                return End::Abandoned;
            }
            if self.replica.incomplete && Instant::now() >= reread_at {
                return End::Reread;
            }
        }
    }

    fn publish(&mut self) {
        if let Some(snapshot) = self.replica.take() {
            self.shared.publish(snapshot, self.replica.position);
            self.published = Instant::now();
        }
    }

    /// Nothing before the first attempt, then a growing time, shortened at random so that replicas do not come at once.
    fn delay(&mut self) -> Duration {
        let attempt = self.attempts;
        self.attempts += 1;
        if attempt == 0 {
            return Duration::ZERO;
        }
        let longest = RETRY.saturating_mul(1 << (attempt - 1).min(16)).min(RETRY_MOST);
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Pages through every kind, then follows the feed from the first page's revision to where the last page was read: only
/// there do the pages show one state.
async fn read(
    store: &dyn ResourceStore,
    options: &SnapshotOptions,
    shared: &Shared,
) -> Result<(Replica, FeedStream), StoreError> {
    let mut replica = Replica::new(options.clone(), shared.current.load_full());
    let (mut from, mut until) = (None, Revision(0));
    for kind in KINDS {
        let mut query =
            Query { tenant: Some(options.tenant.clone()), kind, term: None, after: None, limit: StoreLimits::PAGE };
        loop {
            let page = answer("list", store.list(&query)).await?;
            let from = *from.get_or_insert(page.as_of);
            until = until.max(page.as_of);
            for record in &page.records {
                replica.add(record, from);
            }
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
    }
    replica.position = from.unwrap_or_default();
    let mut feed = answer("watch", store.watch(&KINDS, replica.position)).await?;
    while replica.position < until {
        match timeout(SILENCE, feed.next()).await {
            Ok(Some(Ok(Feed::Commit { revision, changes }))) => replica.apply(revision, changes),
            Ok(Some(Ok(Feed::Bookmark(revision)))) => replica.position = replica.position.max(revision),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) => return Err(unavailable("the feed ended")),
            Err(_) => return Err(unavailable("the feed is silent")),
        }
    }
    replica.complete();
    shared.hear();
    Ok((replica, feed))
}

/// Waits for an answer of the store, but not for ever.
pub(super) async fn answer<T>(
    op: &'static str,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::new(StoreErrorKind::Unavailable, op).because("no answer in time"));
    timeout(ANSWER, asked).await.unwrap_or_else(late)
}

fn unavailable(why: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "watch").because(why)
}
