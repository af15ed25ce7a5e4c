use http::HeaderValue;

use super::*;
use crate::wire::version::ProtocolVersion;
use crate::wire::{Limits, peek};

const MODERN: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn verdict(pairs: &[(&str, &str)], body: &str) -> Result<(), MirrorError> {
    check(&headers(pairs), &peek(body.as_bytes(), &Limits::default()).unwrap())
}

fn request(method: &str, params: &str, version: &str) -> String {
    let meta = format!(r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{meta}}}}}"#)
}

fn call(name: &str) -> String {
    request("tools/call", &format!(r#""name":"{name}","#), "2026-07-28")
}

#[test]
fn agreement_passes() {
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")], &call("echo")), Ok(()));
    assert_eq!(verdict(&[MODERN, ("MCP-METHOD", "tools/list")], &request("tools/list", "", "2026-07-28")), Ok(()));
    assert_eq!(verdict(&[MODERN, ("mcp-method", " \ttools/call "), ("mcp-name", "  echo\t")], &call("echo")), Ok(()));
    let read = request("resources/read", r#""uri":"test://x","#, "2026-07-28");
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "resources/read"), ("Mcp-Name", "test://x")], &read), Ok(()));
}

#[test]
fn disagreement_is_a_header_mismatch() {
    let name = ("Mcp-Name", "echo");
    for (pairs, header) in [
        (vec![MODERN, name], MirrorError::Missing(MCP_METHOD)),
        (vec![MODERN, name, ("Mcp-Method", "tools/list")], MirrorError::Mismatch(MCP_METHOD)),
        (vec![MODERN, name, ("Mcp-Method", "TOOLS/CALL")], MirrorError::Mismatch(MCP_METHOD)),
        (vec![MODERN, name, ("Mcp-Method", "")], MirrorError::Mismatch(MCP_METHOD)),
        (vec![MODERN, ("Mcp-Method", "tools/call")], MirrorError::Missing(MCP_NAME)),
        (vec![MODERN, ("Mcp-Method", "tools/call"), ("Mcp-Name", "Echo")], MirrorError::Mismatch(MCP_NAME)),
        (vec![MODERN, ("Mcp-Method", "tools/call"), ("Mcp-Name", "")], MirrorError::Mismatch(MCP_NAME)),
    ] {
        let error = verdict(&pairs, &call("echo")).unwrap_err();
        assert_eq!(error, header);
        assert_eq!(error.code(), -32020);
        assert!(error.data().unwrap()["header"].as_str().unwrap().starts_with("Mcp-"));
    }
}

#[test]
fn names_outside_plain_ascii_come_encoded() {
    let verdict = |value: &str, name: &str| {
        verdict(&[MODERN, ("Mcp-Method", "tools/call"), ("Mcp-Name", value)], &call(name)).map_err(|e| e.code())
    };
    assert_eq!(verdict("=?base64?w6l0w6k=?=", "été"), Ok(()));
    assert_eq!(verdict("=?base64?ZWNobw==?=", "echo"), Ok(()));
    assert_eq!(verdict("=?base64??=", "x"), Err(-32020));
    for bad in
        ["=?base64?ZWNobw?=", "=?base64?ZWNobw=?=", "=?base64?ZW Nobw==?=", "=?base64?/w==?=", "=?base64?ZWNobx==?="]
    {
        assert_eq!(verdict(bad, "echo"), Err(-32020), "{bad}");
    }
    // The marks are case-sensitive, and half a mark is plain text.
    assert_eq!(verdict("=?BASE64?ZWNobw==?=", "=?BASE64?ZWNobw==?="), Ok(()));
    assert_eq!(verdict("=?base64?ZWNobw==", "=?base64?ZWNobw=="), Ok(()));
    assert_eq!(verdict("=?base64?=", "=?base64?="), Ok(()));
}

#[test]
fn a_long_name_is_refused_before_it_is_decoded() {
    let name = "a".repeat(MAX_NAME);
    assert_eq!(decoded_name(&headers(&[("mcp-name", &name)])), Ok(Some(name.as_str().into())));
    let longer = format!("{name}a");
    assert_eq!(decoded_name(&headers(&[("mcp-name", &longer)])), Err(MirrorError::Malformed(MCP_NAME)));
}

#[test]
fn a_name_outside_ascii_is_refused() {
    let mut map = headers(&[MODERN, ("Mcp-Method", "tools/call")]);
    map.insert(MCP_NAME, HeaderValue::from_bytes("é".as_bytes()).unwrap());
    let body = call("é");
    let message = peek(body.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(check(&map, &message).unwrap_err().code(), -32020);
}

#[test]
fn two_values_of_one_header_are_refused_in_every_era() {
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for version in ["2025-06-18", "2026-07-28", "v999.0.0"] {
        let pairs = [("MCP-Protocol-Version", version), ("Mcp-Method", "tools/list"), ("Mcp-Method", "tools/list")];
        let error = verdict(&pairs, list).unwrap_err();
        assert!(matches!(&error, MirrorError::Header(HeaderError::Repeated(name)) if *name == MCP_METHOD));
        assert_eq!(error.code(), -32020);
    }
}

#[test]
fn a_modern_request_cannot_hide_behind_a_legacy_header() {
    let version = MirrorError::Mismatch(MCP_PROTOCOL_VERSION);
    for claimed in ["2025-11-25", "2025-03-26", "v1", "2026-07-29"] {
        let pairs = [("MCP-Protocol-Version", claimed), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];
        assert_eq!(verdict(&pairs, &call("echo")), Err(version.clone()), "{claimed}");
    }
    assert_eq!(verdict(&[], &call("echo")), Err(MirrorError::Missing(MCP_PROTOCOL_VERSION)));
}

#[test]
fn a_modern_header_needs_a_modern_body() {
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{"_meta":{}}}"#;
    let error = verdict(&[MODERN, ("Mcp-Method", "server/discover")], bare).unwrap_err();
    assert_eq!((error.code(), error.data()), (-32602, None));
    let malformed = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":7}}}"#;
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "tools/list")], malformed), Err(MirrorError::NoMetaVersion));
}

