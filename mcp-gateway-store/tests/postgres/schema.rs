//! Which schema a program works with.

use mcp_gateway_store::postgres::{PostgresAuditOptions, PostgresAuditStore, PostgresError, PostgresRecords};
use mcp_gateway_store::sqlite::SqliteRecords;
use mcp_gateway_store::transfer::{RawRecords as _, TransferError, copy_records};

use super::*;

#[tokio::test]
async fn an_older_or_newer_schema_is_refused_with_what_to_do() {
    let cluster = Cluster::shared();
    let options = PostgresOptions::parse(&cluster.database()).unwrap();
    let error = PostgresStore::open(options.clone()).await.unwrap_err();
    assert!(matches!(error, PostgresError::OlderSchema { found: 0, .. }), "{error}");
    assert!(error.to_string().contains("mcp-gateway migrate"), "{error}");

    let (options, database) = fresh(cluster).await;
    let known = migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    let next = known + 1;
    // A rolling upgrade has begun: the version after this one still has all that this one needs.
    cluster.sql(&database, &format!("INSERT INTO mcp_gateway.schema_version VALUES ({next})"));
    let store = open(&options).await;
    store.commit(vec![put(THING, "during")]).await.unwrap();
    assert_eq!(migrate(&options, Duration::ZERO, Contract::Later).await.unwrap(), next, "nothing to do");
    // It is over.
    cluster
        .sql(&database, &format!("UPDATE mcp_gateway.schema_version SET contracted_at = now() WHERE version = {next}"));
    let errors = [
        PostgresStore::open(options.clone()).await.err(),
        PostgresAuditStore::open(PostgresAuditOptions::new(options.clone())).await.err(),
        PostgresRecords::open(&options).await.err(),
        migrate(&options, Duration::ZERO, Contract::Later).await.err(),
    ];
    for error in errors {
        let error = error.expect("the schema is too new");
        assert!(matches!(error, PostgresError::NewerSchema { found, .. } if found == next), "{error}");
        assert!(error.to_string().contains("start the newer program"), "{error}");
    }
    cluster.sql(
        &database,
        &format!(
            "UPDATE mcp_gateway.schema_version SET version = {next} + 1, contracted_at = NULL WHERE version = {next}"
        ),
    );
    let error = PostgresStore::open(options).await.unwrap_err();
    assert!(matches!(error, PostgresError::NewerSchema { .. }), "two versions on: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_at_once_makes_the_tables_once() {
    let options = PostgresOptions::parse(&Cluster::shared().database()).unwrap();
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { migrate(&options, Duration::ZERO, Contract::Later).await })
        })
        .collect();
    for run in runs {
        run.await.unwrap().unwrap();
    }
    migrate(&options, Duration::ZERO, Contract::Now).await.unwrap();
    open(&options).await.commit(vec![put(THING, "a")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_waits_for_the_server() {
    let cluster = Cluster::start(&[]);
    let options = PostgresOptions::parse(&cluster.database()).unwrap();
    cluster.stop("fast");
    let error = migrate(&options, Duration::ZERO, Contract::Later).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unreachable { .. }), "{error}");
    let waiting = tokio::spawn({
        let options = options.clone();
        async move { migrate(&options, PATIENCE, Contract::Later).await }
    });
    cluster.resume();
    waiting.await.unwrap().unwrap();
    open(&options).await.commit(vec![put(THING, "a")]).await.unwrap();
}

#[tokio::test]
async fn a_database_in_use_is_not_filled() {
    let (options, _) = fresh(Cluster::shared()).await;
    let store = open(&options).await;
    let error = PostgresRecords::open(&options).await.unwrap_err();
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    drop(store);
    let begun = std::time::Instant::now();
    let filling = loop {
        // The connection of the store ends in the background.
        match PostgresRecords::open(&options).await {
            Ok(filling) => break filling,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    let error = PostgresStore::open(options.clone()).await.unwrap_err();
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    drop(filling);
}

#[tokio::test]
async fn what_was_filled_by_half_is_not_used() {
    let (options, _) = fresh(Cluster::shared()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut source = SqliteRecords::open(folder.path().join("source.db")).unwrap();
    source.begin(7).await.unwrap();
    let mut target = PostgresRecords::open(&options).await.unwrap();
    copy_records(&mut source, &mut target).await.unwrap();
    let error = copy_records(&mut source, &mut target).await.unwrap_err();
    assert!(matches!(error, TransferError::NotEmpty { .. }), "{error}");
    // The trail has not come.
    Box::new(target).close().await;
    let begun = std::time::Instant::now();
    for attempt in 0..2 {
        let error = loop {
            let error = match attempt {
                0 => PostgresStore::open(options.clone()).await.map(|_| ()).unwrap_err(),
                _ => PostgresRecords::open(&options).await.map(|_| ()).unwrap_err(),
            };
            // The connection before this one ends in the background.
            if !matches!(error, PostgresError::InUse { .. }) || begun.elapsed() > PATIENCE {
                break error;
            }
        };
        assert!(matches!(error, PostgresError::HalfFilled { .. }), "{error}");
    }

    let (options, _) = fresh(Cluster::shared()).await;
    let mut target = PostgresRecords::open(&options).await.unwrap();
    copy_records(&mut source, &mut target).await.unwrap();
    target.finish().await.unwrap();
    Box::new(target).close().await;
    let store = loop {
        match PostgresStore::open(options.clone()).await {
            Ok(store) => break store,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert_eq!(store.commit(vec![put(THING, "next")]).await.unwrap(), Revision(8));
}

#[tokio::test]
async fn who_owns_the_schema_needs_no_right_in_the_database() {
    let cluster = Cluster::shared();
    let url = cluster.database();
    let database = url.rsplit('/').next().unwrap();
    cluster.sql(database, "CREATE ROLE owner LOGIN; CREATE SCHEMA mcp_gateway AUTHORIZATION owner");
    let options = PostgresOptions::parse(&url.replacen("postgres@", "owner@", 1)).unwrap();
    migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    open(&options).await.commit(vec![put(THING, "a")]).await.unwrap();
}

#[tokio::test]
async fn the_databases_own_isolation_does_not_matter() {
    let (options, database) = fresh(Cluster::shared()).await;
    let setting = "SET default_transaction_isolation = 'serializable'";
    Cluster::shared().sql("postgres", &format!("ALTER DATABASE {database} {setting}"));
    let store = open(&options).await;
    Cluster::shared().sql(
        &database,
        "CREATE FUNCTION mcp_gateway.isolated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('transaction_isolation') <> 'read committed' THEN RAISE 'isolation'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER isolated BEFORE INSERT ON mcp_gateway.record FOR EACH ROW EXECUTE FUNCTION mcp_gateway.isolated();
         CREATE TRIGGER isolated BEFORE UPDATE ON mcp_gateway.state FOR EACH ROW EXECUTE FUNCTION mcp_gateway.isolated()",
    );
    store.commit(vec![put(THING, "a")]).await.unwrap();
    drop(store);
    // Commands as well.
    let begun = std::time::Instant::now();
    let mut records = loop {
        match PostgresRecords::open(&options).await {
            Ok(records) => break records,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    records.finish().await.unwrap();
}
