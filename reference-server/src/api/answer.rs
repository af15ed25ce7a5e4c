//! Answers: documents with tags, pages, problems.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp_gateway_auth::api_key::ApiKeyError;
use mcp_gateway_auth::user::UserError;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Revision, RuntimeError, RuntimeErrorKind, StoreError, StoreErrorKind};
use mcp_gateway_core::refusal::Refusal;
use mcp_gateway_core::wire::untrusted::Untrusted;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::app::App;

/// How long an answer waits until this process has applied what it wrote.
pub(super) const APPLY: Duration = Duration::from_secs(5);

/// An error on its way out. Rendered with the request's context where that is known, by [`as_problem`].
#[derive(Debug)]
pub(super) struct Problem(Refusal);

#[derive(Clone)]
struct Pending(Arc<Mutex<Option<Refusal>>>);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let refusal = match error.kind() {
            StoreErrorKind::Conflict => {
                Refusal::new(StatusCode::PRECONDITION_FAILED, "It was changed meanwhile: read it again.")
            }
            StoreErrorKind::TooLarge => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "It is larger than can be kept."),
            StoreErrorKind::Unavailable => {
                let text = "The store cannot be reached, and nothing was changed. Try again once `/readyz` says that its \
                            `store` is ok.";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(5)
            }
            StoreErrorKind::Unknown => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The connection to the store was lost meanwhile. Once `/readyz` says that its `store` is ok, read again \
                 whether it was done.",
            )
            .retry_after(5),
            _ => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "The store's answer makes no sense here."),
        };
        Self(refusal.because(error))
    }
}

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::Store(error) => error.into(),
            ApiKeyError::Invalid { field, problem } => {
                let field = if field == "expiresAt" { "expires_at" } else { field };
                invalid(field, format!("`{field}` {problem}.")).into()
            }
            error => Refusal::new(StatusCode::FORBIDDEN, format!("{error}.")).into(),
        }
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        let status = match error {
            UserError::Store(error) => return error.into(),
            UserError::Invalid { field, problem } => return invalid(field, format!("`{field}` {problem}.")).into(),
            UserError::Missing => StatusCode::NOT_FOUND,
            UserError::Exists(_)
            | UserError::LastOwner
            | UserError::LastIdentity
            | UserError::SameIssuer
            | UserError::Provisioned => StatusCode::CONFLICT,
            _ => StatusCode::FORBIDDEN,
        };
        let text = error.to_string();
        let first = text.chars().next().map(|first| first.to_ascii_uppercase());
        Refusal::new(status, format!("{}{}.", first.unwrap_or_default(), text.get(1..).unwrap_or_default())).into()
    }
}

impl From<RuntimeError> for Problem {
    fn from(error: RuntimeError) -> Self {
        let (status, retry) = match error.kind {
            RuntimeErrorKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, false),
            RuntimeErrorKind::Exhausted | RuntimeErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, true),
            RuntimeErrorKind::Unsupported => (StatusCode::CONFLICT, false),
            _ => (StatusCode::BAD_GATEWAY, false),
        };
        let mut refusal = Refusal::new(status, error.public);
        if let Some(detail) = &error.detail {
            refusal = refusal.with_data(serde_json::json!({ "detail": escaped(detail) }));
        }
        Self(if retry { refusal.retry_after(5) } else { refusal })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.status();
        response.extensions_mut().insert(Pending(Arc::new(Mutex::new(Some(self.0)))));
        response
    }
}

/// 422 that names the field.
pub(super) fn invalid(field: &str, problem: String) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, problem).with_data(serde_json::json!({ "field": field }))
}

/// The same response, an error as a problem document (RFC 9457) whoever made it.
pub(super) fn as_problem(mut response: Response, cx: Option<&McpContext>) -> Response {
    if let Some(Pending(pending)) = response.extensions_mut().remove()
        && let Some(refusal) = pending.lock().unwrap_or_else(PoisonError::into_inner).take()
    {
        return keeping_headers(refusal.into_problem(cx), response.headers());
    }
    let status = response.status();
    let problem = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    if problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let noted = cx.and_then(McpContext::refusal).filter(|refusal| refusal.status == status.as_u16());
    let text = noted.map_or_else(
        || status.canonical_reason().unwrap_or("The request failed.").to_owned(),
        |refusal| refusal.message.to_string(),
    );
    keeping_headers(Refusal::new(status, text).into_problem(cx), response.headers())
}

/// Those that a status means nothing without.
fn keeping_headers(mut problem: Response, old: &HeaderMap) -> Response {
    for name in [ALLOW, WWW_AUTHENTICATE, RETRY_AFTER] {
        for value in old.get_all(&name) {
            problem.headers_mut().append(&name, value.clone());
        }
    }
    problem
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "There is no API key of this id.",
    "instance": "urn:ulid:01JD4Z0000000000000000000Z"
}))]
pub(super) struct ProblemDetails {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[schema(rename = "type")]
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong and what to do.
    detail: String,
    /// The request, as in logs and audit trail: `urn:ulid:` and its id.
    instance: Option<String>,
    /// More for programs: `field` names the field that is wrong.
    #[schema(value_type = Option<Object>)]
    data: Option<serde_json::Value>,
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items, in order.
    pub(super) items: Vec<T>,
    /// Where the next page begins, to be sent back as `cursor`; `null` when this was the last.
    pub(super) next_cursor: Option<String>,
}

