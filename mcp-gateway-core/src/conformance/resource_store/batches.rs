//! Rules 4, 5, 8 and 9: batches, preconditions, time to live, limits.

use std::collections::HashSet;

use futures_util::FutureExt;

use super::*;
use crate::contract::StoreLimits;

fn conflict(result: Result<Revision, StoreError>, rule: &str) -> crate::contract::Conflict {
    let error = result.expect_err(rule);
    assert_eq!(error.kind(), StoreErrorKind::Conflict, "{rule}: {error}");
    error.conflict().unwrap_or_else(|| panic!("{rule}: a conflict names the record")).clone()
}

/// One precondition that fails, anywhere in the batch, and nothing of it is written.
pub async fn rule_4_a_batch_is_all_or_nothing(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let first = commit(store, vec![put(key(THING, "there"), "1", When::Any)]).await;
    for place in 0..3 {
        let mut writes =
            vec![put(key(THING, "new"), "2", When::Any), Write::Delete { key: key(THING, "there"), when: When::Any }];
        writes.insert(place, put(key(OTHER, "no"), "3", When::At(Revision(77))));
        let conflict = conflict(store.commit(writes).await, "rule 4: a batch with a failing precondition");
        assert_eq!((conflict.key, conflict.current), (key(OTHER, "no"), None), "rule 4: the conflict names the record");
    }
    assert_eq!(get(store, &key(THING, "new")).await, None, "rule 4: a put of a failed batch");
    assert!(get(store, &key(THING, "there")).await.is_some(), "rule 4: a delete of a failed batch");
    let mut feed = store.watch(&[THING, OTHER], first).await.expect("watch succeeds");
    let last = commit(store, vec![put(key(THING, "end"), "4", When::Any)]).await;
    assert_eq!(commits_until(&mut feed, last, "rule 4").await.len(), 1, "rule 4: a failed batch in the feed");
}

/// `Any`, `Absent` and `At`, on put and delete.
pub async fn rule_4_preconditions_compare_revisions(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let a = key(THING, "a");
    let rule = "rule 4: preconditions";
    assert_eq!(conflict(store.commit(vec![put(a.clone(), "0", When::At(Revision(0)))]).await, rule).current, None);
    let one = commit(store, vec![put(a.clone(), "1", When::Absent)]).await;
    assert_eq!(conflict(store.commit(vec![put(a.clone(), "x", When::Absent)]).await, rule).current, Some(one));
    let two = commit(store, vec![put(a.clone(), "2", When::At(one))]).await;
    assert_eq!(conflict(store.commit(vec![put(a.clone(), "x", When::At(one))]).await, rule).current, Some(two));
    let delete = |when| vec![Write::Delete { key: key(THING, "a"), when }];
    assert_eq!(conflict(store.commit(delete(When::At(one))).await, rule).current, Some(two));
    assert_eq!(conflict(store.commit(delete(When::Absent)).await, rule).current, Some(two));
    // A commit elsewhere does not change this record's revision.
    commit(store, vec![put(key(THING, "b"), "3", When::Any)]).await;
    commit(store, delete(When::At(two))).await;
    assert_eq!(get(store, &a).await, None, "{rule}: deleted");
    commit(store, delete(When::Absent)).await;
    let four = commit(store, vec![put(a.clone(), "4", When::Absent)]).await;
    assert!(four > two, "{rule}: a record that is made again has a new revision");
}

/// A worker that lost its lease cannot write any more; checks alone write nothing.
pub async fn rule_4_a_check_fences_other_writes(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let lease = key(QUIET, "lease");
    let mine = commit(store, vec![put_for(lease.clone(), Duration::from_secs(10))]).await;
    let work = |at| {
        let check = Write::Check { key: key(QUIET, "lease"), when: When::At(at) };
        vec![put(key(THING, "work"), "done", When::Any), check]
    };
    commit(store, work(mine)).await;
    (bench.pass)(Duration::from_secs(11)).await;
    let late = conflict(store.commit(work(mine)).await, "rule 4: a check of a lease that has expired");
    assert_eq!((late.key, late.current), (lease.clone(), None), "rule 4: the conflict names the lease");
    let theirs = commit(store, vec![put(lease.clone(), "them", When::Absent)]).await;
    let stolen = conflict(store.commit(work(mine)).await, "rule 4: a check of a lease that another took");
    assert_eq!(stolen.current, Some(theirs), "rule 4: the conflict names the revision");

    let before = get(store, &lease).await.expect("the lease is there");
    let at = commit(store, vec![Write::Check { key: lease.clone(), when: When::At(theirs) }]).await;
    assert_eq!(at, theirs, "rule 4: a batch of checks returns the current revision");
    let after = get(store, &lease).await.expect("the lease is there");
    assert_eq!(before, after, "rule 4: a check writes nothing");
    let absent = Write::Check { key: key(QUIET, "nobody"), when: When::Absent };
    assert_eq!(commit(store, vec![absent]).await, theirs, "rule 4: a check of an absent record");
}

