//! Addresses that users are asked to visit.
//!
//! A server that may send users anywhere can send them to a page that looks like their bank's. What a client opens is
//! what its own reader finds, so an address that readers could find in two ways is refused like a bad one.

use serde_json::Value;
use url::{Host, Url};

use crate::wire::duplicates;

/// Names that lead nowhere on the public internet.
const PRIVATE: [&str; 9] =
    ["localhost", "local", "localdomain", "internal", "intranet", "lan", "home.arpa", "invalid", "test"];

/// What is wrong with the addresses that a message asks to visit (`mode: "url"`): those of a request
/// `elicitation/create`, of an error -32042, of `inputRequests`, also of a task. The same in arguments, texts or schemas
/// asks for nothing.
pub(super) fn problem(body: &[u8], hosts: Option<&[Box<str>]>) -> Option<&'static str> {
    const UNREADABLE: &str = "it cannot be read in one way only";
    if duplicates(body).is_err() {
        return Some(UNREADABLE);
    }
    match serde_json::from_slice(body) {
        Ok(message) => in_message(&message, hosts),
        Err(_) => Some(UNREADABLE),
    }
}

/// The members of this name in capitals. Some readers tell no capitals from small letters.
pub(super) fn called<'a>(value: &'a Value, name: &'static str) -> impl Iterator<Item = &'a Value> {
    let members = value.as_object().into_iter().flatten();
    members.filter(move |(key, _)| key.to_uppercase() == name).map(|(_, value)| value)
}

/// What is wrong in a request for input, or in a message.
fn in_message(message: &Value, hosts: Option<&[Box<str>]>) -> Option<&'static str> {
    if let Value::Array(messages) = message {
        return messages.iter().find_map(|message| in_message(message, hosts));
    }
    let is = |method: &str| method.trim().eq_ignore_ascii_case("elicitation/create");
    let elicits = called(message, "METHOD").any(|method| method.as_str().is_some_and(is));
    let asked = called(message, "PARAMS").filter(|_| elicits);
    let data = called(message, "ERROR").flat_map(|error| called(error, "DATA"));
    let found = asked.chain(data).find_map(|value| in_value(value, hosts));
    found.or_else(|| inputs(message).find_map(|input| in_message(input, hosts)))
}

/// The requests for input in a message (`inputRequests`), also of a task.
pub(super) fn inputs(message: &Value) -> impl Iterator<Item = &Value> {
    let holders = called(message, "RESULT").chain(called(message, "PARAMS"));
    let holders = holders.flat_map(|holder| std::iter::once(holder).chain(called(holder, "TASK")));
    holders.flat_map(|holder| called(holder, "INPUTREQUESTS")).flat_map(items)
}

