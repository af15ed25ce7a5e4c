use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Replays the corpus that the fuzz targets start from, and that past findings were added to.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for file in fs::read_dir(&folder).unwrap() {
        check(&fs::read(file.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}

#[test]
fn the_corpora_hold() {
    replay("peek", super::peek);
    replay("duplicates", super::duplicates);
    replay("list", super::list);
    replay("canonical", super::canonical);
    replay("tools", crate::pin::check);
    replay("mirror", super::mirror);
    replay("sse", super::sse);
    replay("outcome", super::outcome);
    replay("catalog", crate::catalog::check);
    replay("session", crate::seal::check);
    replay("events", crate::layer::session::check);
    replay("filter", crate::filter::check::filter);
    replay("filter_answer", crate::filter::check::filter_answer);
}

/// Pieces of JSON-RPC that collide with each other when they are put together at random.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    " ",
    "\n",
    "\t",
    "\u{feff}",
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.0",
    "01",
    "1e5",
    "-",
    "1e999",
    "18446744073709551616",
    "\"jsonrpc\":\"2.0\"",
    "\"id\":1",
    "\"id\":\"a\"",
    "\"id\":null",
    "\"method\":\"tools/call\"",
    "\"method\":\"ping\"",
    "\"method\":\"tools\\u002fcall\"",
    "\"params\":{",
    "\"name\":",
    "\"n\\u0061me\":",
    "\"Name\":",
    "\"uri\":",
    "\"ur\u{131}\":",
    "\"tas\u{212a}Id\":",
    "\"taskId\":",
    "\"ref\":{",
    "\"type\":\"ref/prompt\"",
    "\"_meta\":{",
    "\"arguments\":",
    "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\"",
    "\"progressToken\":",
    "\"result\":{",
    "\"result\":",
    "\"isError\":true",
    "\"resultType\":\"task\"",
    "\"resultType\":\"input_required\"",
    "\"error\":{",
    "\"code\":-32601",
    "\"message\":\"no\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u0000\"",
    "\"\u{1}\"",
    "\"é\"",
    "\"a\":",
    "\"a\"",
    "{}",
    "[]",
];

/// Texts that are mostly messages.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let member = select(vec![
        r#""jsonrpc":"2.0""#,
        r#""id":1"#,
        r#""id":"x\u0041""#,
        r#""id":1.0"#,
        r#""id":null"#,
        r#""id":[1]"#,
        r#""method":"tools/call""#,
        r#""method":"tools\/call""#,
        r#""method":"completion/complete""#,
        r#""method":7"#,
        r#""method":"x/y""#,
        r#""Method":"ping""#,
        r#""params":{}"#,
        r#""params":[]"#,
        r#""params":null"#,
        r#""params":{"name":"a","arguments":{"b":[1,2,{"c":null}]}}"#,
        r#""params":{"name":"a","name":"b"}"#,
        r#""params":{"name":"a","n\u0061me":"b"}"#,
        r#""params":{"name":"a","NAME":"b"}"#,
        r#""params":{"ref":{"type":"ref/resource","uri":"u"},"_meta":{"progressToken":7}}"#,
        r#""params":{"name":"a","_meta":{"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"}}}"#,
        r#""params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","traceparent":1}}"#,
        r#""result":{"content":[{"type":"text","text":"a\"}{"}],"isError":true}"#,
        r#""result":null"#,
        r#""result":{"resultType":"input_required","isError":true}"#,
        r#""result":{"a":{"isError":true}}"#,
        r#""error":{"code":-32601,"message":"no\u00e9"}"#,
        r#""error":{"code":1.5}"#,
        r#""error":7"#,
        r#""other":{"a":[{}]}"#,
        r#""o\u0074her":1"#,
    ]);
    vec((member, select(vec!["", " ", "\r\n\t"])), 0..7).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(member, space)| format!("{space}{member}{space}")).collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    })
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    vec(select(PIECES), 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

/// A message with some bytes replaced, removed or added.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    (message(), vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..3)).prop_map(|(mut text, edits)| {
        for (at, byte, edit) in edits {
            let at = at.index(text.len());
            match edit {
                0 => text[at] = byte,
                1 if text.len() > 1 => drop(text.remove(at)),
                _ => text.insert(at, byte),
            }
        }
        text
    })
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"data",
        b"data:",
        b"data: ",
        b"id:",
        b"id: 1",
        b"event: e",
        b"retry: 10",
        b"retry:x",
        b"retry:99999999999999999999",
        b": note",
        b":",
        b" ",
        b"a",
        b"\0",
        b"\xef",
        b"\xbb",
        b"\xbf",
        b"\xef\xbb\xbf",
        "\u{2028}".as_bytes(),
        "\u{85}".as_bytes(),
        b"other: 1",
        b"\xff",
        b"{\"a\":1}",
        b"0",
    ];
    vec(select(PIECES), 0..24).prop_map(|pieces| pieces.concat())
}

fn lists() -> impl Strategy<Value = Vec<u8>> {
    let item = select(vec![
        r#"{"name":"a"}"#,
        r#" { "uri" : "a:b", "name":"b\u0041" } "#,
        r#"{"uriTemplate":"a:{b}","x":[{"name":"c"}]}"#,
        r#"{"name":7}"#,
        r#"{"Name":"a"}"#,
        "{}",
        "null",
        r#"["a"]"#,
        "",
    ]);
    let list = select(vec!["tools", "prompts", "resources", "resourceTemplates", "Tools", "other"]);
    let other =
        select(vec![r#""cacheScope":"public""#, r#""cacheScope" : "private""#, r#""a":1.0"#, r#""tools":null"#]);
    let list = (list, vec(item, 0..4)).prop_map(|(list, items)| format!(r#""{list}": [{}]"#, items.join(",")));
    vec(prop_oneof![3 => list, 1 => other.prop_map(str::to_owned)], 0..4)
        .prop_map(|members| format!(r#"{{"id":1,"result":{{{}}}}}"#, members.join(",")).into_bytes())
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let piece = select(vec!["=?base64?", "?=", "aGk", "aGk=", "=", " ", "\t", "tool", "/", "w6k=", "//8="]);
    vec(piece, 0..6).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    // Findings are kept in the corpus, as files that can be read.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn peek_on_messages(text in message()) {
        super::peek(&text);
    }

    #[test]
    fn peek_on_damaged_messages(text in mutated()) {
        super::peek(&text);
    }

    #[test]
    fn peek_on_pieces(text in pieces()) {
        super::peek(&text);
    }

    #[test]
    fn duplicates_on_anything(text in prop_oneof![message(), mutated(), pieces(), vec(any::<u8>(), 0..64)]) {
        super::duplicates(&text);
    }

    #[test]
    fn list_on_lists(text in lists()) {
        super::list(&text);
    }

    #[test]
    fn outcome_on_anything(text in prop_oneof![message(), mutated(), pieces(), vec(any::<u8>(), 0..64)]) {
        super::outcome(&text);
    }

    #[test]
    fn sse_on_streams(text in prop_oneof![stream(), vec(any::<u8>(), 0..64)]) {
        super::sse(&text);
    }

    #[test]
    fn mirror_on_names(text in prop_oneof![name(), vec(any::<u8>(), 0..64)]) {
        super::mirror(&text);
    }
}
