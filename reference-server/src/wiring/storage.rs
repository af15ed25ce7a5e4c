//! Stores, keys and the audit trail.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
#[cfg(any(feature = "sqlite", feature = "process"))]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use mcp_gateway_auth::token::{SigningKeyOptions, SigningKeys};
use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::{
    AuditFilter, AuditSink, AuditStore, Clock, KeyManagement, KeyRing as _, ResourceStore, SystemClock,
};
use mcp_gateway_core::lease::Leases;
use mcp_gateway_core::memory::{MemoryAuditStore, MemoryStore};
use mcp_gateway_core::record::{FieldSealer, Resources, TenantId};
use mcp_gateway_core::seal::{LocalKeyFile, RingOptions, Sealer, SessionKeyRing, SessionSealer};
use mcp_gateway_core::trail::{MARKS, Notary as _, beginning, sign_beginning};
use mcp_gateway_store::spool::{self, Checkpoints, Durability, Imported, Spool, SpoolDriver, SpoolKey, SpoolOptions};
use serde::{Deserialize, Serialize};

use crate::api::WitnessedStore;
use crate::config::{AuditDurability, Config, Database};

/// The file of the master key, in `data_dir`.
pub(super) const MASTER_KEY: &str = "master.key";
/// The file of the spool's key, in `data_dir`.
const SPOOL_KEY: &str = "spool.key";

/// The file of the public keys that check what is signed of the trail, in `data_dir`.
pub(super) const AUDIT_KEYS: &str = "audit-keys.json";

/// Everything that is kept.
pub(super) struct Storage {
    pub(super) resources: Arc<dyn ResourceStore>,
    /// Removes what has expired, for ever, where a store does not do that by itself.
    pub(super) sweep: Option<Sweep>,
    /// What one of several replicas does at a time.
    pub(super) leases: Leases,
    pub(super) sealer: Arc<dyn FieldSealer>,
    pub(super) data_keys: Arc<Sealer>,
    pub(super) sessions: SessionSealer,
    pub(super) ring: Arc<SessionKeyRing>,
    pub(super) audit_store: Arc<dyn AuditStore>,
    /// What signs the trail.
    pub(super) audit_keys: Arc<SigningKeys>,
    pub(super) spool: Spool,
    pub(super) spool_driver: SpoolDriver,
}

/// See [`Storage::sweep`].
pub(super) type Sweep = Arc<dyn Fn() -> BoxFuture<()> + Send + Sync>;

/// Opens everything, making what is not there yet. `alone`: no program of the version before writes to the trail.
pub(super) async fn open(config: &Config, clock: &Arc<dyn Clock>, alone: bool) -> anyhow::Result<Storage> {
    let dir = make_data_dir(config)?;
    let memory = matches!(config.database()?, Database::Memory);
    #[cfg(feature = "postgres")]
    let alone = alone || !matches!(config.database()?, Database::Postgres(_));
    let (resources, sweep) = open_resources(config, clock).await?;
    let keys: Arc<dyn KeyManagement> = Arc::new(LocalKeyFile::open_or_create(dir.join(MASTER_KEY))?);
    let data_keys = Sealer::open(Arc::clone(&resources), Arc::clone(&keys), Arc::clone(clock)).await?;
    let sealer: Arc<dyn FieldSealer> = data_keys.clone();
    // From here on, what acts change is noted; the keys that open records are none of theirs.
    let resources = WitnessedStore::over(resources);
    let max_age = Duration::from_secs(config.sessions.max_age_days.saturating_mul(24 * 3_600));
    let options = RingOptions::default().with_max_age(max_age);
    let ring = SessionKeyRing::open(Arc::clone(&resources), keys, Arc::clone(clock), options).await?;
    let audit_store = open_audit(config, &sealer).await?;
    let audit_keys = audit_keys(&resources, &sealer, clock).await?;
    let kept = if memory { None } else { published(dir)? };
    let beginning = begin_chain(&*audit_store, &audit_keys, kept.as_ref(), (alone, clock.now()));
    let beginning = beginning.await.context("the audit trail's chain cannot begin")?;
    publish(dir, &audit_keys.document(), kept, beginning)?;
    let mut options = SpoolOptions::new(dir.join("spool"), SpoolKey::load_or_create(&dir.join(SPOOL_KEY))?);
    options.max_bytes = config.audit.spool_bytes;
    options.segment_bytes = config.audit.segment_bytes;
    options.stall_timeout = Duration::from_millis(config.audit.stall_timeout_ms);
    options.durability = match config.audit.durability {
        AuditDurability::Process => Durability::Process,
        AuditDurability::Fsync => Durability::Fsync,
        AuditDurability::Store => Durability::Store,
    };
    options.checkpoints = Checkpoints::by(audit_keys.clone());
    options.checkpoint_rows = config.audit.checkpoint_rows;
    options.checkpoint_after = Duration::from_secs(config.audit.checkpoint_seconds);
    let (spool, spool_driver) = Spool::open(options, Arc::clone(&audit_store), Arc::clone(clock))?;
    let sessions = SessionSealer::new(Arc::clone(&ring));
    let leases = match config.database()? {
        #[cfg(feature = "postgres")]
        Database::Postgres(_) => Leases::new(Arc::clone(&resources)),
        // A file has one process.
        _ => Leases::alone(),
    };
    Ok(Storage {
        resources,
        sweep,
        leases,
        sealer,
        data_keys,
        sessions,
        ring,
        audit_store,
        audit_keys,
        spool,
        spool_driver,
    })
}