/// Sixteen writers count together by compare-and-set; each revision is replaced by exactly one of them.
pub async fn rule_4_one_winner_per_revision(factory: &dyn Factory) {
    const WRITERS: u32 = 16;
    const ROUNDS: u32 = 12;
    let bench = factory.make(Setup::default()).await;
    let counter = key(THING, "counter");
    commit(&*bench.store, vec![put(counter.clone(), "0", When::Absent)]).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, counter) = (Arc::clone(&bench.store), counter.clone());
            tokio::spawn(async move {
                let mut replaced = Vec::new();
                while replaced.len() < ROUNDS as usize {
                    let now = get(&*store, &counter).await.expect("the counter is there");
                    let count: u32 = std::str::from_utf8(&now.value).expect("a number").parse().expect("a number");
                    let write = put(counter.clone(), (count + 1).to_string(), When::At(now.revision));
                    match store.commit(vec![write]).await {
                        Ok(_) => replaced.push(now.revision),
                        Err(error) => assert_eq!(error.kind(), StoreErrorKind::Conflict, "rule 4: {error}"),
                    }
                }
                replaced
            })
        })
        .collect();
    let mut replaced = HashSet::new();
    for writer in writers {
        for revision in writer.await.expect("a writer ends") {
            assert!(replaced.insert(revision), "rule 4: two writers replaced revision {revision}");
        }
    }
    let end = get(&*bench.store, &counter).await.expect("the counter is there");
    assert_eq!(end.value, (WRITERS * ROUNDS).to_string(), "rule 4: an increment was lost");
}

/// The same key twice in a batch is the caller's mistake.
pub async fn rule_4_a_key_occurs_once_in_a_batch(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let twice = vec![put(key(THING, "a"), "1", When::Any), Write::Delete { key: key(THING, "a"), when: When::Any }];
    let error = bench.store.commit(twice).await.expect_err("rule 4: a key twice in a batch");
    assert_eq!(error.kind(), StoreErrorKind::Invalid, "rule 4: a key twice in a batch");
    let same_id = vec![put(key(THING, "a"), "1", When::Any), put(key(OTHER, "a"), "1", When::Any)];
    commit(&*bench.store, same_id).await;
}

/// Removing what is not there is fine, and nobody hears of it.
pub async fn rule_4_deleting_what_is_absent_changes_nothing(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    commit(store, vec![Write::Delete { key: key(THING, "never"), when: When::Any }]).await;
    let last = commit(store, vec![put(key(THING, "end"), "1", When::Any)]).await;
    let mut feed = store.watch(&[THING], Revision(0)).await.expect("watch succeeds");
    let commits = commits_until(&mut feed, last, "rule 4").await;
    assert_eq!(commits.len(), 1, "rule 4: removing an absent record is no change: {commits:?}");
}

/// Alive until its time, then absent everywhere at once, without a sweep.
pub async fn rule_5_an_expired_record_is_absent_at_once(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    for kind in [THING, QUIET] {
        let a = key(kind, "a");
        let write = Write::Put {
            key: a.clone(),
            value: "1".into(),
            index: vec![IndexTerm { name: "owner", value: "ada".into() }],
            ttl: Some(Duration::from_secs(60)),
            when: When::Absent,
        };
        let by_owner = Query { term: Some(IndexTerm { name: "owner", value: "ada".into() }), ..Query::all(kind) };
        let first = commit(store, vec![write.clone()]).await;
        (bench.pass)(Duration::from_secs(50)).await;
        assert!(get(store, &a).await.is_some(), "rule 5: gone before its time");
        assert_eq!(ids(store, by_owner.clone()).await, ["a"], "rule 5: not listed before its time");
        let taken = conflict(store.commit(vec![write.clone()]).await, "rule 5: present before its time");
        assert_eq!(taken.current, Some(first), "rule 5: present before its time");
        (bench.pass)(Duration::from_secs(10)).await;
        assert_eq!(get(store, &a).await, None, "rule 5: get sees an expired record");
        assert!(ids(store, Query::all(kind)).await.is_empty(), "rule 5: list sees an expired record");
        assert!(ids(store, by_owner.clone()).await.is_empty(), "rule 5: an index sees an expired record");
        let stale = put(a.clone(), "2", When::At(first));
        let gone = conflict(store.commit(vec![stale]).await, "rule 5: a precondition sees an expired record");
        assert_eq!(gone.current, None, "rule 5: a precondition sees an expired record");
        let again = commit(store, vec![write]).await;
        assert_eq!(get(store, &a).await.map(|r| r.revision), Some(again), "rule 5: made again");
    }
}

