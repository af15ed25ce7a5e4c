//! API keys: their text, how a call is authenticated by one, and how they are made, listed and revoked.
//!
//! ```
//! use std::sync::Arc;
//! use mcp_gateway_auth::api_key::{ApiKeyAuthenticator, ApiKeys, LastUsed, NewKey};
//! use mcp_gateway_core::catalog;
//! use mcp_gateway_core::contract::{Authenticator as _, SystemClock};
//! use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
//! use mcp_gateway_core::record::{Mount, Principal, Resources, Roles, TenantId};
//! use mcp_gateway_core::seal::Sealer;
//! use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let clock = Arc::new(SystemClock);
//! let store = Arc::new(MemoryStore::new(clock.clone()));
//! let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
//! let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
//! let resource = mount.resource("everything");
//! let compile = Arc::new(move |entry: &_| catalog::compile(entry, &mount));
//! let options = SnapshotOptions::new(sealer.clone(), compile);
//! let (snapshots, driver) = Snapshots::follow(store.clone(), options).await.unwrap();
//! tokio::spawn(driver);
//!
//! let tenant = TenantId::default();
//! let used = Arc::new(LastUsed::new(Resources::new(store.clone(), sealer.clone(), tenant.clone())));
//! let keys = ApiKeys::new(Resources::new(store, sealer, tenant), used.clone(), clock.clone());
//! let ada = Principal::new("local", "ada").with_roles(Roles::OWNER);
//! let created = keys.create(&ada, NewKey::named("laptop")).await.unwrap();
//! snapshots.wait_for(created.revision).await;
//!
//! let authenticator = ApiKeyAuthenticator::new(Arc::new(snapshots), clock).with_last_used(used);
//! let request = http::Request::get("/").header("x-api-key", created.key.expose());
//! let (parts, ()) = request.body(()).unwrap().into_parts();
//! let principal = authenticator.authenticate(&parts, &resource).await.unwrap().unwrap();
//! assert_eq!(principal.subject, ada.subject);
//! # });
//! ```

mod authenticator;
mod format;
mod last_used;
mod service;

pub use authenticator::{ApiKeyAuthenticator, KeyDirectory};
pub use format::{KeyFormatError, KeyText, NewKeyText};
pub use last_used::{ApiKeyUse, LastUsed};
pub use service::{ApiKeyError, ApiKeyLimits, ApiKeys, CreatedKey, KeyInfo, NewKey};
