use super::*;

fn scan(body: &str) -> Scanner {
    let mut scanner = Scanner::new();
    scanner.push(body.as_bytes());
    scanner
}

fn outcome(body: &str) -> Outcome {
    scan(body).outcome()
}

fn result(result: &str) -> Outcome {
    outcome(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#))
}

#[test]
fn results_tell_how_they_ended() {
    assert_eq!(result("{}"), Outcome::Ok);
    assert_eq!(result("null"), Outcome::Ok);
    assert_eq!(result(r#"{"content":[{"text":"\"isError\":true}"}]}"#), Outcome::Ok);
    assert_eq!(result(r#"{"content":[],"isError":true}"#), Outcome::ToolError);
    assert_eq!(result(r#"{"isError":false}"#), Outcome::Ok);
    assert_eq!(result(r#"{"isError":"true"}"#), Outcome::Ok);
    assert_eq!(result(r#"{"is\u0045rror":true}"#), Outcome::ToolError);
    assert_eq!(result(r#"{"structuredContent":{"isError":true}}"#), Outcome::Ok);
    assert_eq!(result(r#"{"resultType":"complete"}"#), Outcome::Ok);
    assert_eq!(result(r#"{"resultType":"input_required"}"#), Outcome::InputRequired);
    assert_eq!(result(r#"{"resultType":"task","isError":true}"#), Outcome::Task);
}

#[test]
fn a_repeated_member_counts_as_its_last_value() {
    assert_eq!(result(r#"{"isError":true,"isError":false}"#), Outcome::Ok);
    assert_eq!(result(r#"{"isError":true,"isError":[]}"#), Outcome::Ok);
    assert_eq!(result(r#"{"resultType":"task","resultType":1}"#), Outcome::Ok);
    assert_eq!(outcome(r#"{"id":1,"result":{"isError":true,"resultType":"task"},"result":{}}"#), Outcome::Ok);
    assert_eq!(outcome(r#"{"id":1,"error":{"code":7,"message":"m"},"error":{}}"#), Outcome::RpcError { code: 0 });
    assert_eq!(scan(r#"{"id":1,"id":null,"result":{}}"#).id(), None);
}

#[test]
fn errors_tell_code_and_message() {
    let scanner = scan(r#"{"id":"x","error":{"data":{"code":1},"message":"no\nway \ud83d\ude00","code":-32601}}"#);
    assert_eq!(scanner.outcome(), Outcome::RpcError { code: -32601 });
    assert_eq!(scanner.error_message(), Some("no\nway 😀"));
    assert_eq!(scanner.id(), Some(&b"\"x\""[..]));
    for code in ["1.5", "\"a\"", "99999999999999999999", "null", "{}"] {
        assert_eq!(outcome(&format!(r#"{{"id":1,"error":{{"code":{code}}}}}"#)), Outcome::RpcError { code: 0 });
    }
    assert_eq!(outcome(r#"{"id":1,"error":"no"}"#), Outcome::RpcError { code: 0 });
}

#[test]
fn requests_and_notifications_have_no_outcome() {
    let request = scan(r#"{"jsonrpc":"2.0","id":0,"method":"sampling/createMessage","params":{"result":{}}}"#);
    assert_eq!((request.kind(), request.outcome()), (Some(Kind::Request), Outcome::Opaque));
    assert_eq!(request.method(), Some("sampling/createMessage"));
    let note = scan(r#"{"jsonrpc":"2.0","method":"notifications\/progress"}"#);
    assert_eq!((note.kind(), note.method()), (Some(Kind::Notification), Some("notifications/progress")));
    let both = scan(r#"{"id":1,"method":"a","result":{}}"#);
    assert_eq!((both.kind(), both.outcome()), (None, Outcome::Opaque));
}

#[test]
fn batches_and_other_bytes() {
    assert_eq!(outcome(r#" [{"id":1,"result":{}}]"#), Outcome::Batch);
    for body in ["", "<html>", "1", "{", r#"{"id":1,"result":{"#, r#"{"id":1,"result":{}"#, "\u{feff}{}", "{}", "{]"] {
        assert_eq!(outcome(body), Outcome::Opaque, "{body}");
        assert_eq!(scan(body).kind(), None, "{body}");
    }
}

#[test]
fn captures_are_bounded() {
    let body = |id: usize| format!(r#"{{"id":"{}","result":{{}}}}"#, "i".repeat(id));
    assert_eq!(scan(&body(MAX_ID - 2)).id().map(<[u8]>::len), Some(MAX_ID));
    assert_eq!(scan(&body(MAX_ID - 1)).id(), None);
    let digits = |digits: usize| format!(r#"{{"id":{},"result":{{}}}}"#, "1".repeat(digits));
    assert_eq!(scan(&digits(MAX_ID)).id().map(<[u8]>::len), Some(MAX_ID));
    assert_eq!(scan(&digits(MAX_ID + 1)).id(), None);
    let method = |length: usize| format!(r#"{{"method":"{}"}}"#, "m".repeat(length));
    assert_eq!(scan(&method(MAX_METHOD)).method().map(str::len), Some(MAX_METHOD));
    assert_eq!(scan(&method(MAX_METHOD + 1)).method(), None);
    let message = format!(r#"{{"error":{{"message":"{}é{}"}}}}"#, "a".repeat(MAX_ERROR_MESSAGE - 1), "b".repeat(5000));
    assert_eq!(scan(&message).error_message().map(str::len), Some(MAX_ERROR_MESSAGE - 1));
    let long_name = format!(r#"{{"{}":1,"id":2,"result":{{"{}":true}}}}"#, "id".repeat(500), "isError".repeat(99));
    assert_eq!((scan(&long_name).outcome(), scan(&long_name).id()), (Outcome::Ok, Some(&b"2"[..])));
}

#[test]
fn it_is_over_with_the_object() {
    let mut scanner = scan(r#"{"id":1,"result":{}}"#);
    assert!(scanner.is_done());
    scanner.push(b" {\"error\":1}");
    assert_eq!(scanner.outcome(), Outcome::Ok);
}

#[test]
fn a_response_answers_the_request_whose_id_it_means() {
    let answers = |asked: &str, id: &str| {
        let mut scanner = Scanner::answering(Some(asked.as_bytes()));
        scanner.push(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#).as_bytes());
        scanner.answers(Some(asked.as_bytes()))
    };
    assert!(answers("1.0", "1") && answers(r#""\u0061""#, r#""a""#) && answers(r#""a""#, r#""\u0061""#));
    assert!(!answers("1", "2") && !answers(r#""1""#, "1"));
    let long = "x".repeat(1_022);
    assert!(answers(&format!("\"{long}\""), &format!("\"{}\"", long.replace('x', "\\u0078"))));
    assert!(answers(&format!("1{}", "0".repeat(1_023)), &format!("1{}.0", "0".repeat(1_023))));

    let mut request = Scanner::answering(Some(b"1"));
    request.push(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert!(!request.answers(Some(b"1")), "a request of the server is no answer");
    let mut unasked = Scanner::answering(None);
    unasked.push(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    assert!(!unasked.answers(None));
}
