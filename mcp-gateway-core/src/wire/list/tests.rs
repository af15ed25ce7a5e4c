use super::*;

fn left(body: &str, keep: &[&str]) -> Option<String> {
    let lists = Lists::of_response(body.as_bytes()).unwrap();
    let kept = lists.write(body.as_bytes(), |item| item.name.as_deref().is_some_and(|name| keep.contains(&name)), true);
    kept.map(|kept| String::from_utf8(kept).unwrap())
}

#[test]
fn what_is_left_keeps_its_bytes() {
    for (before, keep, after) in [
        (r#"{"result":{"tools":[]}}"#, &["a"][..], None),
        (r#"{"result":{"tools":[{"name":"a"}]}}"#, &["a"], None),
        (r#"{"result":{"tools":[ {"name":"a"} , {"name":"b"} ] }}"#, &[], Some(r#"{"result":{"tools":[] }}"#)),
        (
            r#"{"id":1.0,"result":{"x":1e2,"tools":[{"name":"a","y":"\u0041"},{"z":[1,2],"name":"\u0062"},{"name":"c"}],"nextCursor":"n"}}"#,
            &["a", "c"],
            Some(r#"{"id":1.0,"result":{"x":1e2,"tools":[{"name":"a","y":"\u0041"},{"name":"c"}],"nextCursor":"n"}}"#),
        ),
        // Each kind has its own name for what it is called, and what is not called anything is not kept.
        (
            r#"{"result":{"resources":[{"uri":"u","name":"a"},{"name":"a"}],"resourceTemplates":[{"uriTemplate":"u"},{"uri":"u"}]}}"#,
            &["u"],
            Some(r#"{"result":{"resources":[{"uri":"u","name":"a"}],"resourceTemplates":[{"uriTemplate":"u"}]}}"#),
        ),
        (r#"{"result":{"tools":["a",null,["a"],{"name":7},{}]}}"#, &["a"], Some(r#"{"result":{"tools":[]}}"#)),
        (r#"{"result":{"tools":null}}"#, &[], None),
        (r#"{"error":{"code":1,"message":"tools"}}"#, &[], None),
        (r#"{"result":{"content":[{"tools":[{"name":"a"}]}]}}"#, &[], None),
    ] {
        assert_eq!(left(before, keep).as_deref(), after, "{before}");
    }
}

#[test]
fn a_public_result_becomes_private_where_it_stands() {
    let scoped = |scope: &str| format!(r#"{{"result":{{"cacheScope": {scope} ,"tools":[{{"name":"a"}}]}}}}"#);
    for (before, after) in [
        ("\"public\"", Some("\"private\"")),
        ("\"pub\\u006cic\"", Some("\"private\"")),
        ("\"private\"", None),
        ("7", None),
    ] {
        let body = scoped(before);
        let lists = Lists::of_response(body.as_bytes()).unwrap();
        assert_eq!(lists.write(body.as_bytes(), |_| true, true), None);
        let written = lists.write(body.as_bytes(), |_| true, false);
        assert_eq!(written, after.map(|after| scoped(after).into_bytes()), "{before}");
    }
    let body = br#"{"result":{"tools":[{"name":"a"}],"cacheScope":"public"}}"#;
    let written = Lists::of_response(body).unwrap().write(body, |_| false, false).unwrap();
    assert_eq!(written, br#"{"result":{"tools":[],"cacheScope":"private"}}"#);
}

#[test]
fn what_could_be_read_in_two_ways_is_not_read() {
    for body in [
        r#"{"result":{"tools":[]},"result":{"tools":[{"name":"a"}]}}"#,
        r#"{"result":{"tools":[]},"Result":{"tools":[{"name":"a"}]}}"#,
        r#"{"result":{"tools":[],"tools":[{"name":"a"}]}}"#,
        r#"{"result":{"tools":[],"TOOLS":[{"name":"a"}]}}"#,
        r#"{"result":{"tools":[],"t\u006fols":[{"name":"a"}]}}"#,
        r#"{"result":{"tools":[{"name":"a","name":"b"}]}}"#,
        r#"{"result":{"tools":[{"name":"a","Name":"b"}]}}"#,
        r#"{"result":{"tools":{"0":{"name":"a"}}}}"#,
        r#"{"result":[[{"name":"a"}]]}"#,
        r#"[{"result":{"tools":[{"name":"a"}]}}]"#,
        r#"{"result":{"tools":[{"name":"a"}]}} {}"#,
        r#"{"result":{"tools":[{"name":"a"},]}}"#,
        "",
    ] {
        assert!(Lists::of_response(body.as_bytes()).is_err(), "{body}");
    }
    for body in [
        r#"{"params":{"notifications":[true,["a:b"]]}}"#,
        r#"{"params":{"notifications":{"resourceSubscriptions":[],"resourcesubscriptions":["a:b"]}}}"#,
        r#"{"params":{"notifications":{},"Notifications":{"resourceSubscriptions":["a:b"]}}}"#,
        r#"{"params":{"notifications":{"resourceSubscriptions":"a:b"}}}"#,
    ] {
        assert!(Lists::of_listen(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn a_listener_subscribes_to_less() {
    let body = br#"{"params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b", "a:c" ,7]}}}"#;
    let lists = Lists::of_listen(body).unwrap();
    let written = lists.write(body, |item| item.name.as_deref() == Some("a:c"), true).unwrap();
    let text = r#"{"params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:c"]}}}"#;
    assert_eq!(String::from_utf8(written).unwrap(), text);
    for none in [r#"{"method":"x"}"#, r#"{"params":{}}"#, r#"{"params":{"notifications":{}}}"#] {
        assert_eq!(Lists::of_listen(none.as_bytes()).unwrap().items, []);
    }
}
