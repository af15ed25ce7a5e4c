//! Repeated members anywhere in a value.

use super::error::{Fault, PeekError};
use super::json::{Json, Keys};
use super::limits::Limits;
use super::text::Text;

/// Most member names that [`duplicates`](fn@duplicates) holds at one moment: those of all objects that are open.
///
/// About 2 MiB of memory.
pub const MAX_OPEN_MEMBERS: usize = 65_536;

/// Refuses a JSON value in which any object, at any depth, has two members of the same name after unescaping.
///
/// For the `arguments` of a call that a rule is going to read: a server may take the other one of the two. Time is
/// `O(n log n)`, memory bounded by [`MAX_OPEN_MEMBERS`].
///
/// # Errors
///
/// [`Fault::RepeatedMember`], [`Fault::TooManyMembers`], or why the value is no JSON.
///
/// # Example
///
/// ```
/// use mcp_gateway_core::wire::duplicates;
///
/// assert!(duplicates(br#"[{"a":1,"b":{"a":2}}]"#).is_ok());
/// assert!(duplicates(br#"[{"a":1,"b":{"a":2,"\u0061":3}}]"#).is_err());
/// ```
pub fn duplicates(arguments: &[u8]) -> Result<(), PeekError> {
    let limits = Limits { max_bytes: usize::MAX, max_depth: Limits::DEEPEST, ..Limits::default() };
    let mut json = Json::new(arguments, &limits)?;
    json.walk(0, &mut Open::default())?;
    json.end()
}

/// The member names of all open objects, and where each object's own begin.
#[derive(Default)]
struct Open<'a> {
    names: Vec<Text<'a>>,
    objects: Vec<usize>,
}

impl<'a> Keys<'a> for Open<'a> {
    fn open(&mut self) {
        self.objects.push(self.names.len());
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), PeekError> {
        if self.names.len() == MAX_OPEN_MEMBERS {
            return Err(PeekError::new(Fault::TooManyMembers, key.at));
        }
        self.names.push(key);
        Ok(())
    }

    fn close(&mut self) -> Result<(), PeekError> {
        let start = self.objects.pop().unwrap_or_default();
        let names = &mut self.names[start..];
        names.sort_unstable_by(|a, b| a.order(*b));
        if let Some(twins) = names.windows(2).find(|pair| pair[0].same(pair[1])) {
            return Err(PeekError::new(Fault::RepeatedMember, twins[0].at.max(twins[1].at)));
        }
        self.names.truncate(start);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
