//! A message whose texts are looked through, and rewritten without a change to anything else.

use bytes::Bytes;
use serde_json::Value;

use super::detect::Detector;
use crate::record::Label;
use crate::wire::{PeekError, ScalarKind, scalars};

/// What is in a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// The names of what was found, each once.
    pub(super) found: Vec<Label>,
    /// The message with the names in the place of what was found; `None` if nothing was, or it stands where nothing can
    /// take its place: in a number, or in the name of a member.
    pub(super) redacted: Option<Bytes>,
}

/// Looks through the strings, numbers and names of a message.
///
/// # Errors
/// It cannot be read in one way only.
pub(super) fn look(body: &[u8], detector: &Detector) -> Result<Looked, PeekError> {
    let mut looked = Looked::default();
    let mut replaced = Vec::new();
    let mut fixed = false;
    scalars(body, |scalar| {
        let text = scalar.text();
        let member = if scalar.kind == ScalarKind::Name { "" } else { scalar.member };
        let found = detector.find(&text, member);
        if found.is_empty() {
            return;
        }
        for one in &found {
            if !looked.found.contains(&one.name) {
                looked.found.push(one.name.clone());
            }
        }
        if scalar.kind != ScalarKind::String {
            fixed = true;
            return;
        }
        let mut rewritten = String::with_capacity(text.len());
        let mut from = 0;
        for one in found {
            rewritten.push_str(&text[from..one.at.start]);
            rewritten.push_str("[redacted:");
            rewritten.push_str(&one.name);
            rewritten.push(']');
            from = one.at.end;
        }
        rewritten.push_str(&text[from..]);
        replaced.push((scalar.at, rewritten));
    })?;
    if !fixed && !replaced.is_empty() {
        let mut out = Vec::with_capacity(body.len());
        let mut from = 0;
        for (at, text) in replaced {
            out.extend_from_slice(&body[from..at.start]);
            out.extend_from_slice(Value::from(text).to_string().as_bytes());
            from = at.end;
        }
        out.extend_from_slice(&body[from..]);
        looked.redacted = Some(out.into());
    }
    Ok(looked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::detect::Types;

    fn digits() -> Detector {
        Detector::Regex([("number".into(), regex::Regex::new("[0-9]{3}").unwrap())].into())
    }

    #[test]
    fn only_the_strings_concerned_are_written_anew() {
        let body = br#"{"jsonrpc":"2.0", "id":"123","method":"m","params":{"a":"x\u0031\u0032\u0033y\/", "b" : 1.50 ,"c":"\/", "requestState":"123"}}"#;
        let looked = look(body, &digits()).unwrap();
        assert_eq!(looked.found, ["number"]);
        let expected = br#"{"jsonrpc":"2.0", "id":"123","method":"m","params":{"a":"x[redacted:number]y/", "b" : 1.50 ,"c":"\/", "requestState":"123"}}"#;
        assert_eq!(looked.redacted.as_deref(), Some(&expected[..]));
    }

    #[test]
    fn nothing_takes_the_place_of_a_number_or_a_name() {
        for body in [&br#"{"a":1234,"b":"123"}"#[..], br#"{"123":1,"b":"123"}"#] {
            let looked = look(body, &digits()).unwrap();
            assert_eq!((looked.found.len(), looked.redacted), (1, None));
        }
        assert_eq!(look(br#"{"a":"b"}"#, &digits()).unwrap(), Looked::default());
        assert!(look(br#"{"a":"123"} x"#, &digits()).is_err());
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
                if digits().find(&meant, "").is_empty() {
                    prop_assert_eq!(old, new, "a string without a find keeps its bytes");
                } else {
                    prop_assert!(new.contains("[redacted:number]"));
                }
            }
            prop_assert_eq!(look(redacted.as_bytes(), &digits()).unwrap(), Looked::default(), "nothing is left: {}", value);
        }

        #[test]
        fn detectors_take_any_text(text in "\\PC*", member in "\\PC{0,8}") {
            for detector in [Detector::Secrets(Types::ALL), Detector::Pii(Types::ALL), digits()] {
                for found in detector.find(&text, &member) {
                    prop_assert!(text.get(found.at).is_some_and(|found| !found.is_empty()));
                }
            }
        }
    }
}
