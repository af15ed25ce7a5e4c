//! A whole gateway inside an axum service, with everything in memory.
//!
//! ```sh
//! cargo run -p mcp-gateway-examples --bin embedded_gateway -- https://mcp.example/mcp
//! ```
//!
//! It prints the URL of the one server and a key for it. Each part is a value: a store of yours takes the place of
//! [`MemoryStore`] without a change anywhere else.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, ApiKeys, LastUsed, NewKey};
use mcp_gateway_core::catalog;
use mcp_gateway_core::contract::{Clock, ResourceStore, SystemClock, When};
use mcp_gateway_core::egress::EgressPolicy;
use mcp_gateway_core::gateway::{Gateway, GatewayOptions, Parts};
use mcp_gateway_core::memory::{MemoryAuditSink, MemoryKeys, MemoryStore};
use mcp_gateway_core::record::{Entry, Mount, Principal, Resources, Roles, Secret, Subject, TenantId};
use mcp_gateway_core::seal::{RingOptions, Sealer, SessionKeyRing, SessionSealer};
use mcp_gateway_core::shim::{ForwardOptions, Shim};
use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
use serde_json::json;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let upstream = std::env::args().nth(1).context("usage: embedded_gateway URL")?;
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let service = service("http://127.0.0.1:3000", &upstream).await?;
    print(&format!("http://127.0.0.1:3000/mcp-connect/tools with the key {}", service.key.expose()));
    let audit = service.audit;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Taken out, so that the sink never fills: a full one refuses calls.
            for event in audit.take() {
                print(&format!("{:?} {:?} {:?} {}", event.kind, event.method, event.target, event.status));
            }
        }
    });
    Ok(axum::serve(listener, service.router).await?)
}

pub(crate) struct Service {
    pub(crate) router: Router,
    pub(crate) key: Secret,
    pub(crate) audit: Arc<MemoryAuditSink>,
}

// ANCHOR: service
/// An axum service with a page of its own and a gateway under `/mcp-connect`.
pub(crate) async fn service(public_url: &str, upstream: &str) -> anyhow::Result<Service> {
    // What is kept: in memory here, in SQLite with `mcp-gateway-store`, or wherever your implementation keeps it.
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store: Arc<dyn ResourceStore> = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let master = Arc::new(MemoryKeys::new());
    let sealer = Sealer::open(Arc::clone(&store), master.clone(), Arc::clone(&clock)).await?;
    let ring = SessionKeyRing::open(Arc::clone(&store), master, Arc::clone(&clock), RingOptions::default()).await?;
    let audit = Arc::new(MemoryAuditSink::new(10_000));

    // What is served: an immutable snapshot that follows the store, so that a call reads memory only.
    let mount = Mount::new(public_url, "/mcp-connect")?;
    let compiled_for = mount.clone();
    let compile = Arc::new(move |entry: &Entry| catalog::compile(entry, &compiled_for));
    let options = SnapshotOptions::new(sealer.clone(), compile);
    let (snapshots, driver) = Snapshots::follow(Arc::clone(&store), options).await?;
    tokio::spawn(driver);

    // One remote server, written as any catalog writes it. It may be added, changed and removed while calls run.
    let entries = Resources::<Entry>::new(Arc::clone(&store), sealer.clone(), TenantId::default());
    let yaml = json!({
        "entryKey": "tools", "name": "Tools", "runtime": "remote", "remoteConfig": { "fixedURL": upstream },
    });
    for entry in catalog::parse(yaml.to_string().as_bytes(), "tools") {
        let entry = entry?;
        entries.save(&entry.entry_key, &entry, When::Any).await?;
    }

    // Who may call: holders of API keys. Yours may be anything that implements `Authenticator`.
    let used = Arc::new(LastUsed::new(Resources::new(Arc::clone(&store), sealer.clone(), TenantId::default())));
    let keys = Resources::new(store, sealer, TenantId::default());
    let keys = ApiKeys::new(keys, Arc::clone(&used), Arc::clone(&clock));
    let owner = Principal::new(Subject::LOCAL, "owner").with_roles(Roles::OWNER);
    let created = keys.create(&owner, NewKey::named("first")).await?;
    snapshots.wait_for(created.revision).await;
    let authenticator = ApiKeyAuthenticator::new(Arc::new(snapshots.clone()), clock).with_last_used(used);

    // Private addresses are out of reach unless they are named: entries often come from people.
    let egress = EgressPolicy::new(["127.0.0.0/8".parse()?]);
    let shim = Shim::builder(audit.clone()).forward(ForwardOptions { egress, ..ForwardOptions::default() }).build();
    let sessions = Arc::new(SessionSealer::new(ring));
    let mut parts = Parts::new(Arc::new(snapshots), vec![Arc::new(authenticator)], sessions, audit.clone());
    parts.shim = Some(Arc::new(shim));
    let gateway = Gateway::builder(parts)
        .options(GatewayOptions { loopback: true, ..GatewayOptions::default() })
        // `nest_service` takes the mount's path off.
        .nested()
        .build(&mount)
        .gateway;
    let router = Router::new().route("/", get(|| async { "my service\n" })).nest_service(mount.path(), gateway);
    Ok(Service { router, key: created.key, audit })
}
// ANCHOR_END: service

#[allow(clippy::print_stdout, reason = "an example that talks to the person who started it")]
fn print(text: &str) {
    println!("{text}");
}
