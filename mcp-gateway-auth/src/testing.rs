//! A gateway's records in memory, for the tests of this crate.

use std::sync::Arc;

use mcp_gateway_core::catalog;
use mcp_gateway_core::conformance::ManualClock;
use mcp_gateway_core::contract::{ResourceStore, Revision, SystemClock};
use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Mount, Principal, Resource, Resources, Roles, TenantId};
use mcp_gateway_core::seal::Sealer;
use mcp_gateway_core::snapshot::{RolePresets, SnapshotOptions, Snapshots};

use crate::user::{UserOptions, Users};

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) snapshots: Snapshots,
    pub(crate) users: Users,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_presets(RolePresets::new()).await
    }

    pub(crate) async fn with_presets(presets: RolePresets) -> Self {
        let clock = Arc::new(ManualClock::default());
        let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::new(SystemClock)));
        let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
        let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
        let mut options =
            SnapshotOptions::new(sealer.clone(), Arc::new(move |entry: &_| catalog::compile(entry, &mount)));
        options.presets = Arc::new(presets);
        let (snapshots, driver) = Snapshots::follow(store.clone(), options).await.unwrap();
        tokio::spawn(driver);
        let directory = Arc::new(snapshots.clone());
        let tenant = TenantId::default();
        let users = Users::new(store.clone(), sealer.clone(), tenant, clock.clone(), directory, UserOptions::default());
        Self { clock, store, sealer, snapshots, users }
    }

    pub(crate) fn of<T: Resource>(&self) -> Resources<T> {
        Resources::new(self.store.clone(), self.sealer.clone(), TenantId::default())
    }

    pub(crate) async fn applied(&self, revision: Revision) {
        self.snapshots.wait_for(revision).await;
    }
}

/// Whoever has the bootstrap token.
pub(crate) fn owner() -> Principal {
    Principal::new("local", "owner").with_roles(Roles::OWNER)
}
