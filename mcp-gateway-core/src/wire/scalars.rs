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
}

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

/// Calls `visit` for every scalar of a message, in their order, except those that nobody may change: `jsonrpc`, `id` and
/// `method` of the message, and `requestState` of its parameters or result, which means something to the server alone.
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
    fn is_fixed(&self) -> bool {
        matches!(*self.names, ["jsonrpc" | "id" | "method"] | ["params" | "result", "requestState"])
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
        (self.visit)(Scalar { raw: key.raw, at, kind: ScalarKind::Name, member: key.raw });
        Ok(())
    }

    fn close(&mut self) -> Result<(), PeekError> {
        self.names.pop();
        Ok(())
    }

    fn scalar(&mut self, at: Range<usize>) {
        if self.is_fixed() {
            return;
        }
        let raw = &self.text[at.clone()];
        let string = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
        let kind = if string.is_some() { ScalarKind::String } else { ScalarKind::Number };
        let member = self.names.last().copied().unwrap_or_default();
        (self.visit)(Scalar { raw: string.unwrap_or(raw), at, kind, member });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scalar_is_visited_but_those_that_nobody_may_change() {
        let body = br#"{"jsonrpc":"2.0","id":"x","method":"m","params":{"a":["b",{"c":1.50},[]],"d":"\u00e9","requestState":"s","e":{"id":"i","requestState":"t"}}}"#;
        let mut seen = Vec::new();
        scalars(body, |scalar| {
            let written = std::str::from_utf8(&body[scalar.at.clone()]).unwrap();
            if scalar.kind != ScalarKind::Name {
                seen.push(format!("{}={}", scalar.member, scalar.text()));
            }
            assert_eq!(written.starts_with('"'), scalar.kind != ScalarKind::Number, "{written}");
        })
        .unwrap();
        assert_eq!(seen, ["a=b", "c=1.50", "d=é", "id=i", "requestState=t"]);
        for bad in [&b"{\"a\":1"[..], b"{} {}", b"{\"a\":\"\xff\"}", b"{\"a\":\"\\ud800\"}", b""] {
            assert!(scalars(bad, |_| {}).is_err());
        }
    }
}
