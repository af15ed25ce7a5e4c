//! Compares answers with the OpenAPI document.

use std::sync::OnceLock;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::document::document;

pub(super) fn json_document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::to_value(document()).unwrap())
}

/// Fails when a value does not fit a schema of the document.
pub(super) fn check(schema: &Value, value: &Value, what: &str) {
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": json_document()["components"],
    });
    let validator = jsonschema::validator_for(&whole).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:?}\n{value:#}");
}

/// Fails when an answer is not one that the document describes. Paths that are not in it have none.
pub(super) fn check_answer(method: &Method, path: &str, status: StatusCode, kind: Option<&str>, body: &Value) {
    let document = json_document();
    let described = document["paths"].as_object().unwrap().iter().find(|(template, _)| fits(template, path));
    let Some(operation) = described.and_then(|(_, item)| item.get(method.as_str().to_ascii_lowercase())) else {
        return;
    };
    if status == StatusCode::NOT_MODIFIED {
        return;
    }
    let what = format!("{method} {path} {status}");
    let responses = &operation["responses"];
    let response = match responses.get(status.as_str()) {
        Some(response) => response,
        None if status.is_client_error() || status.is_server_error() => &responses["default"],
        None => panic!("{what} is not described"),
    };
    match kind {
        Some("text/event-stream") => {
            for data in body.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("data: ")) {
                check(&response["content"]["text/event-stream"]["schema"], &serde_json::from_str(data).unwrap(), &what);
            }
        }
        Some(kind) => {
            let schema = &response["content"][kind]["schema"];
            assert!(schema.is_object(), "{what}: {kind} is not described");
            check(schema, body, &what);
        }
        None => assert!(response.get("content").is_none(), "{what}: a body is described, and none came"),
    }
}

fn fits(template: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    template.split('/').all(|part| parts.next().is_some_and(|one| part.starts_with('{') || part == one))
        && parts.next().is_none()
}