/// The strong tag of a revision.
pub(super) fn tag(revision: Revision) -> HeaderValue {
    // Quoted digits are a header value.
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

/// A document with its tag: 304 when the caller has it already (RFC 9110 §13.1.2).
pub(super) fn tagged<T: Serialize>(
    headers: &HeaderMap,
    revision: Option<Revision>,
    value: &T,
) -> Result<Response, Problem> {
    let body = to_json(value)?;
    let tag = match revision {
        Some(revision) => tag(revision),
        None => {
            let hash = Sha256::digest(&body);
            let text = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..12]));
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
        }
    };
    if matches(headers, IF_NONE_MATCH, &tag, true) == Some(true) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(([(ETAG, tag), (CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

/// A document without a tag.
pub(super) fn plain<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Problem> {
    let body = to_json(value)?;
    Ok((status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "The answer cannot be written.").because(error).into()
    })
}

/// 412 when the caller demands another version (RFC 9110 §13.1.1).
pub(super) fn demand(headers: &HeaderMap, revision: Revision) -> Result<(), Problem> {
    if matches(headers, IF_MATCH, &tag(revision), false) == Some(false) {
        let text = "It is no longer the version that If-Match names: read it again.";
        return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, text).into());
    }
    Ok(())
}

/// The revision that the caller demands (RFC 9110 §13.1.1): one strong tag, or `*` for whatever there is.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Revision>, Problem> {
    let mut fields = headers.get_all(IF_MATCH).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let text = field.to_str().unwrap_or_default().trim();
    if text == "*" && fields.next().is_none() {
        return Ok(None);
    }
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(revision) if fields.next().is_none() => Ok(Some(Revision(revision))),
        _ => {
            let text = "It is no longer the version that If-Match names: read it again.";
            Err(Refusal::new(StatusCode::PRECONDITION_FAILED, text).into())
        }
    }
}

/// Waits until the local snapshot has applied a revision, and says whether it has.
pub(super) async fn applied(app: &App, revision: Revision) -> bool {
    tokio::time::timeout(APPLY, app.snapshots.wait_for(revision)).await.is_ok()
}

/// Whether a condition names the tag; `None` without the condition.
fn matches(headers: &HeaderMap, condition: http::HeaderName, tag: &HeaderValue, weak: bool) -> Option<bool> {
    let mut fields = headers.get_all(condition).iter().peekable();
    fields.peek()?;
    let found = fields.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(',')).any(|one| {
        let one = one.trim();
        let one = if weak { one.strip_prefix("W/").unwrap_or(one) } else { one };
        one == "*" || one.as_bytes() == tag.as_bytes()
    });
    Some(found)
}

/// An id as a cursor.
pub(super) fn cursor_of(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

/// The id that a cursor holds.
pub(super) fn id_of(cursor: &str) -> Result<String, Problem> {
    let id = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    id.filter(|id| (1..=255).contains(&id.len()) && !id.contains('\0')).ok_or_else(bad_cursor)
}

/// 400: a cursor is used as it was received or not at all.
pub(super) fn bad_cursor() -> Problem {
    Refusal::new(StatusCode::BAD_REQUEST, "`cursor` is not one that this list handed out.")
        .with_data(serde_json::json!({ "field": "cursor" }))
        .into()
}

/// Foreign text of any length, each line escaped, so that it forges nothing where it is shown.
pub(super) fn escaped(text: &str) -> String {
    text.lines().map(escaped_line).collect::<Vec<_>>().join("\n")
}

/// One line of foreign text of any length, escaped.
pub(crate) fn escaped_line(line: &str) -> String {
    let mut rest = line;
    let mut out = String::with_capacity(line.len());
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(Untrusted::LONGEST));
        out.push_str(&Untrusted(piece).to_string());
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_foreign_text_is_whole_and_escaped() {
        let text = format!("{}é\u{202e}\x1b[31m", "a".repeat(255));
        assert_eq!(escaped_line(&text), format!("{}é\\u{{202e}}\\u{{1b}}[31m", "a".repeat(255)));
        assert_eq!(escaped("a\r\nb\u{85}"), "a\nb\\u{85}");
    }

    #[test]
    fn conditions_compare_tags() {
        let header = |name: http::HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        let revision = Revision(7);
        assert!(demand(&HeaderMap::new(), revision).is_ok());
        for good in ["\"7\"", "*", "\"1\", \"7\""] {
            assert!(demand(&header(IF_MATCH, good), revision).is_ok(), "{good}");
        }
        for bad in ["\"8\"", "W/\"7\"", "7", ""] {
            assert!(demand(&header(IF_MATCH, bad), revision).is_err(), "{bad}");
        }
        let answer = tagged(&header(IF_NONE_MATCH, "W/\"7\""), Some(revision), &1).unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn one_version_may_be_demanded() {
        let header = |value: &'static str| HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(value))]);
        assert_eq!(expected(&HeaderMap::new()).unwrap(), None);
        assert_eq!(expected(&header("*")).unwrap(), None);
        assert_eq!(expected(&header("\"7\"")).unwrap(), Some(Revision(7)));
        for bad in ["7", "W/\"7\"", "\"7\", \"8\"", "\"x\"", ""] {
            assert!(expected(&header(bad)).is_err(), "{bad}");
        }
        let mut twice = header("\"7\"");
        twice.append(IF_MATCH, HeaderValue::from_static("\"8\""));
        assert!(expected(&twice).is_err());
    }

    #[test]
    fn cursors_come_back() {
        assert_eq!(id_of(&cursor_of("every-thing")).unwrap(), "every-thing");
        for bad in ["", "!", "AA", "_w", &cursor_of(&"x".repeat(256))] {
            assert!(id_of(bad).is_err(), "{bad}");
        }
    }
}