/// Nobody hears of an expiry, not even when the expired record is removed.
pub async fn rule_5_expiry_is_no_change(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let first = commit(store, vec![put_for(key(THING, "a"), Duration::from_secs(5))]).await;
    let mut feed = store.watch(&[THING], first).await.expect("watch succeeds");
    (bench.pass)(Duration::from_secs(6)).await;
    commit(store, vec![Write::Delete { key: key(THING, "a"), when: When::Any }]).await;
    let last = commit(store, vec![put(key(OTHER, "b"), "1", When::Any)]).await;
    let commits = commits_until(&mut feed, last, "rule 5").await;
    assert!(commits.is_empty(), "rule 5: expiry produced {commits:?}");
}

/// A put replaces the time to live along with the value.
pub async fn rule_5_the_last_put_decides_the_time_to_live(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let (longer, for_ever, shorter) = (key(THING, "longer"), key(THING, "for-ever"), key(THING, "shorter"));
    let short = Duration::from_secs(10);
    commit(store, vec![put_for(longer.clone(), short), put_for(for_ever.clone(), short)]).await;
    commit(store, vec![put(shorter.clone(), "1", When::Any)]).await;
    (bench.pass)(Duration::from_secs(5)).await;
    commit(
        store,
        vec![
            put_for(longer.clone(), Duration::from_secs(30)),
            put(for_ever.clone(), "1", When::Any),
            put_for(shorter.clone(), short),
        ],
    )
    .await;
    (bench.pass)(Duration::from_secs(15)).await;
    assert!(get(store, &longer).await.is_some(), "rule 5: a longer life replaces a shorter one");
    assert!(get(store, &for_ever).await.is_some(), "rule 5: no end replaces an end");
    assert_eq!(get(store, &shorter).await, None, "rule 5: an end replaces no end");
    (bench.pass)(Duration::from_secs(20)).await;
    assert_eq!(get(store, &longer).await, None, "rule 5: the longer life ends too");
    let distant = key(THING, "distant");
    commit(store, vec![put_for(distant.clone(), Duration::MAX)]).await;
    assert!(get(store, &distant).await.is_some(), "rule 5: a time to live that no clock can count is for ever");
}

/// Each bound of [`StoreLimits`]: exactly at it is fine, one more is `TooLarge` and writes nothing.
pub async fn rule_8_limits_at_their_edges(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let many = |count: usize| (0..count).map(|n| put(key(THING, &format!("n{n}")), "", When::Any)).collect::<Vec<_>>();
    let sized = |bytes: usize| vec![put(key(THING, "sized"), vec![7; bytes], When::Any)];
    let named = |bytes: usize| vec![put(key(THING, &"i".repeat(bytes)), "", When::Any)];
    let owned = |bytes: usize| vec![put(Key::new(TenantId::new("t".repeat(bytes)), THING, "tenant"), "", When::Any)];
    let termed = |count: usize, bytes: usize| {
        let value = "v".repeat(bytes - 1);
        let values: Vec<_> = (0..count).map(|n| format!("{n}{value}")).collect();
        let terms: Vec<_> = values.iter().map(|value| ("term", value.as_str())).collect();
        vec![put_under(key(THING, "termed"), &terms)]
    };
    // Four records at their bound and one that fills the batch, ids and tenants included.
    let batch = |over: usize| {
        let full = StoreLimits::RECORD;
        let names = 5 * (2 + tenant().as_str().len());
        let sizes = [full, full, full, full - 1000, 1000 - names + over];
        let writes = sizes.iter().enumerate();
        writes.map(|(n, size)| put(key(THING, &format!("b{n}")), vec![1; *size], When::Any)).collect::<Vec<_>>()
    };
    let edges = [
        ("writes in a batch", many(StoreLimits::WRITES), many(StoreLimits::WRITES + 1)),
        ("bytes of a record", sized(StoreLimits::RECORD), sized(StoreLimits::RECORD + 1)),
        ("bytes of an id", named(StoreLimits::ID), named(StoreLimits::ID + 1)),
        ("bytes of a tenant", owned(StoreLimits::ID), owned(StoreLimits::ID + 1)),
        ("an empty id", named(1), named(0)),
        ("terms of a record", termed(StoreLimits::TERMS, 2), termed(StoreLimits::TERMS + 1, 2)),
        ("bytes of a term", termed(1, StoreLimits::TERM), termed(1, StoreLimits::TERM + 1)),
        ("bytes of a batch", batch(0), batch(1)),
    ];
    for (what, at, over) in edges {
        let keys: Vec<_> = over.iter().map(|write| write.key().clone()).collect();
        let held = |found: Result<Vec<Option<Record>>, StoreError>| {
            found.map(|found| found.into_iter().flatten().collect::<Vec<_>>()).unwrap_or_default()
        };
        let before: Vec<Record> = held(store.get(&keys).await);
        let error = store.commit(over).await.expect_err(what);
        assert_eq!(error.kind(), StoreErrorKind::TooLarge, "rule 8: {what}: {error}");
        assert_eq!(held(store.get(&keys).await), before, "rule 8: {what}: something was written");
        let revision = store.commit(at).await.unwrap_or_else(|error| panic!("rule 8: {what} at the bound: {error}"));
        assert!(revision > Revision(0), "rule 8: {what} at the bound");
    }
}

