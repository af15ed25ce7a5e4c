//! The domain: who calls, what is served, what happened.

mod api_key;
mod audit;
mod entry;
mod merge;
mod mount;
mod principal;
mod rate;
mod resource;
mod revocation;
mod roles;
mod route;
mod secret;
mod server_requests;
mod user;

pub use api_key::ApiKey;
pub use audit::{
    ActorFacts, AuditBodies, AuditEvent, Category, ChangeFact, EventKind, FilterFact, FilterVerdict, Label, Outcome,
    SpanFacts,
};
pub use entry::{
    Entry, EntryLimits, EntryOrigin, EnvVar, FirstUse, HeaderSpec, NpxConfig, OnToolChange, RemoteAuth, RemoteAuthKind,
    RemoteClient, RemoteClientKind, RemoteConfig, RuntimeKind, ServerUserType, ToolPinningSpec, UvxConfig,
};
pub use mount::{Mount, MountError};
pub use principal::{
    Actor, ActorKind, CredentialWatch, Dependence, Principal, Scope, ServerList, Subject, TenantId, Watch,
};
pub use rate::Rate;
pub use resource::{FieldSealer, Resource, Resources, Stored};
pub use revocation::{Revocation, Revocations, Revoked};
pub use roles::Roles;
pub use route::{OAuthClientSource, Placement, Route, RouteAuth, RouteTarget, StaticClient};
pub use secret::Secret;
pub use server_requests::{ServerRequest, ServerRequests};
pub use user::{Email, Group, User, UserState};
