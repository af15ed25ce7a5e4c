use mcp_gateway_core::conformance::resource_store::{Bench, Setup};
use mcp_gateway_test_postgres::Cluster;

use super::*;
use crate::postgres::testing::fresh;

async fn bench(setup: Setup) -> Bench {
    let cluster = Cluster::shared();
    let mut options = fresh(cluster).await;
    if let Some(commits) = setup.log_commits {
        options = options.with_log_commits(commits as u64);
    }
    let place = options.place();
    let database = place.rsplit('/').next().unwrap().to_owned();
    let store = PostgresStore::open(options).await.unwrap();
    let passed = std::sync::atomic::AtomicU64::new(0);
    // The clock is the server's: its functions ask one that can be moved.
    Bench::with_passing(Arc::new(store), move |by| {
        let by = u64::try_from(by.as_micros()).unwrap();
        let passed = passed.fetch_add(by, std::sync::atomic::Ordering::SeqCst) + by;
        cluster.sql(
            &database,
            &format!(
                "CREATE OR REPLACE FUNCTION mcp_gateway.now_us() RETURNS bigint LANGUAGE sql VOLATILE
                 RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {passed}"
            ),
        );
        Box::pin(std::future::ready(()))
    })
}

mcp_gateway_core::resource_store_suite!(bench);

#[tokio::test]
async fn a_server_that_takes_no_more_connections_goes_on_answering_on_those_there_are() {
    let cluster = Cluster::shared();
    let options = fresh(cluster).await;
    let place = options.place();
    let database = place.rsplit('/').next().unwrap().to_owned();
    let store = PostgresStore::open(options).await.unwrap();
    let key = Key::new(TenantId::default(), Kind::quiet("answer"), "one");
    // As many connections as are wanted at once below: another one cannot be made then.
    for read in futures_util::future::join_all((0..8).map(|_| store.get(std::slice::from_ref(&key)))).await {
        read.unwrap();
    }
    let sql = |text: &str| cluster.sql("postgres", text);
    sql(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"));
    let listens = "query LIKE '%mcp_gateway.revision_now(), last_value%'";
    let cut = sql(&format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}' AND {listens}"
    ));
    assert_eq!(cut, "1");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
    while std::time::Instant::now() < until {
        store.get(std::slice::from_ref(&key)).await.expect("the pool's connections are whole");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