fn items(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(members) => Box::new(members.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn in_value(value: &Value, hosts: Option<&[Box<str>]>) -> Option<&'static str> {
    let members = match value {
        Value::Array(items) => return items.iter().find_map(|item| in_value(item, hosts)),
        Value::Object(members) => members,
        _ => return None,
    };
    let asks =
        called(value, "MODE").any(|mode| mode.as_str().is_some_and(|mode| mode.trim().eq_ignore_ascii_case("url")));
    if asks {
        let mut urls = called(value, "URL");
        let (url, other) = (urls.next(), urls.next());
        match url.and_then(Value::as_str).filter(|_| other.is_none()) {
            None => return Some("the address to visit cannot be read in one way only"),
            Some(url) => {
                if let Some(problem) = of_url(url, hosts) {
                    return Some(problem);
                }
            }
        }
    }
    members.values().find_map(|member| in_value(member, hosts))
}

/// What is wrong with one address. A name in `hosts` is good whatever it looks like.
fn of_url(text: &str, hosts: Option<&[Box<str>]>) -> Option<&'static str> {
    let ambiguous = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    let Ok(url) = Url::parse(text) else { return Some("the address to visit is none") };
    if text.contains(ambiguous) {
        return Some("the address to visit cannot be read in one way only");
    }
    if url.scheme() != "https" {
        return Some("the address to visit is not https");
    }
    let authority =
        text.split_once("//").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if authority.contains('@') {
        return Some("the address to visit has a user's name before its host");
    }
    let Some(Host::Domain(host)) = url.host() else { return Some("the address to visit is an IP address") };
    let host = host.strip_suffix('.').unwrap_or(host);
    if let Some(hosts) = hosts {
        let listed = hosts.iter().any(|known| match known.strip_prefix("*.") {
            Some(above) => host.strip_suffix(above).is_some_and(|below| below.ends_with('.')),
            None => **known == *host,
        });
        return (!listed).then_some("the host of the address to visit is not among the allowed ones");
    }
    let private = |name: &str| host == name || host.strip_suffix(name).is_some_and(|below| below.ends_with('.'));
    if !host.contains('.') || PRIVATE.iter().any(|name| private(name)) {
        return Some("the host of the address to visit is not public");
    }
    if host.split('.').any(|label| label.starts_with("xn--")) {
        return Some("the host of the address to visit has letters that look like others");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_public_names_by_https() {
        for url in [
            "https://example.com/a?b#c",
            "https://login.example.co.uk:8443/",
            "https://EXAMPLE.com",
            "https://example.com/@x",
        ] {
            assert_eq!(of_url(url, None), None, "{url}");
        }
        for url in [
            "http://example.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://192.0.2.1/",
            "https://localhost/",
            "https://a.localhost./",
            "https://router.local/",
            "https://vault.corp.internal/",
            "https://intranet/",
            "https://bank.example@evil.example/",
            "https://:x@evil.example/",
            "https://@evil.example/",
            "https://xn--pple-43d.com/",
            "https://аpple.com/",
            "https://evil.example\\@bank.example/",
            "https://bank.example\t.evil.example/",
            " https://example.com/",
            "https://",
            "example.com",
            "",
        ] {
            assert!(of_url(url, None).is_some(), "{url}");
        }
    }

    #[test]
    fn listed_hosts_are_all_there_are() {
        let hosts: Vec<Box<str>> =
            ["login.example.com", "*.corp.internal", "xn--bcher-kva.example"].map(Into::into).into();
        let good = |url| of_url(url, Some(&hosts)).is_none();
        for url in [
            "https://login.example.com/x",
            "https://LOGIN.example.com",
            "https://a.corp.internal",
            "https://bücher.example/",
        ] {
            assert!(good(url), "{url}");
        }
        for url in [
            "https://example.com",
            "https://corp.internal",
            "https://acorp.internal",
            "http://login.example.com",
            "https://login.example.com.evil.example",
        ] {
            assert!(!good(url), "{url}");
        }
    }

    #[test]
    fn addresses_are_found_wherever_they_are_asked_for() {
        let asked = |url: &str| json!({ "mode": "url", "elicitationId": "x", "url": url, "message": "m" });
        let of = |url: &str| {
            [
                json!({ "jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": asked(url) }),
                json!({ "jsonrpc": "2.0", "id": 1, "error": { "code": -32042, "message": "m", "data": { "elicitations": [asked(url)] } } }),
                json!({ "jsonrpc": "2.0", "id": 1, "result": { "resultType": "input_required", "inputRequests": { "a": { "method": "elicitation/create", "params": asked(url) } } } }),
            ]
        };
        for message in of("https://example.com/") {
            assert_eq!(problem(message.to_string().as_bytes(), None), None);
        }
        for message in of("https://10.0.0.1/") {
            assert!(problem(message.to_string().as_bytes(), None).is_some(), "{message}");
        }
        let form = r#"{"method":"elicitation/create","params":{"mode":"form","url":"http://x"}}"#;
        assert_eq!(problem(form.as_bytes(), None), None);
        for arguments in [
            json!({ "method": "tools/call", "params": { "name": "open", "arguments": { "mode": "url", "url": "http://x" } } }),
            json!({ "result": { "structuredContent": { "mode": "url", "url": "http://x" } } }),
            json!({ "result": { "tools": [{ "inputSchema": { "default": { "mode": "url" } } }] } }),
            json!({ "result": { "inputRequests": { "a": { "method": "sampling/createMessage", "params": { "mode": "url" } } } } }),
        ] {
            assert_eq!(problem(arguments.to_string().as_bytes(), None), None, "{arguments}");
        }
        for message in [
            r#"{"method":"elicitation/create","params":{"mode":"url"}}"#,
            r#"{"method":"elicitation/create","params":{"mode":"url","url":1}}"#,
            r#"{"method":"elicitation/create","params":{"mode":"url","url":"https://example.com","URL":"https://example.com"}}"#,
            r#"{"method":"elicitation/create","params":{"mode":"url","url":"http://e.example","url":"https://example.com"}}"#,
            r#"{"Method":"Elicitation/Create","Params":{"Mode":"URL","Url":"http://e.example"}}"#,
            r#"{"method":"elicitation\u002fcreate","params":{"m\u006fde":"url","url":"http://e.example"}}"#,
            r#"{"method":"elicitation/create","params":{"mode":"form","MODE":"url","url":"http://e.example"}}"#,
            r#"{"method":"notifications/tasks","params":{"inputRequests":{"a":{"method":"elicitation/create","params":{"mode":"url"}}}}}"#,
            r#"{"result":{"task":{"inputRequests":[{"method":"elicitation/create","params":{"mode":"url"}}]}}}"#,
            "{",
        ] {
            assert!(problem(message.as_bytes(), None).is_some(), "{message}");
        }
    }
}
