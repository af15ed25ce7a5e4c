//! Keeping the catalog in step with its sources.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mcp_gateway_core::catalog::{self, DirectorySource, StarterSource, Sync, SyncError, SyncReport};
use mcp_gateway_core::contract::CatalogSource;
use mcp_gateway_core::record::{Entry, Mount, Resources};

use super::tasks::Background;
use crate::config::Config;

/// Reads every source once, so that the first snapshot has its entries; then follows them.
///
/// Whatever is wrong in a source is logged by file and field, and leaves everything else alone.
pub(super) async fn follow(
    config: &Config,
    entries: &Resources<Entry>,
    mount: &Mount,
    tasks: &Background,
) -> anyhow::Result<()> {
    let paths = config.catalog_paths();
    let sources: Vec<Arc<dyn CatalogSource>> = if paths.is_empty() {
        tracing::info!("there is no catalog directory: the built-in starter catalog is served");
        vec![Arc::new(StarterSource)]
    } else {
        paths.iter().map(|path| Arc::new(directory(path)) as Arc<dyn CatalogSource>).collect()
    };
    let names: Vec<&str> = sources.iter().map(|source| source.name()).collect();
    let removed = catalog::retain_sources(entries, &names).await?;
    if !removed.is_empty() {
        tracing::info!(?removed, "entries of sources that are no longer configured are removed");
    }
    let every = Duration::from_secs(config.catalog.poll_seconds);
    for source in sources {
        let name = source.name().to_owned();
        let mut sync = Sync::new(source, entries.clone(), mount.clone());
        match sync.run_once().await {
            Ok(Some(report)) => tell(&name, Ok(&report)),
            Ok(None) => {}
            Err(error) => tell(&name, Err(&error)),
        }
        tasks.spawn(async move { sync.run(every, move |outcome| tell(&name, outcome)).await });
    }
    Ok(())
}

fn directory(path: &Path) -> DirectorySource {
    DirectorySource::new(format!("directory {}", path.display()), path)
}

fn tell(source: &str, outcome: Result<&SyncReport, &SyncError>) {
    match outcome {
        Ok(report) => {
            for error in &report.errors {
                tracing::error!(source, place = error.place, field = error.field, "{error}");
            }
            if !(report.added.is_empty() && report.changed.is_empty() && report.removed.is_empty()) {
                let SyncReport { added, changed, removed, .. } = report;
                tracing::info!(source, ?added, ?changed, ?removed, "the catalog has changed");
            }
        }
        Err(error) => tracing::error!(source, %error, "the catalog cannot be read; it stays as it was"),
    }
}
