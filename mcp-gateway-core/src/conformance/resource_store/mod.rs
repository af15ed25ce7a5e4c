//! The suite of [`ResourceStore`].
//!
//! Each rule of the contract is one or more functions here, named after its number; each makes a fresh store and
//! panics with a message that names the rule. [`resource_store_suite!`](crate::resource_store_suite) turns them into
//! tests, one each; [`suite`] runs all of them. They wait in real time: do not pause tokio's.
//!
//! ```
//! use std::sync::Arc;
//! use mcp_gateway_core::conformance::ManualClock;
//! use mcp_gateway_core::conformance::resource_store::{self, Bench, Setup};
//! use mcp_gateway_core::memory::{MemoryStore, MemoryStoreOptions};
//!
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! let factory = |setup: Setup| async move {
//!     let clock = Arc::new(ManualClock::default());
//!     let mut options = MemoryStoreOptions::default();
//!     if let Some(commits) = setup.log_commits {
//!         options = options.with_log_commits(commits);
//!     }
//!     Bench::new(Arc::new(MemoryStore::with_options(clock.clone(), options)), clock)
//! };
//! resource_store::rule_5_an_expired_record_is_absent_at_once(&factory).await;
//! # });
//! ```

mod batches;
mod feed;
mod reads;

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;

pub use batches::*;
pub use feed::*;
pub use reads::*;

use super::ManualClock;
use crate::BoxFuture;
use crate::contract::{
    Cursor, Feed, FeedStream, IndexTerm, Key, Kind, Query, Record, ResourceStore, Revision, StoreError, StoreErrorKind,
    When, Write,
};
use crate::record::TenantId;

/// What a factory is asked for.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Setup {
    /// The store's change log must forget all but about this many commits, by the time that so many later ones are
    /// in; `None` for its default.
    pub log_commits: Option<usize>,
}

/// A store under test.
pub struct Bench {
    /// Empty, and shared with nobody.
    pub store: Arc<dyn ResourceStore>,
    pass: Box<dyn Fn(Duration) -> BoxFuture<()> + Send + Sync>,
    _keep: Option<Box<dyn Any + Send + Sync>>,
}

impl Bench {
    /// A store that runs on this clock.
    pub fn new(store: Arc<dyn ResourceStore>, clock: Arc<ManualClock>) -> Self {
        Self::with_passing(store, move |by| {
            clock.advance(by);
            Box::pin(std::future::ready(()))
        })
    }

    /// A store whose clock cannot be set: `pass` returns when so much time has passed on it.
    pub fn with_passing(
        store: Arc<dyn ResourceStore>,
        pass: impl Fn(Duration) -> BoxFuture<()> + Send + Sync + 'static,
    ) -> Self {
        Self { store, pass: Box::new(pass), _keep: None }
    }

    /// Keeps something until the test is over, for example the directory of the store's file.
    #[must_use]
    pub fn keeping(mut self, thing: impl Any + Send + Sync) -> Self {
        self._keep = Some(Box::new(thing));
        self
    }
}

impl std::fmt::Debug for Bench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bench(..)")
    }
}

/// Makes stores to test; every `async` closure from [`Setup`] to [`Bench`] is one.
pub trait Factory: Send + Sync {
    /// Makes an empty store.
    fn make(&self, setup: Setup) -> BoxFuture<Bench>;
}

impl<F, Fut> Factory for F
where
    F: Fn(Setup) -> Fut + Send + Sync,
    Fut: Future<Output = Bench> + Send + 'static,
{
    fn make(&self, setup: Setup) -> BoxFuture<Bench> {
        Box::pin(self(setup))
    }
}

/// Turns every rule into a test of its own (`#[tokio::test]`, so the caller needs tokio's `macros` and
/// `rt-multi-thread`). The argument is a [`Factory`](crate::conformance::resource_store::Factory).
#[macro_export]
macro_rules! resource_store_suite {
    ($factory:expr) => {
        $crate::resource_store_suite!(@each test $factory);
    };
    (@each $then:ident $factory:expr) => {
        $crate::resource_store_suite! {
            @$then $factory;
            rule_1_commit_order_is_revision_order_is_visibility_order
            rule_1_reads_see_what_commit_returned
            rule_2_a_watch_yields_whole_commits_in_order
            rule_2_a_watch_follows_only_its_kinds
            rule_2_bookmarks_keep_coming
            rule_2_a_position_that_is_too_old_is_compacted
            rule_2_a_position_of_the_future_is_compacted
            rule_2_a_consumer_that_is_too_slow_is_told
            rule_2_dropping_a_watch_ends_it
            rule_3_list_then_watch_reaches_the_final_state
            rule_4_a_batch_is_all_or_nothing
            rule_4_preconditions_compare_revisions
            rule_4_a_check_fences_other_writes
            rule_4_one_winner_per_revision
            rule_4_a_key_occurs_once_in_a_batch
            rule_4_deleting_what_is_absent_changes_nothing
            rule_5_an_expired_record_is_absent_at_once
            rule_5_expiry_is_no_change
            rule_5_the_last_put_decides_the_time_to_live
            rule_6_quiet_kinds_are_not_in_the_feed
            rule_7_terms_list_by_equality
            rule_7_terms_follow_the_record
            rule_7_uniqueness_is_a_key
            rule_8_limits_at_their_edges
            rule_8_pages_are_bounded
            rule_9_a_lost_commit_is_in_or_not
            records_come_back_byte_for_byte
            lists_are_in_the_order_of_tenant_and_id
            tenants_with_equal_ids_do_not_meet
        }
    };
    (@test $factory:expr; $($rule:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                $crate::conformance::resource_store::$rule(&$factory).await;
            }
        )*
    };
    (@run $factory:expr; $($rule:ident)*) => {
        $( $rule($factory).await; )*
    };
}

