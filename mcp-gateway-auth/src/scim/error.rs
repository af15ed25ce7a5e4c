//! What is answered when something is not done (RFC 7644 §3.12).

use mcp_gateway_core::contract::{StoreError, StoreErrorKind};
use serde_json::{Value, json};

use crate::user::UserError;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScimError {
    /// 400, with the type of the error.
    #[error("{1}")]
    Bad(&'static str, &'static str),
    /// 403.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404.
    #[error("there is none of this id")]
    Missing,
    /// 409 `uniqueness`.
    #[error("{0}")]
    Exists(&'static str),
    /// 409 `mutability`: nobody would be left who makes owners.
    #[error("this leaves the gateway without an owner: make another one first")]
    LastOwner,
    /// 412.
    #[error("it was changed meanwhile: read it again")]
    Changed,
    /// 503.
    #[error(transparent)]
    Store(StoreError),
}

impl ScimError {
    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> http::StatusCode {
        match self {
            Self::Bad(..) => http::StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => http::StatusCode::FORBIDDEN,
            Self::Missing => http::StatusCode::NOT_FOUND,
            Self::Exists(_) | Self::LastOwner => http::StatusCode::CONFLICT,
            Self::Changed => http::StatusCode::PRECONDITION_FAILED,
            Self::Store(_) => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Its body; nothing of the inside is in it.
    #[must_use]
    pub fn body(&self) -> Value {
        let detail = match self {
            Self::Store(_) => "The store cannot be reached; try again.".to_owned(),
            error => error.to_string(),
        };
        let mut body = json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"],
            "status": self.status().as_str(),
            "detail": detail,
        });
        match self {
            Self::Bad(kind, _) => body["scimType"] = json!(kind),
            Self::Exists(_) => body["scimType"] = json!("uniqueness"),
            Self::LastOwner => body["scimType"] = json!("mutability"),
            _ => {}
        }
        body
    }
}

impl From<StoreError> for ScimError {
    fn from(error: StoreError) -> Self {
        if error.kind() == StoreErrorKind::Conflict { Self::Changed } else { Self::Store(error) }
    }
}

impl From<UserError> for ScimError {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Store(error) => error.into(),
            UserError::Missing => Self::Missing,
            UserError::LastOwner => Self::LastOwner,
            UserError::Invalid { problem, .. } => Self::Bad("invalidValue", problem),
            _ => Self::Forbidden("the gateway does not permit it"),
        }
    }
}

pub(super) fn bad<T>(kind: &'static str, problem: &'static str) -> Result<T, ScimError> {
    Err(ScimError::Bad(kind, problem))
}
