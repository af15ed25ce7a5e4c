//! What happens to stores in Postgres when something goes wrong, and what else the contracts do not ask for.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod dump;
mod faults;
mod linear;
mod order;
mod schema;
mod tls;
mod trail;

use std::time::Duration;

use futures_util::StreamExt as _;
use mcp_gateway_core::contract::{Feed, FeedStream, Key, Kind, ResourceStore, Revision, StoreError, When, Write};
use mcp_gateway_core::record::TenantId;
use mcp_gateway_store::postgres::{Contract, PostgresOptions, PostgresStore, migrate};
use mcp_gateway_test_postgres::Cluster;

const THING: Kind = Kind::logged("thing");
const QUIET: Kind = Kind::quiet("quiet-thing");
/// Nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A new database with our tables, and its name.
async fn fresh(cluster: &Cluster) -> (PostgresOptions, String) {
    let url = cluster.database();
    let options = PostgresOptions::parse(&url).unwrap().with_connections(4);
    migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    (options, url.rsplit('/').next().unwrap().to_owned())
}

async fn open(options: &PostgresOptions) -> PostgresStore {
    PostgresStore::open(options.clone()).await.unwrap()
}

fn key(kind: Kind, id: impl Into<Box<str>>) -> Key {
    Key::new(TenantId::default(), kind, id)
}

fn put(kind: Kind, id: impl Into<Box<str>>) -> Write {
    Write::Put { key: key(kind, id), value: "x".into(), index: Vec::new(), ttl: None, when: When::Any }
}

/// Commits until it is in: putting the same again is harmless.
async fn insist(store: &dyn ResourceStore, write: &Write) -> Revision {
    let begun = std::time::Instant::now();
    loop {
        match store.commit(vec![write.clone()]).await {
            Ok(revision) => return revision,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next item of a feed, which must come.
async fn next(feed: &mut FeedStream) -> Result<Feed, StoreError> {
    tokio::time::timeout(PATIENCE, feed.next()).await.expect("the feed is silent").expect("the feed ended")
}