/// Runs every rule, one after the other.
///
/// # Panics
/// When a rule is broken.
pub async fn suite(factory: &dyn Factory) {
    crate::resource_store_suite!(@each run factory);
}

/// Nothing that a store does takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

const THING: Kind = Kind::logged("thing");
const OTHER: Kind = Kind::logged("other");
const QUIET: Kind = Kind::quiet("quiet-thing");

fn tenant() -> TenantId {
    TenantId::default()
}

fn key(kind: Kind, id: &str) -> Key {
    Key::new(tenant(), kind, id)
}

fn put(key: Key, value: impl Into<Bytes>, when: When) -> Write {
    Write::Put { key, value: value.into(), index: Vec::new(), ttl: None, when }
}

fn put_for(key: Key, ttl: Duration) -> Write {
    Write::Put { key, value: "mortal".into(), index: Vec::new(), ttl: Some(ttl), when: When::Any }
}

fn put_under(key: Key, terms: &[(&'static str, &str)]) -> Write {
    let index = terms.iter().map(|(name, value)| IndexTerm { name, value: (*value).into() }).collect();
    Write::Put { key, value: "listed".into(), index, ttl: None, when: When::Any }
}

async fn get(store: &dyn ResourceStore, key: &Key) -> Option<Record> {
    let mut found = store.get(std::slice::from_ref(key)).await.expect("get succeeds");
    assert_eq!(found.len(), 1, "get answers once per key");
    found.pop().flatten()
}

async fn commit(store: &dyn ResourceStore, writes: Vec<Write>) -> Revision {
    store.commit(writes).await.expect("commit succeeds")
}

/// The next item, which must come.
async fn next(feed: &mut FeedStream, rule: &str) -> Result<Feed, StoreError> {
    tokio::time::timeout(PATIENCE, feed.next())
        .await
        .unwrap_or_else(|_| panic!("{rule}: the feed says nothing for {PATIENCE:?}"))
        .unwrap_or_else(|| panic!("{rule}: the feed ended"))
}

/// Reads commits until everything up to `until` is there.
async fn commits_until(
    feed: &mut FeedStream,
    until: Revision,
    rule: &str,
) -> Vec<(Revision, Vec<crate::contract::Change>)> {
    let mut commits = Vec::new();
    let mut seen = Revision(0);
    while seen < until {
        match next(feed, rule).await.unwrap_or_else(|error| panic!("{rule}: the feed failed: {error}")) {
            Feed::Commit { revision, changes } => {
                assert!(revision > seen, "{rule}: commit {revision} came after {seen}");
                seen = revision;
                commits.push((revision, changes));
            }
            Feed::Bookmark(revision) => {
                assert!(revision >= seen, "{rule}: bookmark {revision} came after {seen}");
                seen = revision;
            }
        }
    }
    commits
}

/// Pages through a list.
async fn list_all(store: &dyn ResourceStore, query: Query) -> Vec<Record> {
    let mut query = query;
    let mut records = Vec::new();
    loop {
        let page = store.list(&query).await.expect("list succeeds");
        assert!(page.records.len() <= query.limit, "rule 8: a page holds more than was asked for");
        records.extend(page.records);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return records,
        }
    }
}

async fn ids(store: &dyn ResourceStore, query: Query) -> Vec<String> {
    list_all(store, query).await.into_iter().map(|record| record.key.id.into_string()).collect()
}

/// The kind of the error that a watch ends with, at once or as an item.
async fn watch_error(store: &dyn ResourceStore, kinds: &[Kind], after: Revision, rule: &str) -> StoreErrorKind {
    match store.watch(kinds, after).await {
        Err(error) => error.kind(),
        Ok(mut feed) => match next(&mut feed, rule).await {
            Err(error) => error.kind(),
            Ok(feed) => panic!("{rule}: an error was due, not {feed:?}"),
        },
    }
}

/// A small generator of numbers for randomised rules: the seed is in the message of a failure.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}
