//! Tokens of issuers that are not this gateway.

mod claims;
mod introspect;
mod keys;
mod metadata;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::KeyRing;
use mcp_gateway_core::record::{Scope, ServerList, Subject, TenantId};

pub(crate) use self::claims::ForeignClaims;
pub use self::introspect::Introspection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::introspect::is_active;
pub use self::keys::{RemoteKeys, RemoteKeysOptions};
use super::ACCESS_TOKEN;
use super::jws::Header;

/// The `typ` of a token that says nothing of what it is for.
const UNTYPED: &str = "JWT";

/// An issuer whose tokens are accepted beside our own, and what for.
///
/// A token is good for a server only by an audience that is named here: the issuer's own name for the gateway, or the
/// canonical URL of the server itself. Roles never come from the token.
#[derive(Clone)]
pub struct TrustedIssuer {
    pub(crate) issuer: Arc<str>,
    pub(crate) keys: Option<Arc<dyn KeyRing>>,
    pub(crate) audiences: Vec<(String, ServerList)>,
    pub(crate) typ: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) tenant: TenantId,
    pub(crate) people: Option<Arc<dyn SubjectMap>>,
}

/// Knows who the subjects of other issuers are here.
///
/// Asked once for each token that is new, and again after 5 minutes. What the person may do is not its business: that
/// is looked up on every call. Dropping the future changes nothing.
#[async_trait]
pub trait SubjectMap: Send + Sync + 'static {
    /// The subject here; `None` for somebody who is nobody here.
    async fn subject(&self, foreign: &Subject) -> Result<Option<Subject>, BoxError>;
}

impl TrustedIssuer {
    /// How long it is believed who a subject is here.
    pub const REMEMBER: Duration = Duration::from_secs(300);

    /// Accepts signed tokens of this issuer, checked with these keys, and of no audience yet but a server's own URL.
    pub fn new(issuer: impl Into<Arc<str>>, keys: Arc<dyn KeyRing>) -> Self {
        Self { keys: Some(keys), ..Self::opaque(issuer) }
    }

    /// An issuer of opaque tokens, which only an [`Introspection`] can read.
    pub fn opaque(issuer: impl Into<Arc<str>>) -> Self {
        Self {
            issuer: issuer.into(),
            keys: None,
            audiences: Vec::new(),
            typ: ACCESS_TOKEN.to_owned(),
            scopes: vec![Scope::Mcp],
            tenant: TenantId::default(),
            people: None,
        }
    }

    /// The same, taking this audience of the issuer's for these servers.
    #[must_use]
    pub fn with_audience(mut self, audience: impl Into<String>, servers: ServerList) -> Self {
        self.audiences.push((audience.into(), servers));
        self
    }

    /// The same with another `typ` in the header, for issuers that do not follow RFC 9068. With `JWT` a token may have that
    /// type, none, or `at+jwt`; what its claims show to be an ID token, a logout token or a refresh token is refused.
    #[must_use]
    pub fn with_typ(mut self, typ: impl Into<String>) -> Self {
        self.typ = typ.into();
        self
    }

    /// Whether this is the head and these are the claims of an access token of this issuer.
    pub(crate) fn is_access_token(&self, header: &Header, claims: &ForeignClaims) -> bool {
        if header.is(&self.typ) && !self.typ.eq_ignore_ascii_case(UNTYPED) {
            return true;
        }
        let untyped = header.typ.is_none() || header.is(UNTYPED);
        let explicit = header.is(ACCESS_TOKEN);
        self.typ.eq_ignore_ascii_case(UNTYPED) && (explicit || untyped && !claims.is_something_else())
    }

    /// The same, whose tokens are good for these scopes; `mcp` alone by default.
    #[must_use]
    pub fn with_scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        self.scopes = scopes.into_iter().collect();
        self
    }

    /// The same, whose subjects are looked up here: their tokens have the rights that the person has here, and those of
    /// nobody are refused. Without it they are subjects of their own, without any role.
    #[must_use]
    pub fn with_people(mut self, people: Arc<dyn SubjectMap>) -> Self {
        self.people = Some(people);
        self
    }

    /// The same, whose subjects are of this tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: TenantId) -> Self {
        self.tenant = tenant;
        self
    }
}

impl std::fmt::Debug for TrustedIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustedIssuer")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("typ", &self.typ)
            .finish_non_exhaustive()
    }
}
