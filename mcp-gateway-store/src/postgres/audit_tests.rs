use mcp_gateway_core::conformance::audit_store;
use mcp_gateway_test_postgres::Cluster;

use super::*;
use crate::postgres::testing::fresh;

async fn open() -> PostgresAuditStore {
    PostgresAuditStore::open(PostgresAuditOptions::new(fresh(Cluster::shared()).await)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    audit_store::suite(|| async { Arc::new(open().await) as Arc<dyn AuditStore> }).await;
}
