//! Backups.

use mcp_gateway_core::contract::{Query, StoreErrorKind};

use super::*;

/// With the commands of the documentation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_restored_as_what_it_was_and_nobody_goes_on_from_what_came_after() {
    let cluster = Cluster::shared();
    let (options, _) = fresh(cluster).await;
    let store = open(&options).await;
    for number in 0..10 {
        store.commit(vec![put(THING, number.to_string())]).await.unwrap();
    }
    let place = options.place();
    let name = place.rsplit('/').next().unwrap();
    let dump = ["--format=custom", "--schema=mcp_gateway", "--no-unlogged-table-data", "--file=backup"];
    let url = cluster.url(name);
    let dumped = cluster.run("pg_dump", &[&dump[..], &["--dbname", &url]].concat());
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let later = store.commit(vec![put(THING, "later")]).await.unwrap();
    drop(store);

    let restored = cluster.database();
    let run = cluster.run("pg_restore", &["--exit-on-error", "--no-owner", "--dbname", &restored, "backup"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let store = open(&PostgresOptions::parse(&restored).unwrap()).await;
    let page = store.list(&Query::all(THING)).await.unwrap();
    assert_eq!(page.records.len(), 10);
    assert!(page.as_of > later, "revisions go on above whatever came after the dump");
    let error = store.watch(&[THING], later).await.err().expect("that commit is not in the backup");
    assert_eq!(error.kind(), StoreErrorKind::Compacted, "{error}");
    store.commit(vec![put(THING, "after")]).await.unwrap();
}
