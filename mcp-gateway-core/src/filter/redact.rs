//! A message whose texts are looked through, and rewritten without a change to anything else.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use serde_json::Value;

use super::detect::{Bounds, Detector, Found, Search, TooMuch, merged};
use super::nested::Inner;
use crate::record::Label;
use crate::wire::version::Era;
use crate::wire::{PeekError, Role, Scalar, ScalarKind, scalars};

/// How often a message is looked through again after something was replaced, until nothing is left.
const ROUNDS: usize = 4;

/// What is in a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// The names of what was found, each once.
    pub(super) found: Vec<Label>,
    /// The message with the names in the place of what was found; `None` if nothing was, or it stands where nothing can
    /// take its place: in a number, in the name of a member, in an id or handle.
    pub(super) redacted: Option<Bytes>,
}

/// Why nobody can tell what is in a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookError {
    /// Readers could take it for different things.
    #[error("it cannot be read in one way only: {0}")]
    Unreadable(#[from] PeekError),
    /// It holds more than is looked for.
    #[error("it holds more than can be looked through")]
    TooMuch,
}

/// How a message is looked through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    pub(super) detector: &'a Detector,
    /// Of the message.
    pub(super) era: Era,
    /// Whether what is found is to be replaced.
    pub(super) redact: bool,
    pub(super) bounds: Bounds,
    /// Ends it when it is set.
    pub(super) stop: &'a AtomicBool,
}

/// What becomes of a message.
enum Replaced {
    /// There is nothing in it.
    Nothing,
    /// There is, where nothing can take its place.
    Nowhere,
    By(Bytes),
}

impl Look<'_> {
    /// Looks through the strings, numbers and names of a message.
    ///
    /// # Errors
    /// It cannot be read in one way only, or holds too much.
    pub(super) fn through(&self, body: &[u8]) -> Result<Looked, LookError> {
        let mut search = Search::new(self.redact, self.bounds, self.stop);
        let mut replaced = self.once(body, &mut search)?;
        // What stood beside something that is gone may be more than it was. Expressions may fit their own names.
        let rounds = if matches!(self.detector, Detector::Regex(_)) { 0 } else { ROUNDS };
        for round in 1..=rounds {
            let Replaced::By(message) = &replaced else { break };
            match self.once(message, &mut search)? {
                Replaced::Nothing => break,
                _ if round == rounds => replaced = Replaced::Nowhere,
                further => replaced = further,
            }
        }
        let redacted = if let Replaced::By(message) = replaced { Some(message) } else { None };
        Ok(Looked { found: self.detector.names(search.names()), redacted })
    }

    fn once(&self, body: &[u8], search: &mut Search<'_>) -> Result<Replaced, LookError> {
        let mut replaced = Vec::new();
        let mut fixed = false;
        let mut looked = Ok(());
        scalars(body, |scalar| {
            if looked.is_err() || (scalar.role == Role::State && self.era == Era::Modern) {
                return;
            }
            match self.in_scalar(&scalar, search) {
                Err(error) => looked = Err(error),
                Ok((_, found)) if found.is_empty() || !self.redact => {}
                Ok(_) if scalar.kind != ScalarKind::String || is_fixed(scalar.role) => fixed = true,
                Ok((text, found)) => replaced.push((scalar.at, self.rewritten(&text, &found))),
            }
        })?;
        looked.map_err(|TooMuch| LookError::TooMuch)?;
        if fixed {
            return Ok(Replaced::Nowhere);
        }
        if replaced.is_empty() {
            return Ok(Replaced::Nothing);
        }
        let mut out = Vec::with_capacity(body.len());
        let mut from = 0;
        for (at, text) in replaced {
            out.extend_from_slice(&body[from..at.start]);
            out.extend_from_slice(Value::from(text).to_string().as_bytes());
            from = at.end;
        }
        out.extend_from_slice(&body[from..]);
        Ok(Replaced::By(out.into()))
    }

    /// The text of a scalar, and where something is in it: as it is meant, and as it is meant if it is JSON itself.
    fn in_scalar<'t>(
        &self,
        scalar: &Scalar<'t>,
        search: &mut Search<'_>,
    ) -> Result<(std::borrow::Cow<'t, str>, Vec<Found>), TooMuch> {
        let text = scalar.text();
        let member = if scalar.kind == ScalarKind::Name { "" } else { scalar.member };
        let mut found = self.detector.find(&text, member, search)?;
        if scalar.kind == ScalarKind::Number {
            if let Some(whole) = whole(&text) {
                found.extend(self.detector.find(&whole, member, search)?);
            }
        } else if let Some(inner) = Inner::of(&text) {
            for one in &mut found {
                one.at = inner.whole(one.at.clone());
            }
            let more = self.detector.find(&inner.text, member, search)?;
            found.extend(more.into_iter().map(|one| Found { at: inner.written(&one.at), ..one }));
            found = merged(found);
        }
        Ok((text, found))
    }

    fn rewritten(&self, text: &str, found: &[Found]) -> String {
        let mut rewritten = String::with_capacity(text.len());
        let mut from = 0;
        for one in found {
            rewritten.push_str(&text[from..one.at.start]);
            rewritten.push_str("[redacted:");
            rewritten.push_str(&self.detector.name(one.name));
            rewritten.push(']');
            from = one.at.end;
        }
        rewritten.push_str(&text[from..]);
        rewritten
    }
}

fn is_fixed(role: Role) -> bool {
    matches!(role, Role::Identity | Role::Handle)
}

/// A number as a whole one, if it is one and is written otherwise: `4.2e1` and `42.0` are 42.
fn whole(number: &str) -> Option<String> {
    /// More digits are no number that anybody looks for.
    const MOST: usize = 40;

    let number = number.trim_start_matches('-');
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if mantissa == number && after.is_empty() {
        return None;
    }
    let digits = format!("{before}{after}");
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let point = i64::try_from(before.len()).ok()? + i64::from(exponent.parse::<i32>().ok()?);
    let point = usize::try_from(point).ok().filter(|point| (1..=MOST).contains(point))?;
    let fraction = digits.get(point..).unwrap_or_default();
    let whole = digits.get(..point).unwrap_or(&digits);
    fraction.bytes().all(|byte| byte == b'0').then(|| format!("{whole:0<point$}"))
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
