use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::tree::Tree;
use crate::wire::{self, Kind, Limits, Message, PeekError, rpc};

/// Accepts exactly the messages that the rules name, and reads them as `serde_json` does.
pub fn peek(data: &[u8]) {
    let found = wire::peek(data, &Limits::default());
    if super::confuses_serde(data) {
        return;
    }
    match (&found, serde_json::from_slice::<Tree>(data)) {
        (Ok(_), Err(error)) => panic!("serde_json refuses what was accepted: {error}"),
        (Err(error), Err(_)) => assert!(error.offset() <= data.len()),
        (_, Ok(tree)) if within_limits(&tree, data.len()) => {
            assert_eq!(found.is_ok(), acceptable(&tree), "{found:?}");
            assert!(found.as_ref().map_err(PeekError::code) != Err(rpc::code::PARSE_ERROR), "this is JSON");
        }
        _ => {}
    }
    if let Ok(message) = &found {
        let text = std::str::from_utf8(data).expect("an accepted body is UTF-8");
        agrees(message, &serde_json::from_str(text).expect("an accepted body is an object"));
    }
}

/// Small enough that no limit can be the reason of a refusal.
fn within_limits(tree: &Tree, bytes: usize) -> bool {
    let limits = Limits::default();
    // Each member takes at least four bytes.
    tree.depth() <= usize::from(limits.max_depth) && bytes / 4 <= limits.max_members && bytes <= limits.max_string
}

const TOP: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: &[&str] = &[
    "_meta",
    "arguments",
    "capabilities",
    "clientInfo",
    "name",
    "protocolVersion",
    "ref",
    "requestId",
    "requestState",
    "taskId",
    "uri",
];
const META: &[&str] = &[
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "io.modelcontextprotocol/protocolVersion",
    "progressToken",
    "traceparent",
];
const CLIENT_INFO: &[&str] = &["name", "version"];

/// The rules, stated on a tree.
fn acceptable(top: &Tree) -> bool {
    let Tree::Object(_) = top else { return false };
    let params = top.member("params");
    let meta = params.and_then(|params| params.member("_meta"));
    let client_info = |tree: Option<&'_ Tree>, name| tree.and_then(|tree| clean(tree.member(name)?, CLIENT_INFO).err());
    let error = top.member("error");
    let levels_clean = clean(top, TOP).is_ok()
        && params.is_none_or(|params| matches!(params, Tree::Object(_)) && clean(params, PARAMS).is_ok())
        && meta.is_none_or(|meta| matches!(meta, Tree::Object(_)) && clean(meta, META).is_ok())
        && error.is_none_or(|error| matches!(error, Tree::Object(_)) && clean(error, &["code", "message"]).is_ok())
        && client_info(params, "clientInfo").is_none()
        && client_info(meta, "io.modelcontextprotocol/clientInfo").is_none()
        && params
            .and_then(|params| params.member("ref"))
            .is_none_or(|reference| clean(reference, &["type", "name", "uri"]).is_ok());
    if !levels_clean || top.member("jsonrpc").and_then(Tree::string) != Some("2.0") {
        return false;
    }
    let id = top.member("id");
    let is_id = |id: &Tree| matches!(id, Tree::String(_) | Tree::Number);
    if !id.is_none_or(|id| is_id(id) || matches!(id, Tree::Null)) {
        return false;
    }
    let has_result = top.member("result").is_some();
    match top.member("method") {
        None => params.is_none() && if error.is_some() { !has_result } else { has_result && id.is_some_and(is_id) },
        Some(method) => {
            let Some(method) = method.string() else { return false };
            !has_result && error.is_none() && id.is_none_or(is_id) && has_target(method, params)
        }
    }
}

fn has_target(method: &str, params: Option<&Tree>) -> bool {
    let text = |tree: Option<&Tree>, name| tree.and_then(|tree| tree.member(name)?.string().map(str::to_owned));
    match method {
        "tools/call" | "prompts/get" => text(params, "name").is_some(),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => text(params, "uri").is_some(),
        "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => text(params, "taskId").is_some(),
        "completion/complete" => {
            let reference = params.and_then(|params| params.member("ref"));
            match text(reference, "type").as_deref() {
                Some("ref/prompt") => text(reference, "name").is_some(),
                Some("ref/resource") => text(reference, "uri").is_some(),
                _ => false,
            }
        }
        _ => true,
    }
}

