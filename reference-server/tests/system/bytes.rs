//! Bytes in are bytes out where nobody changes a message.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::mcp::{self, LEGACY, MODERN};
use crate::support::{Gateway, Upstream, upstream};

const CASES: u32 = 96;

/// JSON as text, in all the ways that a model of it would lose: order, spelling of numbers and strings, blanks.
fn value() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        Just("1.0"),
        Just("-0"),
        Just("1e5"),
        Just("1E+05"),
        Just("0.10"),
        Just("18446744073709551616"),
        Just("123456789012345678901234567890"),
        Just("-9223372036854775809"),
        Just("3.141592653589793238462643383279"),
    ]
    .prop_map(str::to_owned);
    let leaf = prop_oneof![number, text(), Just("null".to_owned()), Just("true".to_owned())];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..4), blank())
                .prop_map(|(items, blank)| format!("[{blank}{}{blank}]", items.join(&format!("{blank},")))),
            (prop::collection::vec((name(), inner), 0..4), blank())
                .prop_map(|(members, blank)| object(&members, &blank)),
        ]
    })
}

fn blank() -> impl Strategy<Value = String> {
    "[ \t\n]{0,2}"
}

/// A string with its quotes.
fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            Just("a".to_owned()),
            Just("\\u0041".to_owned()),
            Just("\\/".to_owned()),
            Just("/".to_owned()),
            Just("\\n".to_owned()),
            Just("\\ud83d\\ude00".to_owned()),
            Just("\u{1f600}".to_owned()),
            Just("\u{2028}".to_owned()),
            Just("\u{85}".to_owned()),
            Just("data: ".to_owned()),
            "[a-zA-Z0-9 ]{0,12}",
        ],
        0..8,
    )
    .prop_map(|parts| format!("\"{}\"", parts.concat()))
}

/// A member's name, none that the protocol has.
fn name() -> impl Strategy<Value = String> {
    "[a-z]{0,6}"
}

/// Names are made different by their place.
fn object(members: &[(String, String)], blank: &str) -> String {
    let members: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(at, (name, value))| format!("{blank}\"x-{name}{at}\"{blank}:{value}"))
        .collect();
    format!("{{{}{blank}}}", members.join(","))
}

/// The members of an object, with an order of their own, around those that must be there.
fn around(required: &[String], extra: &[(String, String)], rotate: usize, blank: &str) -> String {
    let mut members: Vec<String> = required.to_vec();
    for (at, (name, value)) in extra.iter().enumerate() {
        members.push(format!("\"x-{name}{at}\"{blank}:{blank}{value}"));
    }
    let by = rotate % members.len();
    members.rotate_left(by);
    format!("{{{blank}{}{blank}}}", members.join(&format!("{blank},{blank}")))
}

#[derive(Debug, Clone)]
struct Case {
    request: String,
    answer: Vec<u8>,
    /// Where the answer is cut into pieces.
    cuts: Vec<prop::sample::Index>,
}

fn members() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((name(), value()), 0..5)
}

fn case(modern: bool, events: bool) -> impl Strategy<Value = Case> {
    let message = (members(), members(), members(), members(), 0..8_usize, blank());
    let stream = prop::collection::vec(frame(), 0..6);
    (message, stream, prop::collection::vec(any::<prop::sample::Index>(), 0..8)).prop_map(
        move |((outer, params, arguments, result, rotate, blank), stream, cuts)| {
            let arguments = format!("\"arguments\":{}", object(&arguments, &blank));
            let mut inner = vec!["\"name\":\"t\"".to_owned(), arguments];
            if modern {
                inner.push(format!("\"_meta\":{}", mcp::meta()));
            }
            let params = format!("\"params\":{}", around(&inner, &params, rotate, &blank));
            let head = ["\"jsonrpc\":\"2.0\"", "\"id\":\"7\"", "\"method\":\"tools\\/call\""].map(str::to_owned);
            let request = around(&[&head[..], &[params]].concat(), &outer, rotate, &blank);
            let result = format!("\"result\":{}", object(&result, &blank));
            let answer = around(&[head[0].clone(), head[1].clone(), result], &outer, rotate, &blank);
            let answer = if events {
                let mut all = stream.concat();
                // One line: blanks between tokens may be line ends, which end a field.
                all.push_str(&format!("id: 9\nevent: message\ndata: {}\n\n", answer.replace('\n', " ")));
                all
            } else {
                answer
            };
            Case { request, answer: answer.into_bytes(), cuts }
        },
    )
}

/// Something else in a stream, with any line ending.
fn frame() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just(": ping".to_owned()),
        Just(":".to_owned()),
        Just("retry: 3000".to_owned()),
        Just("id".to_owned()),
        Just("id: 5-x_\u{e9}".to_owned()),
        Just("data".to_owned()),
        Just("unknown: field".to_owned()),
        value().prop_map(|value| {
            let value = value.replace('\n', " ");
            format!("data:{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{{\"v\":{value}}}}}")
        }),
    ];
    (prop::collection::vec(line, 1..3), prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]).prop_map(
        |(mut lines, end)| {
            // Two data lines would make one message, which is not JSON then.
            let mut data = false;
            lines.retain(|line| !line.starts_with("data") || !std::mem::replace(&mut data, true));
            format!("{}{end}{end}", lines.join(end))
        },
    )
}

fn pieces(case: &Case) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = case.cuts.iter().map(|cut| cut.index(case.answer.len() + 1)).collect();
    cuts.extend([0, case.answer.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| Bytes::copy_from_slice(&case.answer[pair[0]..pair[1]])).collect()
}

fn check(modern: bool, events: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let next = Arc::new(Mutex::new(Vec::<Bytes>::new()));
    let (upstream, gateway, key) = runtime.block_on(async {
        let next = Arc::clone(&next);
        let upstream = Upstream::start(move |_| {
            let pieces = next.lock().unwrap().clone();
            let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>)));
            if events { upstream::events(body) } else { upstream::json(body) }
        })
        .await;
        let gateway = Gateway::start(&[upstream.entry("toy")]).await;
        let key = gateway.key().await;
        (upstream, gateway, key)
    });
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let outcome = runner.run(&case(modern, events), |case| {
        *next.lock().unwrap() = pieces(&case);
        let mut call = mcp::post("toy", &key, case.request.clone());
        call = call.header("mcp-protocol-version", if modern { MODERN } else { LEGACY });
        if modern {
            call = call.header("mcp-method", "tools/call").header("mcp-name", "t");
        }
        let answer = runtime.block_on(call.send(gateway.address));
        prop_assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let arrived = upstream.arrived();
        let arrived = &arrived.last().expect("it arrived").body;
        prop_assert_eq!(String::from_utf8_lossy(arrived), case.request.as_str());
        prop_assert_eq!(answer.text(), String::from_utf8_lossy(&case.answer));
        let expected = if events { "text/event-stream" } else { "application/json" };
        prop_assert_eq!(answer.header("content-type"), expected);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn legacy_json() {
    check(false, false);
}

#[test]
fn legacy_events() {
    check(false, true);
}

#[test]
fn modern_json() {
    check(true, false);
}

#[test]
fn modern_events() {
    check(true, true);
}
