use super::*;

fn fault(json: &str) -> Option<Fault> {
    duplicates(json.as_bytes()).err().map(|error| error.fault())
}

#[test]
fn repeated_members_are_refused_at_every_depth() {
    for json in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":2,"\u0061":3}"#,
        r#"[[{"x":{"y":[{"z":1,"z":2}]}}]]"#,
        r#"{"a":{"b":1},"c":{"b":1,"b":2}}"#,
        r#"{"a":{"x":1},"b":2,"a":3}"#,
        r#"{"":1,"":2}"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
    ] {
        assert_eq!(fault(json), Some(Fault::RepeatedMember), "{json}");
    }
}

#[test]
fn the_same_name_in_different_objects_is_fine() {
    for json in [r#"{"a":{"a":{"a":1}}}"#, r#"[{"a":1},{"a":2}]"#, r#"{"a":1,"A":2,"á":3}"#, "{}", "[]", "1", "\"a\""]
    {
        assert_eq!(fault(json), None, "{json}");
    }
}

#[test]
fn what_is_no_json_is_refused() {
    for json in ["", "{", r#"{"a":1}}"#, r#"{"a":}"#, "\u{feff}{}", "[1]x"] {
        assert!(fault(json).is_some(), "{json:?}");
    }
}

#[test]
fn memory_is_bounded() {
    let object = |members: usize| {
        let members: Vec<_> = (0..members).map(|i| format!("\"{i}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(fault(&object(MAX_OPEN_MEMBERS)), None);
    assert_eq!(fault(&object(MAX_OPEN_MEMBERS + 1)), Some(Fault::TooManyMembers));
    // Names of closed objects are forgotten.
    let half = object(MAX_OPEN_MEMBERS / 2);
    assert_eq!(fault(&format!("[{half},{half},{half}]")), None);
}
