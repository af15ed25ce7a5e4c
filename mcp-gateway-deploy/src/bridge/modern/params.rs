//! `Mcp-Param-*`: headers that mirror annotated arguments of a tool.
//!
//! A server behind stdio never sees headers, so the bridge compares them for it. It knows the annotations from the lists
//! of tools that pass through it; a tool that no list has named yet is not checked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use mcp_gateway_core::wire::Message;
use mcp_gateway_core::wire::mirror::{MAX_NAME, MCP_PARAM_PREFIX};
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Most tools whose annotations are kept.
const MAX_TOOLS: usize = 4096;
/// Deepest nesting of properties that is looked at.
const MAX_DEPTH: usize = 16;
const ANNOTATION: &str = "x-mcp-header";

/// The annotations that are known.
#[derive(Default)]
pub(super) struct Mirrors(Mutex<HashMap<Box<str>, Arc<[Mirror]>>>);

/// An argument, by the names that lead to it, and its header.
struct Mirror {
    header: HeaderName,
    path: Vec<String>,
}

/// The header that does not say what the body says.
pub(super) struct Mismatch(pub(super) HeaderName);

impl Mirrors {
    /// Reads the answer to `tools/list`.
    pub(super) fn learn(&self, answer: &[u8]) {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            result: Tools<'a>,
        }
        #[derive(Deserialize)]
        struct Tools<'a> {
            #[serde(borrow)]
            tools: Vec<Tool<'a>>,
        }
        #[derive(Deserialize)]
        struct Tool<'a> {
            #[serde(borrow)]
            name: Cow<'a, str>,
            #[serde(borrow, rename = "inputSchema")]
            schema: Option<&'a RawValue>,
        }
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(answer) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in answer.result.tools {
            let mut mirrors = Vec::new();
            if let Some(schema) = tool.schema.map(RawValue::get)
                && memmem::find(schema.as_bytes(), ANNOTATION.as_bytes()).is_some()
                && let Ok(schema) = serde_json::from_str(schema)
            {
                collect(&schema, &mut Vec::new(), &mut mirrors);
            }
            if mirrors.is_empty() {
                known.remove(&*tool.name);
            } else if known.len() < MAX_TOOLS || known.contains_key(&*tool.name) {
                known.insert(tool.name.into(), mirrors.into());
            }
        }
    }

    /// Compares the headers of a `tools/call` with its arguments.
    pub(super) fn check(&self, headers: &HeaderMap, message: &Message<'_>) -> Result<(), Mismatch> {
        let Some(tool) = message.target() else { return Ok(()) };
        let mirrors = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(tool).cloned();
        let Some(mirrors) = mirrors else { return Ok(()) };
        let arguments = message.params.as_ref().and_then(|params| params.arguments);
        let arguments: Value = arguments.and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
        for mirror in &*mirrors {
            let argument = mirror.path.iter().try_fold(&arguments, |value, name| value.get(name));
            if !agrees(headers, &mirror.header, argument.unwrap_or(&Value::Null)) {
                return Err(Mismatch(mirror.header.clone()));
            }
        }
        Ok(())
    }
}

/// Finds the annotations that are reachable by `properties` alone.
fn collect(schema: &Value, path: &mut Vec<String>, into: &mut Vec<Mirror>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    if path.len() >= MAX_DEPTH {
        return;
    }
    for (name, property) in properties {
        path.push(name.clone());
        let header = property.get(ANNOTATION).and_then(Value::as_str);
        if let Some(Ok(header)) = header.map(|header| format!("{MCP_PARAM_PREFIX}{header}").parse()) {
            into.push(Mirror { header, path: path.clone() });
        }
        collect(property, path, into);
        path.pop();
    }
}

fn agrees(headers: &HeaderMap, name: &HeaderName, argument: &Value) -> bool {
    let mut values = headers.get_all(name).iter();
    let header = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => match value.to_str().ok().and_then(|text| decode(text.trim())) {
            None => return false,
            some => some,
        },
        _ => return false,
    };
    match (argument, header) {
        (Value::Null, header) => header.is_none(),
        (Value::String(text), Some(header)) => *text == header,
        (Value::Bool(flag), Some(header)) => header == if *flag { "true" } else { "false" },
        (Value::Number(number), Some(header)) => {
            number.to_string() == header
                || header.parse::<f64>().is_ok_and(|header| number.as_f64() == Some(header)) && !is_large(number)
        }
        (Value::String(_) | Value::Bool(_) | Value::Number(_), None) => false,
        // No annotation fits these types, so the server must not have made one.
        (Value::Array(_) | Value::Object(_), _) => true,
    }
}

/// Beyond 2^53 different integers have the same floating point value.
fn is_large(number: &serde_json::Number) -> bool {
    number.as_f64().is_none_or(|number| number.abs() >= 9_007_199_254_740_992.0)
}

/// Resolves the coding of a header value; `None` if it is malformed.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    if value.len() > MAX_NAME {
        return None;
    }
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => Some(Cow::Borrowed(value)),
        Some(coded) => Some(Cow::Owned(String::from_utf8(STANDARD.decode(coded).ok()?).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use mcp_gateway_core::wire::{Limits, peek};
    use serde_json::json;

    use super::*;

    fn check(headers: &[(&str, &str)], arguments: &Value) -> bool {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}}},
        }});
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "t", "inputSchema": schema}]}});
        let mirrors = Mirrors::default();
        mirrors.learn(answer.to_string().as_bytes());
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": arguments}});
        let body = body.to_string();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        mirrors.check(&map, &peek(body.as_bytes(), &Limits::default()).unwrap()).is_ok()
    }

    #[test]
    fn headers_say_what_the_arguments_say() {
        assert!(check(&[], &json!({})));
        assert!(check(&[], &json!({"region": null})));
        assert!(check(&[("mcp-param-region", "eu")], &json!({"region": "eu"})));
        assert!(check(&[("mcp-param-region", "=?base64?w7xi?=")], &json!({"region": "üb"})));
        assert!(check(&[("mcp-param-count", "7.0")], &json!({"deep": {"count": 7}})));
        assert!(check(&[("mcp-param-unknown", "x")], &json!({})));

        assert!(!check(&[], &json!({"region": "eu"})), "missing");
        assert!(!check(&[("mcp-param-region", "us")], &json!({"region": "eu"})), "another value");
        assert!(!check(&[("mcp-param-region", "eu")], &json!({})), "no argument");
        assert!(!check(&[("mcp-param-region", "=?base64?%%?=")], &json!({"region": "eu"})), "no base64");
        assert!(!check(&[("mcp-param-region", "eu"), ("mcp-param-region", "eu")], &json!({"region": "eu"})), "twice");
        let (one, other) = (9_007_199_254_740_993_u64, "9007199254740992");
        assert!(!check(&[("mcp-param-count", other)], &json!({"deep": {"count": one}})), "beyond 2^53");
    }
}
