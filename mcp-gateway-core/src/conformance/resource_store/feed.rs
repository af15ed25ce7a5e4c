//! Rules 1, 2, 3 and 6: order, the feed, and reading while others write.

use super::*;

/// A slow and a fast writer, and a watcher that must see every commit of both, once, in the order of revisions.
pub async fn rule_1_commit_order_is_revision_order_is_visibility_order(factory: &dyn Factory) {
    let rule = "rule 1";
    let bench = factory.make(Setup::default()).await;
    let mut feed = bench.store.watch(&[THING], Revision(0)).await.expect("watch succeeds");

    let slow = {
        let store = Arc::clone(&bench.store);
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for round in 0..20 {
                let writes = (0..200)
                    .map(|n| {
                        put(key(THING, &format!("slow-{n}")), vec![u8::try_from(round).unwrap_or(0); 4000], When::Any)
                    })
                    .collect();
                revisions.push(commit(&*store, writes).await);
            }
            revisions
        })
    };
    let fast = {
        let store = Arc::clone(&bench.store);
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..300 {
                let key = key(THING, "fast");
                let revision = commit(&*store, vec![put(key.clone(), n.to_string(), When::Any)]).await;
                let seen = get(&*store, &key).await.expect("rule 1: what was committed is there").revision;
                assert_eq!(seen, revision, "rule 1: only this writer writes this record");
                revisions.push(revision);
            }
            revisions
        })
    };
    // The watcher runs beside them.
    let watcher = tokio::spawn(async move {
        let mut commits = Vec::new();
        let mut last = Revision(0);
        while commits.len() < 320 {
            match next(&mut feed, rule).await.expect("rule 1: the feed goes on") {
                Feed::Commit { revision, .. } => {
                    assert!(revision > last, "rule 1: saw commit {revision} after {last}");
                    last = revision;
                    commits.push(revision);
                }
                Feed::Bookmark(revision) => {
                    assert!(revision >= last, "rule 1: saw bookmark {revision} after {last}");
                    last = revision;
                }
            }
        }
        commits
    });
    let slow = slow.await.expect("rule 1: the slow writer ends");
    let fast = fast.await.expect("rule 1: the fast writer ends");
    assert!(slow.is_sorted() && fast.is_sorted(), "rule 1: revisions of one writer go up");
    let mut written: Vec<_> = slow.into_iter().chain(fast).collect();
    written.sort_unstable();
    let count = written.len();
    written.dedup();
    assert_eq!(written.len(), count, "rule 1: two commits have one revision");
    // Bookmarks alone would keep the watcher waiting for a change that was lost.
    let seen = tokio::time::timeout(PATIENCE, watcher).await.expect("rule 1: a change was lost");
    let seen = seen.expect("rule 1: the watcher ends");
    assert_eq!(seen, written, "rule 1: a change was lost or seen twice");
}

/// After `commit` returned a revision, `get` and `list` see it.
pub async fn rule_1_reads_see_what_commit_returned(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let mut last = Revision(0);
    for n in 0..50 {
        let key = key(if n % 2 == 0 { THING } else { QUIET }, &format!("{n:03}"));
        let revision = commit(store, vec![put(key.clone(), "x", When::Absent)]).await;
        assert!(revision > last, "rule 1: revision {revision} follows {last}");
        last = revision;
        assert_eq!(get(store, &key).await.map(|r| r.revision), Some(revision), "rule 1: get sees the commit");
        let page = store.list(&Query::all(key.kind)).await.expect("list succeeds");
        assert!(page.as_of >= revision, "rule 1: list is as of {}, before {revision}", page.as_of);
        assert!(page.records.iter().any(|record| record.key == key), "rule 1: list sees the commit");
    }
}

/// Whole commits, in the order of the batch, with deletes, over several kinds.
pub async fn rule_2_a_watch_yields_whole_commits_in_order(factory: &dyn Factory) {
    let rule = "rule 2";
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let first = commit(store, vec![put(key(THING, "z"), "1", When::Any), put(key(OTHER, "a"), "2", When::Any)]).await;
    let mut live = store.watch(&[THING, OTHER], first).await.expect("watch succeeds");
    let second = commit(
        store,
        vec![
            put(key(OTHER, "b"), "3", When::Any),
            Write::Delete { key: key(THING, "z"), when: When::At(first) },
            put(key(THING, "y"), "4", When::Any),
            Write::Check { key: key(OTHER, "a"), when: When::At(first) },
        ],
    )
    .await;
    let mut late = store.watch(&[THING, OTHER], Revision(0)).await.expect("watch succeeds");

    let change = |kind, id: &str, value: Option<&'static str>| crate::contract::Change {
        key: key(kind, id),
        value: value.map(|text: &'static str| Bytes::from_static(text.as_bytes())),
    };
    let one = (first, vec![change(THING, "z", Some("1")), change(OTHER, "a", Some("2"))]);
    let two = (second, vec![change(OTHER, "b", Some("3")), change(THING, "z", None), change(THING, "y", Some("4"))]);
    let expected = [one, two];
    assert_eq!(commits_until(&mut live, second, rule).await, expected[1..], "rule 2: a live watch");
    assert_eq!(commits_until(&mut late, second, rule).await, expected, "rule 2: a watch from the start");
}

