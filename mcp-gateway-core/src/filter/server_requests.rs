//! What a server may not ask of clients, by its catalog entry.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::elicitation::{called, inputs};
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Filter, Head, Needs, Verdict, View};
use crate::record::{FilterVerdict, ServerRequests};
use crate::wire::duplicates;
use crate::wire::rpc::code::URL_ELICITATION_REQUIRED;
use crate::wire::version::Era;

/// Keeps clients from being asked for what the [entry](crate::record::Entry::server_requests) denies its server.
///
/// Servers are not told of the client's capability, so they do without. What one asks for all the same is refused: the
/// `inputRequests` of 2026-07-28, and the error -32042 of older revisions. Their whole requests are withheld by the
/// [`AuditLayer`](crate::layer::audit::AuditLayer), which lets none go unrecorded; what it could not read for sure is stopped
/// here. Every [`Shim`](crate::shim::Shim) has this filter. Servers that are denied nothing cost nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerRequestFilter;

const NAME: &str = "server-requests";
const ELICITATION: &str = "elicitation/create";

/// Where a client says what it can: at `initialize`, and with each request since 2026-07-28.
const DECLARED: [&[&str]; 4] = [
    &["params", "capabilities"],
    &["params", "capabilities", "tasks", "requests"],
    &["params", "_meta", "io.modelcontextprotocol/clientCapabilities"],
    &["params", "_meta", "io.modelcontextprotocol/clientCapabilities", "tasks", "requests"],
];

impl Filter for ServerRequestFilter {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, head: &Head<'_>) -> Needs {
        if head.server_requests.is_all() {
            return Needs::NONE;
        }
        let declares = head.era == Era::Modern || head.method == Some("initialize");
        // Whatever is looked at reaches no client that cannot be read in one way only.
        Needs { request: declares, response: true, events: true }
    }

    fn resumed(&self, _: &str) -> bool {
        // What it needs does not depend on the method.
        false
    }

    fn request(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let denied = denied(cx);
        let Ok(mut text) = std::str::from_utf8(&view.body).map(str::to_owned) else { return Verdict::Pass.into() };
        let mut changed = false;
        for path in DECLARED {
            if let Some(left) = without(&text, path, &|name| denied.denied().any(|(one, _)| one == name)) {
                (text, changed) = (left, true);
            }
        }
        if changed { Verdict::Replace(text.into()) } else { Verdict::Pass }.into()
    }

    fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        answered(cx, view).into()
    }

    fn event(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        answered(cx, view).into()
    }
}

fn denied(cx: &McpContext) -> ServerRequests {
    cx.route().map(|route| route.server_requests).unwrap_or_default()
}

fn answered(cx: &McpContext, view: &View) -> Verdict {
    let verdict = judge(denied(cx), &view.body);
    if verdict != Verdict::Pass {
        cx.note_filter(&NAME.into(), FilterVerdict::Refused, Vec::new());
    }
    verdict
}

/// Whether a message may ask for something: one that holds neither a name that does nor an escape is not read.
fn may_ask(body: &[u8]) -> bool {
    let holds = |word: &[u8]| body.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    memchr::memmem::find(body, b"\\u").is_some() || holds(b"inputrequests") || holds(b"\"error\"")
}

fn judge(denied: ServerRequests, body: &[u8]) -> Verdict {
    if !may_ask(body) {
        return Verdict::Pass;
    }
    let message = duplicates(body).ok().and_then(|()| serde_json::from_slice::<Value>(body).ok());
    let Some(message) = message else {
        return Verdict::failed(
            "what the server may not ask for cannot be told from a message with more than one reading",
        );
    };
    let sends_away = denied.denies(ELICITATION) && sends_away(&message);
    if sends_away || inputs(&message).any(|input| asked(input).is_none_or(|method| denied.denies(method))) {
        return Verdict::refuse("The server asks for what it may not ask for.");
    }
    Verdict::Pass
}

/// Whether a message's error sends the user to an address. Some readers tell no capitals from small letters, and take
/// numbers with a fraction for whole ones.
fn sends_away(message: &Value) -> bool {
    called(message, "ERROR").any(|error| {
        let code = |code: &Value| code.as_i64().is_none_or(|code| code == URL_ELICITATION_REQUIRED);
        called(error, "CODE").any(code)
            || called(error, "DATA").any(|data| called(data, "ELICITATIONS").next().is_some())
    })
}

/// The method of an input request; `None` when readers could find none or several.
fn asked(input: &Value) -> Option<&str> {
    let mut methods = input.as_object()?.iter().filter(|(name, _)| name.eq_ignore_ascii_case("method"));
    match (methods.next(), methods.next()) {
        (Some((_, method)), None) => method.as_str(),
        _ => None,
    }
}

