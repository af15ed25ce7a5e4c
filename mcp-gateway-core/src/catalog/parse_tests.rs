use proptest::prelude::*;

use super::*;

fn errors(text: &str) -> Vec<EntryError> {
    parse(text.as_bytes(), "a.yaml").into_iter().filter_map(Result::err).collect()
}

fn ids(text: &str, name: &str) -> Vec<String> {
    parse(text.as_bytes(), name).into_iter().flatten().map(|entry| entry.entry_key).collect()
}

#[test]
fn reads_one_entry_or_a_list() {
    let one = "entryKey: a\nname: A\nruntime: npx\nnpxConfig: {package: x}\n";
    assert_eq!(ids(one, "a.yaml"), ["a"]);
    let list = "- {entryKey: a, name: A, runtime: npx}\n- {entryKey: b, name: B, runtime: uvx}\n";
    assert_eq!(ids(list, "a.yml"), ["a", "b"]);
    assert_eq!(ids(r#"[{"entryKey": "a", "name": "A", "runtime": "npx"}]"#, "a.json"), ["a"]);
    assert_eq!(ids(r#"{"entryKey": "a", "name": "A", "runtime": "npx"}"#, "A.JSON"), ["a"]);
    for empty in ["", "# nothing yet\n", "[]"] {
        assert!(parse(empty.as_bytes(), "a.yaml").is_empty(), "{empty:?}");
    }
}

#[test]
fn names_line_column_and_field() {
    let text = "entryKey: a\nname: A\nruntime: npx\nnpxConfig:\n  package: x\n  agrs: [y]\n";
    let [error] = errors(text).try_into().unwrap();
    assert_eq!(error.place, "a.yaml:6:3");
    assert_eq!(error.field.as_deref(), Some("npxConfig.agrs"));
    assert!(error.problem.starts_with("unknown field `agrs`, expected"), "{}", error.problem);
    assert_eq!(error.id.as_deref(), Some("a"));

    let [error] = errors("entryKey: a\nname: [A]\nruntime: npx\n").try_into().unwrap();
    assert_eq!((error.place.as_str(), error.field.as_deref()), ("a.yaml:2:7", Some("name")));
    assert_eq!(error.problem, "invalid type: sequence, expected a string");

    let json = br#"{"entryKey": "a", "name": "A", "runtime": "npx", "x": 1}"#;
    let error = parse(json, "a.json").remove(0).unwrap_err();
    assert_eq!((error.place.as_str(), error.field.as_deref()), ("a.json:1:52", Some("x")));
}

#[test]
fn a_bad_entry_of_a_list_leaves_the_others_alone() {
    let text = "- {entryKey: a, name: A, runtime: npx}\n- {entryKey: b, nam: B, runtime: npx}\n- 7\n- {entryKey: c, name: C, runtime: uvx}\n";
    assert_eq!(ids(text, "a.yaml"), ["a", "c"]);
    let [b, seven] = errors(text).try_into().unwrap();
    assert_eq!((b.field.as_deref(), b.id.as_deref()), (Some("[1].nam"), Some("b")));
    assert_eq!(b.place, "a.yaml:2:17");
    assert_eq!((seven.field.as_deref(), seven.id), (Some("[2]"), None));
}

#[test]
fn what_this_version_does_not_serve_is_said_clearly() {
    for (text, field, problem) in [
        ("runtime: containerized", "runtime", "runtime: containerized is not supported by this version"),
        ("runtime: composite", "runtime", "runtime: composite is not supported by this version"),
        ("runtime: npx\nreplicas: 2", "replicas", "replicas is not supported by this version"),
        ("runtime: npx\ntoolOverrides: []", "toolOverrides", "toolOverrides is not supported by this version"),
        ("multiUserConfig: {}\nruntime: npx", "multiUserConfig", "multiUserConfig is not supported by this version"),
        (
            "runtime: remote\nremoteConfig: {urlTemplate: x}",
            "remoteConfig.urlTemplate",
            "urlTemplate is not supported by this version",
        ),
        ("runtime: npx\nenv: [{key: A, options: []}]", "env[0].options", "options is not supported by this version"),
    ] {
        let [error] = errors(&format!("entryKey: a\nname: A\n{text}\n")).try_into().unwrap();
        assert_eq!((error.field.as_deref(), error.problem.as_str()), (Some(field), problem));
    }
    let [error] = errors("entryKey: a\nname: A\nruntime: docker\n").try_into().unwrap();
    assert!(error.problem.starts_with("unknown variant `docker`, expected one of `npx`"), "{}", error.problem);
}

#[test]
fn numbers_are_texts_where_texts_are_wanted() {
    let text = "entryKey: a\nname: A\nruntime: npx\nenv: [{key: PORT, value: 8080}, {key: ON, value: true}]\n";
    let entry = parse(text.as_bytes(), "a.yaml").remove(0).unwrap();
    assert_eq!(entry.env[0].value.expose(), "8080");
    assert_eq!(entry.env[1].value.expose(), "true");
}

#[test]
fn the_origin_cannot_be_stated() {
    let [error] = errors("entryKey: a\nname: A\nruntime: npx\norigin: {kind: builtin}\n").try_into().unwrap();
    assert_eq!(error.field.as_deref(), Some("origin"));
}

#[test]
fn limits_hold_at_their_edges() {
    let filled = |size: usize| {
        let head = "entryKey: a\nname: A\nruntime: npx\n#";
        format!("{head}{}", "x".repeat(size - head.len()))
    };
    assert_eq!(ids(&filled(Limits::FILE), "a.yaml"), ["a"]);
    assert!(errors(&filled(Limits::FILE + 1))[0].problem.contains("larger than"));

    let described =
        |length: usize| format!("{{entryKey: a, name: A, runtime: npx, description: \"{}\"}}", "x".repeat(length));
    let entry = parse(described(0).as_bytes(), "a.yaml").remove(0).unwrap();
    let room = Limits::ENTRY - serde_json::to_vec(&entry).unwrap().len();
    assert_eq!(ids(&described(room), "a.yaml"), ["a"]);
    assert!(errors(&described(room + 1))[0].problem.contains("128 KiB"));

    let bad = |count: usize| "- {}\n".repeat(count) + "- {entryKey: a, name: A, runtime: npx}\n";
    assert_eq!(ids(&bad(Limits::ERRORS), "a.yaml"), ["a"]);
    let many = parse(bad(Limits::ERRORS + 1).as_bytes(), "a.yaml");
    assert!(many.iter().all(Result::is_err));
    assert!(many.last().unwrap().as_ref().unwrap_err().problem.contains("more than 32"));
}

#[test]
fn hostile_yaml_ends_with_an_error() {
    // Each level is nine times the one before.
    let mut bomb = "a0: &a0 x\n".to_owned();
    for level in 1..30 {
        let before = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(",")));
    }
    let bomb = format!("entryKey: a\nname: A\nruntime: npx\nmetadata:\n  {}", bomb.replace('\n', "\n  "));
    assert_eq!(errors(&bomb).len(), 1);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(errors(&deep).len(), 1);
    assert_eq!(parse(deep.as_bytes(), "a.json").len(), 1);
    assert_eq!(errors("entryKey: a\n---\nentryKey: b\n").len(), 1);
    assert_eq!(parse(b"\xff", "a.yaml").len(), 1);
}

/// Text that is nearly an entry, so that more than the first byte is reached.
fn nearly_entries() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("entryKey: a".to_owned()),
        Just("name: A".to_owned()),
        "runtime: (npx|uvx|remote|command|composite)",
        "npxConfig: \\{package: '[a-z@/.-]{0,9}', args: \\[.{0,5}\\]\\}",
        "remoteConfig: \\{fixedURL: '[a-z:/@#?.\\[\\]0-9]{0,24}'\\}",
        "env: \\[\\{key: [A-Z_]{1,5}, value: .{0,5}\\}\\]",
        "resources: \\{limits: \\{(cpu|memory): '[0-9.mMGik]{0,6}'\\}\\}",
        "[-&*!|>%@`{}\\[\\]a-z: ]{0,12}",
    ];
    prop::collection::vec((prop_oneof![Just(""), Just("- "), Just("  ")], line), 0..8)
        .prop_map(|lines| lines.iter().map(|(indent, line)| format!("{indent}{line}\n")).collect())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data: Vec<u8>) {
        check(&data);
    }

    #[test]
    fn nearly_entries_never_panic(text in nearly_entries()) {
        check(text.as_bytes());
    }

    #[test]
    fn what_is_read_survives_being_stored(text in nearly_entries()) {
        for entry in parse(text.as_bytes(), "a.yaml").into_iter().flatten() {
            let json = serde_json::to_vec(&entry).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Entry>(&json).unwrap(), entry);
        }
    }
}
