//! What can go wrong.

use mcp_gateway_core::BoxError;
use mcp_gateway_core::contract::StoreError;

/// Why an account was not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The server's entry does not say that people connect accounts.
    #[error("people connect no accounts at this server")]
    NoAccounts,
    /// What the browser brings is not of an attempt of its person and session, or was used, or is too old.
    #[error("this is no attempt of this browser, or it is over")]
    NotYours,
    /// The issuer said no, in a word of its own.
    #[error("the authorization server refuses: {0}")]
    Refused(String),
    /// The server or its issuer does not say what it must, or not safely.
    #[error("{0}")]
    Unfit(String),
    /// The server or its issuer does not answer as it must. Its words are for the log alone.
    #[error("the authorization server does not answer as it must")]
    Foreign(#[source] BoxError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

pub(super) fn unfit<T>(why: impl Into<String>) -> Result<T, AccountError> {
    Err(AccountError::Unfit(why.into()))
}

pub(super) fn foreign(error: impl Into<BoxError>) -> AccountError {
    AccountError::Foreign(error.into())
}