/// An object without some members of one inside it; `None` if it has none of them. All values keep their bytes.
fn without(object: &str, path: &[&str], gone: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).ok()?;
    match path {
        [] => {
            let before = members.len();
            members.retain(|name, _| !gone(name));
            if members.len() == before {
                return None;
            }
        }
        [first, rest @ ..] => {
            let inner = members.get_mut(*first)?;
            *inner = RawValue::from_string(without(inner.get(), rest, gone)?).ok()?;
        }
    }
    serde_json::to_string(&members).ok()
}

#[cfg(test)]
mod tests {
    use crate::record::ServerRequest;

    use super::*;

    fn denied() -> ServerRequests {
        ServerRequests { sampling: ServerRequest::Deny, ..ServerRequests::default() }
    }

    #[test]
    fn only_what_is_denied_is_taken_from_what_a_client_declares() {
        let gone = |name: &str| denied().denied().any(|(one, _)| one == name);
        let message = r#"{"id":18446744073709551616,"params":{"capabilities":{"sampling":{},"roots":{"a":1e400}}}}"#;
        let left = r#"{"id":18446744073709551616,"params":{"capabilities":{"roots":{"a":1e400}}}}"#;
        assert_eq!(without(message, DECLARED[0], &gone).as_deref(), Some(left));
        assert_eq!(without(message, DECLARED[2], &gone), None);
        assert_eq!(without(left, DECLARED[0], &gone), None);
        let tasks =
            r#"{"params":{"capabilities":{"tasks":{"requests":{"sampling":{"createMessage":{}},"tools":{}}}}}}"#;
        let left = r#"{"params":{"capabilities":{"tasks":{"requests":{"tools":{}}}}}}"#;
        assert_eq!(without(tasks, DECLARED[1], &gone).as_deref(), Some(left));
        let modern =
            r#"{"params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"sampling":{"tools":{}}},"x":1}}}"#;
        let left = r#"{"params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"x":1}}}"#;
        assert_eq!(without(modern, DECLARED[2], &gone).as_deref(), Some(left));
    }

    #[test]
    fn input_requests_that_are_denied_are_refused_wherever_they_stand() {
        let refused = |message: &str| !matches!(judge(denied(), message.as_bytes()), Verdict::Pass);
        for good in [
            r#"{"result":{"inputRequests":{"a":{"method":"elicitation/create","params":{}}}}}"#,
            r#"{"result":{"content":[{"text":"sampling/createMessage","method":"sampling/createMessage"}]}}"#,
            r#"{"method":"notifications/progress","params":{}}"#,
            r#"{"result":{"structuredContent":{"a":1,"a":2}}}"#,
        ] {
            assert!(!refused(good), "{good}");
        }
        for bad in [
            r#"{"result":{"inputRequests":{"a":{"method":"elicitation/create"},"b":{"method":"sampling/createMessage"}}}}"#,
            r#"{"result":{"inputRequests":[{"Method":"Sampling/createMessage"}]}}"#,
            r#"{"params":{"task":{"inputRequests":{"a":{"method":"sampling/createMessage"}}}}}"#,
            r#"{"result":{"inputRequests":{"a":{"method":"x","METHOD":"sampling/createMessage"}}}}"#,
            r#"{"result":{"inputRequests":{"a":{}}}}"#,
            r#"{"result":{},"result":{"inputRequests":{"a":{"method":"sampling/createMessage"}}}}"#,
            r#"{"result":{"input\u0052equests":{"a":{"method":"sampling/createMessage"}}}}"#,
        ] {
            assert!(refused(bad), "{bad}");
        }
        let away = br#"{"id":1,"error":{"code":-32042,"message":"x","data":{"elicitations":[]}}}"#;
        assert_eq!(judge(denied(), away), Verdict::Pass);
        let silent = ServerRequests { elicitation: ServerRequest::Deny, ..denied() };
        for away in [
            &away[..],
            br#"{"id":1,"error":{"code":-32042.0}}"#,
            br#"{"id":1,"error":{"code":-3.2042e4}}"#,
            br#"{"id":1,"Error":{"Code":-1,"data":{"elicitations":[]}}}"#,
            br#"{"id":1,"\u0065rror":{"code":-32042}}"#,
        ] {
            assert_ne!(judge(silent, away), Verdict::Pass, "{}", String::from_utf8_lossy(away));
        }
        assert_eq!(judge(silent, br#"{"id":1,"error":{"code":-32602,"message":"x"}}"#), Verdict::Pass);
    }
}
