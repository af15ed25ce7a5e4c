//! What can go wrong on the way through a provider.

use std::time::Duration;

use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::StoreError;

/// Why nobody is signed in or out. The text is for the operator: to people, a page says what they can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OidcError {
    /// There is no provider of this name.
    #[error("there is no such identity provider")]
    NoProvider,
    /// The browser did not begin this login, has already ended it, or took too long.
    #[error("the login was not begun by this browser, or has ended")]
    State,
    /// The provider says no; its code (RFC 6749 §4.1.2.1), shortened to what is harmless.
    #[error("the identity provider refuses: {0}")]
    Denied(String),
    /// What came from the provider, or from somebody in its name, does not hold.
    #[error("{0}")]
    Invalid(&'static str),
    /// The person is known, and may not sign in here.
    #[error("{0}")]
    NotAllowed(&'static str),
    /// Too many logins were begun from one address.
    #[error("too many logins were begun from this address")]
    Throttled {
        /// When there may be another one.
        retry_after: Duration,
    },
    /// The provider does not answer, or not as it must.
    #[error("the identity provider does not answer as it must: {0}")]
    Provider(BoxError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What does not hold.
pub(super) fn invalid<T>(problem: &'static str) -> Result<T, OidcError> {
    Err(OidcError::Invalid(problem))
}
