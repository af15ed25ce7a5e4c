//! The contracts between the parts: what an integrator implements to replace one of them.
//!
//! Every trait is usable as `Arc<dyn …>` and says who calls it, how often, and what dropping its future means. Those
//! on the path of each call answer with a [`MaybeReady`](crate::MaybeReady); the others use `async_trait`. Each has an
//! in-memory implementation in [`memory`](crate::memory) and, where several implementations must agree, a suite in
//! `conformance` (feature `conformance`).

mod audit_sink;
mod audit_store;
mod authenticator;
mod authorizer;
mod catalog_source;
mod clock;
mod filter;
mod key_management;
mod key_ring;
mod rate_limiter;
mod resolve;
mod resource_store;
mod runtime;
mod upstream;
mod upstream_credentials;

pub use audit_sink::{AuditFull, AuditSink, Seq};
pub use audit_store::{
    AuditCursor, AuditFilter, AuditPage, AuditRow, AuditStore, ChainRow, StreamId, Unlinked, Usage, UsageRow,
    UsageWindow,
};
pub use authenticator::{AuthError, Authenticator, Effort, Resource};
pub use authorizer::{Action, Ask, Authorizer, Decision, Target};
pub use catalog_source::{CatalogError, CatalogSource, EntryError, Fetched};
pub use clock::{Clock, SystemClock};
pub use filter::{Direction, Filter, Head, Needs, Verdict, View};
pub use key_management::{KeyContext, KeyManagement, KeyManagementError, WrappedKey};
pub use key_ring::{KeyRing, KeyRingError, Signer, VerifyingKey};
pub use rate_limiter::{Allow, Budget, LimitKey, Limited, RateLimiter};
pub use resolve::{Resolve, ResolveError};
pub use resource_store::{
    Change, Class, Conflict, Cursor, Feed, FeedStream, IndexTerm, Key, Kind, Page, Query, Record, ResourceStore,
    Revision, StoreError, StoreErrorKind, StoreLimits, When, Write,
};
pub use runtime::{
    Deployment, LogLine, LogStream, Observation, Program, ResourceLimits, Runtime, RuntimeError, RuntimeErrorKind,
    RuntimeEvent, RuntimeEventStream, Workload, WorkloadId, WorkloadState,
};
pub use upstream::{Address, Endpoint, Incarnation, Upstream, UpstreamError, UpstreamErrorKind};
pub use upstream_credentials::{
    ConnectReason, CredentialAsk, CredentialError, UpstreamCredential, UpstreamCredentials, UpstreamRefusal,
};
