//! The headers that mirror arguments (`Mcp-Param-*`), when filters have seen a message, and may have changed an argument.
//!
//! Only the server's schema says which argument a header mirrors. What stood in the message before tells nearly as well: a
//! header belongs to the value that it is equal to. One that is equal to none says what no filter has seen.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::request::coded;
use crate::wire::mirror::MCP_PARAM_PREFIX;
use crate::wire::{Role, ScalarKind, scalars};

/// Lets the headers follow the message. One that may belong to values which now differ, or to one that is gone, is left
/// out: the server misses it, rather than to read there what a filter took away.
pub(super) fn follow(headers: &mut HeaderMap, before: &[u8], after: &[u8]) {
    let mirrors: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(MCP_PARAM_PREFIX)).cloned().collect();
    if mirrors.is_empty() {
        return;
    }
    let (before, after) = (values(before), values(after));
    for name in mirrors {
        let Some(value) = headers.get(&name).and_then(decoded) else {
            headers.remove(&name);
            continue;
        };
        let places = || before.iter().enumerate().filter(|(_, one)| is_same(one, &value)).map(|(place, _)| place);
        let Some(first) = places().next() else {
            headers.remove(name);
            continue;
        };
        let now = after.get(first).filter(|_| before.len() == after.len());
        let now = now.filter(|now| places().all(|place| after.get(place) == Some(*now)));
        match now.and_then(|now| coded(now)) {
            Some(_) if after.get(first) == before.get(first) => {}
            Some(now) => {
                headers.insert(name, now);
            }
            None if before.len() != after.len() && after.contains(&value) => {}
            None => {
                headers.remove(name);
            }
        }
    }
}

/// Whether a header says what a value says, numbers in any spelling.
fn is_same(value: &str, header: &str) -> bool {
    // Beyond 2^53 several whole numbers are one of these.
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.abs() < 9_007_199_254_740_992.0);
    value == header || number(value).is_some_and(|value| number(header) == Some(value))
}

/// Every string, number and word of a message, in their order.
fn values(body: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    // What cannot be read has none, and is refused elsewhere.
    let read = scalars(body, |scalar| {
        // An id is no argument.
        if scalar.kind != ScalarKind::Name && !matches!(scalar.role, Role::Identity | Role::State) {
            values.push(scalar.text().into_owned());
        }
    });
    if read.is_ok() { values } else { Vec::new() }
}

fn decoded(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(coded) => String::from_utf8(STANDARD.decode(coded).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(header: &str, before: &str, after: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("mcp-param-region", header.parse().unwrap());
        headers.insert("x-other", header.parse().unwrap());
        follow(&mut headers, before.as_bytes(), after.as_bytes());
        assert_eq!(headers["x-other"], header);
        headers.get("mcp-param-region").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_header_says_what_its_argument_says_now() {
        let before = r#"{"a":"eu","b":"x","n":7}"#;
        for (header, after, expected) in [
            ("eu", r#"{"a":"us","b":"x","n":7}"#, Some("us")),
            ("eu", r#"{"a":"eu","b":"y","n":7}"#, Some("eu")),
            ("eu", r#"{"a":"ü","b":"x","n":7}"#, Some("=?base64?w7w=?=")),
            ("=?base64?ZXU=?=", r#"{"a":"us","b":"x","n":7}"#, Some("us")),
            ("7", r#"{"a":"eu","b":"x","n":8}"#, Some("8")),
            ("7.0", r#"{"a":"us","b":"x","n":7}"#, Some("7.0")),
            ("7.0", r#"{"a":"us","b":"x","n":8}"#, Some("8")),
            // No filter has seen it.
            ("asia", r#"{"a":"us","b":"x","n":7}"#, None),
            ("asia", before, None),
            ("eu", before, Some("eu")),
            // Another shape: nobody knows what belongs to what.
            ("eu", r#"{"b":"x"}"#, None),
            ("eu", r#"{"b":"x","z":"eu"}"#, Some("eu")),
            ("=?base64?*?=", r#"{"a":"us","b":"x","n":7}"#, None),
        ] {
            assert_eq!(followed(header, before, after).as_deref(), expected, "{header} {after}");
        }
        let twice = r#"{"a":"eu","b":"eu"}"#;
        assert_eq!(followed("eu", twice, r#"{"a":"us","b":"us"}"#).as_deref(), Some("us"));
        assert_eq!(followed("eu", twice, r#"{"a":"us","b":"eu"}"#), None, "it may be of either");
    }
}
