//! The strings and numbers of a message, with their places, so that single ones can be looked at and replaced.

use std::borrow::Cow;
use std::ops::Range;

use super::error::{Fault, PeekError};
use super::json::{Json, Keys};
use super::limits::Limits;
use super::text::Text;

/// A string, number or word, or the name of a member.
#[derive(Debug)]
pub(crate) struct Scalar<'a> {
    /// As it is written; a string without its quotes.
    raw: &'a str,
    /// Where in the message it is; a string with its quotes.
    pub(crate) at: Range<usize>,
    /// What it is.
    pub(crate) kind: ScalarKind,
    /// The name of the member that it is in, or the nearest one around it, as it is written.
    pub(crate) member: &'a str,
    /// What it is for.
    pub(crate) role: Role,
}

/// What a scalar is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It says something.
    Content,
    /// By it the message is known: its `id` or `method`.
    Identity,
    /// By it something is asked for again: a cursor, a task, a token, the URI of a resource. Another one would be of
    /// something else, or of nothing.
    Handle,
    /// It is a `requestState`, in 2026-07-28 one string that means something to its server alone.
    State,
}

/// Where handles are, by the names of the objects' members from the message inwards; `*` is any.
const HANDLES: &[&[&str]] = &[
    &["params", "cursor"],
    &["params", "taskId"],
    &["params", "taskIds"],
    &["params", "notifications", "taskIds"],
    &["params", "progressToken"],
    &["params", "requestId"],
    &["params", "elicitationId"],
    &["params", "uri"],
    &["params", "ref", "uri"],
    &["*", "_meta", "progressToken"],
    &["*", "_meta", "io.modelcontextprotocol/subscriptionId"],
    &["*", "_meta", "io.modelcontextprotocol/related-task", "taskId"],
    &["result", "nextCursor"],
    &["result", "taskId"],
    &["result", "task", "taskId"],
    &["result", "tasks", "taskId"],
    &["result", "resources", "uri"],
    &["result", "contents", "uri"],
    &["result", "content", "uri"],
    &["result", "content", "resource", "uri"],
    &["result", "resourceTemplates", "uriTemplate"],
];

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarKind {
    /// A value that is a string.
    String,
    /// A value that is a number or a word.
    Number,
    /// The name of a member.
    Name,
}

impl<'a> Scalar<'a> {
    /// What is meant: escapes resolved.
    pub(crate) fn text(&self) -> Cow<'a, str> {
        let escapes = usize::from(self.kind != ScalarKind::Number && self.raw.contains('\\'));
        Text { raw: self.raw, escapes, at: self.at.start }.decode()
    }
}

/// Calls `visit` for every scalar of a message but `jsonrpc`, in their order.
///
/// # Errors
/// Why it cannot be read in one way only; scalars may have been visited before.
pub(crate) fn scalars<'a>(body: &'a [u8], visit: impl FnMut(Scalar<'a>)) -> Result<(), PeekError> {
    let limits = Limits { max_bytes: usize::MAX, max_depth: Limits::DEEPEST, ..Limits::default() };
    let mut json = Json::new(body, &limits)?;
    let Ok(text) = std::str::from_utf8(body) else { return Err(PeekError::new(Fault::NotUtf8, 0)) };
    json.walk(0, &mut Visitor { text, names: Vec::new(), visit })?;
    json.end()
}

struct Visitor<'a, F> {
    text: &'a str,
    /// The name of the current member of each open object.
    names: Vec<&'a str>,
    visit: F,
}

impl<F> Visitor<'_, F> {
    /// `at` is where the value stands; `None` of what is not visited.
    fn role(&self, at: usize) -> Option<Role> {
        Some(match *self.names {
            ["jsonrpc"] => return None,
            ["id" | "method"] => Role::Identity,
            // In a list it is something else.
            ["params" | "result", "requestState"] if self.text[..at].trim_end().ends_with(':') => Role::State,
            _ if HANDLES.iter().any(|path| fits(path, &self.names)) => Role::Handle,
            _ => Role::Content,
        })
    }
}

impl<'a, F: FnMut(Scalar<'a>)> Keys<'a> for Visitor<'a, F> {
    fn open(&mut self) {
        self.names.push("");
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), PeekError> {
        if let Some(name) = self.names.last_mut() {
            *name = key.raw;
        }
        let at = key.at - 1..key.at + key.raw.len() + 1;
        (self.visit)(Scalar { raw: key.raw, at, kind: ScalarKind::Name, member: key.raw, role: Role::Content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), PeekError> {
        self.names.pop();
        Ok(())
    }

    fn scalar(&mut self, at: Range<usize>) {
        let Some(role) = self.role(at.start) else { return };
        let raw = &self.text[at.clone()];
        let string = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
        let kind = if string.is_some() { ScalarKind::String } else { ScalarKind::Number };
        let member = self.names.last().copied().unwrap_or_default();
        (self.visit)(Scalar { raw: string.unwrap_or(raw), at, kind, member, role });
    }
}

fn fits(path: &[&str], names: &[&str]) -> bool {
    path.len() == names.len() && path.iter().zip(names).all(|(known, name)| *known == "*" || known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scalar_is_visited_with_what_it_is_for() {
        let body = br#"{"jsonrpc":"2.0","id":"x","method":"m","params":{"a":["b",{"c":1.50},[]],"d":"\u00e9","requestState" : "s","e":{"id":"i","requestState":"t","cursor":"u"},"cursor":"v","_meta":{"progressToken":7}}}"#;
        let mut seen = Vec::new();
        scalars(body, |scalar| {
            let written = std::str::from_utf8(&body[scalar.at.clone()]).unwrap();
            if scalar.kind != ScalarKind::Name {
                seen.push(format!("{}={} {:?}", scalar.member, scalar.text(), scalar.role));
            }
            assert_eq!(written.starts_with('"'), scalar.kind != ScalarKind::Number, "{written}");
        })
        .unwrap();
        let expected = [
            "id=x Identity",
            "method=m Identity",
            "a=b Content",
            "c=1.50 Content",
            "d=é Content",
            "requestState=s State",
            "id=i Content",
            "requestState=t Content",
            "cursor=u Content",
            "cursor=v Handle",
            "progressToken=7 Handle",
        ];
        assert_eq!(seen, expected);
        let mut roles = Vec::new();
        let listed = br#"{"result":{"requestState":["a"],"nextCursor":"b","resources":[{"uri":"c","name":"d"}],"contents":[{"uri":"e"}]}}"#;
        scalars(listed, |scalar| roles.extend((scalar.kind == ScalarKind::String).then_some(scalar.role))).unwrap();
        assert_eq!(roles, [Role::Content, Role::Handle, Role::Handle, Role::Content, Role::Handle]);
        for bad in [&b"{\"a\":1"[..], b"{} {}", b"{\"a\":\"\xff\"}", b"{\"a\":\"\\ud800\"}", b""] {
            assert!(scalars(bad, |_| {}).is_err());
        }
    }
}
