//! Who is calling: a subject (whose rights) by an actor (with which credential).

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Rate, Roles};
use crate::BoxFuture;

/// A tenant: everything that is kept, counted or cached is keyed by it first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// A tenant of this name, 1 to 255 bytes.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    /// `default`, the one tenant of the reference server.
    fn default() -> Self {
        static DEFAULT: std::sync::OnceLock<TenantId> = std::sync::OnceLock::new();
        DEFAULT.get_or_init(|| Self(Arc::from("default"))).clone()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A person or service: what instances, credentials and grants belong to.
///
/// Never a token or key: those change, the subject stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// Whose.
    pub tenant: TenantId,
    /// Who vouches for the id: an issuer URL, or `local`.
    pub issuer: Arc<str>,
    /// Unique within the issuer.
    pub id: Arc<str>,
}

impl Subject {
    /// The issuer of subjects that this gateway itself knows.
    pub const LOCAL: &'static str = "local";

    /// A subject that this gateway itself knows, in the default tenant.
    pub fn local(id: impl Into<Arc<str>>) -> Self {
        Self { tenant: TenantId::default(), issuer: Arc::from(Self::LOCAL), id: id.into() }
    }
}

/// What kind of credential was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActorKind {
    /// An API key of this gateway.
    ApiKey,
    /// An OAuth client.
    Client,
    /// The bootstrap token.
    Bootstrap,
    /// A person, by a browser's session.
    Session,
    /// Something that the embedding service knows.
    Custom,
}

/// Which credential was presented.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Its kind.
    pub kind: ActorKind,
    /// The key's or client's id, never its secret.
    pub id: Arc<str>,
    /// Its name, for people.
    pub name: Option<Arc<str>>,
}

/// What a credential is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scope {
    /// The data plane.
    #[serde(rename = "mcp")]
    Mcp,
    /// Reading the admin API.
    #[serde(rename = "api:read")]
    ApiRead,
    /// Writing the admin API.
    #[serde(rename = "api:write")]
    ApiWrite,
    /// The registry API.
    #[serde(rename = "registry")]
    Registry,
}

impl Scope {
    /// As it is written in tokens and challenges.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::ApiRead => "api:read",
            Self::ApiWrite => "api:write",
            Self::Registry => "registry",
        }
    }
}

/// Which servers a credential is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerList {
    /// All that the subject may use.
    All,
    /// These ids only.
    Only(Arc<[Box<str>]>),
}

impl ServerList {
    /// Whether the list holds this server.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.iter().any(|one| &**one == id),
        }
    }
}

/// What a credential depends on beside itself: when one of these ends, so does everything that it opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependence {
    /// When they were looked at last, by whoever made the credential.
    pub epoch: Timestamp,
    /// The ids of the [`Revocation`](super::Revocation)s that would end it.
    pub on: Box<[Box<str>]>,
}

/// Who is calling.
///
/// Made by an [`Authenticator`](crate::contract::Authenticator); set once per request and never replaced. Shared
/// behind an `Arc`, so that a warm call allocates nothing for it.
///
/// ```
/// use mcp_gateway_core::record::{Principal, Scope};
///
/// let principal = Principal::new("https://login.example", "ada").with_scopes([Scope::Mcp]);
/// assert!(principal.has(Scope::Mcp));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Principal {
    /// Whose rights.
    pub subject: Subject,
    /// With which credential.
    pub actor: Actor,
    /// What the credential is good for.
    pub scopes: Arc<[Scope]>,
    /// Which servers it is good for.
    pub servers: ServerList,
    /// The subject's roles, with those that they include.
    pub roles: Roles,
    /// When the credential ends; streams opened with it end then.
    pub expires_at: Option<Timestamp>,
    /// What may end it earlier; `None` for credentials that are looked up themselves on every call.
    pub dependence: Option<Arc<Dependence>>,
    /// When the person last proved who they are, where the credential is a session.
    pub authenticated_at: Option<Timestamp>,
    /// How many calls may be made with the credential, where that was said when it was made.
    pub rate: Option<Rate>,
    /// Says when a credential is over of whose end nothing here would hear otherwise.
    pub watch: Option<Watch>,
}

/// A [`CredentialWatch`] that is shared.
#[derive(Clone)]
pub struct Watch(Arc<dyn CredentialWatch>);

/// Looks after a credential while something is open that was opened with it.
pub trait CredentialWatch: Send + Sync + 'static {
    /// Ready when the credential is good no longer. Called once for whatever is open; dropping the future must leave
    /// nothing half done.
    fn over(&self) -> BoxFuture<()>;
}

impl Watch {
    /// Shares one.
    pub fn new(watch: impl CredentialWatch) -> Self {
        Self(Arc::new(watch))
    }

    /// See [`CredentialWatch::over`].
    pub fn over(&self) -> BoxFuture<()> {
        self.0.over()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(..)")
    }
}

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Watch {}

impl Principal {
    /// A subject of the default tenant, with scope `mcp` on all servers, no role, and an actor of its own name.
    pub fn new(issuer: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Self {
        let id = id.into();
        Self {
            subject: Subject { tenant: TenantId::default(), issuer: issuer.into(), id: id.clone() },
            actor: Actor { kind: ActorKind::Custom, id, name: None },
            scopes: Arc::from([Scope::Mcp]),
            servers: ServerList::All,
            roles: Roles::NONE,
            expires_at: None,
            dependence: None,
            authenticated_at: None,
            rate: None,
            watch: None,
        }
    }

    /// The same, looked after while something is open.
    #[must_use]
    pub fn with_watch(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The same with another tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: TenantId) -> Self {
        self.subject.tenant = tenant;
        self
    }

    /// The same with this actor.
    #[must_use]
    pub fn with_actor(mut self, actor: Actor) -> Self {
        self.actor = actor;
        self
    }

    /// The same with these scopes instead.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        self.scopes = scopes.into_iter().collect();
        self
    }

    /// The same, good for these servers only.
    #[must_use]
    pub fn with_servers(mut self, servers: ServerList) -> Self {
        self.servers = servers;
        self
    }

    /// The same with these roles.
    #[must_use]
    pub fn with_roles(mut self, roles: Roles) -> Self {
        self.roles = roles;
        self
    }

    /// The same, ending at this time.
    #[must_use]
    pub fn with_expiry(mut self, at: Option<Timestamp>) -> Self {
        self.expires_at = at;
        self
    }

    /// The same, ending with any of these.
    #[must_use]
    pub fn with_dependence(mut self, dependence: Dependence) -> Self {
        self.dependence = Some(Arc::new(dependence));
        self
    }

    /// The same, having proved who they are at this time.
    #[must_use]
    pub fn with_authentication(mut self, at: Timestamp) -> Self {
        self.authenticated_at = Some(at);
        self
    }

    /// The same, good for so many calls in a time.
    #[must_use]
    pub fn with_rate(mut self, rate: Option<Rate>) -> Self {
        self.rate = rate;
        self
    }

    /// Whether the credential has this scope.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}
