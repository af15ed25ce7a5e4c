//! Stores, keys and the audit trail.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_core::contract::{AuditSink, AuditStore, Clock, KeyManagement, ResourceStore, SystemClock};
use mcp_gateway_core::memory::{MemoryAuditStore, MemoryStore};
use mcp_gateway_core::record::FieldSealer;
use mcp_gateway_core::seal::{LocalKeyFile, RingOptions, Sealer, SessionKeyRing, SessionSealer};
use mcp_gateway_store::spool::{self, Durability, Imported, Spool, SpoolDriver, SpoolKey, SpoolOptions};

use crate::config::{AuditDurability, Config, Database};

/// The file of the master key, in `data_dir`.
const MASTER_KEY: &str = "master.key";
/// The file of the spool's key, in `data_dir`.
const SPOOL_KEY: &str = "spool.key";

/// Everything that is kept.
pub(super) struct Storage {
    pub(super) resources: Arc<dyn ResourceStore>,
    pub(super) sealer: Arc<dyn FieldSealer>,
    pub(super) sessions: SessionSealer,
    pub(super) ring: Arc<SessionKeyRing>,
    pub(super) audit_store: Arc<dyn AuditStore>,
    pub(super) spool: Spool,
    pub(super) spool_driver: SpoolDriver,
}

/// Opens everything, making what is not there yet.
pub(super) async fn open(config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<Storage> {
    let dir = make_data_dir(config)?;
    let (resources, database) = open_resources(config, clock)?;
    let keys: Arc<dyn KeyManagement> = Arc::new(LocalKeyFile::open_or_create(dir.join(MASTER_KEY))?);
    let sealer: Arc<dyn FieldSealer> =
        Sealer::open(Arc::clone(&resources), Arc::clone(&keys), Arc::clone(clock)).await?;
    let max_age = Duration::from_secs(config.sessions.max_age_days.saturating_mul(24 * 3_600));
    let options = RingOptions::default().with_max_age(max_age);
    let ring = SessionKeyRing::open(Arc::clone(&resources), keys, Arc::clone(clock), options).await?;
    let audit_store = open_audit(config, database.as_deref(), &sealer)?;
    let mut options = SpoolOptions::new(dir.join("spool"), SpoolKey::load_or_create(&dir.join(SPOOL_KEY))?);
    options.max_bytes = config.audit.spool_bytes;
    options.segment_bytes = config.audit.segment_bytes;
    options.stall_timeout = Duration::from_millis(config.audit.stall_timeout_ms);
    options.durability = match config.audit.durability {
        AuditDurability::Process => Durability::Process,
        AuditDurability::Fsync => Durability::Fsync,
        AuditDurability::Store => Durability::Store,
    };
    let (spool, spool_driver) = Spool::open(options, Arc::clone(&audit_store), Arc::clone(clock))?;
    let sessions = SessionSealer::new(Arc::clone(&ring));
    Ok(Storage { resources, sealer, sessions, ring, audit_store, spool, spool_driver })
}

/// Brings the databases to this version's form.
///
/// # Errors
/// When they cannot be opened, a running server included.
pub fn migrate(config: &Config) -> anyhow::Result<()> {
    make_data_dir(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let storage = runtime.block_on(open(config, &clock))?;
    runtime.block_on(storage.spool_driver.close());
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
    let (resources, database) = open_resources(config, &clock)?;
    let keys: Arc<dyn KeyManagement> = Arc::new(LocalKeyFile::open_or_create(dir.join(MASTER_KEY))?);
    let sealer: Arc<dyn FieldSealer> = Sealer::open(resources, keys, clock).await?;
    let audit_store = open_audit(config, database.as_deref(), &sealer)?;
    Ok(spool::import(directory, &SpoolKey::load_or_create(&key)?, &*audit_store).await?)
}

/// For its owner alone: the keys are in it.
fn make_data_dir(config: &Config) -> anyhow::Result<&Path> {
    let dir = config.data_dir.as_path();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("data_dir: {} cannot be made", dir.display()))?;
    Ok(dir)
}

#[cfg(feature = "sqlite")]
fn open_resources(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Arc<dyn ResourceStore>, Option<PathBuf>)> {
    use mcp_gateway_store::sqlite::{SqliteOptions, SqliteStore};

    Ok(match config.database()? {
        Database::Memory => (Arc::new(MemoryStore::new(Arc::clone(clock))), None),
        Database::Sqlite(path) => {
            let options = SqliteOptions::default().with_clock(Arc::clone(clock));
            (Arc::new(SqliteStore::open(&path, options)?), Some(path))
        }
    })
}

#[cfg(not(feature = "sqlite"))]
fn open_resources(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Arc<dyn ResourceStore>, Option<PathBuf>)> {
    match config.database()? {
        Database::Memory => Ok((Arc::new(MemoryStore::new(Arc::clone(clock))), None)),
        Database::Sqlite(_) => anyhow::bail!("database: this build has no SQLite; set it to memory"),
    }
}

/// The trail's file, beside the records'.
#[cfg(any(feature = "sqlite", feature = "process"))]
pub(super) fn audit_file(database: &Path) -> PathBuf {
    let stem = database.file_stem().map_or_else(|| "gateway".into(), std::ffi::OsStr::to_string_lossy);
    database.with_file_name(format!("{stem}-audit.db"))
}

/// The trail is in a file of its own beside the records: its writes never make theirs wait.
#[cfg(feature = "sqlite")]
fn open_audit(
    config: &Config,
    database: Option<&Path>,
    sealer: &Arc<dyn FieldSealer>,
) -> anyhow::Result<Arc<dyn AuditStore>> {
    use mcp_gateway_store::sqlite::{Durability, SqliteAuditOptions, SqliteAuditStore};

    let Some(database) = database else { return Ok(Arc::new(MemoryAuditStore::new())) };
    let mut options = SqliteAuditOptions::default().with_durability(match config.audit.durability {
        AuditDurability::Process => Durability::Process,
        // The spool forgets what the store has taken.
        AuditDurability::Fsync | AuditDurability::Store => Durability::Power,
    });
    if config.audit.bodies {
        options = options.with_bodies(Arc::clone(sealer));
    }
    Ok(Arc::new(SqliteAuditStore::open(audit_file(database), options)?))
}

#[cfg(not(feature = "sqlite"))]
fn open_audit(_: &Config, _: Option<&Path>, _: &Arc<dyn FieldSealer>) -> anyhow::Result<Arc<dyn AuditStore>> {
    Ok(Arc::new(MemoryAuditStore::new()))
}

impl Storage {
    /// The trail's writing end.
    pub(super) fn sink(&self) -> Arc<dyn AuditSink> {
        Arc::new(self.spool.clone())
    }
}
