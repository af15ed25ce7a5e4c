//! Login of people: passwords of this gateway, and the sessions of browsers.
//!
//! A [`LocalLogins`] checks a password, [`Sessions`] begin for whoever it was, and a [`SessionAuthenticator`] turns the
//! session's cookie into a principal, for the admin API alone: the data plane never accepts cookies.
//!
//! ```
//! use std::sync::Arc;
//! use mcp_gateway_auth::login::{Attempt, LocalLogins, LocalSignIn, Passwords, SessionOptions, Sessions};
//! use mcp_gateway_auth::user::{NewUser, UserOptions, Users};
//! use mcp_gateway_core::catalog;
//! use mcp_gateway_core::contract::SystemClock;
//! use mcp_gateway_core::memory::{MemoryKeys, MemoryRateLimiter, MemoryStore};
//! use mcp_gateway_core::record::{Mount, Principal, Resources, Roles, Secret, TenantId};
//! use mcp_gateway_core::seal::Sealer;
//! use mcp_gateway_core::snapshot::{SnapshotOptions, Snapshots};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let clock = Arc::new(SystemClock);
//! # let store = Arc::new(MemoryStore::new(clock.clone()));
//! # let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
//! # let mount = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
//! # let compile = Arc::new(move |entry: &_| catalog::compile(entry, &mount));
//! # let options = SnapshotOptions::new(sealer.clone(), compile);
//! # let (snapshots, driver) = Snapshots::follow(store.clone(), options).await.unwrap();
//! # tokio::spawn(driver);
//! # let directory = Arc::new(snapshots.clone());
//! # let tenant = TenantId::default();
//! let users =
//!     Users::new(store.clone(), sealer.clone(), tenant.clone(), clock.clone(), directory, UserOptions::default());
//! let passwords = Resources::new(store.clone(), sealer.clone(), tenant.clone());
//! let limiter = MemoryRateLimiter::new(SystemClock, 10_000);
//! let local = LocalLogins::new(users, passwords, Passwords::default(), limiter, clock.clone());
//!
//! let owner = Principal::new("local", "owner").with_roles(Roles::OWNER);
//! let ada = NewUser { name: "Ada".into(), ..NewUser::default() };
//! local.create(&owner, ada, "ada@a.example", &Secret::new("first-password")).await.unwrap();
//!
//! // Whoever else knows the first password shall not know the second.
//! let (old, new) = (Secret::new("first-password"), Secret::new("known to Ada alone"));
//! let first = local.sign_in("Ada@a.example", &old, Attempt::default()).await.unwrap();
//! assert!(matches!(first, LocalSignIn::MustChange));
//! let (user, _) = local.change("ada@a.example", &old, &new, Attempt::default()).await.unwrap();
//!
//! let sessions = Sessions::new(Resources::new(store, sealer, tenant), clock, SessionOptions::default());
//! let begun = sessions.begin(&user, "local").await.unwrap();
//! assert!(sessions.find(begun.token.expose()).await.unwrap().is_some());
//! # });
//! ```

mod authenticator;
mod cookie;
mod csrf;
mod local;
mod password;
mod session;

pub use self::authenticator::SessionAuthenticator;
pub use self::cookie::{CookieError, CookieNames, read_cookie};
pub use self::csrf::{CSRF_HEADER, csrf_token, is_csrf_token};
pub use self::local::{
    Attempt, KnownDevice, LocalLogins, LocalSignIn, LoginError, PasswordRecord, Throttle, login_name,
};
pub use self::password::{HashError, PasswordLimits, Passwords};
pub(crate) use self::session::sha256_hex;
pub use self::session::{BegunSession, Session, SessionOptions, SessionUser, Sessions};
