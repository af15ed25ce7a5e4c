//! Outbound connections that somebody else can influence.
//!
//! Every address that a URL of a catalog, a user or a server leads to is checked after its name is resolved, and the
//! connection goes to the very address that was checked.

mod connections;
mod connector;
mod fetch;
mod plain;
mod policy;
mod proxy;

pub(crate) use self::connections::Exchange;
pub use self::connections::{Connections, Counted, Counting};
pub use self::connector::{EgressConnector, Names, System, connector};
pub use self::fetch::{Fetch, FetchError, FetchOptions, Fetched, Fetcher, get_json};
pub(crate) use self::plain::{PlainBody, PlainClient, PlainError};
pub use self::policy::{AllowRule, AllowRuleError, Blocked, EgressPolicy, NameBlocked};
pub use self::proxy::{EgressProxy, EgressProxyError};
