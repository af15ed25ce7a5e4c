//! What a list result lists, and what a listener subscribes to, read so that parts can be left out.

use std::borrow::Cow;
use std::ops::Range;

use super::error::{Fault, PeekError};
use super::json::Json;
use super::limits::Limits;

/// What kind of thing a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listed {
    /// `result.tools`, by `name`.
    Tool,
    /// `result.prompts`, by `name`.
    Prompt,
    /// `result.resources`, by `uri`.
    Resource,
    /// `result.resourceTemplates`, by `uriTemplate`.
    Template,
    /// `params.notifications.resourceSubscriptions`, each a URI.
    Subscription,
}

/// One element of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// What it is.
    pub kind: Listed,
    /// By what it is called or read; `None` when that is absent or no string.
    pub name: Option<Cow<'a, str>>,
    at: Range<usize>,
}

/// A message with lists, as far as lists go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists<'a> {
    /// The elements of all lists, in their order.
    pub items: Vec<Item<'a>>,
    /// What is between the brackets of each list, and how many of `items` that are.
    lists: Vec<(Range<usize>, usize)>,
    /// Where `result.cacheScope` is, when it says `public`.
    public: Option<Range<usize>>,
    /// `result.nextCursor`, as it is written; `None` when it is absent or `null`: there is no further page.
    pub next_cursor: Option<&'a [u8]>,
    tools: bool,
}

/// Members of a result that are read.
#[derive(Clone, Copy)]
enum Member {
    List(Listed),
    CacheScope,
    NextCursor,
}

const MESSAGE: &[(&str, ())] = &[("result", ())];
const REQUEST: &[(&str, ())] = &[("params", ())];
const PARAMS: &[(&str, ())] = &[("notifications", ())];
const NOTIFICATIONS: &[(&str, ())] = &[("resourceSubscriptions", ())];
const RESULT: &[(&str, Member)] = &[
    ("tools", Member::List(Listed::Tool)),
    ("prompts", Member::List(Listed::Prompt)),
    ("resources", Member::List(Listed::Resource)),
    ("resourceTemplates", Member::List(Listed::Template)),
    ("cacheScope", Member::CacheScope),
    ("nextCursor", Member::NextCursor),
];

/// Bounds for what somebody else has bounded already: a whole answer, or a message that was let through.
const LIMITS: Limits = Limits {
    max_bytes: usize::MAX,
    max_depth: Limits::DEEPEST,
    max_members: 1_024,
    max_string: usize::MAX,
    max_id: usize::MAX,
};

impl Item<'_> {
    /// The element as it stands in the body that it was read from.
    #[must_use]
    pub fn text<'b>(&self, body: &'b [u8]) -> &'b [u8] {
        &body[self.at.clone()]
    }
}

impl<'a> Lists<'a> {
    /// Reads the lists of a response. An error response has none.
    ///
    /// # Errors
    /// What readers could understand differently: repeated members, case variants of those that are read, a `result`
    /// that is no object, a list that is no array.
    ///
    /// # Example
    ///
    /// ```
    /// use mcp_gateway_core::wire::list::Lists;
    ///
    /// let body = br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":1.0},{"name":"b"}],"nextCursor":"c"}}"#;
    /// let lists = Lists::of_response(body)?;
    /// let left = lists.write(body, |item| item.name.as_deref() == Some("a"), true).unwrap();
    /// assert_eq!(left, br#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a","x":1.0}],"nextCursor":"c"}}"#);
    /// # Ok::<(), mcp_gateway_core::wire::PeekError>(())
    /// ```
    pub fn of_response(body: &'a [u8]) -> Result<Self, PeekError> {
        let mut json = Json::new(body, &LIMITS)?;
        let mut lists = Self::default();
        json.object(1, MESSAGE, |json, ()| {
            json.object(2, RESULT, |json, member| match member {
                Member::List(kind) => lists.list(json, kind),
                Member::CacheScope => lists.cache_scope(json),
                Member::NextCursor => {
                    lists.next_cursor = Some(json.raw(2)?).filter(|cursor| *cursor != b"null");
                    Ok(())
                }
            })
        })?;
        json.end()?;
        Ok(lists)
    }

