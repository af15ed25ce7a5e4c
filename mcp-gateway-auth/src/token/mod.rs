//! Access tokens: the keys that sign them, how they are made, and how a call is authenticated by one.
//!
//! Our own tokens are JWTs (RFC 9068) signed with ES256 by [`SigningKeys`], made by a [`TokenIssuer`], and good for one
//! server each. A [`TokenAuthenticator`] accepts them, and tokens of [`TrustedIssuer`]s beside them.
//!
//! ```
//! use std::sync::Arc;
//! use mcp_gateway_auth::token::{
//!     NewToken, SigningKeyOptions, SigningKeys, TokenAuthenticator, TokenIssuer, Unrevoked,
//! };
//! use mcp_gateway_core::contract::{Authenticator as _, Clock as _, SystemClock};
//! use mcp_gateway_core::memory::{MemoryKeys, MemoryStore};
//! use mcp_gateway_core::record::{Mount, Resources, Subject, TenantId};
//! use mcp_gateway_core::seal::Sealer;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let clock = Arc::new(SystemClock);
//! let store = Arc::new(MemoryStore::new(clock.clone()));
//! let sealer = Sealer::open(store.clone(), Arc::new(MemoryKeys::new()), clock.clone()).await.unwrap();
//! let ring = Resources::new(store, sealer, TenantId::default());
//! let keys = SigningKeys::open(ring, clock.clone(), SigningKeyOptions::default()).await.unwrap();
//!
//! let resource = Mount::new("https://gateway.example", "/mcp-connect").unwrap().resource("github");
//! let issuer = TokenIssuer::new("https://gateway.example", keys.clone(), clock.clone());
//! let ada = Subject::local("ada");
//! let issued = issuer
//!     .issue(&NewToken {
//!         subject: &ada,
//!         client_id: "laptop",
//!         resource: &resource,
//!         scope: "mcp",
//!         epoch: clock.now(),
//!         person_epoch: 0,
//!         grant: None,
//!         session: None,
//!     })
//!     .await
//!     .unwrap();
//!
//! let authenticator =
//!     TokenAuthenticator::builder(Arc::new(Unrevoked), clock).own("https://gateway.example", keys).build();
//! let request = http::Request::get("/").header("authorization", format!("Bearer {}", issued.token.expose()));
//! let (parts, ()) = request.body(()).unwrap().into_parts();
//! let principal = authenticator.authenticate(&parts, &resource).await.unwrap().unwrap();
//! assert_eq!(principal.subject, ada);
//! # });
//! ```

mod authenticator;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod check;
mod claims;
mod foreign;
mod issue;
pub(crate) mod jws;
mod key;
mod limits;
mod notary;
mod ring;
mod standing;
#[cfg(test)]
pub(crate) mod test_support;
mod verified;
mod watch;

pub use authenticator::{TokenAuthenticator, TokenAuthenticatorBuilder, TokenOptions};
pub use claims::{ACCESS_TOKEN, AccessClaims};
pub(crate) use claims::{check_times, limit};
pub use foreign::{Introspection, RemoteKeys, RemoteKeysOptions, SubjectMap, TrustedIssuer};
pub use issue::{IssuedToken, NewToken, TokenIssuer};
pub use key::PublicKey;
pub use limits::TokenLimits;
pub use notary::TrailKeys;
pub use ring::{SigningKeyError, SigningKeyOptions, SigningKeyRecord, SigningKeyRing, SigningKeys};
pub use standing::{Person, Standing, Unrevoked};