/// Changes of other kinds are left out, and a commit of only those is passed over.
pub async fn rule_2_a_watch_follows_only_its_kinds(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let mixed = commit(store, vec![put(key(THING, "a"), "1", When::Any), put(key(OTHER, "b"), "2", When::Any)]).await;
    let last = commit(store, vec![put(key(OTHER, "c"), "3", When::Any)]).await;
    let mut feed = store.watch(&[THING], Revision(0)).await.expect("watch succeeds");
    let commits = commits_until(&mut feed, last, "rule 2").await;
    assert_eq!(commits.len(), 1, "rule 2: a commit without a watched kind is no item: {commits:?}");
    assert_eq!(commits[0].0, mixed, "rule 2: the commit that is watched");
    assert_eq!(commits[0].1.len(), 1, "rule 2: only the watched kind: {commits:?}");
}

/// Bookmarks come while nothing happens and while much happens, and never go back.
pub async fn rule_2_bookmarks_keep_coming(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &bench.store;
    let last = commit(&**store, vec![put(key(OTHER, "a"), "1", When::Any)]).await;
    let mut feed = store.watch(&[THING], Revision(0)).await.expect("watch succeeds");
    let mut seen = Revision(0);
    for _ in 0..4 {
        // 250 ms with room for a busy machine.
        let item = tokio::time::timeout(Duration::from_secs(5), next(&mut feed, "rule 2")).await;
        match item.expect("rule 2: no bookmark within 20 times 250 ms").expect("rule 2: the feed goes on") {
            Feed::Bookmark(revision) => {
                assert!(revision >= seen, "rule 2: bookmark {revision} after {seen}");
                seen = revision;
            }
            feed @ Feed::Commit { .. } => panic!("rule 2: nothing of this kind was committed, yet {feed:?}"),
        }
    }
    assert_eq!(seen, last, "rule 2: the bookmark covers commits of other kinds");

    let writer = {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for n in 0u64.. {
                commit(&*store, vec![put(key(THING, "busy"), n.to_string(), When::Any)]).await;
                tokio::task::yield_now().await;
            }
        })
    };
    let busy = tokio::time::timeout(Duration::from_secs(5), async {
        let (mut commits, mut bookmarks) = (0, 0);
        while commits < 10 || bookmarks < 2 {
            match next(&mut feed, "rule 2").await.expect("rule 2: the feed goes on") {
                Feed::Commit { .. } => commits += 1,
                Feed::Bookmark(_) => bookmarks += 1,
            }
        }
    });
    busy.await.expect("rule 2: no bookmarks while commits come");
    writer.abort();
}

/// A position that the log no longer reaches is `Compacted`, the oldest one that it does reach is not.
pub async fn rule_2_a_position_that_is_too_old_is_compacted(factory: &dyn Factory) {
    let bench = factory.make(Setup { log_commits: Some(8) }).await;
    let store = &*bench.store;
    let mut last = Revision(0);
    for n in 0..64 {
        last = commit(store, vec![put(key(THING, "a"), n.to_string(), When::Any)]).await;
    }
    let error = watch_error(store, &[THING], Revision(1), "rule 2: too old").await;
    assert_eq!(error, StoreErrorKind::Compacted, "rule 2: a position before the log");
    let before = Revision(last.0 - 2);
    let mut feed = store.watch(&[THING], before).await.expect("rule 2: the log reaches back two commits");
    assert_eq!(commits_until(&mut feed, last, "rule 2").await.len(), 2, "rule 2: what the log still has");
}

/// A position that the store never had is `Compacted`: the consumer holds a state of another store.
pub async fn rule_2_a_position_of_the_future_is_compacted(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let last = commit(store, vec![put(key(THING, "a"), "1", When::Any)]).await;
    let error = watch_error(store, &[THING], Revision(last.0 + 1), "rule 2: future").await;
    assert_eq!(error, StoreErrorKind::Compacted, "rule 2: a position of the future");
    let mut feed = store.watch(&[THING], last).await.expect("rule 2: the present is a position");
    assert_eq!(next(&mut feed, "rule 2").await.ok(), Some(Feed::Bookmark(last)), "rule 2: nothing is newer");
}

/// A watch that is not read while the log moves on ends with `Compacted`; nothing is passed over in silence.
pub async fn rule_2_a_consumer_that_is_too_slow_is_told(factory: &dyn Factory) {
    let bench = factory.make(Setup { log_commits: Some(8) }).await;
    let store = &*bench.store;
    let mut feed = store.watch(&[THING], Revision(0)).await.expect("watch succeeds");
    let mut last = Revision(0);
    for n in 0..64 {
        last = commit(store, vec![put(key(THING, "a"), n.to_string(), When::Any)]).await;
    }
    let mut seen = Revision(0);
    loop {
        match next(&mut feed, "rule 2").await {
            Ok(Feed::Commit { revision, .. }) => {
                assert_eq!(revision.0, seen.0 + 1, "rule 2: a change was passed over");
                seen = revision;
            }
            Ok(Feed::Bookmark(revision)) => assert!(revision <= seen, "rule 2: {revision} was passed over"),
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Compacted, "rule 2: the last item of a slow consumer");
                break;
            }
        }
        assert!(seen < last, "rule 2: a log of 8 commits cannot hold 64");
    }
    assert!(feed.next().await.is_none(), "rule 2: nothing follows an error");
}