#[test]
fn an_unknown_revision_is_left_to_the_server() {
    let unknown = ("MCP-Protocol-Version", "v999.0.0");
    assert_eq!(verdict(&[unknown], &request("server/discover", "", "v999.0.0")), Ok(()));
    assert_eq!(verdict(&[unknown, ("Mcp-Method", "x")], r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#), Ok(()));
}

#[test]
fn legacy_requests_need_nothing_and_their_mirrors_mean_nothing() {
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    assert_eq!(verdict(&[], list), Ok(()));
    assert_eq!(
        verdict(&[("MCP-Protocol-Version", "2025-11-25"), ("Mcp-Method", "x"), ("Mcp-Name", "y")], list),
        Ok(())
    );
}

#[test]
fn initialize_and_notifications_need_no_mirror_but_may_not_lie() {
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#;
    assert_eq!(verdict(&[MODERN], initialize), Ok(()));
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "initialize")], initialize), Ok(()));
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "ping")], initialize), Err(MirrorError::Mismatch(MCP_METHOD)));
    let note = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(verdict(&[MODERN], note), Ok(()));
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "tools/call")], note), Err(MirrorError::Mismatch(MCP_METHOD)));
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(verdict(&[MODERN], response), Ok(()));
}

#[test]
fn task_names_are_compared_but_not_demanded() {
    let get = request("tasks/get", r#""taskId":"t1","#, "2026-07-28");
    let method = ("Mcp-Method", "tasks/get");
    assert_eq!(verdict(&[MODERN, method], &get), Ok(()));
    assert_eq!(verdict(&[MODERN, method, ("Mcp-Name", "t1")], &get), Ok(()));
    assert_eq!(verdict(&[MODERN, method, ("Mcp-Name", "t2")], &get), Err(MirrorError::Mismatch(MCP_NAME)));
}

#[test]
fn a_name_on_a_method_without_target_is_ignored() {
    let list = request("tools/list", "", "2026-07-28");
    assert_eq!(verdict(&[MODERN, ("Mcp-Method", "tools/list"), ("Mcp-Name", "x")], &list), Ok(()));
}

#[test]
fn mirrors_are_forwarded_only_where_they_were_compared_or_are_not_ours_to_judge() {
    let all =
        headers(&[("Mcp-Method", "m"), ("Mcp-Name", "n"), ("Mcp-Param-Region", "r"), ("Mcp-Session-Id", "s"), MODERN]);
    let left = |claim| {
        let mut headers = all.clone();
        strip(&mut headers, claim);
        headers.len()
    };
    assert_eq!(left(Claim::Absent), 2);
    assert_eq!(left(Claim::Known(ProtocolVersion::V20251125)), 2);
    assert_eq!(left(Claim::Known(ProtocolVersion::V20260728)), 5);
    assert_eq!(left(Claim::Unknown), 5);
}

mod agreement {
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use crate::wire::check;

    const VERSIONS: &[&str] = &["2026-07-28", "2025-11-25", "2027-01-01", " 2026-07-28"];
    const METHODS: &[&str] =
        &["tools/call", "resources/read", "tasks/get", "tools/list", "initialize", "x/y", "Tools/call"];
    const NAMES: &[&str] = &["echo", "test://x", "=?base64?ZWNobw==?=", "=?base64?w6l0w6k=?=", "=?base64?ZWNobw?="];
    const TARGETS: &[&str] = &["echo", "test://x", "\u{e9}t\u{e9}", "=?base64?ZWNobw==?=", "ech\\u006f"];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

        #[test]
        fn what_passes_is_what_another_reader_finds(
            version in prop_oneof![Just(""), select(VERSIONS)],
            header in select(METHODS),
            name in option::of(select(NAMES)),
            (method, same) in (select(METHODS), any::<bool>()),
            target in select(TARGETS),
            stated in option::of(select(VERSIONS)),
            notification: bool,
        ) {
            let method = if same { header } else { method };
            let id = if notification { "" } else { r#""id":1,"# };
            let meta = stated.map_or_else(String::new, |version| {
                format!(r#","_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"}}"#)
            });
            let body = format!(
                r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{{"name":"{target}","uri":"{target}","taskId":"{target}"{meta}}}}}"#
            );
            check::mirror(format!("{version}\n{header}\n{}\n{body}", name.unwrap_or_default()).as_bytes());
        }
    }
}
