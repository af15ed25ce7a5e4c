//! Checks the audit trail, also beside a server that runs on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use mcp_gateway_auth::token::TrailKeys;
use mcp_gateway_core::contract::AuditStore;
use mcp_gateway_core::trail::{self, ALIVE, Expected, Report};

#[cfg(feature = "sqlite")]
use super::storage::audit_file;
use super::storage::{AUDIT_KEYS, Published};
use crate::config::{Config, Database};

/// Checks everything that the trail has, with these public keys or those in `data_dir`.
///
/// # Errors
/// When the trail or the keys cannot be read. What is wrong with the trail is no error: the report says it.
pub async fn verify_audit(config: &Config, key: Option<&Path>) -> anyhow::Result<Report> {
    let keys = match key {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("--key: {} cannot be read", file.display()))?
        }
        None => audit_keys(config)?,
    };
    let beginning = serde_json::from_str::<Published>(&keys).context("--key: it is no JWK Set")?.beginning;
    let keys = TrailKeys::read(keys.as_bytes()).context("--key: it is no JWK Set")?;
    let expected = Expected { alive: alive_since(config)?, beginning };
    let check = |typ: &'static str, signed: &str| keys.check(typ, signed);
    let store = open_to_read(config).await?;
    let report = trail::verify(&*store, &check, &expected).await?;
    if report.is_sound() {
        return Ok(report);
    }
    // Old rows may have been removed meanwhile.
    Ok(trail::verify(&*store, &check, &expected).await?)
}

/// A stream that goes on was signed since then: rows wait for a checkpoint, or a store that is away, for no longer.
fn alive_since(config: &Config) -> anyhow::Result<Timestamp> {
    let patience = ALIVE.max(Duration::from_secs(config.audit.checkpoint_seconds)).saturating_add(ALIVE);
    Ok(Timestamp::now().checked_sub(patience)?)
}

/// The public keys of the trail.
///
/// # Errors
/// When no server has made them yet.
pub fn audit_keys(config: &Config) -> anyhow::Result<String> {
    let file = config.data_dir.join(AUDIT_KEYS);
    std::fs::read_to_string(&file).with_context(|| {
        format!("{} cannot be read: a server writes it when it starts; or name a copy with --key", file.display())
    })
}

/// The trail, without its bodies.
async fn open_to_read(config: &Config) -> anyhow::Result<Arc<dyn AuditStore>> {
    Ok(match config.database()? {
        Database::Memory => anyhow::bail!("database: memory is gone with its process, and so is its audit trail"),
        #[cfg(feature = "sqlite")]
        Database::Sqlite(path) => {
            Arc::new(mcp_gateway_store::sqlite::SqliteAuditStore::open_to_read(audit_file(&path), None)?)
        }
        #[cfg(feature = "postgres")]
        Database::Postgres(url) => {
            use mcp_gateway_store::postgres::{PostgresAuditOptions, PostgresAuditStore};

            Arc::new(PostgresAuditStore::open(PostgresAuditOptions::new(config.postgres("database", &url)?)).await?)
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => anyhow::bail!("database: this build has no such store"),
    })
}
