use serde_json::Value;

use crate::wire::Kind;
use crate::wire::outcome::{MAX_ERROR_MESSAGE, MAX_ID, MAX_METHOD, Outcome, Scanner};

/// Any cut of a message gives the same answers, and for JSON they are those of `serde_json`.
pub fn outcome(data: &[u8]) {
    let whole = scan(&[data]);
    let bytes: Vec<_> = data.chunks(1).collect();
    for chunks in [bytes, super::cut(data)] {
        let parts = scan(&chunks);
        assert_eq!(answers(&parts), answers(&whole));
    }
    if super::confuses_serde(data) || crate::wire::duplicates(data).is_err() {
        return;
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        compare(&whole, &value);
    }
}

fn scan(chunks: &[&[u8]]) -> Scanner {
    let mut scanner = Scanner::new();
    for chunk in chunks {
        scanner.push(chunk);
    }
    scanner
}

type Answers<'a> = (Outcome, Option<Kind>, Option<&'a [u8]>, Option<&'a str>, Option<&'a str>, bool);

fn answers(scanner: &Scanner) -> Answers<'_> {
    let s = scanner;
    (s.outcome(), s.kind(), s.id(), s.method(), s.error_message(), s.is_done())
}

fn compare(scanner: &Scanner, value: &Value) {
    if value.is_array() {
        assert_eq!((scanner.outcome(), scanner.kind()), (Outcome::Batch, None));
        return;
    }
    let Value::Object(members) = value else {
        assert_eq!((scanner.outcome(), scanner.kind()), (Outcome::Opaque, None));
        return;
    };
    let (method, result, error) = (members.get("method"), members.get("result"), members.get("error"));
    let id = members.get("id").filter(|id| !id.is_null());
    let kind = match (method.is_some(), result.is_some() || error.is_some()) {
        (true, false) if id.is_some() => Some(Kind::Request),
        (true, false) => Some(Kind::Notification),
        (false, true) => Some(Kind::Response),
        _ => None,
    };
    assert_eq!(scanner.kind(), kind);

    let outcome = match (method, error, result) {
        (Some(_), _, _) | (None, None, None) => Outcome::Opaque,
        (_, Some(error), _) => Outcome::RpcError { code: error["code"].as_i64().unwrap_or(0) },
        (_, _, Some(result)) => match result["resultType"].as_str() {
            Some("input_required") => Outcome::InputRequired,
            Some("task") => Outcome::Task,
            _ if result["isError"] == true => Outcome::ToolError,
            _ => Outcome::Ok,
        },
    };
    assert_eq!(scanner.outcome(), outcome);

    match scanner.id() {
        Some(raw) => assert_eq!(serde_json::from_slice::<Value>(raw).ok().as_ref(), id),
        None => assert!(id.is_none_or(|id| match id {
            Value::String(_) | Value::Number(_) => id.to_string().len() > MAX_ID / 6,
            _ => true,
        })),
    }
    match scanner.method() {
        Some(found) => assert_eq!(Some(found), method.and_then(Value::as_str)),
        None => assert!(method.and_then(Value::as_str).is_none_or(|method| method.len() > MAX_METHOD)),
    }
    let message = error.and_then(|error| error["message"].as_str());
    assert_eq!(scanner.error_message(), message.map(|m| &m[..m.floor_char_boundary(MAX_ERROR_MESSAGE)]));
}
