//! Lists that are read page by page: only who has seen all pages knows what is missing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::observe::Extent;
use super::read::Observed;
use crate::context::{McpContext, MessageFacts};
use crate::wire::canonical;
use crate::wire::list::Lists;

/// Lists that are being read, at most [`Walks::MOST`].
#[derive(Default)]
pub(super) struct Walks(Mutex<HashMap<Step, Walk>>);

/// Which page of whose list comes next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Step {
    server: Box<str>,
    subject: Box<str>,
    cursor: Box<[u8]>,
}

/// What was on the pages before.
#[derive(Debug, Default)]
struct Walk {
    names: BTreeSet<Box<str>>,
    at: Timestamp,
}

impl Walks {
    /// Lists that callers have not read to the end. Of those beyond nobody hears what is missing from them.
    pub(super) const MOST: usize = 200;
    /// Those of one server.
    pub(super) const OF_SERVER: usize = 50;
    /// Those of one subject at one server.
    pub(super) const OF_SUBJECT: usize = 4;
    /// Bytes of a cursor, as it is written.
    pub(super) const CURSOR: usize = 1_024;
    /// For how long the next page is waited for, seconds.
    pub(super) const SECONDS: i64 = 600;

    /// How much of a list has been seen with this page. `is_answer`: whether it answers the request of this exchange,
    /// which says where the page is. `most`: names of a list.
    pub(super) fn step(
        &self,
        cx: &McpContext,
        is_answer: bool,
        lists: &Lists<'_>,
        seen: &Observed,
        (most, now): (usize, Timestamp),
    ) -> Extent {
        let (Some(message), true) = (cx.message(), is_answer) else { return Extent::default() };
        let cursor = cursor_of(message);
        let names = seen.tools.keys().cloned();
        if cursor.is_none() && lists.next_cursor.is_none() {
            return Extent { whole: Some(names.collect()) };
        }
        let step = |cursor: &[u8]| Step {
            server: cx.route().map_or("", |route| &*route.id).into(),
            subject: cx.principal().map_or("", |principal| &*principal.subject.id).into(),
            // Clients write it in their own way.
            cursor: canonical(cursor, &mut |_| {}).unwrap_or_default().into(),
        };
        let mut walks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |walk: &Walk| now.duration_since(walk.at) > SignedDuration::from_secs(Self::SECONDS);
        walks.retain(|_, walk| !late(walk));
        let before = match &cursor {
            None => Some(BTreeSet::new()),
            Some(cursor) if cursor.len() > Self::CURSOR => None,
            Some(cursor) => walks.remove(&step(cursor)).map(|walk| walk.names),
        };
        let Some(mut names_so_far) = before else { return Extent::default() };
        names_so_far.extend(names);
        let Some(next) = lists.next_cursor else { return Extent { whole: Some(names_so_far) } };
        if names_so_far.len() <= most && next.len() <= Self::CURSOR {
            let step = step(next);
            let is_of_server = |other: &Step| other.server == step.server;
            let is_of_subject = |other: &Step| is_of_server(other) && other.subject == step.subject;
            // Those that were given up must not be in the way for ever.
            make_room(&mut walks, Self::OF_SUBJECT, is_of_subject);
            make_room(&mut walks, Self::OF_SERVER, is_of_server);
            make_room(&mut walks, Self::MOST, |_| true);
            walks.insert(step, Walk { names: names_so_far, at: now });
        }
        Extent::default()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Forgets the oldest of some walks when there are so many.
fn make_room(walks: &mut HashMap<Step, Walk>, most: usize, concerned: impl Fn(&Step) -> bool) {
    let of = || walks.iter().filter(|(step, _)| concerned(step));
    if of().count() >= most
        && let Some(oldest) = of().min_by_key(|(_, walk)| walk.at).map(|(step, _)| step.clone())
    {
        walks.remove(&oldest);
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
