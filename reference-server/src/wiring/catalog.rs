//! Keeping the catalog in step with its sources.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mcp_gateway_core::catalog::{self, DirectorySource, StarterSource, Sync, SyncError, SyncReport};
use mcp_gateway_core::contract::CatalogSource;
use mcp_gateway_core::lease::{Leases, Term};
use mcp_gateway_core::record::{Entry, Mount, Resources};
use tokio::sync::watch;

use super::tasks::Background;
use crate::config::Config;

/// What the catalog's lease is called.
pub(super) const LEASE: &str = "catalog";
/// How long the start waits for the first look into the sources.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How often it asks meanwhile whether another replica looks into them.
const ASK: Duration = Duration::from_millis(250);

/// Reads every source once, so that the first snapshot has its entries; then follows them. Of several replicas one does
/// so, and the others serve what it wrote.
///
/// Whatever is wrong in a source is logged by file and field, and leaves everything else alone.
pub(super) async fn follow(
    config: &Config,
    entries: &Resources<Entry>,
    mount: &Mount,
    leases: &Leases,
    tasks: &Background,
) {
    let paths = config.catalog_paths();
    let sources: Vec<Arc<dyn CatalogSource>> = if paths.is_empty() {
        tracing::info!("there is no catalog directory: the built-in starter catalog is served");
        vec![Arc::new(StarterSource)]
    } else {
        paths.iter().map(|path| Arc::new(directory(path)) as Arc<dyn CatalogSource>).collect()
    };
    let every = Duration::from_secs(config.catalog.poll_seconds);
    let (looked, mut first_look) = watch::channel(false);
    let (entries, mount, follows) = (entries.clone(), mount.clone(), leases.clone());
    tasks.spawn(LEASE, move || {
        let follower = Follower { sources: sources.clone(), entries: entries.clone(), mount: mount.clone() };
        let (follows, looked) = (follows.clone(), looked.clone());
        async move { follows.lead(LEASE, |term| follower.clone().run(term, every, looked.clone())).await }
    });
    let first_look = async {
        while !leases.is_led_elsewhere(LEASE).await.unwrap_or(false) {
            if tokio::time::timeout(ASK, first_look.wait_for(|looked| *looked)).await.is_ok() {
                return;
            }
        }
    };
    if tokio::time::timeout(FIRST_LOOK, first_look).await.is_err() {
        tracing::warn!("the catalog has not been read yet; what the database has of it is served");
    }
}

/// Keeps the entries of all sources in step while it leads.
#[derive(Clone)]
struct Follower {
    sources: Vec<Arc<dyn CatalogSource>>,
    entries: Resources<Entry>,
    mount: Mount,
}

impl Follower {
    async fn run(self, term: Term, every: Duration, looked: watch::Sender<bool>) {
        let names: Vec<&str> = self.sources.iter().map(|source| source.name()).collect();
        match catalog::retain_sources(&self.entries, &names, term.fence()).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "entries of sources that are no longer configured are removed"),
            Err(error) => tracing::error!(%error, "entries of sources that are no longer configured stay for now"),
        }
        let mut followed = Vec::new();
        for source in self.sources {
            let name = source.name().to_owned();
            let mut sync = Sync::new(source, self.entries.clone(), self.mount.clone()).fenced(term.fence());
            match sync.run_once().await {
                Ok(Some(report)) => tell(&name, Ok(&report)),
                Ok(None) => {}
                Err(error) => tell(&name, Err(&error)),
            }
            followed.push(sync.run(every, move |outcome| tell(&name, outcome)));
        }
        looked.send_replace(true);
        join_all(followed).await;
    }
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
