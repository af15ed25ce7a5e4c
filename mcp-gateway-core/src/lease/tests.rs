use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::contract::{FeedStream, Page, Query, SystemClock};
use crate::memory::MemoryStore;

const SECOND: Duration = Duration::from_secs(1);

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Arc::new(SystemClock)))
}

/// Leads for ever, and says when a term begins.
fn lead(leases: &Leases, name: &'static str) -> (tokio::task::JoinHandle<()>, mpsc::UnboundedReceiver<Term>) {
    let (said, terms) = mpsc::unbounded_channel();
    let leases = leases.clone();
    let task = tokio::spawn(async move {
        leases
            .lead(name, |term| {
                let _ = said.send(term);
                pending()
            })
            .await;
    });
    (task, terms)
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_takes_over_when_it_is_gone() {
    let store = store();
    let (first, mut firsts) = lead(&Leases::new(store.clone()), "work");
    firsts.recv().await.unwrap();
    let other = Leases::new(store);
    assert!(other.is_led_elsewhere("work").await.unwrap());
    let (_second, mut seconds) = lead(&other, "work");
    tokio::time::sleep(100 * SECOND).await;
    assert!(seconds.try_recv().is_err(), "two lead");
    assert!(firsts.try_recv().is_err(), "the first one's term ended");

    let died = Instant::now();
    first.abort();
    seconds.recv().await.unwrap();
    assert!(died.elapsed() > 6 * SECOND, "the lease was taken before it ran out");
    assert!(died.elapsed() <= 13 * SECOND, "nobody led for {:?}", died.elapsed());
    assert!(!other.is_led_elsewhere("work").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn leases_of_other_names_are_apart() {
    let (one, other) = (Leases::new(store()), Leases::new(store()));
    let ((_a, mut a), (_b, mut b)) = (lead(&one, "a"), lead(&other, "b"));
    a.recv().await.unwrap();
    b.recv().await.unwrap();
    assert_eq!((one.held(), other.held()), (vec!["a".into()], vec!["b".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_taken_at_the_next_attempt() {
    let store = store();
    let one = Leases::new(store.clone());
    let (first, mut firsts) = lead(&one, "work");
    firsts.recv().await.unwrap();
    let (_second, mut seconds) = lead(&Leases::new(store), "work");
    tokio::time::sleep(SECOND).await;
    let ended = Instant::now();
    first.abort();
    one.give_back().await;
    assert!(one.held().is_empty());
    seconds.recv().await.unwrap();
    assert!(ended.elapsed() <= 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_by_itself_gives_its_lease_back() {
    let store = store();
    Leases::new(store.clone()).lead("work", |_| async {}).await;
    let began = Instant::now();
    Leases::new(store).lead("work", |_| async {}).await;
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_writes_after_its_time_fails() {
    let store = store();
    let (first, mut firsts) = lead(&Leases::new(store.clone()), "work");
    let stale = firsts.recv().await.unwrap();
    // Paused, as far as others see.
    first.abort();
    let (_second, mut seconds) = lead(&Leases::new(store.clone()), "work");
    let fresh = seconds.recv().await.unwrap();
    tokio::time::sleep(20 * SECOND).await;
    let write = |term: &Term| {
        let result = key(Kind::quiet("result"), "one");
        let put = Write::Put { key: result, value: Bytes::new(), index: Vec::new(), ttl: None, when: When::Any };
        store.commit([put].into_iter().chain(term.fence()).collect())
    };
    assert_eq!(write(&stale).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    write(&fresh).await.expect("renewals do not end a term");
}

#[tokio::test]
async fn a_process_alone_leads_at_once_and_needs_no_fence() {
    let led = AtomicU32::new(0);
    let leases = Leases::alone();
    leases
        .lead("work", |term| {
            assert!(term.fence().is_none());
            led.fetch_add(1, SeqCst);
            async {}
        })
        .await;
    assert_eq!(led.into_inner(), 1);
}

/// A store whose commits hang, or are lost after they were done.
struct Faulty {
    inner: Arc<MemoryStore>,
    hangs: AtomicBool,
    loses: AtomicBool,
}

#[async_trait]
impl ResourceStore for Faulty {
    async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StoreError> {
        self.inner.get(keys).await
    }

    async fn list(&self, query: &Query) -> Result<Page, StoreError> {
        self.inner.list(query).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        if self.hangs.load(SeqCst) {
            return pending().await;
        }
        let done = self.inner.commit(writes).await;
        if self.loses.load(SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Unknown, "commit"));
        }
        done
    }

    async fn watch(&self, kinds: &[Kind], after: Revision) -> Result<FeedStream, StoreError> {
        self.inner.watch(kinds, after).await
    }
}

fn faulty() -> Arc<Faulty> {
    Arc::new(Faulty { inner: store(), hangs: AtomicBool::default(), loses: AtomicBool::default() })
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_before_its_lease_runs_out_at_a_store_that_does_not_answer() {
    let store = faulty();
    let leases = Leases::new(store.clone());
    let (_first, mut firsts) = lead(&leases, "work");
    firsts.recv().await.unwrap();
    store.hangs.store(true, SeqCst);
    let (_second, mut seconds) = lead(&Leases::new(store.inner.clone()), "work");
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    assert_eq!(leases.held().len(), 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(leases.held().is_empty(), "it leads although its lease has run out");
    seconds.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_whose_outcome_was_lost_counts_if_it_is_there() {
    let store = faulty();
    let (_first, mut firsts) = lead(&Leases::new(store.clone()), "work");
    firsts.recv().await.unwrap();
    store.loses.store(true, SeqCst);
    tokio::time::sleep(60 * SECOND).await;
    assert!(firsts.try_recv().is_err(), "the term ended although its lease was renewed");
}
