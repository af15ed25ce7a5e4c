//! Reads forms strictly.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::response::Response;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use mcp_gateway_core::record::Secret;

use super::notice;

/// A form (`application/x-www-form-urlencoded`), each field at most once.
pub(crate) struct Form(pub(crate) Fields);

/// What was typed. Wiped when it is dropped.
pub(crate) struct Fields(BTreeMap<String, Secret>);

impl Fields {
    /// Reads the body of a form; `None` when it is not one, or a field is there twice.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.insert(name.into_owned(), Secret::new(value)).is_some() {
                return None;
            }
        }
        Some(Self(fields))
    }

    /// A field that may be shown again; empty when it is absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", Secret::expose)
    }

    /// A field that may not.
    pub(super) fn secret(&self, name: &str) -> Secret {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let wrong = |status| *notice(status, "That was no form", "Open the login page again.", None);
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(wrong(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let body = Bytes::from_request(request, state).await.map_err(|error| wrong(error.status()))?;
        Fields::parse(&body).map(Self).ok_or_else(|| wrong(StatusCode::BAD_REQUEST))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_is_there_once() {
        let form = Fields::parse(b"login=ada%40a.example&password=a+b%26c").unwrap();
        assert_eq!(
            (form.text("login"), form.secret("password").expose(), form.text("next")),
            ("ada@a.example", "a b&c", "")
        );
        assert!(Fields::parse(b"login=a&login=b").is_none());
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(form) = Fields::parse(&body) {
                let _ = form.text("login");
            }
        }
    }
}
