//! One way to write a value.

use super::error::{Fault, PeekError};
use super::json::Json;
use super::limits::Limits;

/// Writes a JSON value in one way, whatever its spaces, escapes and the order of members: as RFC 8785 has it, but for
/// numbers, which stay as they are written. That RFC reads them as `f64`, so that two which differ in a late digit would
/// become one; a digest has to tell them apart.
///
/// `on_string` is told of every string and every name of a member, without their escapes.
///
/// # Errors
///
/// [`Fault::RepeatedMember`]: readers differ on which of two counts; or why the value is no JSON.
///
/// # Example
///
/// ```
/// use mcp_gateway_core::wire::canonical;
///
/// let value = canonical(br#"{ "b": [1.0, "\u0041/"], "a": null }"#, &mut |_| {})?;
/// assert_eq!(value, br#"{"a":null,"b":[1.0,"A/"]}"#);
/// # Ok::<(), mcp_gateway_core::wire::PeekError>(())
/// ```
pub fn canonical(value: &[u8], on_string: &mut dyn FnMut(&str)) -> Result<Vec<u8>, PeekError> {
    let limits = Limits { max_bytes: usize::MAX, max_depth: Limits::DEEPEST, ..Limits::default() };
    let mut json = Json::new(value, &limits)?;
    let mut out = Vec::with_capacity(value.len());
    write(&mut json, 0, &mut out, on_string)?;
    json.end()?;
    Ok(out)
}

/// Recursion is bounded by [`Limits::DEEPEST`].
fn write(json: &mut Json<'_>, depth: u32, out: &mut Vec<u8>, on_string: &mut dyn FnMut(&str)) -> Result<(), PeekError> {
    match json.peek() {
        Some(b'{') => object(json, depth + 1, out, on_string),
        Some(b'[') => {
            out.push(b'[');
            let mut first = true;
            json.array(depth + 1, |json| {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                write(json, depth + 1, out, on_string)
            })?;
            out.push(b']');
            Ok(())
        }
        Some(b'"') => {
            let text = json.string()?.decode();
            on_string(&text);
            string(&text, out);
            Ok(())
        }
        _ => {
            out.extend_from_slice(json.raw(depth)?);
            Ok(())
        }
    }
}

fn object(
    json: &mut Json<'_>,
    depth: u32,
    out: &mut Vec<u8>,
    on_string: &mut dyn FnMut(&str),
) -> Result<(), PeekError> {
    json.enter(depth)?;
    json.eat(b'{')?;
    json.space();
    let mut members = Vec::new();
    if json.peek() == Some(b'}') {
        json.eat(b'}')?;
    } else {
        loop {
            let key = json.key()?;
            let (name, mut value) = (key.decode(), Vec::new());
            on_string(&name);
            write(json, depth, &mut value, on_string)?;
            members.push((name, value, key.at));
            json.space();
            match json.peek() {
                Some(b',') => json.eat(b',')?,
                Some(b'}') => break json.eat(b'}')?,
                _ => return json.unexpected(),
            }
        }
    }
    // RFC 8785 §3.2.3: by UTF-16 code units.
    members.sort_by(|(a, ..), (b, ..)| a.encode_utf16().cmp(b.encode_utf16()));
    if let Some(twins) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(PeekError::new(Fault::RepeatedMember, twins[1].2));
    }
    out.push(b'{');
    for (number, (name, value, _)) in members.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        string(name, out);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    Ok(())
}

/// As RFC 8785 §3.2.2.2 has it, which is how `serde_json` writes strings.
fn string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string can be written to memory");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn text(value: &str) -> String {
        String::from_utf8(canonical(value.as_bytes(), &mut |_| {}).unwrap()).unwrap()
    }

    #[test]
    fn members_are_sorted_and_strings_written_as_the_rfc_has_them() {
        // RFC 8785 §3.2.3.
        let unsorted = r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#;
        let sorted = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}";
        assert_eq!(text(unsorted), sorted);
        assert_eq!(text(r#""\u0001\u0008\u000f\/\u007f""#), "\"\\u0001\\b\\u000f/\u{7f}\"");
        assert_eq!(text(" [ ] "), "[]");
        assert_eq!(text("{\n}"), "{}");
    }

    #[test]
    fn numbers_stay_apart() {
        assert_ne!(text("9007199254740993"), text("9007199254740992"));
        assert_eq!(text("[1e400, -0, 1.0]"), "[1e400,-0,1.0]");
    }

    #[test]
    fn what_readers_could_differ_on_is_refused() {
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"\u0062":2}}"#, "{} {}", "[1,]", "\"\\ud800\"", ""] {
            assert!(canonical(bad.as_bytes(), &mut |_| {}).is_err(), "{bad}");
        }
        let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        let deepest = usize::from(Limits::DEEPEST);
        assert!(canonical(&deep(deepest), &mut |_| {}).is_ok());
        assert!(canonical(&deep(deepest + 1), &mut |_| {}).is_err());
    }

    #[test]
    fn every_string_is_told() {
        let mut told = Vec::new();
        canonical(br#"{"a":["\u0062",1],"c":{"d":"e"}}"#, &mut |text| told.push(text.to_owned())).unwrap();
        assert_eq!(told, ["a", "b", "c", "d", "e"]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from);
            let object = proptest::collection::btree_map(".{0,4}", inner, 0..6);
            prop_oneof![list, object.prop_map(|members| Value::Object(members.into_iter().collect()))]
        })
    }

    proptest! {
        #[test]
        fn order_space_and_escapes_do_not_matter_and_everything_else_does(one in value(), other in value()) {
            let plain = text(&one.to_string());
            prop_assert_eq!(&text(&serde_json::to_string_pretty(&one).unwrap()), &plain);
            prop_assert_eq!(&text(&backwards(&one)), &plain);
            prop_assert_eq!(&text(&plain), &plain);
            prop_assert_eq!(text(&other.to_string()) == plain, one == other);
            prop_assert_eq!(serde_json::from_str::<Value>(&plain).unwrap(), one);
        }
    }

    /// The value with its members in the other order and every character of its strings escaped.
    fn backwards(value: &Value) -> String {
        let string = |text: &str| {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{units}\"")
        };
        match value {
            Value::Object(members) => {
                let members =
                    members.iter().rev().map(|(name, value)| format!("{} :\t{}", string(name), backwards(value)));
                format!("{{ {} }}", members.collect::<Vec<_>>().join(",\n"))
            }
            Value::Array(items) => format!("[{}]", items.iter().map(backwards).collect::<Vec<_>>().join(" , ")),
            Value::String(text) => string(text),
            value => value.to_string(),
        }
    }
}
