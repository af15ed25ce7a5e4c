//! Who is calling.

use std::sync::Arc;

use http::request::Parts;

use crate::MaybeReady;
use crate::record::Principal;

/// Turns a request's credential into a [`Principal`].
///
/// Called once a request by the authenticate layer, in the order of the chain. Dropping the future of a slow answer
/// must leave nothing half done.
///
/// `Ok(None)` means "no credential of my kind": the next in the chain is asked. An error ends the chain: a credential
/// that is there but wrong never falls through to the next authenticator or to an anonymous one.
///
/// Closures are authenticators:
///
/// ```
/// use std::sync::Arc;
/// use mcp_gateway_core::contract::{AuthError, Authenticator, Resource};
/// use mcp_gateway_core::record::Principal;
///
/// let internal = |parts: &http::request::Parts, _: &Resource| match parts.headers.get("x-internal-user") {
///     Some(user) => user
///         .to_str()
///         .map(|user| Some(Arc::new(Principal::new("https://login.example", user))))
///         .map_err(|_| AuthError::Invalid("X-Internal-User is not text")),
///     None => Ok(None),
/// };
/// let _: Arc<dyn Authenticator> = Arc::new(internal);
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// Reads the credential from the head of the request.
    ///
    /// `resource` is what the credential must be good for; it comes from configuration and route, never from `Host`.
    fn authenticate(&self, parts: &Parts, resource: &Resource)
    -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>>;

    /// What it takes to say whether the credential is good: by that, failures are counted, and an address that has
    /// failed too often is still let in with what is good.
    ///
    /// Asked only when an address fails or has failed. The usual answer, [`Effort::Work`], is right for whatever asks
    /// somebody or checks a signature.
    fn effort(&self, _parts: &Parts, _resource: &Resource) -> Effort {
        Effort::Work
    }
}

/// What it takes to say whether a credential is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// There is no credential of this kind.
    Nothing,
    /// A look: it was judged before, or shows that it is over. Repeating it is no attempt at anything, so it is neither
    /// counted nor refused for what others do.
    Recall,
    /// A comparison with what is in memory. A wrong one is a guess, and counts; a good one is always let in.
    Comparison,
    /// A signature, or a question to somebody else. A wrong one counts apart; after too many of them, none is looked at.
    Work,
}

impl<F> Authenticator for F
where
    F: Fn(&Parts, &Resource) -> Result<Option<Arc<Principal>>, AuthError> + Send + Sync + 'static,
{
    fn authenticate(
        &self,
        parts: &Parts,
        resource: &Resource,
    ) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        self(parts, resource).into()
    }
}

/// What a credential must be good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resource {
    /// The canonical URL of the protected resource (RFC 8707), for example `https://gw.example/mcp-connect/github`.
    pub url: Arc<str>,
    /// Where its metadata document is (RFC 9728), named in the challenge; `None` when there is none.
    pub metadata: Option<Arc<str>>,
    /// The server's id on the data plane; `None` for the admin API.
    pub server: Option<Arc<str>>,
}

/// Why a credential was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// There is a credential of this kind, but it is not valid: 401 with `invalid_token`. The text is for the
    /// operator's log only.
    #[error("{0}")]
    Invalid(&'static str),
    /// The request is ambiguous or malformed, for example two credentials that name different callers: 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// The credential may be good, but whoever sent the request need not have meant to: a browser sends its cookies with
    /// requests that another site makes it send. 403.
    #[error("{0}")]
    Forged(&'static str),
    /// The credential cannot be judged now: 503.
    #[error("credentials cannot be checked now")]
    Unavailable(#[source] crate::BoxError),
}
