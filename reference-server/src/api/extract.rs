//! Reads requests strictly: unknown fields and parameters are refused by name.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use mcp_gateway_core::refusal::Refusal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::answer::{Problem, escaped_line, id_of, invalid};

/// A JSON body.
pub(super) struct Document<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers().get(CONTENT_TYPE)) {
            return Err(not_json());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(too_large)?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = error.path().to_string();
            let inner = error.into_inner();
            let text = escaped_line(without_value(&inner.to_string()));
            if inner.is_data() {
                // The field itself is unknown or absent: serde says which, the path ends above it.
                let named = text.split('`').nth(1).filter(|_| field == ".").map(str::to_owned).unwrap_or(field);
                invalid(&escaped_line(&named), format!("The body does not fit: {text}."))
            } else {
                Refusal::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {text}."))
            }
        })?;
        reader.end().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "Something follows the JSON document."))?;
        Ok(Self(value))
    }
}

/// What serde says is wrong, without the value: it may be a password, and the text goes into the trail.
fn without_value(text: &str) -> &str {
    let names_value = text.starts_with("invalid type: ") || text.starts_with("invalid value: ");
    text.split_once(", ").filter(|_| names_value).map_or(text, |(_, expected)| expected)
}

/// No body, or an empty JSON object: for writes that need nothing said.
pub(super) struct Nothing;

impl<S: Send + Sync> FromRequest<S> for Nothing {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = is_json(request.headers().get(CONTENT_TYPE));
        let bytes = Bytes::from_request(request, state).await.map_err(too_large)?;
        match bytes.trim_ascii() {
            b"" => Ok(Self),
            _ if !json => Err(not_json()),
            b"{}" => Ok(Self),
            _ => Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "The body must be empty, or `{}`.").into()),
        }
    }
}

fn is_json(kind: Option<&http::HeaderValue>) -> bool {
    let essence = kind.and_then(|kind| kind.to_str().ok()).and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn not_json() -> Problem {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send JSON, with `Content-Type: application/json`.")
        .with_header(ACCEPT, http::HeaderValue::from_static("application/json"))
        .into()
}

fn too_large(rejection: BytesRejection) -> Problem {
    let status = rejection.status();
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return Refusal::new(status, format!("The body is larger than {} bytes.", super::BODY_LIMIT)).into();
    }
    Refusal::new(StatusCode::BAD_REQUEST, "The body cannot be read.").because(rejection).into()
}

/// Query parameters.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(value) = Query::try_from_uri(&parts.uri).map_err(|error| {
            let text = escaped_line(&error.body_text());
            Refusal::new(StatusCode::BAD_REQUEST, format!("{text}."))
        })?;
        Ok(Self(value))
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParameters {
    /// Items of a page, 1 to 1,000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageParameters {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        page_limit(self.limit)
    }

    /// The id after which the page begins.
    pub(super) fn after(&self) -> Result<Option<String>, Problem> {
        self.cursor.as_deref().map(id_of).transpose()
    }
}

/// Items of a page.
pub(super) fn page_limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        None => Ok(100),
        Some(limit @ 1..=1_000) => Ok(limit),
        Some(_) => Err(Refusal::new(StatusCode::BAD_REQUEST, "`limit` must be 1 to 1000.")
            .with_data(serde_json::json!({ "field": "limit" }))
            .into()),
    }
}