    /// Reads to which resources a `subscriptions/listen` request subscribes.
    ///
    /// # Errors
    /// As [`of_response`](Self::of_response).
    pub fn of_listen(body: &'a [u8]) -> Result<Self, PeekError> {
        let mut json = Json::new(body, &LIMITS)?;
        let mut lists = Self::default();
        json.object(1, REQUEST, |json, ()| {
            json.object(2, PARAMS, |json, ()| {
                json.object(3, NOTIFICATIONS, |json, ()| lists.list(json, Listed::Subscription))
            })
        })?;
        json.end()?;
        Ok(lists)
    }

    /// Whether there is a list of tools, though it may be empty.
    #[must_use]
    pub fn has_tools(&self) -> bool {
        self.tools
    }

    /// The body without the items that are not to be kept, byte for byte but for them; where it says so, with a
    /// `cacheScope` of `private`. `None` when nothing changes.
    #[must_use]
    pub fn write(&self, body: &[u8], keep: impl FnMut(&Item<'a>) -> bool, public: bool) -> Option<Vec<u8>> {
        let kept: Vec<bool> = self.items.iter().map(keep).collect();
        let scope = self.public.clone().filter(|_| !public);
        if scope.is_none() && kept.iter().all(|kept| *kept) {
            return None;
        }
        let mut edits = Vec::with_capacity(self.lists.len() + 1);
        let mut first = 0;
        for (inside, count) in &self.lists {
            let items = first..first + count;
            first = items.end;
            if kept[items.clone()].iter().all(|kept| *kept) {
                continue;
            }
            let left = items.filter(|item| kept[*item]).map(|item| &body[self.items[item].at.clone()]);
            edits.push((inside.clone(), left.collect::<Vec<_>>().join(&b',')));
        }
        edits.extend(scope.map(|at| (at, br#""private""#.to_vec())));
        edits.sort_unstable_by_key(|(at, _)| at.start);
        let (mut out, mut from) = (Vec::with_capacity(body.len() + 1), 0);
        for (at, text) in edits {
            out.extend_from_slice(&body[from..at.start]);
            out.extend_from_slice(&text);
            from = at.end;
        }
        out.extend_from_slice(&body[from..]);
        Some(out)
    }

    fn list(&mut self, json: &mut Json<'a>, kind: Listed) -> Result<(), PeekError> {
        match json.peek() {
            Some(b'[') => {}
            // Nothing is listed.
            Some(b'n') => return json.raw(3).map(drop),
            _ => return json.fail(Fault::Syntax),
        }
        self.tools |= kind == Listed::Tool;
        let (open, before) = (json.pos(), self.items.len());
        json.array(3, |json| {
            let from = json.pos();
            let name = name(json, kind)?;
            self.items.push(Item { kind, name, at: from..json.pos() });
            Ok(())
        })?;
        self.lists.push((open + 1..json.pos() - 1, self.items.len() - before));
        Ok(())
    }

    fn cache_scope(&mut self, json: &mut Json<'a>) -> Result<(), PeekError> {
        let from = json.pos();
        if json.peek() != Some(b'"') {
            return json.raw(2).map(drop);
        }
        if json.string()?.is("public") {
            self.public = Some(from..json.pos());
        }
        Ok(())
    }
}

/// Reads an element, and how it is called.
fn name<'a>(json: &mut Json<'a>, kind: Listed) -> Result<Option<Cow<'a, str>>, PeekError> {
    let member = match kind {
        Listed::Tool | Listed::Prompt => "name",
        Listed::Resource => "uri",
        Listed::Template => "uriTemplate",
        Listed::Subscription => return text(json, 3),
    };
    if json.peek() != Some(b'{') {
        return json.raw(3).map(|_| None);
    }
    let mut name = None;
    json.object(4, &[(member, ())], |json, ()| {
        name = text(json, 4)?;
        Ok(())
    })?;
    Ok(name)
}

fn text<'a>(json: &mut Json<'a>, depth: u32) -> Result<Option<Cow<'a, str>>, PeekError> {
    if json.peek() == Some(b'"') {
        json.string().map(|text| Some(text.decode()))
    } else {
        json.raw(depth).map(|_| None)
    }
}

#[cfg(test)]
mod tests;
