//! Keeping something in memory in step with one kind of record: keys, and whatever else is small and read whole.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;

use crate::BoxError;
use crate::contract::{Feed, Kind, ResourceStore, Revision};

/// Reads its records anew.
#[async_trait]
pub trait Refresh: Send + Sync + 'static {
    /// Reads all records and returns the store's revision as of which it did.
    async fn refresh(&self) -> Result<Revision, BoxError>;
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Follower(tokio::task::JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits between attempts, shortest and longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Refreshes `target` after each commit of this kind later than `after`, until it or the follower is gone.
///
/// Must be called inside a tokio runtime.
#[must_use]
pub fn follow<T: Refresh>(target: &Arc<T>, store: Arc<dyn ResourceStore>, kind: Kind, after: Revision) -> Follower {
    Follower(tokio::spawn(run(Arc::downgrade(target), store, kind, after)))
}

async fn run<T: Refresh>(target: Weak<T>, store: Arc<dyn ResourceStore>, kind: Kind, mut after: Revision) {
    let mut pause = BACK_OFF.0;
    loop {
        let failure: BoxError = match store.watch(&[kind], after).await {
            Err(error) => error.into(),
            Ok(mut feed) => loop {
                match feed.next().await {
                    Some(Ok(Feed::Bookmark(revision))) => (after, pause) = (revision, BACK_OFF.0),
                    Some(Ok(Feed::Commit { revision, .. })) => {
                        let Some(target) = target.upgrade() else { return };
                        if let Err(error) = target.refresh().await {
                            break error;
                        }
                        (after, pause) = (revision, BACK_OFF.0);
                    }
                    Some(Err(error)) => break error.into(),
                    None => break "the feed has ended".into(),
                }
            },
        };
        tracing::warn!(kind = kind.name, error = %failure, "keys cannot be followed; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF.1);
        // The feed may not reach back to where it broke off: read everything and go on from there.
        let Some(target) = target.upgrade() else { return };
        if let Ok(revision) = target.refresh().await {
            after = revision;
        }
    }
}