/// A watch that is dropped leaves nothing behind that hinders the store or other watches.
pub async fn rule_2_dropping_a_watch_ends_it(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let mut kept = store.watch(&[THING], Revision(0)).await.expect("watch succeeds");
    for round in 0..500 {
        let mut feed = store.watch(&[THING], Revision(0)).await.expect("rule 2: a watch more");
        if round % 2 == 0 {
            // Dropped in the middle of a wait.
            let _ =
                tokio::time::timeout(Duration::from_micros(50), async { while feed.next().await.is_some() {} }).await;
        }
    }
    let revision = commit(store, vec![put(key(THING, "a"), "1", When::Any)]).await;
    assert_eq!(commits_until(&mut kept, revision, "rule 2").await.len(), 1, "rule 2: the watch that was kept");
}

/// Paging while others write, then watching from the first page's position, gives exactly the final state.
pub async fn rule_3_list_then_watch_reaches_the_final_state(factory: &dyn Factory) {
    for seed in 0..12 {
        let bench = factory.make(Setup::default()).await;
        let store = &bench.store;
        let mut dice = Dice(seed);
        for n in 0..40 {
            commit(&**store, vec![put(key(THING, &format!("{:02}", n * 2)), "start", When::Any)]).await;
        }
        let writer = {
            let (store, mut dice) = (Arc::clone(store), Dice(seed + 1000));
            tokio::spawn(async move {
                for n in 0..150 {
                    let writes = (0..=dice.roll(3))
                        .map(|offset| {
                            let key = key(THING, &format!("{:02}", (dice.roll(25) * 4 + offset) % 100));
                            if dice.roll(3) == 0 {
                                Write::Delete { key, when: When::Any }
                            } else {
                                put(key, format!("{n}"), When::Any)
                            }
                        })
                        .collect();
                    commit(&*store, writes).await;
                    tokio::task::yield_now().await;
                }
            })
        };

        let mut held: BTreeMap<String, (Revision, Bytes)> = BTreeMap::new();
        let mut query = Query { limit: 7, ..Query::all(THING) };
        let mut from = None;
        loop {
            let page = store.list(&query).await.expect("list succeeds");
            from.get_or_insert(page.as_of);
            for record in page.records {
                held.insert(record.key.id.into_string(), (record.revision, record.value));
            }
            for _ in 0..dice.roll(4) {
                tokio::task::yield_now().await;
            }
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        let from = from.expect("there is a first page");
        let mut feed = store.watch(&[THING], from).await.expect("watch succeeds");
        writer.await.expect("the writer ends");
        let last = store.list(&Query::all(THING)).await.expect("list succeeds").as_of;
        for (revision, changes) in commits_until(&mut feed, last, "rule 3").await {
            for change in changes {
                let id = change.key.id.into_string();
                if held.get(&id).is_some_and(|(at, _)| *at >= revision) {
                    continue;
                }
                match change.value {
                    Some(value) => held.insert(id, (revision, value)),
                    None => held.remove(&id),
                };
            }
        }
        let fresh: BTreeMap<_, _> = list_all(&**store, Query::all(THING))
            .await
            .into_iter()
            .map(|record| (record.key.id.into_string(), (record.revision, record.value)))
            .collect();
        assert_eq!(held, fresh, "rule 3: list-then-watch differs from the final state (seed {seed})");
    }
}

/// Quiet kinds cannot be watched, are not in the feed, and still move the revision on.
pub async fn rule_6_quiet_kinds_are_not_in_the_feed(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let error = watch_error(store, &[THING, QUIET], Revision(0), "rule 6").await;
    assert_eq!(error, StoreErrorKind::Invalid, "rule 6: watching a quiet kind");
    let first = commit(store, vec![put(key(QUIET, "a"), "1", When::Any)]).await;
    let mixed = commit(store, vec![put(key(QUIET, "b"), "2", When::Any), put(key(THING, "b"), "3", When::Any)]).await;
    let last = commit(store, vec![Write::Delete { key: key(QUIET, "a"), when: When::At(first) }]).await;
    let mut feed = store.watch(&[THING], Revision(0)).await.expect("watch succeeds");
    let commits = commits_until(&mut feed, last, "rule 6").await;
    assert_eq!(commits.len(), 1, "rule 6: quiet commits are no items: {commits:?}");
    assert_eq!((commits[0].0, commits[0].1.len()), (mixed, 1), "rule 6: only the logged half of a mixed batch");
}
