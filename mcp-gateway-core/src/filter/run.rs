//! The configured filters, as one filter of the shim.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::compile::{Compiled, Task};
use super::judgement::{About, Judged, Judgement};
use super::record::FilterLimits;
use super::select::{Name, named};
use crate::MaybeReady;
use crate::context::{McpContext, MessageKind};
use crate::contract::{Clock, Direction, Filter, Head, Needs, Verdict, View};
use crate::egress::Fetch;
use crate::layer::filter::{head_of, is_same};
use crate::record::{FilterVerdict, Label};
use crate::snapshot::Snapshots;
use crate::wire::version::Era;
use crate::wire::{Limits, PeekError, peek};

/// The filters of a snapshot, as they are when a message comes: one after the other in their order, each with what the
/// one before made of the message. Together they take at most [`FilterLimits::MESSAGE_MS`].
///
/// What each said is noted in the context, for the audit trail. Give it to the shim **before** a
/// [`RuleFilter`](crate::policy::RuleFilter): what filters make of a list has to pass the rules.
#[derive(Clone)]
pub struct SnapshotFilters {
    snapshots: Snapshots,
    asking: Asking,
}

/// What it takes to ask somebody.
#[derive(Clone)]
struct Asking {
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
}

/// What a filter would do with a message that nobody sent.
#[derive(Debug)]
pub struct Trial {
    /// Whether its selectors choose the message. It was judged in any case.
    pub selected: bool,
    /// What the filter said.
    pub verdict: FilterVerdict,
    /// The names of what it found.
    pub found: Vec<Label>,
    /// Why it refuses, as the caller would read it, or why it failed, as the log would tell.
    pub because: Option<String>,
    /// The message as it would go on; `None` if it would not.
    pub message: Option<Bytes>,
}

/// A message that nobody sent.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'a> {
    /// Which way it goes.
    pub direction: Direction,
    /// The server's id.
    pub server: &'a str,
    /// Its method; of a response, the one that it answers.
    pub method: Option<&'a str>,
    /// The tool, prompt or resource.
    pub target: Option<&'a str>,
    /// The JSON-RPC message.
    pub body: &'a Bytes,
}

impl SnapshotFilters {
    /// The filters of these snapshots; services are called by `fetch`, which has to bound answers and to check addresses.
    pub fn new(snapshots: Snapshots, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        Self { snapshots, asking: Asking { fetch, clock } }
    }

    /// Whether filters look further into the stream of this exchange than when it was opened: it has to end, and is
    /// filtered when it is opened again.
    #[must_use]
    pub fn outgrow(&self, cx: &McpContext) -> bool {
        let (Some(before), Some(message)) = (cx.inspected(), cx.message()) else { return false };
        let before = before.by(self.name());
        let head = head_of(cx);
        let forwarded = cx.forwarded_target().map(|target| self.needs(&Head { target: Some(target), ..head }));
        let now = self.needs(&head).or(forwarded.unwrap_or(Needs::NONE));
        let resumes = message.kind == MessageKind::None && self.resumed(head.server);
        (now.response || resumes) && !before.response || now.events && !before.events
    }

    /// Asks one filter about a message, whether it is enabled and chooses the message or not. Nothing is noted.
    pub async fn try_out(&self, filter: &Compiled, tried: Tried<'_>) -> Trial {
        let Tried { direction, server, method, target, body } = tried;
        // Of what nobody sent nobody knows the era; the later one leaves more alone.
        let about = About { filter: &filter.id, server, direction, method, era: Era::Modern };
        // Somebody waits for it, who can try again.
        let asked = filter.judge(&*self.asking.fetch, &*self.asking.clock, about, body, 0);
        let Judgement { judged, found } = asked.await;
        let judged = in_kind(judged, body, direction);
        let selected = filter.selection.concerns_server(server)
            && match direction {
                Direction::Request => filter.selection.concerns_request(server, method, target),
                Direction::Response => filter.selection.concerns_response(server, method, target),
                Direction::Event => filter.selection.concerns_event(server, method, Name::of(target)),
            };
        let verdict = judged.verdict(filter.open);
        let (because, message) = match judged {
            Judged::Pass | Judged::Flag => (None, Some(body.clone())),
            Judged::Replace(body) => (None, Some(body)),
            Judged::Refuse(because) => (Some(filter.public(because)), None),
            Judged::Failed(because) => (Some(because), filter.open.then(|| body.clone())),
        };
        Trial { selected, verdict, found, because, message }
    }

    fn run(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let Some(route) = cx.route() else { return Verdict::failed("the layer that sets the route is absent").into() };
        let filters = Arc::clone(self.snapshots.load().filters.of(&route.id));
        let mut passage = Passage { cx: cx.clone(), view: view.clone(), replaced: false, ended: None };
        // As far as it goes without waiting for anybody.
        for number in 0..filters.len() {
            if !passage.concerns(&filters[number]) {
                continue;
            }
            let Some(judgement) = filters[number].judge_here(passage.era(), &passage.view.body) else {
                let asking = self.asking.clone();
                return MaybeReady::wait(async move { passage.rest(&filters[number..], &asking).await });
            };
            if !passage.step(&filters[number], judgement) {
                break;
            }
        }
        passage.verdict().into()
    }
}

impl std::fmt::Debug for SnapshotFilters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotFilters(..)")
    }
}