/// Pages and gets of 1,000 are fine, of 1,001 are `TooLarge`.
pub async fn rule_8_pages_are_bounded(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    for start in (0..1_000).step_by(250) {
        let writes = (start..start + 250).map(|n| put(key(THING, &format!("{n:04}")), "x", When::Any)).collect();
        commit(store, writes).await;
    }
    commit(store, vec![put(key(THING, "1000"), "x", When::Any)]).await;
    let page = store.list(&Query::all(THING)).await.expect("rule 8: a page of 1,000");
    assert_eq!(page.records.len(), StoreLimits::PAGE, "rule 8: a page of 1,000");
    assert_eq!(page.next.as_ref().map(|next| &*next.id), Some("0999"), "rule 8: one record is left");
    let rest = store.list(&Query { after: page.next, ..Query::all(THING) }).await.expect("list succeeds");
    assert_eq!((rest.records.len(), rest.next), (1, None), "rule 8: the last page");
    let wide = Query { limit: StoreLimits::PAGE + 1, ..Query::all(THING) };
    assert_eq!(store.list(&wide).await.expect_err("rule 8").kind(), StoreErrorKind::TooLarge, "rule 8: page of 1,001");
    let none = Query { limit: 0, ..Query::all(THING) };
    assert_eq!(store.list(&none).await.expect_err("rule 8").kind(), StoreErrorKind::Invalid, "rule 8: page of 0");

    let keys: Vec<_> = (0..1_001).map(|n| key(THING, &format!("{n:04}"))).collect();
    let found = store.get(&keys[..StoreLimits::PAGE]).await.expect("rule 8: a get of 1,000 keys");
    assert!(found.iter().zip(&keys).all(|(record, key)| record.as_ref().is_some_and(|r| r.key == *key)), "rule 8: get");
    assert_eq!(store.get(&keys).await.expect_err("rule 8").kind(), StoreErrorKind::TooLarge, "rule 8: get of 1,001");
}

/// A commit whose future is dropped is in whole or not at all, and a retry under a precondition finds out which.
pub async fn rule_9_a_lost_commit_is_in_or_not(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    for round in 0..40 {
        let keys = [key(THING, &format!("{round}-a")), key(QUIET, &format!("{round}-b"))];
        let batch = |value: &'static str| keys.iter().map(|key| put(key.clone(), value, When::Absent)).collect();
        let mut lost = store.commit(batch("first"));
        for _ in 0..round % 3 {
            if (&mut lost).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(lost);
        let retried = store.commit(batch("second")).await;
        let values: Vec<_> =
            store.get(&keys).await.expect("get succeeds").into_iter().flatten().map(|record| record.value).collect();
        let expected: &[u8] = match &retried {
            Ok(_) => b"second",
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Conflict, "rule 9: a retry succeeds or conflicts: {error}");
                b"first"
            }
        };
        assert_eq!(values, [expected, expected], "rule 9: half of a batch was written");
    }
}
