//! Everything of one database to another, while no server runs on either.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_core::contract::{Clock, KeyManagement, SystemClock};
use mcp_gateway_core::record::{FieldSealer, Secret};
use mcp_gateway_core::seal::{LocalKeyFile, Sealer};
use mcp_gateway_store::postgres::{self, Contract, PostgresRecords};
use mcp_gateway_store::sqlite::SqliteRecords;
use mcp_gateway_store::transfer::{Moved, RawRecords, copy_events, copy_records};

use super::storage::{MASTER_KEY, make_data_dir, open_audit, open_resources};
use crate::config::{Config, Database};

/// What was copied, and compared.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    /// Records.
    pub records: Moved,
    /// Events of the audit trail.
    pub events: Moved,
}

/// Copies records and audit trail. The other settings, and the master key in `data_dir`, are those of both.
///
/// # Errors
/// When a server runs on either, the target holds something, or what has arrived is not what was sent.
pub async fn copy(config: &Config, from: Secret, to: Secret) -> anyhow::Result<Copied> {
    let from = Config { database: Some(from), ..config.clone() };
    let to = Config { database: Some(to), ..config.clone() };
    anyhow::ensure!(from.database()? != to.database()?, "the source and the target are the same");
    let dir = make_data_dir(config)?;
    let mut source = open_raw(&from).await.context("--from")?;
    if let Database::Postgres(url) = to.database()? {
        postgres::migrate(&to.postgres("database", &url)?, Duration::ZERO, Contract::Later).await.context("--to")?;
    }
    let mut target = open_raw(&to).await.context("--to")?;
    let records = copy_records(&mut *source, &mut *target).await?;
    // The trail's bodies are sealed with keys that are among the records.
    source.close().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let keys: Arc<dyn KeyManagement> = Arc::new(LocalKeyFile::open_or_create(dir.join(MASTER_KEY))?);
    let sealer: Arc<dyn FieldSealer> = Sealer::open(open_resources(&from, &clock).await?, keys, clock).await?;
    let mut whole = [from, to];
    for config in &mut whole {
        config.audit.bodies = true;
        config.postgres.audit_replica = None;
    }
    let [source, trail] = [open_audit(&whole[0], &sealer).await?, open_audit(&whole[1], &sealer).await?];
    let events = copy_events(&*source, &*trail).await?;
    // Servers are shut out until here.
    target.close().await;
    Ok(Copied { records, events })
}

async fn open_raw(config: &Config) -> anyhow::Result<Box<dyn RawRecords>> {
    Ok(match config.database()? {
        Database::Memory => anyhow::bail!("memory holds nothing: name sqlite:PATH or postgres://HOST/DATABASE"),
        Database::Sqlite(path) => Box::new(SqliteRecords::open(path)?),
        Database::Postgres(url) => Box::new(PostgresRecords::open(&config.postgres("database", &url)?).await?),
    })
}
