//! Lists that are read page by page: only who has seen all pages knows what is missing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::observe::Extent;
use super::read::Observed;
use crate::context::{McpContext, MessageFacts};
use crate::wire::canonical;
use crate::wire::list::Lists;

/// Lists that are being read, at most [`Walks::MOST`].
#[derive(Default)]
pub(super) struct Walks(Mutex<HashMap<Step, BTreeSet<Box<str>>>>);

/// Which page of whose list comes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Step {
    server: Box<str>,
    subject: Box<str>,
    cursor: Box<[u8]>,
}

impl Walks {
    /// Lists that callers have not read to the end. Of those beyond nobody hears what is missing from them.
    const MOST: usize = 1_000;

    /// How much of a list has been seen with this page. `is_answer`: whether it answers the request of this exchange,
    /// which says where the page is.
    pub(super) fn step(&self, cx: &McpContext, is_answer: bool, lists: &Lists<'_>, seen: &Observed) -> Extent {
        let (Some(message), true) = (cx.message(), is_answer) else { return Extent::default() };
        let cursor = cursor_of(message);
        let names = seen.tools.keys().cloned();
        let last = lists.next_cursor.is_none();
        if cursor.is_none() && last {
            return Extent { last, whole: Some(names.collect()) };
        }
        let step = |cursor: &[u8]| Step {
            server: cx.route().map_or("", |route| &*route.id).into(),
            subject: cx.principal().map_or("", |principal| &*principal.subject.id).into(),
            // Clients write it in their own way.
            cursor: canonical(cursor, &mut |_| {}).unwrap_or_default().into(),
        };
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &cursor {
            None => Some(BTreeSet::new()),
            Some(cursor) => walks.remove(&step(cursor)),
        };
        let Some(mut all) = before else { return Extent { last, whole: None } };
        all.extend(names);
        match lists.next_cursor {
            None => Extent { last, whole: Some(all) },
            Some(next) => {
                if walks.len() < Self::MOST {
                    walks.insert(step(next), all);
                } else if let Some(any) = walks.keys().next().cloned() {
                    // Those that were given up must not be in the way for ever.
                    walks.remove(&any);
                }
                Extent::default()
            }
        }
    }
}

/// The cursor of a request, as it is written. The request was read strictly before.
fn cursor_of(message: &MessageFacts) -> Option<Box<[u8]>> {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        params: Option<Params<'a>>,
    }
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        cursor: Option<&'a RawValue>,
    }
    let request: Request<'_> = serde_json::from_slice(&message.body).ok()?;
    let cursor = request.params?.cursor?.get();
    (cursor != "null").then(|| cursor.as_bytes().into())
}
