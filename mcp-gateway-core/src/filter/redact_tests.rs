use proptest::prelude::*;

use super::*;
use crate::filter::detect::Types;

fn regex(patterns: &[(&'static str, &str)]) -> Detector {
    Detector::Regex(patterns.iter().map(|(name, text)| ((*name).into(), regex::Regex::new(text).unwrap())).collect())
}

fn digits() -> Detector {
    regex(&[("number", "[0-9]{3}")])
}

const SECRETS: Detector = Detector::Secrets(Types::ALL);
const PII: Detector = Detector::Pii(Types::ALL);

fn bounded(body: &[u8], detector: &Detector, redact: bool, bounds: Bounds) -> Result<Looked, LookError> {
    let stop = AtomicBool::new(false);
    Look { detector, era: Era::Modern, redact, bounds, stop: &stop }.through(body)
}

fn look(body: &[u8], detector: &Detector) -> Result<Looked, LookError> {
    bounded(body, detector, true, Bounds::default())
}

fn find(text: &str, detector: &Detector) -> Vec<Found> {
    let stop = AtomicBool::new(false);
    detector.find(text, "", &mut Search::new(true, Bounds::default(), &stop)).unwrap()
}

#[test]
fn only_the_strings_concerned_are_written_anew() {
    let body = br#"{"jsonrpc":"2.0", "id":"12","method":"m","params":{"a":"x\u0031\u0032\u0033y\/", "b" : 1.50 ,"c":"\/", "requestState":"123"}}"#;
    let looked = look(body, &digits()).unwrap();
    assert_eq!(looked.found, ["number"]);
    let expected = br#"{"jsonrpc":"2.0", "id":"12","method":"m","params":{"a":"x[redacted:number]y/", "b" : 1.50 ,"c":"\/", "requestState":"123"}}"#;
    assert_eq!(looked.redacted.as_deref(), Some(&expected[..]));
}

#[test]
fn nothing_takes_the_place_of_a_number_a_name_or_what_something_is_known_by() {
    for body in [
        &br#"{"a":1234,"b":"123"}"#[..],
        br#"{"123":1,"b":"123"}"#,
        br#"{"id":"123"}"#,
        br#"{"method":"123"}"#,
        br#"{"params":{"cursor":"123"}}"#,
        br#"{"result":{"resources":[{"uri":"a://123"}]}}"#,
    ] {
        for redact in [true, false] {
            let looked = bounded(body, &digits(), redact, Bounds::default()).unwrap();
            assert_eq!((looked.found.len(), looked.redacted), (1, None), "{}", String::from_utf8_lossy(body));
        }
    }
    assert_eq!(look(br#"{"a":"b"}"#, &digits()).unwrap(), Looked::default());
    assert!(look(br#"{"a":"123"} x"#, &digits()).is_err());
}

#[test]
fn state_of_a_server_is_its_own_only_where_there_is_such_a_thing() {
    let look = |body: &[u8], era| {
        let (detector, stop) = (digits(), AtomicBool::new(false));
        let look = Look { detector: &detector, era, redact: true, bounds: Bounds::default(), stop: &stop };
        look.through(body).unwrap().redacted.is_some()
    };
    let state = br#"{"params":{"requestState":"123"}}"#;
    assert!(!look(state, Era::Modern) && look(state, Era::Legacy));
    assert!(look(br#"{"params":{"requestState":["123"]}}"#, Era::Modern), "no state is a list");
}

#[test]
fn numbers_are_what_they_are_worth() {
    const CARD: &str = "4111111111111111";
    for (number, worth) in [
        ("4111111111111111.0", Some(CARD)),
        ("4111111111111111e0", Some(CARD)),
        ("4.111111111111111E+15", Some(CARD)),
        ("-41111111111111110e-1", Some(CARD)),
        ("411111111111111.1e1", Some(CARD)),
        (CARD, None),
        ("4111111111111111.5", None),
        ("1e40", None),
        ("1e-1", None),
        ("true", None),
        ("false", None),
        ("1e99999999999", None),
    ] {
        assert_eq!(whole(number).as_deref(), worth, "{number}");
        let body = format!(r#"{{"a":{number}}}"#);
        let found = worth.is_some() || number == CARD;
        assert_eq!(!look(body.as_bytes(), &PII).unwrap().found.is_empty(), found, "{number}");
    }
}

#[test]
fn a_text_that_is_json_is_read_as_json() {
    let key = format!("AKIA{}", "IOSFODNN7EXAMPLE");
    let coded = format!(r"\u0041{}", &key[1..]);
    for (detector, text, expected) in [
        (&SECRETS, format!(r#"{{"log":"token:\n{key}"}}"#), r#"{"log":"token:\n[redacted:aws-access-key]"}"#),
        (&SECRETS, format!(r"\t{key}\r{key}"), r"\t[redacted:aws-access-key]\r[redacted:aws-access-key]"),
        (&SECRETS, format!("x {coded}."), "x [redacted:aws-access-key]."),
        (&PII, r"\n4111 1111 1111 1111".to_owned(), r"\n[redacted:payment-card]"),
        (&PII, r"4111\u00201111 1111 1111\n".to_owned(), r"[redacted:payment-card]\n"),
    ] {
        let body = serde_json::json!({ "result": { "content": [{ "type": "text", "text": text }] } }).to_string();
        let looked = look(body.as_bytes(), detector).unwrap();
        let redacted: Value = serde_json::from_slice(&looked.redacted.expect(&text)).unwrap();
        assert_eq!(redacted["result"]["content"][0]["text"], expected, "{text}");
        assert_eq!(bounded(body.as_bytes(), detector, false, Bounds::default()).unwrap().found.len(), 1, "{text}");
    }
    // An escape is replaced as a whole: what is left of it would be another.
    let looked = look(br#"{"a":"\\u0123z"}"#, &digits()).unwrap();
    assert_eq!(looked.redacted.as_deref(), Some(&br#"{"a":"[redacted:number]z"}"#[..]));
}

#[test]
fn every_name_is_told_also_of_what_overlaps() {
    let both = regex(&[("a", "x1"), ("b", "1y")]);
    let looked = look(br#"{"a":"x1y"}"#, &both).unwrap();
    assert_eq!(looked.found, ["a", "b"]);
    assert_eq!(looked.redacted.as_deref(), Some(&br#"{"a":"[redacted:a]"}"#[..]));
}

#[test]
fn what_is_left_beside_something_is_found_too() {
    // Behind a digit and a point it is no number of its own.
    let looked = look(br#"{"a":"4111111111111111.X1234567L"}"#, &PII).unwrap();
    assert_eq!(looked.found, ["payment-card", "es-dni"]);
    assert_eq!(&looked.redacted.unwrap()[..], br#"{"a":"[redacted:payment-card].[redacted:es-dni]"}"#);
}

#[test]
fn so_much_is_looked_for_and_no_more() {
    let body = |count: usize| format!(r#"{{"a":"{}"}}"#, "7 ".repeat(count));
    let one = regex(&[("digit", "[0-9]")]);
    let (most, more) = (body(Bounds::default().finds), body(Bounds::default().finds + 1));
    assert!(look(most.as_bytes(), &one).unwrap().redacted.is_some());
    assert_eq!(look(more.as_bytes(), &one), Err(LookError::TooMuch));
    assert_eq!(bounded(more.as_bytes(), &one, false, Bounds::default()).unwrap().found, ["digit"]);
    // What goes on without a gap is one, however long it is.
    let long = format!(r#"{{"a":"{}"}}"#, "7".repeat(20_000));
    let redacted = look(long.as_bytes(), &one).unwrap().redacted.unwrap();
    assert_eq!(&redacted[..], br#"{"a":"[redacted:digit]"}"#);
    // After the first, each is counted with all that follows: 2 and 1 of "777".
    let bounds = |again| Bounds { again, ..Bounds::default() };
    for (again, redact, good) in [(3, true, true), (2, true, false), (0, false, true)] {
        assert_eq!(bounded(br#"{"a":"777"}"#, &one, redact, bounds(again)).is_ok(), good, "{again} {redact}");
    }
    let stop = AtomicBool::new(true);
    let look = Look { detector: &one, era: Era::Modern, redact: true, bounds: Bounds::default(), stop: &stop };
    assert_eq!(look.through(br#"{"a":"7"}"#), Err(LookError::TooMuch), "nobody waits any more");
}

/// JSON with blanks in it, and numbers and escapes that no parser keeps.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1.50".to_owned()),
        Just("-0".to_owned()),
        "[ -~äß€\u{1f600}]{0,12}".prop_map(|text| Value::from(text).to_string()),
        "[0-9a-c ]{0,12}".prop_map(|text| format!("\"{text}\"")),
        Just("\"\\u0031\\u0032\\u0033\\n\\/\"".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}]", items.join(" ,\n"))),
            proptest::collection::vec(inner, 0..4).prop_map(|items| {
                let members = items.iter().enumerate().map(|(n, item)| format!("\"k{n}\" :\t{item}"));
                format!("{{{} }}", members.collect::<Vec<_>>().join(", "))
            }),
        ]
    })
}

/// The text outside the strings, and the strings one by one.
fn parts(text: &str) -> (String, Vec<String>) {
    let (mut outside, mut strings) = (String::new(), Vec::new());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        outside.push(c);
        if c != '"' {
            continue;
        }
        let mut string = String::new();
        while let Some(c) = chars.next().filter(|c| *c != '"') {
            string.push(c);
            if c == '\\' {
                string.extend(chars.next());
            }
        }
        strings.push(string);
    }
    (outside, strings)
}

proptest! {
    #[test]
    fn all_other_bytes_stay_and_what_is_written_is_json(body in json()) {
        let looked = look(body.as_bytes(), &digits()).unwrap();
        let Some(redacted) = looked.redacted else { return Ok(()) };
        let redacted = std::str::from_utf8(&redacted).unwrap();
        let value: Value = serde_json::from_str(redacted).expect("it is JSON");
        let ((before, old), (after, new)) = (parts(&body), parts(redacted));
        prop_assert_eq!(before, after, "what is no string is as it was");
        prop_assert_eq!(old.len(), new.len());
        for (old, new) in old.iter().zip(&new) {
            let meant: String = serde_json::from_str(&format!("\"{old}\"")).unwrap();
            let nested = Inner::of(&meant).map_or_else(Vec::new, |inner| find(&inner.text, &digits()));
            if find(&meant, &digits()).is_empty() && nested.is_empty() {
                prop_assert_eq!(old, new, "a string without a find keeps its bytes");
            } else {
                prop_assert!(new.contains("[redacted:number]"));
            }
        }
        prop_assert_eq!(look(redacted.as_bytes(), &digits()).unwrap(), Looked::default(), "nothing is left: {}", value);
    }

    #[test]
    fn detectors_take_any_text(text in "\\PC*", member in "\\PC{0,8}") {
        for detector in [SECRETS, PII, digits()] {
            let stop = AtomicBool::new(false);
            for found in detector.find(&text, &member, &mut Search::new(true, Bounds::default(), &stop)).unwrap() {
                prop_assert!(text.get(found.at).is_some_and(|found| !found.is_empty()));
            }
        }
    }

    #[test]
    fn nothing_is_left_of_what_every_detector_looks_for(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("\n"),
                Just("\\"),
                Just("\""),
                Just("é"),
                Just(" "),
                Just("."),
                Just("7"),
                Just("x"),
                Just("DE89"),
                Just("4111 1111 1111 1111"),
                Just("219-09-9999"),
                Just("X1234567L"),
                Just("DE89370400440532013000"),
                Just(concat!("AKIA", "IOSFODNN7EXAMPLE")),
                Just("postgres://ada:s3cret!@db"),
            ],
            0..8,
        ),
        nested in 0..3,
    ) {
        let mut text = parts.concat();
        for _ in 0..nested {
            text = serde_json::json!({ "log": text }).to_string();
        }
        let body = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "result": { "text": text } }).to_string();
        for detector in [SECRETS, PII] {
            let looked = look(body.as_bytes(), &detector).unwrap();
            prop_assert_eq!(looked.found.is_empty(), looked.redacted.is_none());
            let Some(redacted) = looked.redacted else { continue };
            let value: Value = serde_json::from_slice(&redacted).expect("it is JSON");
            prop_assert!(value["result"]["text"].as_str().unwrap().contains("[redacted:"));
            prop_assert_eq!(look(&redacted, &detector).unwrap(), Looked::default());
        }
    }
}
