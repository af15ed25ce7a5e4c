//! A rolling upgrade, with versions that there are not yet.

use mcp_gateway_test_postgres::Cluster;

use super::*;

const ONE: &str = "CREATE TABLE mcp_gateway.thing (a integer)";
/// Adds a column, and drops the old one when nobody uses it any more.
const TWO: Migration = Migration {
    expand: "ALTER TABLE mcp_gateway.thing ADD COLUMN b integer",
    contract: "ALTER TABLE mcp_gateway.thing DROP COLUMN a",
};
const THREE: Migration = Migration { expand: "ALTER TABLE mcp_gateway.thing ADD COLUMN c integer", contract: "" };

const FIRST: Schema = Schema { migrations: &[Migration { expand: ONE, contract: "" }] };
const SECOND: Schema = Schema { migrations: &[Migration { expand: ONE, contract: "" }, TWO] };
const THIRD: Schema = Schema { migrations: &[Migration { expand: ONE, contract: "" }, TWO, THREE] };
const BROKEN: Schema = Schema {
    migrations: &[
        Migration { expand: ONE, contract: "" },
        Migration { expand: "CREATE TABLE mcp_gateway.other (a integer); nonsense", contract: "" },
    ],
};

async fn columns(options: &PostgresOptions) -> Vec<String> {
    let mut connection = options.connect().await.unwrap();
    let query = "SELECT attname::text FROM pg_attribute
        WHERE attrelid = 'mcp_gateway.thing'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 1";
    let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn works(schema: &Schema, options: &PostgresOptions) -> Result<(), PostgresError> {
    schema.check(&mut options.connect().await.unwrap(), options).await
}

#[tokio::test]
async fn old_and_new_work_side_by_side_until_the_contraction() {
    let options = PostgresOptions::parse(&Cluster::shared().database()).unwrap();
    let migrate = async |schema: &Schema, contract| schema.migrate(&options, Duration::ZERO, contract).await;
    assert!(matches!(works(&FIRST, &options).await, Err(PostgresError::OlderSchema { found: 0, known: 1, .. })));
    assert_eq!(migrate(&FIRST, Contract::Later).await.unwrap(), 1);
    works(&FIRST, &options).await.unwrap();
    assert!(matches!(works(&SECOND, &options).await, Err(PostgresError::OlderSchema { found: 1, known: 2, .. })));

    assert_eq!(migrate(&SECOND, Contract::Later).await.unwrap(), 2);
    assert_eq!(columns(&options).await, ["a", "b"]);
    works(&FIRST, &options).await.unwrap();
    works(&SECOND, &options).await.unwrap();
    // An old program that is restarted meanwhile changes nothing.
    for contract in [Contract::Later, Contract::Now] {
        assert_eq!(migrate(&FIRST, contract).await.unwrap(), 2);
    }
    assert_eq!(columns(&options).await, ["a", "b"]);

    migrate(&SECOND, Contract::Now).await.unwrap();
    migrate(&SECOND, Contract::Now).await.unwrap();
    assert_eq!(columns(&options).await, ["b"]);
    assert!(matches!(works(&FIRST, &options).await, Err(PostgresError::NewerSchema { found: 2, known: 1, .. })));
    works(&SECOND, &options).await.unwrap();
    assert!(matches!(migrate(&FIRST, Contract::Later).await, Err(PostgresError::NewerSchema { .. })));
}

#[tokio::test]
async fn a_version_that_is_skipped_is_contracted_on_the_way() {
    let options = PostgresOptions::parse(&Cluster::shared().database()).unwrap();
    FIRST.migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    THIRD.migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    assert_eq!(columns(&options).await, ["b", "c"]);
    assert!(matches!(works(&FIRST, &options).await, Err(PostgresError::NewerSchema { found: 3, .. })));
    works(&SECOND, &options).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_of_itself() {
    let options = PostgresOptions::parse(&Cluster::shared().database()).unwrap();
    FIRST.migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    let error = BROKEN.migrate(&options, Duration::ZERO, Contract::Later).await.unwrap_err();
    assert!(matches!(error, PostgresError::Database { .. }), "{error}");
    works(&FIRST, &options).await.unwrap();
    SECOND.migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
}
