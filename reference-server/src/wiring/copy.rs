//! Everything of one database to another, while no server runs on either.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_core::contract::{Clock, Key, KeyManagement, ResourceStore, SystemClock, When, Write};
use mcp_gateway_core::memory::MemoryStore;
use mcp_gateway_core::record::{FieldSealer, Resource as _, Secret, TenantId};
use mcp_gateway_core::seal::{DataKey, LocalKeyFile, Sealer};
use mcp_gateway_store::postgres::{self, Contract, PostgresRecords};
use mcp_gateway_store::sqlite::SqliteRecords;
use mcp_gateway_store::transfer::{Moved, Place, RawRecords, TransferError, copy_events, copy_records, is_empty};

use super::storage::{MASTER_KEY, make_data_dir, open_audit};
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
    let master = make_data_dir(config)?.join(MASTER_KEY);
    // A new one would open nothing.
    anyhow::ensure!(master.exists(), "{}: there is no such file; put the source's master key there", master.display());
    let keys: Arc<dyn KeyManagement> = Arc::new(LocalKeyFile::open_or_create(master)?);
    // Servers are shut out of both until the end.
    let mut source = open_raw(&from).await.context("--from")?;
    if let Database::Postgres(url) = to.database()? {
        postgres::migrate(&to.postgres("database", &url)?, Duration::ZERO, Contract::Later).await.context("--to")?;
    }
    let mut target = open_raw(&to).await.context("--to")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let data_keys = data_keys(&mut *source, &clock).await?;
    let sealer: Arc<dyn FieldSealer> = Sealer::open(data_keys, keys, clock).await?;
    let mut whole = [from, to];
    for config in &mut whole {
        config.audit.bodies = true;
        config.postgres.audit_replica = None;
    }
    let [sent, trail] = [open_audit(&whole[0], &sealer).await?, open_audit(&whole[1], &sealer).await?];
    if !is_empty(&*trail).await? {
        return Err(TransferError::NotEmpty { what: "it has audit events" }.into());
    }
    let revision = source.revision().await?;
    let records = copy_records(&mut *source, &mut *target).await?;
    let events = copy_events(&*sent, &*trail).await?;
    if source.revision().await? != revision {
        return Err(TransferError::Changed { what: "records" }.into());
    }
    target.finish().await?;
    target.close().await;
    source.close().await;
    Ok(Copied { records, events })
}

/// The keys that the trail's bodies are sealed with, which are among the records: no store can be opened meanwhile.
async fn data_keys(source: &mut dyn RawRecords, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<dyn ResourceStore>> {
    let keys = MemoryStore::new(Arc::clone(clock));
    let mut after = Place { kind: DataKey::KIND.name.to_owned(), tenant: String::new(), id: String::new() };
    loop {
        let Some(record) = source.read(Some(&after), 1).await?.pop() else { break };
        if record.place.kind != DataKey::KIND.name {
            break;
        }
        let key = Key::new(TenantId::new(&*record.place.tenant), DataKey::KIND, &*record.place.id);
        let (value, index) = (record.value, Vec::new());
        keys.commit(vec![Write::Put { key, value, index, ttl: None, when: When::Absent }]).await?;
        after = record.place;
    }
    Ok(Arc::new(keys))
}

async fn open_raw(config: &Config) -> anyhow::Result<Box<dyn RawRecords>> {
    Ok(match config.database()? {
        Database::Memory => anyhow::bail!("memory holds nothing: name sqlite:PATH or postgres://HOST/DATABASE"),
        Database::Sqlite(path) => Box::new(SqliteRecords::open(path)?),
        Database::Postgres(url) => Box::new(PostgresRecords::open(&config.postgres("database", &url)?).await?),
    })
}
