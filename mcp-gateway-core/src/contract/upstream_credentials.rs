//! As whom servers are called.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use crate::record::{Route, Subject};
use crate::{BoxError, BoxFuture, MaybeReady};

/// Says with which credential a server is called for somebody.
///
/// Asked by the shim for each request to a server whose entry says `auth`, and by whatever exchanges tokens for a shim
/// elsewhere: the decision depends on the subject and the route alone. Answers from memory in the steady state. Dropping
/// a future leaves nothing half done: a token that is being renewed is kept all the same.
pub trait UpstreamCredentials: Send + Sync + 'static {
    /// The credential for a call.
    fn credential(&self, ask: &CredentialAsk) -> MaybeReady<Result<UpstreamCredential, CredentialError>>;

    /// Another one for a call whose credential the server has refused. Asked again with what it gave, it gives up.
    fn refused(
        &self,
        ask: &CredentialAsk,
        used: &UpstreamCredential,
        refusal: &UpstreamRefusal,
    ) -> BoxFuture<Result<UpstreamCredential, CredentialError>>;
}

/// For whom, and where.
#[derive(Debug, Clone)]
pub struct CredentialAsk {
    /// Whose rights the call has.
    pub subject: Subject,
    /// The server; its [`auth`](Route::auth) says in which way.
    pub route: Arc<Route>,
}

/// What goes into `Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamCredential {
    /// The field's value, marked sensitive.
    pub value: HeaderValue,
    /// What the audit trail calls it; no secret.
    pub id: Arc<str>,
}

impl fmt::Debug for UpstreamCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamCredential").field("id", &self.id).finish_non_exhaustive()
    }
}

/// How a server has refused a credential.
#[derive(Debug, Clone)]
pub struct UpstreamRefusal {
    /// 401 or 403.
    pub status: StatusCode,
    /// `WWW-Authenticate`, the server's own words: at most 4 KiB.
    pub challenge: Option<Box<str>>,
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The person has to visit an address of this gateway first.
    #[error("the person has to connect an account first")]
    Connect {
        /// The address; it holds no secret.
        url: Arc<str>,
        /// Why.
        why: ConnectReason,
    },
    /// Nobody who calls can change it.
    #[error("there is no credential for this call: {0}")]
    Denied(&'static str),
    /// It cannot be had now.
    #[error("the credential cannot be had now")]
    Unavailable(#[source] BoxError),
}

/// Why somebody has to connect an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectReason {
    /// They have not yet.
    NotConnected,
    /// What they agreed to is over.
    Reconnect,
    /// The call needs more than they agreed to.
    MoreScopes,
}