/// Whether an object has no repeated member and no look-alike of a known one. Other values pass.
fn clean(tree: &Tree, known: &[&str]) -> Result<(), ()> {
    let fold = |key: &str| -> String {
        let key = key.replace('\u{17f}', "s").replace(['\u{130}', '\u{131}'], "i");
        key.to_lowercase()
    };
    let look_alike = |key: &String| known.iter().any(|known| key != known && fold(key) == fold(known));
    let members = tree.members().unwrap_or_default();
    if tree.repeats() || members.iter().any(|(key, _)| look_alike(key)) { Err(()) } else { Ok(()) }
}

type Raw = BTreeMap<String, Box<RawValue>>;

fn object(raw: Option<&RawValue>) -> Option<Raw> {
    serde_json::from_str(raw?.get()).ok()
}

/// Every field is what `serde_json` reads at its place.
fn agrees(message: &Message<'_>, top: &Raw) {
    let raw = |of: &Raw, name: &str| of.get(name).map(|value| value.get().to_owned());
    let text = |of: &Raw, name: &str| of.get(name).and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    let scalar =
        |of: &Raw, name: &str| raw(of, name).filter(|raw| raw.starts_with(['"', '-']) || starts_with_digit(raw));
    let bytes = |raw: Option<&[u8]>| raw.map(|raw| String::from_utf8_lossy(raw).into_owned());

    assert_eq!(bytes(message.id.map(wire::Id::raw)), scalar(top, "id"));
    assert_eq!(message.method.as_deref(), text(top, "method").as_deref());
    assert_eq!(message.is_error, top.contains_key("error"));
    assert_eq!(message.kind == Kind::Response, !top.contains_key("method"));
    assert_eq!(message.kind == Kind::Request, top.contains_key("method") && top.contains_key("id"));
    let error = object(top.get("error").map(AsRef::as_ref)).unwrap_or_default();
    assert_eq!(message.error_code, raw(&error, "code").and_then(|code| code.parse().ok()));

    assert_eq!(message.params.is_some(), top.contains_key("params"));
    let Some(params) = &message.params else { return };
    assert_eq!(bytes(Some(params.raw)), raw(top, "params"));
    let of = object(top.get("params").map(AsRef::as_ref)).expect("params is an object");
    assert_eq!(params.name.as_deref(), text(&of, "name").as_deref());
    assert_eq!(params.uri.as_deref(), text(&of, "uri").as_deref());
    assert_eq!(params.task_id.as_deref(), text(&of, "taskId").as_deref());
    assert_eq!(params.protocol_version.as_deref(), text(&of, "protocolVersion").as_deref());
    assert_eq!(bytes(params.arguments), raw(&of, "arguments"));
    assert_eq!(bytes(params.capabilities), raw(&of, "capabilities"));
    assert_eq!(bytes(params.request_state), raw(&of, "requestState"));
    assert_eq!(bytes(params.request_id.map(wire::Id::raw)), scalar(&of, "requestId"));
    let info = object(of.get("clientInfo").map(AsRef::as_ref)).unwrap_or_default();
    assert_eq!(params.client_name.as_deref(), text(&info, "name").as_deref());
    assert_eq!(params.client_version.as_deref(), text(&info, "version").as_deref());

    let reference = object(of.get("ref").map(AsRef::as_ref));
    assert_eq!(params.reference.is_some(), reference.is_some());
    if let (Some(found), Some(of)) = (&params.reference, &reference) {
        assert_eq!(found.kind.as_deref(), text(of, "type").as_deref());
        assert_eq!(found.name.as_deref(), text(of, "name").as_deref());
        assert_eq!(found.uri.as_deref(), text(of, "uri").as_deref());
    }

    assert_eq!(params.meta.is_some(), of.contains_key("_meta"));
    let Some(meta) = &params.meta else { return };
    let of = object(of.get("_meta").map(AsRef::as_ref)).expect("_meta is an object");
    let own = |name: &str| format!("io.modelcontextprotocol/{name}");
    assert_eq!(meta.protocol_version.as_deref(), text(&of, &own("protocolVersion")).as_deref());
    assert_eq!(meta.traceparent.as_deref(), text(&of, "traceparent").as_deref());
    assert_eq!(bytes(meta.progress_token.map(wire::Id::raw)), scalar(&of, "progressToken"));
    assert_eq!(meta.log_level, text(&of, &own("logLevel")).is_some());
    let capabilities = raw(&of, &own("clientCapabilities"));
    assert_eq!(meta.client_capabilities, capabilities.is_some_and(|raw| raw.starts_with('{')));
    let info = object(of.get(&own("clientInfo")).map(AsRef::as_ref)).unwrap_or_default();
    assert_eq!(meta.client_name.as_deref(), text(&info, "name").as_deref());
    assert_eq!(meta.client_version.as_deref(), text(&info, "version").as_deref());
}

fn starts_with_digit(raw: &str) -> bool {
    raw.starts_with(|c: char| c.is_ascii_digit())
}