/// The keys that sign the trail, and nothing else: a ring of their own, which keeps what it ever signed with.
async fn audit_keys(
    resources: &Arc<dyn ResourceStore>,
    sealer: &Arc<dyn FieldSealer>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<SigningKeys>> {
    let ring = Resources::new(Arc::clone(resources), Arc::clone(sealer), TenantId::default());
    let mut options = SigningKeyOptions::default();
    options.name = "audit".to_owned();
    options.keep = Duration::MAX;
    Ok(SigningKeys::open(ring, Arc::clone(clock), options).await?)
}

/// The public keys and the chain's beginning, kept outside the database: a JWK Set with one more member.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Published {
    keys: Vec<serde_json::Value>,
    /// A JWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) beginning: Option<String>,
}

fn published(dir: &Path) -> anyhow::Result<Option<Published>> {
    let file = dir.join(AUDIT_KEYS);
    match std::fs::read(&file) {
        Ok(text) => {
            let read = serde_json::from_slice(&text);
            Ok(Some(read.with_context(|| format!("{} is no JWK Set: restore it from a backup", file.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", file.display())),
    }
}

/// Puts the public keys where `audit verify` and whoever runs it elsewhere find them. Those that were there stay.
fn publish(dir: &Path, document: &str, kept: Option<Published>, beginning: Option<String>) -> anyhow::Result<()> {
    let mut all: Published = serde_json::from_str(document)?;
    let known: Vec<_> = all.keys.iter().map(|key| key["kid"].clone()).collect();
    let old = kept.map(|kept| kept.keys).unwrap_or_default();
    all.keys.extend(old.into_iter().filter(|key| !known.contains(&key["kid"])));
    all.beginning = beginning;
    let (file, new) = (dir.join(AUDIT_KEYS), dir.join(format!("{AUDIT_KEYS}.{}.new", std::process::id())));
    let written = std::fs::write(&new, serde_json::to_vec(&all)?).and_then(|()| std::fs::rename(&new, &file));
    written.with_context(|| format!("{} cannot be written", file.display()))
}

/// Signs once that every stream which begins from now on is chained, and gives what was signed. Never again: whoever
/// removes it must not get a new one.
async fn begin_chain(
    store: &dyn AuditStore,
    keys: &Arc<SigningKeys>,
    kept: Option<&Published>,
    (alone, now): (bool, Timestamp),
) -> anyhow::Result<Option<String>> {
    let kept = kept.and_then(|kept| kept.beginning.clone());
    let first = async || anyhow::Ok(store.checkpoints(None, 1).await?.pop());
    let found = first().await?;
    if let Some(mark) = found.as_ref().filter(|first| (first.stream, first.seq) == (MARKS, 0)) {
        return Ok(kept.or_else(|| Some(mark.signed.clone())));
    }
    let chained = found.is_some() || !store.chain(None, 1).await?.is_empty();
    if let Some(kept) = kept {
        match beginning(&|typ, signed| keys.check(typ, signed), &kept) {
            Ok(mark) => {
                tracing::error!("the beginning of the audit trail's chain was gone from the database: it is put back");
                store.put_chain(Vec::new(), vec![mark]).await?;
            }
            Err(_) => tracing::error!(
                "{AUDIT_KEYS} in data_dir is of another audit trail: `audit verify` will fail until it is moved away"
            ),
        }
        return Ok(Some(kept));
    }
    let begins = alone || store.query(&AuditFilter::default(), None, 1).await?.rows.is_empty();
    if chained && alone {
        tracing::error!("the beginning of the audit trail's chain is gone: none is signed in its place");
    }
    if chained || !begins {
        return Ok(None);
    }
    store.put_chain(Vec::new(), vec![sign_beginning(&**keys, now).await?]).await?;
    // Another process may have been first.
    Ok(first().await?.filter(|first| (first.stream, first.seq) == (MARKS, 0)).map(|mark| mark.signed))
}

/// How databases are migrated.
#[derive(Debug, Clone, Copy, Default)]
pub struct MigrateOptions {
    /// How long a database on another machine is waited for.
    pub wait: Duration,
    /// Whether what only the version before needs is removed: no replica of it runs any more.
    pub contract: bool,
}

/// Brings the databases to this version's form, and makes the keys that are there before the first start.
///
/// # Errors
/// When they cannot be opened, a running server that has them to itself included.
#[cfg_attr(not(feature = "postgres"), allow(unused_variables, reason = "files are neither waited for nor shared"))]
pub async fn migrate(config: &Config, options: MigrateOptions) -> anyhow::Result<()> {
    make_data_dir(config)?;
    #[cfg(feature = "postgres")]
    if let Database::Postgres(url) = config.database()? {
        use mcp_gateway_store::postgres::{self, Contract};

        let contract = if options.contract { Contract::Now } else { Contract::Later };
        postgres::migrate(&config.postgres("database", &url)?, options.wait, contract).await?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let storage = open(config, &clock, options.contract).await?;
    storage.spool_driver.close().await;
    Ok(())
}

/// Puts what a spool's directory holds into the audit trail, with the key that it was sealed with.
///
/// # Errors
/// When the directory is in use, was sealed with another key, or the trail does not take it.
pub async fn import_audit(config: &Config, directory: &Path, key: Option<&Path>) -> anyhow::Result<Imported> {
    let dir = make_data_dir(config)?;
    let key = key.map_or_else(|| dir.join(SPOOL_KEY), Path::to_owned);
    // Made anew, a key would open nothing.
    anyhow::ensure!(key.exists(), "{}: there is no such key; name it with --key", key.display());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (resources, _) = open_resources(config, &clock).await?;
    let keys: Arc<dyn KeyManagement> = Arc::new(LocalKeyFile::open_or_create(dir.join(MASTER_KEY))?);
    let sealer: Arc<dyn FieldSealer> = Sealer::open(Arc::clone(&resources), keys, Arc::clone(&clock)).await?;
    let audit_store = open_audit(config, &sealer).await?;
    let checkpoints = Checkpoints::by(audit_keys(&resources, &sealer, &clock).await?);
    Ok(spool::import(directory, &SpoolKey::load_or_create(&key)?, &*audit_store, &checkpoints).await?)
}

/// For its owner alone: the keys are in it.
pub(super) fn make_data_dir(config: &Config) -> anyhow::Result<&Path> {
    let dir = config.data_dir.as_path();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("data_dir: {} cannot be made", dir.display()))?;
    Ok(dir)
}

async fn open_resources(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Arc<dyn ResourceStore>, Option<Sweep>)> {
    Ok(match config.database()? {
        Database::Memory => (Arc::new(MemoryStore::new(Arc::clone(clock))), None),
        #[cfg(feature = "sqlite")]
        Database::Sqlite(path) => {
            use mcp_gateway_store::sqlite::{SqliteOptions, SqliteStore};

            (Arc::new(SqliteStore::open(&path, SqliteOptions::default().with_clock(Arc::clone(clock)))?), None)
        }
        // Its clock is the database's: that of no replica.
        #[cfg(feature = "postgres")]
        Database::Postgres(url) => {
            use mcp_gateway_store::postgres::PostgresStore;

            // Whoever has the lease sweeps.
            let store = PostgresStore::open(config.postgres("database", &url)?.without_sweep()).await?;
            let sweeper = store.clone();
            let sweep: Sweep = Arc::new(move || {
                let sweeper = sweeper.clone();
                Box::pin(async move { sweeper.sweep().await })
            });
            (Arc::new(store), Some(sweep))
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => anyhow::bail!("database: this build has no such store"),
    })
}

/// The trail's file, beside the records'.
#[cfg(any(feature = "sqlite", feature = "process"))]
pub(super) fn audit_file(database: &Path) -> PathBuf {
    let stem = database.file_stem().map_or_else(|| "gateway".into(), std::ffi::OsStr::to_string_lossy);
    database.with_file_name(format!("{stem}-audit.db"))
}

#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres")),
    allow(unused_variables, reason = "memory seals nothing")
)]
pub(super) async fn open_audit(config: &Config, sealer: &Arc<dyn FieldSealer>) -> anyhow::Result<Arc<dyn AuditStore>> {
    Ok(match config.database()? {
        Database::Memory => Arc::new(MemoryAuditStore::new()),
        // In a file of its own beside the records: its writes never make theirs wait.
        #[cfg(feature = "sqlite")]
        Database::Sqlite(path) => {
            use mcp_gateway_store::sqlite::{Durability, SqliteAuditOptions, SqliteAuditStore};

            let mut options = SqliteAuditOptions::default().with_durability(match config.audit.durability {
                AuditDurability::Process => Durability::Process,
                // The spool forgets what the store has taken.
                AuditDurability::Fsync | AuditDurability::Store => Durability::Power,
            });
            if config.audit.bodies {
                options = options.with_bodies(Arc::clone(sealer));
            }
            Arc::new(SqliteAuditStore::open(audit_file(&path), options)?)
        }
        #[cfg(feature = "postgres")]
        Database::Postgres(url) => {
            use mcp_gateway_store::postgres::{PostgresAuditOptions, PostgresAuditStore};

            let mut options = PostgresAuditOptions::new(config.postgres("database", &url)?);
            options = match config.audit.bodies {
                true => options.with_bodies(Arc::clone(sealer)),
                false => options.with_sealer(Arc::clone(sealer)),
            };
            let retention = config.audit.retention_days.saturating_mul(24 * 3_600);
            options = options.with_retention(Duration::from_secs(retention));
            if let Some(url) = &config.postgres.audit_replica {
                options = options.reading_from(config.postgres("postgres.audit_replica", url)?);
            }
            Arc::new(PostgresAuditStore::open(options).await?)
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => anyhow::bail!("database: this build has no such store"),
    })
}

impl Storage {
    /// The trail's writing end.
    pub(super) fn sink(&self) -> Arc<dyn AuditSink> {
        Arc::new(self.spool.clone())
    }
}

#[cfg(test)]
mod tests {
    use mcp_gateway_core::contract::{AuditRow, StreamId};
    use mcp_gateway_core::memory::MemoryKeys;
    use mcp_gateway_core::record::{AuditEvent, Category, EventKind};
    use ulid::Ulid;

    use super::*;

    async fn keys() -> Arc<SigningKeys> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let resources: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let masters: Arc<dyn KeyManagement> = Arc::new(MemoryKeys::new());
        let sealer: Arc<dyn FieldSealer> =
            Sealer::open(Arc::clone(&resources), masters, Arc::clone(&clock)).await.unwrap();
        audit_keys(&resources, &sealer, &clock).await.unwrap()
    }

    async fn with_a_row() -> MemoryAuditStore {
        let store = MemoryAuditStore::new();
        let event = AuditEvent::new(Timestamp::UNIX_EPOCH, Ulid::nil(), Category::Mcp, EventKind::Exchange);
        store.append(vec![AuditRow { stream: StreamId(Ulid::generate()), seq: 1, event }]).await.unwrap();
        store
    }

    #[tokio::test]
    async fn the_chain_begins_once() {
        let (keys, store) = (keys().await, MemoryAuditStore::new());
        let now = Timestamp::now();
        let signed = begin_chain(&store, &keys, None, (true, now)).await.unwrap();
        assert!(signed.is_some());
        assert_eq!(begin_chain(&store, &keys, None, (true, now)).await.unwrap(), signed, "the one that is there");
        // Somebody removes the mark.
        let bare = with_a_row().await;
        assert_eq!(begin_chain(&bare, &keys, None, (true, now)).await.unwrap(), None);
        assert!(bare.checkpoints(None, 10).await.unwrap().is_empty(), "no other one is signed");
        let kept = Published { keys: Vec::new(), beginning: signed.clone() };
        assert_eq!(begin_chain(&bare, &keys, Some(&kept), (true, now)).await.unwrap(), signed);
        assert_eq!(bare.checkpoints(None, 10).await.unwrap()[0].signed, signed.unwrap(), "put back");
    }

    #[tokio::test]
    async fn public_keys_that_were_known_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (keys().await.document(), keys().await.document());
        publish(dir.path(), &one, None, Some("jws".to_owned())).unwrap();
        let kept = published(dir.path()).unwrap();
        publish(dir.path(), &other, kept, Some("jws".to_owned())).unwrap();
        let found = published(dir.path()).unwrap().unwrap();
        assert_eq!((found.keys.len(), found.beginning.as_deref()), (2, Some("jws")));
        std::fs::write(dir.path().join(AUDIT_KEYS), "{").unwrap();
        assert!(published(dir.path()).is_err(), "what cannot be read is not overwritten");
    }
}