impl Filter for SnapshotFilters {
    fn name(&self) -> &'static str {
        "configured-filters"
    }

    fn needs(&self, head: &Head<'_>) -> Needs {
        let snapshot = self.snapshots.load();
        snapshot
            .filters
            .of(head.server)
            .iter()
            .fold(Needs::NONE, |needs, filter| needs.or(filter.selection.needs(head)))
    }

    fn may_outgrow(&self) -> bool {
        true
    }

    fn resumed(&self, server: &str) -> bool {
        let snapshot = self.snapshots.load();
        snapshot.filters.of(server).iter().any(|filter| filter.selection.concerns_response(server, None, None))
    }

    fn keeps_time(&self) -> bool {
        true
    }

    fn request(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.run(cx, view)
    }

    fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.run(cx, view)
    }

    fn event(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.run(cx, view)
    }
}

/// What the request named that an event comes along with. What comes on a GET stream may belong to any call.
fn target_of_stream(cx: &McpContext) -> Name<'_> {
    match cx.message() {
        Some(message) if message.kind != MessageKind::None => {
            named(message.method.as_deref(), message.target.as_deref())
        }
        _ => Name::Unknown,
    }
}

/// A replacement that is no longer the same message, or a request that cannot be read, is a failure: of this filter, by its
/// own fail mode.
fn in_kind(judged: Judged, before: &[u8], direction: Direction) -> Judged {
    match judged {
        Judged::Replace(body) if !is_same(before, &body) => {
            Judged::Failed("it replaced a message by none, or by one of another kind, method or id".to_owned())
        }
        Judged::Replace(body) if direction == Direction::Request => match target_of(&body) {
            Ok(_) => Judged::Replace(body),
            Err(error) => Judged::Failed(format!("it replaced a request by one that cannot be read: {error}")),
        },
        judged => judged,
    }
}

/// What a request names. Its size is for the layer to limit.
fn target_of(body: &[u8]) -> Result<Option<Arc<str>>, PeekError> {
    let limits = Limits { max_bytes: usize::MAX, ..Limits::default() };
    Ok(peek(body, &limits)?.target().map(Into::into))
}

/// A message on its way through the filters.
struct Passage {
    cx: McpContext,
    view: View,
    replaced: bool,
    /// What the first filter said that does not let it go on.
    ended: Option<Verdict>,
}

impl Passage {
    fn era(&self) -> Era {
        self.cx.message().map_or(Era::Legacy, |message| message.era)
    }

    /// Whether a filter is asked about what the ones before made of the message. What does not go on is shown to no
    /// service any more.
    fn concerns(&self, filter: &Compiled) -> bool {
        if self.ended.is_some() && matches!(filter.task, Task::Webhook(_)) {
            return false;
        }
        let server = self.cx.route().map_or("", |route| &*route.id);
        let (selection, method) = (&filter.selection, self.view.method.as_deref());
        let forwarded = self.cx.forwarded_target().map(|target| &**target);
        match self.view.direction {
            Direction::Request => selection.concerns_request(server, method, self.view.target.as_deref()),
            // It belongs to what was asked for, and to what a filter put there.
            Direction::Response => {
                let concerns = |target| selection.concerns_response(server, method, target);
                concerns(self.view.target.as_deref()) || forwarded.is_some_and(|target| concerns(Some(target)))
            }
            Direction::Event => {
                let concerns = |target| selection.concerns_event(server, method, target);
                concerns(target_of_stream(&self.cx)) || forwarded.is_some_and(|target| concerns(Name::Known(target)))
            }
        }
    }

    /// Asks these filters, in the time that there is for one message.
    async fn rest(mut self, filters: &[Arc<Compiled>], asking: &Asking) -> Verdict {
        let until = Instant::now() + Duration::from_millis(FilterLimits::MESSAGE_MS.into());
        for filter in filters {
            if !self.concerns(filter) {
                continue;
            }
            let judgement = tokio::time::timeout_at(until, self.ask(filter, asking)).await;
            let judgement = judgement.unwrap_or_else(|_| {
                Judged::Failed(format!("no time is left of {} ms for one message", FilterLimits::MESSAGE_MS)).into()
            });
            if !self.step(filter, judgement) {
                break;
            }
        }
        self.verdict()
    }

    async fn ask(&self, filter: &Compiled, asking: &Asking) -> Judgement {
        let about = About {
            filter: &filter.id,
            server: self.cx.route().map_or("", |route| &route.id),
            direction: self.view.direction,
            method: self.view.method.as_deref(),
            era: self.era(),
        };
        filter.judge(&*asking.fetch, &*asking.clock, about, &self.view.body, filter.retries).await
    }

    /// Notes what a filter said; whether the next one is asked.
    fn step(&mut self, filter: &Compiled, judgement: Judgement) -> bool {
        let Judgement { judged, found } = judgement;
        let judged = in_kind(judged, &self.view.body, self.view.direction);
        let request_id = self.cx.request_id();
        self.cx.note_filter(&filter.id, judged.verdict(filter.open), found);
        let verdict = match judged {
            Judged::Pass | Judged::Flag => return true,
            Judged::Replace(body) => {
                if self.view.direction == Direction::Request {
                    self.view.target = target_of(&body).unwrap_or_default();
                }
                self.view.body = body;
                self.replaced = true;
                return true;
            }
            Judged::Failed(cause) => {
                tracing::warn!(filter = &*filter.id, %request_id, cause, open = filter.open, "a filter failed");
                if filter.open {
                    return true;
                }
                Verdict::Failed { cause: format!("{}: {cause}", filter.id) }
            }
            Judged::Refuse(because) => Verdict::Refuse { public: filter.public(because) },
        };
        self.ended.get_or_insert(verdict);
        !filter.short_circuit
    }

    fn verdict(self) -> Verdict {
        match self.ended {
            Some(verdict) => verdict,
            None if self.replaced => Verdict::Replace(self.view.body),
            None => Verdict::Pass,
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
