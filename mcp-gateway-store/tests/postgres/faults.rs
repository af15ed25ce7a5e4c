//! Connections are cut, servers end.

use mcp_gateway_core::contract::{Query, StoreErrorKind, StoreLimits};

use super::*;

/// Cuts every connection to a database.
fn cut(cluster: &Cluster, database: &str) {
    let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = ";
    cluster.sql("postgres", &format!("{all}'{database}'"));
}

/// A feed, as its consumers follow it: asked for again from where it ended.
async fn follow(store: &PostgresStore, until: usize) -> Vec<String> {
    let (mut position, mut seen) = (Revision(0), Vec::new());
    while seen.len() < until {
        let Ok(mut feed) = store.watch(&[THING], position).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while seen.len() < until {
            match next(&mut feed).await {
                Ok(Feed::Commit { revision, changes }) => {
                    assert!(revision > position, "{revision} after {position}");
                    position = revision;
                    seen.extend(changes.into_iter().map(|change| change.key.id.into_string()));
                }
                Ok(Feed::Bookmark(revision)) => position = position.max(revision),
                Err(error) => {
                    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
                    break;
                }
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_whose_connection_is_cut_misses_nothing() {
    const COMMITS: usize = 60;
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let (writer, reader) = (open(&options).await, open(&options).await);
    let following = tokio::spawn(async move { follow(&reader, COMMITS).await });
    let mut expected = Vec::new();
    for number in 0..COMMITS {
        let id = format!("{number:03}");
        // One that is in although its answer was lost is in once more: Absent makes that visible.
        let write = Write::Put {
            key: key(THING, id.clone()),
            value: "x".into(),
            index: Vec::new(),
            ttl: None,
            when: When::Absent,
        };
        loop {
            match writer.commit(vec![write.clone()]).await {
                Ok(_) => break,
                Err(error) if error.kind() == StoreErrorKind::Conflict => break,
                Err(error) => {
                    assert!(matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Unknown), "{error}");
                }
            }
        }
        expected.push(id);
        if number % 15 == 7 {
            cut(cluster, &database);
        }
    }
    let seen = tokio::time::timeout(PATIENCE, following).await.expect("a change was missed").unwrap();
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_server_is_away_calls_fail_and_then_work_again() {
    let cluster = Cluster::start(&[]);
    let (options, _) = fresh(&cluster).await;
    let store = open(&options).await;
    let first = insist(&store, &put(THING, "first")).await;
    let mut feed = store.watch(&[THING], Revision(0)).await.unwrap();

    cluster.stop("fast");
    let away = [
        store.get(&[key(THING, "first")]).await.err(),
        store.list(&Query::all(THING)).await.err(),
        store.commit(vec![put(THING, "never")]).await.err(),
        store.watch(&[THING], first).await.err(),
    ];
    for error in away {
        let error = error.expect("the server is away");
        // A commit on a connection that nobody knew to be dead may have arrived, for all that its caller knows.
        assert!(matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Unknown), "{error}");
    }
    let error = store.commit(vec![put(THING, "never")]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    let ended = loop {
        if let Err(error) = next(&mut feed).await {
            break error;
        }
    };
    assert_eq!(ended.kind(), StoreErrorKind::Unavailable, "{ended}");

    cluster.resume();
    let second = insist(&store, &put(THING, "second")).await;
    assert_eq!(second.0, first.0 + 1, "what was refused was not written");
    let mut feed = store.watch(&[THING], first).await.unwrap();
    assert!(matches!(next(&mut feed).await, Ok(Feed::Commit { revision, .. }) if revision == second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_nobody_goes_on_from_a_revision_that_may_come_again() {
    let cluster = Cluster::start(&[]);
    let (options, _) = fresh(&cluster).await;
    let store = open(&options).await;
    for number in 0..20 {
        insist(&store, &put(THING, number.to_string())).await;
        insist(&store, &put(QUIET, number.to_string())).await;
    }
    let last = store.list(&Query::all(THING)).await.unwrap().as_of;

    cluster.stop("immediate");
    cluster.resume();
    let after = insist(&store, &put(THING, "after")).await;
    assert!(after > last, "{after} after {last}");
    let error = store.watch(&[THING], last).await.err().expect("the consumer must list again");
    assert_eq!(error.kind(), StoreErrorKind::Compacted, "{error}");
    let page = store.list(&Query::all(THING)).await.unwrap();
    assert_eq!(page.records.len(), 21, "what was committed is there");
    assert!(store.watch(&[THING], page.as_of).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let times = (Duration::from_millis(500), Duration::from_millis(300));
    let store = open(&options.clone().with_connections(1).with_timeouts(times.0, times.1)).await;
    // Somebody holds the lock of logged commits.
    let holder = std::thread::spawn({
        let database = database.clone();
        move || cluster.psql(&database, "SELECT pg_advisory_lock(1835233383, 0), pg_sleep(30)")
    });
    let held = || {
        cluster.sql(&database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 0 AND granted")
    };
    while held() == "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = std::time::Instant::now();
    let (first, second) = tokio::join!(store.commit(vec![put(THING, "a")]), store.commit(vec![put(THING, "b")]));
    for error in [first.unwrap_err(), second.unwrap_err()] {
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    cut(cluster, &database);
    holder.join().unwrap();
    insist(&store, &put(THING, "c")).await;
    let found = store.get(&[key(THING, "a"), key(THING, "b")]).await.unwrap();
    assert_eq!(found, [None, None], "what failed was not written");
}

/// Stops the processes of connections, which then are as silent as those whose network is gone; they go on when dropped.
struct Silent(Vec<String>);

impl Silent {
    fn all_of(cluster: &Cluster, database: &str) -> Self {
        let all = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()";
        let pids = cluster.sql(database, all).lines().map(str::to_owned).collect();
        let silent = Self(pids);
        silent.signal("-STOP");
        silent
    }

    fn signal(&self, signal: &str) {
        assert!(std::process::Command::new("kill").arg(signal).args(&self.0).status().unwrap().success());
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fall_silent_are_replaced() {
    let cluster = Cluster::start(&[]);
    let (options, database) = fresh(&cluster).await;
    let store = open(&options.with_connections(1)).await;
    let first = insist(&store, &put(THING, "first")).await;
    let mut feed = store.watch(&[THING], first).await.unwrap();
    // Longer than a connection is trusted without a sign of life.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let silent = Silent::all_of(&cluster, &database);
    let begun = std::time::Instant::now();
    assert!(store.get(&[key(THING, "first")]).await.unwrap()[0].is_some(), "over a new connection");
    let second = insist(&store, &put(THING, "second")).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // The feed finds out by looking.
    loop {
        match next(&mut feed).await {
            Ok(Feed::Bookmark(_)) => {}
            Ok(Feed::Commit { revision, .. }) => break assert_eq!(revision, second),
            Err(error) => panic!("{error}"),
        }
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_goes_on_waiting_for_a_server_that_is_known_to_hang() {
    let cluster = std::sync::Arc::new(Cluster::start(&[]));
    let (options, database) = fresh(&cluster).await;
    let store = open(&options.with_timeouts(Duration::from_secs(1), PATIENCE * 4)).await;
    insist(&store, &put(THING, "first")).await;
    // Somebody holds the lock of logged commits, so that one is under way.
    let holder = std::thread::spawn({
        let (cluster, database) = (std::sync::Arc::clone(&cluster), database.clone());
        move || cluster.psql(&database, "SELECT pg_advisory_lock(1835233383, 0), pg_sleep(60)")
    });
    let locks = async |granted: &str| {
        let found = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 0";
        while cluster.sql(&database, &format!("{found} AND {granted}")) == "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    locks("granted").await;
    let asking = tokio::spawn({
        let store = store.clone();
        async move { store.commit(vec![put(THING, "asked")]).await }
    });
    locks("NOT granted").await;
    cluster.pause();
    let error = tokio::time::timeout(PATIENCE, asking).await.expect("it is given up").unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "it may be done when the server goes on");
    cluster.go_on();
    cut(&cluster, &database);
    holder.join().unwrap();
    insist(&store, &put(THING, "second")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_keeps_nobody_waiting() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = open(&options.with_connections(1)).await;
    let holder = std::thread::spawn({
        let database = database.clone();
        move || cluster.psql(&database, "SELECT pg_advisory_lock(1835233383, 0), pg_sleep(30)")
    });
    let begun = std::time::Instant::now();
    while cluster.sql(
        &database,
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    ) == "0"
    {
        assert!(begun.elapsed() < PATIENCE);
    }
    let commit = store.commit(vec![put(THING, "a")]);
    assert!(tokio::time::timeout(Duration::from_millis(300), commit).await.is_err(), "it waits for the lock");
    let begun = std::time::Instant::now();
    store.get(&[key(THING, "a")]).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    cut(cluster, &database);
    holder.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_cross_neither_deadlock_nor_fail() {
    let (options, _) = fresh(Cluster::shared()).await;
    let stores = [open(&options).await, open(&options).await];
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = stores[writer % 2].clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    let kind = if (writer + round) % 3 == 0 { THING } else { QUIET };
                    let mut batch: Vec<_> = (0..12).map(|n| put(kind, n.to_string())).collect();
                    batch.push(put(QUIET, "shared"));
                    batch.rotate_left((writer * 5 + round) % 13);
                    store.commit(batch).await.expect("a batch that only has to wait");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn sweeps_free_what_has_expired() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = open(&options.with_log_age(Duration::from_millis(1))).await;
    let mortal = Write::Put {
        key: key(QUIET, "mortal"),
        value: "x".into(),
        index: vec![mcp_gateway_core::contract::IndexTerm { name: "owner", value: "ada".into() }],
        ttl: Some(Duration::from_millis(1)),
        when: When::Any,
    };
    let first = store.commit(vec![mortal, put(THING, "other")]).await.unwrap();
    let counts = || {
        cluster.sql(
            &database,
            "SELECT count(*), (SELECT count(*) FROM mcp_gateway.term), (SELECT count(*) FROM mcp_gateway.change)
             FROM mcp_gateway.record",
        )
    };
    let begun = std::time::Instant::now();
    while counts() != "1|0|0" {
        assert!(begun.elapsed() < PATIENCE, "nothing was swept: {}", counts());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = store.watch(&[THING], Revision(first.0 - 1)).await.err().unwrap();
    assert_eq!(error.kind(), StoreErrorKind::Compacted);
    assert!(store.watch(&[THING], first).await.is_ok());
    assert!(store.get(&vec![key(THING, "a"); StoreLimits::PAGE]).await.is_ok());
}
