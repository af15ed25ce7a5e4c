//! People: who they are, what they may do, and how all that they have ends.
//!
//! A person is known by *identities*, pairs of an issuer and what it calls the person. An e-mail address is shown, and
//! never says who somebody is: whoever can make an identity provider assert an address would be whoever has it.
//!
//! ```
//! use std::sync::Arc;
//! use mcp_gateway_auth::user::{Asserted, IdentityKey, UserOptions, Users};
//! use mcp_gateway_core::catalog;
//! use mcp_gateway_core::contract::SystemClock;
//! use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
//! use mcp_gateway_core::record::{Mount, Principal, Roles, TenantId, UserState};
//! use mcp_gateway_core::seal::Sealer;
//! use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let clock = Arc::new(SystemClock);
//! let store = Arc::new(MemoryStore::new(clock.clone()));
//! let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
//! let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
//! let compile = Arc::new(move |entry: &_| catalog::compile(entry, &mount));
//! let options = SnapshotOptions::new(sealer.clone(), compile);
//! let (snapshots, driver) = Snapshots::follow(store.clone(), options).await.unwrap();
//! tokio::spawn(driver);
//! let directory = Arc::new(snapshots.clone());
//! let users = Users::new(store, sealer, TenantId::default(), clock, directory, UserOptions::default());
//!
//! // Whoever has checked a login says whose it was.
//! let ada = users.sign_in(&Asserted::new(IdentityKey::new("https://login.example", "248289"), "Ada")).await.unwrap();
//! snapshots.wait_for(ada.revision).await;
//! let facts = snapshots.load().users[&*ada.id].clone();
//! assert!(facts.enabled && facts.roles.contains(Roles::BASIC));
//!
//! let owner = Principal::new("local", "owner").with_roles(Roles::OWNER);
//! let ended = users.set_state(&owner, &ada.id, UserState::Disabled, None).await.unwrap();
//! snapshots.wait_for(ended).await;
//! assert!(!snapshots.load().users[&*ada.id].enabled);
//! # });
//! ```

mod error;
mod identity;
mod link;
#[cfg(feature = "login")]
mod make;
mod owners;
mod service;
mod sign_in;

use std::collections::HashMap;
use std::sync::Arc;

use mcp_gateway_core::BoxFuture;
use mcp_gateway_core::contract::Revision;
use mcp_gateway_core::record::Roles;
use mcp_gateway_core::snapshot::{Snapshots, UserFacts};

pub use self::error::UserError;
#[cfg(feature = "login")]
pub(crate) use self::identity::PASSWORD;
#[cfg(feature = "login")]
pub(crate) use self::identity::tidy;
pub use self::identity::{Asserted, AssertedGroup, Identity, IdentityKey, group_id};
#[cfg(feature = "login")]
pub use self::make::NewUser;
#[cfg(feature = "login")]
pub(crate) use self::make::address;
#[cfg(feature = "login")]
pub(crate) use self::service::is_id;
pub use self::service::{UserOptions, Users};
pub use self::sign_in::SignedIn;

/// Where people are looked up, on every request of a session or token: in memory, without waiting.
///
/// [`Snapshots`] is one.
pub trait UserDirectory: Send + Sync + 'static {
    /// The person with this id.
    fn user(&self, id: &str) -> Option<Arc<UserFacts>>;

    /// Whether somebody other than this person is an owner and may act as one.
    fn has_owner_but(&self, id: &str) -> bool;

    /// Whether somebody is an owner and may act as one when these have left a group; with `None`, when it gives no role
    /// to anybody any more. Of those who lose it, only their own roles count.
    fn has_owner_without(&self, group: &str, leaving: Option<&[String]>) -> bool;

    /// Ids of the people in each of these groups, in their order, those who may do nothing, too.
    fn members(&self, groups: &[&str]) -> Vec<Vec<Arc<str>>>;

    /// Whether a person has taken over, now or before.
    fn is_owned(&self) -> bool;

    /// Waits until everything up to a revision is known.
    fn wait_for(&self, revision: Revision) -> BoxFuture<()>;

    /// Whether the directory has been cut off for so long that nothing in it is believed any more: 503.
    fn refuses(&self) -> bool;
}

impl UserDirectory for Snapshots {
    fn user(&self, id: &str) -> Option<Arc<UserFacts>> {
        self.load().users.get(id).cloned()
    }

    fn has_owner_but(&self, id: &str) -> bool {
        let snapshot = self.load();
        snapshot.users.values().any(|user| user.enabled && *user.id != *id && user.roles.contains(Roles::OWNER))
    }

    fn has_owner_without(&self, group: &str, leaving: Option<&[String]>) -> bool {
        let loses = |user: &UserFacts| {
            user.groups.iter().any(|one| **one == *group)
                && leaving.is_none_or(|ids| ids.iter().any(|id| **id == *user.id))
        };
        let stays = |user: &UserFacts| {
            let is_owner = user.enabled && user.roles.contains(Roles::OWNER);
            is_owner && (user.own_roles().contains(Roles::OWNER) || !loses(user))
        };
        self.load().users.values().any(|user| stays(user))
    }

    fn members(&self, groups: &[&str]) -> Vec<Vec<Arc<str>>> {
        let places: HashMap<&str, usize> = groups.iter().enumerate().map(|(place, group)| (*group, place)).collect();
        let mut members = vec![Vec::new(); groups.len()];
        // One pass, however many are asked about.
        for user in self.load().users.values() {
            for place in user.groups.iter().filter_map(|group| places.get(&**group)) {
                members[*place].push(Arc::clone(&user.id));
            }
        }
        members.iter_mut().for_each(|ids| ids.sort_unstable());
        members
    }

    fn is_owned(&self) -> bool {
        self.load().owned
    }

    fn wait_for(&self, revision: Revision) -> BoxFuture<()> {
        let snapshots = self.clone();
        Box::pin(async move { snapshots.wait_for(revision).await })
    }

    fn refuses(&self) -> bool {
        Snapshots::refuses(self)
    }
}

/// The bounds of what is kept of a person.
#[derive(Debug)]
pub struct UserLimits;

impl UserLimits {
    /// Bytes of a name; longer ones of identity providers are cut.
    pub const NAME: usize = 256;
    /// Bytes of an e-mail address (RFC 5321 §4.5.3.1.3).
    pub const EMAIL: usize = 254;
    /// Bytes of a user's id.
    pub const ID: usize = 64;
    /// Bytes of an issuer, of its name of a person, of its id of a group.
    pub const FOREIGN_ID: usize = 1_024;
    /// Groups of a person. A login with more fails: leaving some out could leave out the one that forbids.
    pub const GROUPS: usize = 500;
    /// Ways to sign in as one person.
    pub const IDENTITIES: usize = 20;
    /// Users or groups of a page.
    pub const PAGE: usize = 1_000;
}
