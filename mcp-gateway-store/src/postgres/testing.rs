//! Databases for tests.

use std::time::Duration;

use mcp_gateway_test_postgres::Cluster;

use super::{Contract, PostgresOptions, migrate};

/// A new database with our tables, and few connections: many tests share the server.
pub(super) async fn fresh(cluster: &Cluster) -> PostgresOptions {
    let options = PostgresOptions::parse(&cluster.database()).unwrap().with_connections(4);
    migrate(&options, Duration::ZERO, Contract::Later).await.unwrap();
    options
}
