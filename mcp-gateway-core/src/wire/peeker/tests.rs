use std::borrow::Cow;

use super::*;

fn read(body: &str) -> Result<Message<'_>, PeekError> {
    peek(body.as_bytes(), &Limits::default())
}

fn fault(body: &str) -> Fault {
    read(body).expect_err(body).fault()
}

fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}

#[test]
fn a_modern_call_is_read_in_full() {
    let body = r#" {"jsonrpc":"2.0","id":"a\"1","method":"tools/call","params":{"name":"echo","arguments": {"x":[1]} ,
        "requestState":"s","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":
        {"name":"c","version":"1.2","title":"T"},"io.modelcontextprotocol/clientCapabilities":{},"progressToken":7.0,
        "traceparent":"00-ab-cd-01","io.modelcontextprotocol/logLevel":"info","baggage":"k=v"}}}
    "#;
    let message = read(body).unwrap();
    assert_eq!((message.kind, message.method(), message.target()), (Kind::Request, "tools/call", Some("echo")));
    assert_eq!(message.id.unwrap().raw(), br#""a\"1""#);
    let params = message.params.as_ref().unwrap();
    assert_eq!(params.arguments, Some(&br#"{"x":[1]}"#[..]));
    assert_eq!(params.request_state, Some(&br#""s""#[..]));
    assert!(params.raw.starts_with(b"{\"name\"") && params.raw.ends_with(b"}}"));
    let meta = message.meta().unwrap();
    assert_eq!(meta.protocol_version.as_deref(), Some("2026-07-28"));
    assert_eq!((meta.client_name.as_deref(), meta.client_version.as_deref()), (Some("c"), Some("1.2")));
    assert_eq!(meta.progress_token.unwrap().raw(), b"7.0");
    assert_eq!(meta.traceparent.as_deref(), Some("00-ab-cd-01"));
    assert!(meta.client_capabilities && meta.log_level);
}

#[test]
fn initialize_tells_version_and_client() {
    let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},
        "clientInfo":{"name":"inspector","version":"2"}}}"#;
    let message = read(body).unwrap();
    let params = message.params.unwrap();
    assert_eq!(params.protocol_version.as_deref(), Some("2025-11-25"));
    assert_eq!((params.client_name.as_deref(), params.client_version.as_deref()), (Some("inspector"), Some("2")));
}

#[test]
fn completion_names_what_it_completes() {
    let body = |reference: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{{"ref":{reference}}}}}"#)
    };
    let target = |reference: &str| read(&body(reference)).map(|m| m.target().map(str::to_owned)).map_err(|e| e.fault());
    assert_eq!(target(r#"{"type":"ref/prompt","name":"p","uri":"u"}"#), Ok(Some("p".to_owned())));
    assert_eq!(target(r#"{"type":"ref/resource","name":"p","uri":"u"}"#), Ok(Some("u".to_owned())));
    for bad in
        [r#"{"type":"ref/prompt","uri":"u"}"#, r#"{"type":"ref/other","name":"p"}"#, r#"{"name":"p"}"#, "7", "null"]
    {
        assert_eq!(target(bad), Err(Fault::NoTarget), "{bad}");
    }
    assert_eq!(target(r#"{"type":"ref/prompt","name":"p","Name":"q"}"#), Err(Fault::CaseVariant));
    assert_eq!(target(r#"{"type":"ref/prompt","name":"p","name":"q"}"#), Err(Fault::RepeatedMember));
}

#[test]
fn notifications_and_responses_are_told_apart() {
    let note = read(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"7"}}"#).unwrap();
    assert_eq!((note.kind, note.params.unwrap().request_id.unwrap().raw()), (Kind::Notification, &b"\"7\""[..]));
    let result = read(r#"{"jsonrpc":"2.0","id":3,"result":{"action":"accept","action":"x"}}"#).unwrap();
    assert_eq!((result.kind, result.is_error, result.method()), (Kind::Response, false, ""));
    let error = read(r#"{"jsonrpc":"2.0","id":3,"error":{"code":-1,"message":"declined"}}"#).unwrap();
    assert_eq!((error.kind, error.is_error, error.error_code), (Kind::Response, true, Some(-1)));
    let anonymous = read(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#).unwrap();
    assert_eq!((anonymous.kind, anonymous.id), (Kind::Response, None));
    assert_eq!(fault(r#"{"jsonrpc":"2.0","id":null,"result":{}}"#), Fault::NotAMessage);
    assert_eq!(fault(r#"{"jsonrpc":"2.0","result":{}}"#), Fault::NotAMessage);
}

#[test]
fn trap_repeated_members_at_every_level() {
    for body in [
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{},"params":{}}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","x":1,"x":1}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"code":2}}"#.to_owned(),
        call(r#"{"name":"allowed","name":"denied"}"#),
        call(r#"{"name":"allowed","n\u0061me":"denied"}"#),
        call(r#"{"name":"a","arguments":{},"arguments":{}}"#),
        call(r#"{"name":"a","cursor":1,"c\u0075rsor":2}"#),
        call(r#"{"name":"a","_meta":{"progressToken":1,"progressToken":2}}"#),
        call(r#"{"name":"a","_meta":{"io.modelcontextprotocol/clientInfo":{"name":"a","name":"b"}}}"#),
        call(r#"{"name":"a","clientInfo":{"version":"1","version":"2"}}"#),
        call(r#"{"name":"a","ref":{"z":1,"z":2}}"#),
    ] {
        assert_eq!(fault(&body), Fault::RepeatedMember, "{body}");
    }
    // Below the levels that are read, repeated members are `duplicates`' concern.
    assert!(read(&call(r#"{"name":"a","arguments":{"x":1,"x":2}}"#)).is_ok());
}

#[test]
fn a_repeated_member_is_found_among_many() {
    let members = |last: &str| {
        let members: String = (0..40).map(|i| format!(r#""m{i}":{i},"#)).collect();
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping",{members}"{last}":0}}"#)
    };
    assert!(read(&members("m40")).is_ok());
    for last in ["m0", "m11", "m12", "m39"] {
        assert_eq!(fault(&members(last)), Fault::RepeatedMember, "{last}");
    }
}

#[test]
fn trap_case_variants_in_ascii_and_unicode() {
    for params in [
        r#"{"Name":"denied"}"#,
        r#"{"name":"allowed","NAME":"denied"}"#,
        "{\"name\":\"a\",\"tas\u{212a}Id\":\"t\"}",
        r#"{"name":"a","tas\u212aId":"t"}"#,
        "{\"name\":\"a\",\"argument\u{17f}\":{}}",
        r#"{"name":"a","u\u0052i":"t"}"#,
        "{\"name\":\"a\",\"ur\u{131}\":\"t\"}",
        "{\"name\":\"a\",\"UR\u{130}\":\"t\"}",
        r#"{"name":"a","_META":{}}"#,
        r#"{"name":"a","_meta":{"ProgressToken":1}}"#,
        r#"{"name":"a","_meta":{"io.modelcontextprotocol/protocolversion":"2026-07-28"}}"#,
        r#"{"name":"a","clientinfo":{}}"#,
        r#"{"name":"a","clientInfo":{"NAME":"x"}}"#,
    ] {
        assert_eq!(fault(&call(params)), Fault::CaseVariant, "{params}");
    }
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"Method":"tools/call"}"#,
        r#"{"JSONRPC":"2.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","ID":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"Code":2}}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"param\u{17f}\":{}}",
    ] {
        assert_eq!(fault(body), Fault::CaseVariant, "{body}");
    }
    // Letters of other scripts fold to nothing that is read.
    assert!(read(&call("{\"name\":\"a\",\"n\u{e4}me\":1,\"имя\":2}")).is_ok());
}

#[test]
fn trap_arrays_and_other_values() {
    assert_eq!(fault(r#"["2.0",1,"tools/call",{"name":"x"}]"#), Fault::Batch);
    assert_eq!(fault(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#), Fault::Batch);
    for body in ["1", "\"a\"", "true", "null", "-0.5e1"] {
        assert_eq!(fault(body), Fault::NotObject, "{body}");
    }
    for body in ["", " ", "x", "nul", "+1", "01", "{", "{}x", "'a'", "\u{0}"] {
        assert_eq!(read(body).unwrap_err().code(), -32700, "{body:?}");
    }
}

#[test]
fn trap_trailing_data_and_byte_order_mark() {
    assert_eq!(fault("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}{}"), Fault::TrailingData);
    assert_eq!(fault("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\u{0}"), Fault::TrailingData);
    assert_eq!(fault("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}"), Fault::ByteOrderMark);
    assert!(read("\r\n\t {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"} \r\n\t").is_ok());
    // A form feed and a no-break space are no JSON white space.
    assert_eq!(fault("\u{c}{}"), Fault::Syntax);
    assert_eq!(fault("\u{a0}{}"), Fault::Syntax);
}

#[test]
fn trap_encodings() {
    let refused = |body: &[u8]| peek(body, &Limits::default()).unwrap_err().fault();
    let mut body = call(r#"{"name":"a","arguments":{"x":"?"}}"#).into_bytes();
    let at = body.iter().position(|&b| b == b'?').unwrap();
    body[at] = 0xff;
    let error = peek(&body, &Limits::default()).unwrap_err();
    assert_eq!((error.fault(), error.offset(), error.code()), (Fault::NotUtf8, at, -32700));
    // Overlong, surrogate, UTF-16.
    for bytes in [&b"\xc0\xaf"[..], b"\xed\xa0\x80", b"\xff\xfe{\0}\0"] {
        assert_eq!(refused(bytes), Fault::NotUtf8);
    }
    for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\n""#, r#""\ud800\ud800""#, r#""\ud800x""#] {
        assert_eq!(fault(&call(&format!(r#"{{"name":{text}}}"#))), Fault::LoneSurrogate, "{text}");
        assert_eq!(fault(&call(&format!(r#"{{"name":"a","arguments":[{text}]}}"#))), Fault::LoneSurrogate, "{text}");
    }
    assert_eq!(read(&call(r#"{"name":"\ud83d\ude00"}"#)).unwrap().target(), Some("😀"));
}

#[test]
fn trap_names_are_compared_after_unescaping() {
    let body = r#"{"jsonrpc":"\u0032.0","id":1,"m\u0065thod":"tools\u002fcall","params":{"n\u0061me":"a\/b\n\"\\"}}"#;
    let message = read(body).unwrap();
    assert_eq!((message.method(), message.target()), ("tools/call", Some("a/b\n\"\\")));
    let body = call(r#"{"name":"plain"}"#);
    let plain = read(&body).unwrap();
    assert!(matches!(plain.method, Some(Cow::Borrowed(_))));
    assert!(matches!(plain.params.unwrap().name, Some(Cow::Borrowed("plain"))));
}

#[test]
fn trap_ids() {
    let body = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    for id in ["1", "1.0", "-0", "1e2", "9223372036854775808", "123456789012345678901234567890", r#""""#, r#""\u0031""#]
    {
        assert_eq!(read(&body(id)).unwrap().id.unwrap().raw(), id.as_bytes());
    }
    assert_eq!(fault(&body("null")), Fault::NullId);
    for id in ["true", "false", "{}", "[1]"] {
        assert_eq!(fault(&body(id)), Fault::BadId, "{id}");
    }
    assert_eq!(fault(r#"{"jsonrpc":"2.0","id":true,"result":{}}"#), Fault::BadId);
    for id in ["01", "1.", ".5", "+1", "1e", "-", "0x1", "NaN", "nul", "1 2", ""] {
        assert_eq!(read(&body(id)).unwrap_err().code(), -32700, "{id}");
    }
}

#[test]
fn trap_ambiguous_messages() {
    for (body, expected) in [
        (r#"{"id":1,"method":"ping"}"#, Fault::BadVersion),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, Fault::BadVersion),
        (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, Fault::BadVersion),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, Fault::Ambiguous),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","error":{"code":1}}"#, Fault::Ambiguous),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1}}"#, Fault::Ambiguous),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#, Fault::Ambiguous),
        (r#"{"jsonrpc":"2.0","id":1}"#, Fault::NotAMessage),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, Fault::BadMethod),
        (r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#, Fault::BadMethod),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["x"]}"#, Fault::BadParams),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#, Fault::BadParams),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":[]}}"#, Fault::BadMeta),
        (r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#, Fault::BadError),
    ] {
        assert_eq!(fault(body), expected, "{body}");
        assert_eq!(read(body).unwrap_err().code(), -32600, "{body}");
    }
}

#[test]
fn trap_targets_must_be_strings_where_the_method_needs_them() {
    for (method, member) in [
        ("tools/call", "name"),
        ("prompts/get", "name"),
        ("resources/read", "uri"),
        ("resources/subscribe", "uri"),
        ("tasks/get", "taskId"),
        ("tasks/cancel", "taskId"),
        ("tasks/update", "taskId"),
    ] {
        let body = |params: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"{params}}}"#);
        for value in ["1", "null", "[\"a\"]", "{}"] {
            let error = read(&body(&format!(r#","params":{{"{member}":{value}}}"#))).unwrap_err().code();
            assert_eq!(error, -32602, "{method} {value}");
        }
        assert_eq!(fault(&body("")), Fault::NoTarget);
        assert_eq!(fault(&body(r#","params":{}"#)), Fault::NoTarget);
        assert!(read(&body(&format!(r#","params":{{"{member}":"a"}}"#))).is_ok());
    }
    // Other methods may use these names for what they like.
    let body =
        r#"{"jsonrpc":"2.0","id":1,"method":"x/y","params":{"name":1,"uri":[],"taskId":{},"ref":2,"clientInfo":null}}"#;
    assert_eq!(read(body).unwrap().params.unwrap().name, None);
}

#[test]
fn trap_control_characters_in_strings() {
    for at in [0, 5, 15, 16, 17, 40] {
        let padding = "x".repeat(at);
        for control in ['\u{0}', '\n', '\t', '\u{1f}'] {
            let body = call(&format!(r#"{{"name":"a","arguments":"{padding}{control}{padding}"}}"#));
            assert_eq!(fault(&body), Fault::ControlCharacter, "{body:?}");
        }
        assert!(read(&call(&format!("{{\"name\":\"a\",\"arguments\":\"{padding}\u{7f}\u{80}{padding}\"}}"))).is_ok());
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let with = |limits: Limits, body: &str| peek(body.as_bytes(), &limits).map(drop).map_err(|e| e.fault());
    let body = call(r#"{"name":"abcd"}"#);
    let bytes = |max_bytes| Limits { max_bytes, ..Limits::default() };
    assert_eq!(with(bytes(body.len()), &body), Ok(()));
    assert_eq!(with(bytes(body.len() - 1), &body), Err(Fault::TooLarge));

    let string = |max_string| Limits { max_string, ..Limits::default() };
    assert_eq!(with(string(10), &body), Ok(()), "the method is the longest");
    assert_eq!(with(string(9), &body), Err(Fault::StringTooLong));
    assert_eq!(with(string(10), &call(r#"{"name":"12345678901"}"#)), Err(Fault::StringTooLong));
    let id = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    assert_eq!(with(string(10), &id("1234567890")), Ok(()));
    assert_eq!(with(string(10), &id("12345678901")), Err(Fault::StringTooLong));
    let id_bytes = |max_id| Limits { max_id, ..Limits::default() };
    for written in ["1234567890", r#""12345678""#] {
        assert_eq!(with(id_bytes(10), &id(written)), Ok(()));
        assert_eq!(with(id_bytes(9), &id(written)), Err(Fault::IdTooLong));
    }

    let members = |max_members| Limits { max_members, ..Limits::default() };
    assert_eq!(with(members(4), &body), Ok(()));
    assert_eq!(with(members(3), &body), Err(Fault::TooManyMembers));

    let nested =
        |depth: usize| call(&format!(r#"{{"name":"a","arguments":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)));
    let depth = |max_depth| Limits { max_depth, ..Limits::default() };
    assert_eq!(with(depth(64), &nested(62)), Ok(()));
    assert_eq!(with(depth(64), &nested(63)), Err(Fault::TooDeep));
    assert_eq!(with(depth(u16::MAX), &nested(125)), Ok(()));
    assert_eq!(with(depth(u16::MAX), &nested(126)), Err(Fault::TooDeep));
    assert_eq!(with(depth(2), &body), Ok(()));
    assert_eq!(with(depth(1), &body), Err(Fault::TooDeep));
    assert_eq!(with(depth(u16::MAX), &nested(1 << 20)), Err(Fault::TooDeep));
}

#[test]
fn mixed_brackets_are_no_json() {
    for arguments in ["[}", "{]", "[1,]", "{\"a\":1,}", "{\"a\"}", "{,}", "[,1]", "{1:2}", "[1 2]", "{\"a\":[}]"] {
        let body = call(&format!(r#"{{"name":"a","arguments":{arguments}}}"#));
        assert_eq!(fault(&body), Fault::Syntax, "{arguments}");
    }
    assert_eq!(fault("{\"jsonrpc\":\"2.0\",}"), Fault::Syntax);
    assert_eq!(fault("{\"jsonrpc\":\"2.0\""), Fault::UnexpectedEnd);
}

#[test]
fn a_wrong_type_is_reported_only_for_json() {
    assert_eq!(read(r#"{"jsonrpc":"2.0","id":tru}"#).unwrap_err().code(), -32700);
    assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"params":[}"#).unwrap_err().code(), -32700);
}
