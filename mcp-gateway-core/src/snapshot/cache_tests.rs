use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::conformance::{FlakyStore, ManualClock};
use crate::contract::{SystemClock, When, Write};
use crate::memory::{MemoryStore, MemoryStoreOptions};
use crate::record::TenantId;

const THING: Kind = Kind::logged("thing");

fn key(id: u8) -> Key {
    Key::new(TenantId::default(), THING, format!("k{id}"))
}

async fn put(store: &dyn ResourceStore, id: u8, value: u32) {
    let value = value.to_string().into();
    store.commit(vec![Write::Put { key: key(id), value, index: vec![], ttl: None, when: When::Any }]).await.unwrap();
}

async fn read(store: &dyn ResourceStore, key: &Key) -> Result<Option<Bytes>, StoreError> {
    let found = store.get(std::slice::from_ref(key)).await?;
    Ok(found.into_iter().next().flatten().map(|record| record.value))
}

async fn cache(store: Arc<dyn ResourceStore>, capacity: usize, clock: Arc<dyn Clock>) -> Cache<Bytes> {
    let (cache, driver) = Cache::follow(store, vec![THING], capacity, clock).await.unwrap();
    tokio::spawn(driver);
    cache
}

#[tokio::test(start_paused = true)]
async fn a_hit_reads_nothing_and_a_change_is_read_again() {
    let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let cache = cache(store.clone(), 10, Arc::new(SystemClock)).await;
    let never = || async { Err::<Option<Bytes>, _>("read") };
    assert_eq!(cache.get_or_read(&key(1), read(&*store, &key(1))).await.unwrap(), None);
    assert_eq!(cache.get_or_read(&key(1), never()).await, Ok(None), "absence is cached");
    put(&*store, 1, 7).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(cache.get_or_read(&key(1), read(&*store, &key(1))).await.unwrap(), Some("7".into()));
    assert_eq!(cache.get_or_read(&key(1), never()).await, Ok(Some("7".into())));
    assert_eq!(cache.get_or_read(&key(2), never()).await, Err("read"), "a failure is not kept");
    assert_eq!(cache.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_never_holds_more_than_its_capacity() {
    let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let cache = cache(store.clone(), 10, Arc::new(SystemClock)).await;
    for id in 0..100 {
        cache.get_or_read(&key(id), read(&*store, &key(id))).await.unwrap();
        // What is used stays.
        cache.get_or_read(&key(0), async { Err(()) }).await.unwrap();
        assert!(cache.len() <= 10, "{}", cache.len());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_while_the_feed_is_silent() {
    let clock = Arc::new(ManualClock::default());
    let flaky = FlakyStore::new(Arc::new(MemoryStore::new(Arc::new(SystemClock))));
    let cache = cache(flaky.clone(), 10, clock.clone()).await;
    flaky.silence();
    tokio::time::sleep(Duration::from_secs(1)).await;
    clock.advance(Snapshots::STALE_AFTER);
    cache.get_or_read(&key(1), async { Ok::<_, ()>(None) }).await.unwrap();
    assert_eq!(cache.len(), 1, "at the edge");
    clock.advance(Duration::from_nanos(1));
    cache.get_or_read(&key(2), async { Ok::<_, ()>(None) }).await.unwrap();
    assert_eq!(cache.len(), 1, "over the edge");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_read_leaves_nothing_behind() {
    let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
    let cache = cache(store, 10, Arc::new(SystemClock)).await;
    let key = key(1);
    let hangs = cache.get_or_read(&key, std::future::pending::<Result<_, ()>>());
    assert!(tokio::time::timeout(Duration::from_millis(1), hangs).await.is_err());
    assert!(cache.shared.lock().filling.is_empty());
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8),
    /// Reads the store now; the cache sees the answer later.
    Begin(u8),
    /// The oldest answer that is under way arrives.
    Arrive,
    /// Lets the driver work.
    Feed,
    Cut,
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3u8).prop_map(Op::Put),
        4 => (0..3u8).prop_map(Op::Begin),
        4 => Just(Op::Arrive),
        3 => Just(Op::Feed),
        1 => Just(Op::Cut),
        1 => Just(Op::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn once_the_feed_is_read_nothing_old_is_held(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let log = MemoryStoreOptions::default().with_log_commits(4);
            let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::with_options(Arc::new(SystemClock), log));
            let flaky = FlakyStore::new(store.clone());
            let cache = cache(flaky.clone(), 100, Arc::new(SystemClock)).await;
            let mut pending: std::collections::VecDeque<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)> =
                Default::default();
            let mut truth = BTreeMap::new();
            for (n, op) in (0u32..).zip(ops) {
                match op {
                    Op::Put(id) => {
                        put(&*store, id, n).await;
                        truth.insert(id, Bytes::from(n.to_string()));
                    }
                    Op::Begin(id) => {
                        let (arrive, arrived) = oneshot::channel();
                        let (began, begun) = oneshot::channel();
                        let (store, cache) = (store.clone(), cache.clone());
                        let reader = tokio::spawn(async move {
                            let key = key(id);
                            let slow = async {
                                let value = read(&*store, &key).await;
                                let _ = began.send(());
                                let _ = arrived.await;
                                value
                            };
                            cache.get_or_read(&key, slow).await.unwrap();
                        });
                        // An error means a hit: nothing was read.
                        let _ = begun.await;
                        pending.push_back((arrive, reader));
                    }
                    Op::Arrive => {
                        if let Some((arrive, reader)) = pending.pop_front() {
                            let _ = arrive.send(());
                            reader.await.unwrap();
                        }
                    }
                    Op::Feed => tokio::time::sleep(Duration::from_millis(300)).await,
                    Op::Cut => flaky.cut(),
                    Op::Restore => flaky.restore(),
                }
            }
            for (arrive, reader) in pending {
                let _ = arrive.send(());
                reader.await.unwrap();
            }
            flaky.restore();
            tokio::time::sleep(Duration::from_secs(5)).await;
            for id in 0..3 {
                let seen = cache.get_or_read(&key(id), read(&*store, &key(id))).await.unwrap();
                assert_eq!(seen.as_ref(), truth.get(&id), "an old value is held of k{id}");
            }
        });
    }
}
