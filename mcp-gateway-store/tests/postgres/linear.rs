//! Sixteen writers on two stores: whatever they see could have happened one after the other.
//!
//! A record is a register whose versions are revisions. An order exists if every version was replaced at most once, by
//! the one that names it, and nobody sees a version older than one that was there before they asked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use mcp_gateway_core::contract::StoreErrorKind;
use mcp_gateway_store::sqlite::{SqliteOptions, SqliteStore};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const WRITERS: usize = 16;
const REGISTERS: [&str; 3] = ["a", "b", "c"];
const CODES: usize = 24;

/// One operation of a writer.
#[derive(Debug, Clone, Copy)]
enum Step {
    Read(usize),
    /// Compare-and-set from what was read just before.
    Set(usize),
    /// Two registers together.
    SetBoth(usize, usize),
    /// Uses a code up, and issues a token for it.
    Redeem(usize),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let register = 0..REGISTERS.len();
    let step = prop_oneof![
        register.clone().prop_map(Step::Read),
        register.clone().prop_map(Step::Set),
        (register.clone(), register).prop_map(|(a, b)| if a == b { Step::Set(a) } else { Step::SetBoth(a, b) }),
        (0..CODES).prop_map(Step::Redeem),
    ];
    prop::collection::vec(prop::collection::vec(step, 12), WRITERS)
}

/// What a writer saw or made of a register.
#[derive(Debug)]
struct Observed {
    register: usize,
    began: Instant,
    ended: Instant,
    revision: Revision,
    /// The version that this one replaced.
    replaced: Option<Revision>,
}

#[derive(Default)]
struct History {
    observed: Vec<Observed>,
    redeemed: Vec<usize>,
}

fn register(number: usize) -> Key {
    // One of them is of a quiet kind: its commits take another way.
    key(if number == 1 { QUIET } else { THING }, REGISTERS[number])
}

fn code(number: usize) -> Key {
    key(QUIET, format!("code-{number}"))
}

fn set(key: Key, when: When) -> Write {
    Write::Put { key, value: "x".into(), index: Vec::new(), ttl: None, when }
}

async fn write(store: &dyn ResourceStore, steps: Vec<Step>) -> History {
    let mut history = History::default();
    for step in steps {
        let numbers = match step {
            Step::Read(a) | Step::Set(a) => vec![a],
            Step::SetBoth(a, b) => vec![a, b],
            Step::Redeem(number) => {
                let Some(found) = store.get(&[code(number)]).await.unwrap().remove(0) else { continue };
                let used = Write::Delete { key: found.key, when: When::At(found.revision) };
                match store.commit(vec![put(QUIET, format!("token-{number}")), used]).await {
                    Ok(_) => history.redeemed.push(number),
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
                }
                continue;
            }
        };
        let began = Instant::now();
        let keys: Vec<_> = numbers.iter().map(|number| register(*number)).collect();
        let found: Vec<_> =
            store.get(&keys).await.unwrap().into_iter().map(|record| record.unwrap().revision).collect();
        let ended = Instant::now();
        for (&register, &revision) in numbers.iter().zip(&found) {
            history.observed.push(Observed { register, began, ended, revision, replaced: None });
        }
        if matches!(step, Step::Read(_)) {
            continue;
        }
        let began = Instant::now();
        let writes = keys.into_iter().zip(&found).map(|(key, revision)| set(key, When::At(*revision))).collect();
        match store.commit(writes).await {
            Ok(revision) => {
                let ended = Instant::now();
                history.observed.extend(numbers.iter().zip(found).map(|(&register, replaced)| Observed {
                    register,
                    began,
                    ended,
                    revision,
                    replaced: Some(replaced),
                }));
            }
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}"),
        }
    }
    history
}

/// Lets them write, and checks what they saw.
async fn run(stores: [Arc<dyn ResourceStore>; 2], steps: Vec<Vec<Step>>) {
    let begin: Vec<_> = (0..REGISTERS.len()).map(register).chain((0..CODES).map(code)).collect();
    let first = stores[0].commit(begin.into_iter().map(|key| set(key, When::Any)).collect()).await.unwrap();
    let writers: Vec<_> = steps
        .into_iter()
        .enumerate()
        .map(|(number, steps)| {
            let store = Arc::clone(&stores[number % 2]);
            tokio::spawn(async move { write(&*store, steps).await })
        })
        .collect();
    let mut all = History::default();
    for writer in writers {
        let history = writer.await.unwrap();
        all.observed.extend(history.observed);
        all.redeemed.extend(history.redeemed);
    }

    let mut once = HashSet::new();
    assert!(all.redeemed.iter().all(|number| once.insert(*number)), "a code was used twice: {:?}", all.redeemed);
    for number in 0..REGISTERS.len() {
        let observed: Vec<_> = all.observed.iter().filter(|observed| observed.register == number).collect();
        let mut successors = HashMap::new();
        for made in observed.iter().filter(|observed| observed.replaced.is_some()) {
            let other = successors.insert(made.replaced, made.revision);
            assert_eq!(other, None, "{:?} was replaced twice", made.replaced);
        }
        // The chain from the first version covers every version that anybody made, up to the one that is there.
        let (mut last, mut length) = (first, 0);
        while let Some(next) = successors.get(&Some(last)) {
            assert!(*next > last, "{next} replaced {last}");
            (last, length) = (*next, length + 1);
        }
        assert_eq!(length, successors.len(), "a version hangs in the air");
        let end = stores[1].get(&[register(number)]).await.unwrap().remove(0).unwrap();
        assert_eq!(end.revision, last, "the last version is another one");
        for late in &observed {
            let before = observed.iter().filter(|early| early.ended < late.began).map(|early| early.revision).max();
            assert!(before.is_none_or(|before| before <= late.revision), "{late:?} is older than {before:?}");
        }
    }
}

/// Runs the property on stores of one kind.
fn check<S: ResourceStore, F: Future<Output = [S; 2]>>(open: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stores = runtime.block_on(open()).map(|store| Arc::new(store) as Arc<dyn ResourceStore>);
    let cases = Config { cases: 16, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    TestRunner::new(cases)
        .run(&steps(), |steps| {
            runtime.block_on(run(stores.clone(), steps));
            Ok(())
        })
        .unwrap();
}

#[test]
fn on_two_processes_over_postgres() {
    check(|| async {
        let (options, _) = fresh(Cluster::shared()).await;
        let options = options.with_connections(8);
        [open(&options).await, open(&options).await]
    });
}

#[test]
fn on_one_sqlite_file() {
    let folder = tempfile::tempdir().unwrap();
    check(|| async {
        let store = SqliteStore::open(folder.path().join("resources.db"), SqliteOptions::default()).unwrap();
        [store.clone(), store]
    });
}
