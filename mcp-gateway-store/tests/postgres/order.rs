//! Revisions are seen in their order, although quiet commits do not wait for logged ones.

use mcp_gateway_core::contract::{Query, StoreErrorKind};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bookmark_passes_a_commit_that_is_under_way() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = open(&options).await;
    let mut feed = store.watch(&[THING], Revision(0)).await.unwrap();
    // A commit of another process, which has its revision and is not finished for a while.
    let slow = std::thread::spawn({
        let database = database.clone();
        move || {
            let commit =
                "SELECT committed FROM mcp_gateway.commit_batch('{thing}', '{default}', '{slow}', '{0}', '{NULL}',
                ARRAY[''::bytea], '{NULL}', '{true}', '{}', '{}', '{}', 1000000)";
            cluster.sql(&database, &format!("BEGIN; {commit}; SELECT pg_sleep(1); COMMIT"))
        }
    });
    let drawn = || cluster.sql(&database, "SELECT last_value FROM mcp_gateway.revision");
    while drawn() == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let quiet = store.commit(vec![put(QUIET, "fast")]).await.unwrap();
    assert_eq!(quiet, Revision(2), "the slow commit has 1");
    // Looks go on meanwhile, and none may promise what has not come.
    loop {
        match next(&mut feed).await.unwrap() {
            Feed::Bookmark(revision) => assert_eq!(revision, Revision(0), "commit 1 was passed"),
            Feed::Commit { revision, .. } => {
                assert_eq!(revision, Revision(1));
                break;
            }
        }
    }
    assert!(slow.join().unwrap().starts_with('1'));
    let begun = std::time::Instant::now();
    while !matches!(next(&mut feed).await.unwrap(), Feed::Bookmark(Revision(2))) {
        assert!(begun.elapsed() < PATIENCE, "the quiet commit is never covered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_is_newer_than_it_says() {
    let (options, _) = fresh(Cluster::shared()).await;
    let store = open(&options).await;
    store.commit(vec![put(THING, "a")]).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                store.commit(vec![put(THING, "a")]).await.unwrap();
            }
        }
    });
    for _ in 0..300 {
        let page = store.list(&Query::all(THING)).await.unwrap();
        let newest = page.records[0].revision;
        assert!(newest <= page.as_of, "{newest} after {}", page.as_of);
    }
    writer.abort();
}

#[tokio::test]
async fn what_a_notification_says_is_not_relied_on() {
    let cluster = Cluster::shared();
    let (options, database) = fresh(cluster).await;
    let store = open(&options).await;
    let first = store.commit(vec![put(THING, "a")]).await.unwrap();
    let mut feed = store.watch(&[THING], first).await.unwrap();
    for _ in 0..3 {
        cluster.sql(&database, "NOTIFY mcp_gateway, '999999'");
        assert!(matches!(next(&mut feed).await.unwrap(), Feed::Bookmark(revision) if revision == first));
    }
    let second = store.commit(vec![put(THING, "b")]).await.unwrap();
    loop {
        match next(&mut feed).await.unwrap() {
            Feed::Commit { revision, .. } => break assert_eq!(revision, second),
            Feed::Bookmark(revision) => assert_eq!(revision, first),
        }
    }
    // An older state of the database takes its place.
    cluster.sql(
        &database,
        "DELETE FROM mcp_gateway.change; UPDATE mcp_gateway.state SET logged = 0; SELECT setval('mcp_gateway.revision', 0)",
    );
    let error = loop {
        if let Err(error) = next(&mut feed).await {
            break error;
        }
    };
    assert_eq!(error.kind(), StoreErrorKind::Compacted, "{error}");
    let third = store.commit(vec![put(THING, "c")]).await.unwrap();
    let mut feed = store.watch(&[THING], Revision(0)).await.unwrap();
    assert!(matches!(next(&mut feed).await.unwrap(), Feed::Commit { revision, .. } if revision == third));
}
