//! What can be wrong.

use mcp_gateway_core::contract::StoreError;

/// Why something about a person was not done. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// A field is wrong: 422.
    #[error("{field} {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The caller's own roles do not suffice: 403.
    #[error("{0}")]
    Forbidden(&'static str),
    /// There is no such user or group: 404.
    #[error("there is none of this id")]
    Missing,
    /// Somebody of this id or login exists already: 409.
    #[error("there is one of this {0} already")]
    Exists(&'static str),
    /// Nobody could make owners any more: 409.
    #[error("this is the last owner: make another one first")]
    LastOwner,
    /// Nobody could sign in as the user any more: 409.
    #[error("this is the only way to sign in as this user: link another one first")]
    LastIdentity,
    /// The user has an identity of this issuer already: 409.
    #[error("the user signs in with this provider already: unlink that identity first")]
    SameIssuer,
    /// A provider's SCIM client answers for the identity: 409.
    #[error("the provider provisions this user by SCIM: it removes them, or an administrator deletes the user")]
    Provisioned,
    /// The person may not sign in: an administrator has disabled them.
    #[error("the user is disabled")]
    Disabled,
    /// The store failed; a conflict is [`StoreErrorKind::Conflict`](mcp_gateway_core::contract::StoreErrorKind).
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl UserError {
    /// The error of a later step, as [`StoreError::halfway`].
    #[must_use]
    pub fn halfway(self) -> Self {
        match self {
            Self::Store(error) => Self::Store(error.halfway()),
            other => other,
        }
    }
}

pub(crate) fn wrong<T>(field: &'static str, problem: &'static str) -> Result<T, UserError> {
    Err(UserError::Invalid { field, problem })
}
