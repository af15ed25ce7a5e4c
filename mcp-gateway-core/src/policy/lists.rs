//! Lists without what the caller may not use.

use std::sync::Arc;

use bytes::Bytes;

use super::index::Reach;
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Action, Ask, Authorizer, Decision, Filter, Head, Needs, Target, Verdict, View};
use crate::wire::list::{Item, Listed, Lists};
use crate::wire::version::Era;
use crate::wire::{Limits, PeekError, peek};

/// Leaves out of answers what their caller may not use, and keeps others from being served an answer that was not for
/// them.
///
/// Tools, prompts, resources and templates that the authorizer denies are left out of lists, also of lists on resumed
/// streams. A listener subscribes to no resource that it may not read, and nobody hears of one; nor, where rules name
/// parts, of tasks. Where rules tell callers apart,
/// what a server of 2026-07-28 says that anybody may cache (`cacheScope: public`) becomes `private`, for every caller.
/// Everything else keeps its bytes, and servers of which no rule says more than that everyone may use them pass unread.
///
/// What cannot be read in one way only is refused.
pub struct RuleFilter {
    authorizer: Arc<dyn Authorizer>,
    reach: Reaches,
}

type Read = for<'a> fn(&'a [u8]) -> Result<Lists<'a>, PeekError>;
type Reaches = Box<dyn Fn(&str) -> Reach + Send + Sync>;

impl RuleFilter {
    /// Asks this authorizer, on servers that its rules reach so far.
    pub fn new(authorizer: Arc<dyn Authorizer>, reach: impl Fn(&str) -> Reach + Send + Sync + 'static) -> Self {
        Self { authorizer, reach: Box::new(reach) }
    }

    /// The message without the items that the caller may not use.
    fn left(&self, cx: &McpContext, body: &Bytes, read: Read) -> MaybeReady<Verdict> {
        let lists = match read(body) {
            Ok(lists) => lists,
            Err(error) => return Verdict::failed(format!("a list cannot be read: {error}")).into(),
        };
        let (Some(principal), Some(route)) = (cx.principal(), cx.route()) else {
            return Verdict::failed("the layers that set principal and route are absent").into();
        };
        let reach = (self.reach)(&route.id);
        // What is not called anything, nobody may use.
        let asks: Vec<Ask<'_>> = lists
            .items
            .iter()
            .filter(|_| reach.parts)
            .filter_map(|item| {
                let action = Action::Method(method(item.kind));
                let target = Target { server: &route.id, name: Some(item.name.as_deref()?) };
                Some(Ask { principal, action, target, cx, arguments: None })
            })
            .collect();
        let decided = if asks.is_empty() { Vec::new().into() } else { self.authorizer.decide_many(&asks) };
        match decided {
            MaybeReady::Ready(decisions) => written(body, &lists, &decisions, reach).into(),
            MaybeReady::Wait(wait) => {
                let body = body.clone();
                MaybeReady::wait(async move {
                    let decisions = wait.await;
                    match read(&body) {
                        Ok(lists) => written(&body, &lists, &decisions, reach),
                        Err(error) => Verdict::failed(error.to_string()),
                    }
                })
            }
        }
    }
}

impl std::fmt::Debug for RuleFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RuleFilter(..)")
    }
}

impl Filter for RuleFilter {
    fn name(&self) -> &'static str {
        "access-rules"
    }

    fn needs(&self, head: &Head<'_>) -> Needs {
        let reach = (self.reach)(head.server);
        // Earlier revisions know no scopes of caches.
        let scoped = reach.some && head.era == Era::Modern;
        match head.method {
            Some("subscriptions/listen") => Needs { request: reach.resources, events: reach.parts, ..Needs::NONE },
            None => Needs { events: reach.parts, ..Needs::NONE },
            Some("tools/list" | "prompts/list" | "resources/list" | "resources/templates/list") => {
                Needs { response: scoped || reach.parts, events: reach.resources, ..Needs::NONE }
            }
            Some("server/discover" | "resources/read") => {
                Needs { response: scoped, events: reach.resources, ..Needs::NONE }
            }
            // Servers may tell of resources while they answer something else.
            Some(_) => Needs { events: reach.resources, ..Needs::NONE },
        }
    }

    fn resumed(&self, server: &str) -> bool {
        (self.reach)(server).parts
    }

    fn request(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        if let Err(error) = Lists::of_listen(&view.body) {
            return Verdict::refuse(format!("The subscriptions cannot be read: {error}.")).into();
        }
        self.left(cx, &view.body, |body| Lists::of_listen(body))
    }

    fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        self.left(cx, &view.body, |body| Lists::of_response(body))
    }

    fn event(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        match view.method.as_deref() {
            Some("notifications/resources/updated") => {}
            // As are the methods by which tasks are asked for.
            Some("notifications/tasks" | "notifications/tasks/status") => {
                let parts = cx.route().is_none_or(|route| (self.reach)(&route.id).parts);
                return if parts { Verdict::refuse("The caller may not know of it.") } else { Verdict::Pass }.into();
            }
            _ => return Verdict::Pass.into(),
        }
        let limits = Limits { max_bytes: usize::MAX, max_string: usize::MAX, ..Limits::default() };
        let message = match peek(&view.body, &limits) {
            Ok(message) => message,
            Err(error) => return Verdict::failed(format!("a notification cannot be read: {error}")).into(),
        };
        let uri = message.params.as_ref().and_then(|params| params.uri.as_deref());
        let (Some(principal), Some(route), Some(uri)) = (cx.principal(), cx.route(), uri) else {
            return Verdict::failed("a notification of nothing, or the layers before are absent").into();
        };
        let target = Target { server: &route.id, name: Some(uri) };
        let action = Action::Method(method(Listed::Resource));
        let ask = Ask { principal, action, target, cx, arguments: None };
        let verdict = |decision: Decision| {
            if decision.allow { Verdict::Pass } else { Verdict::refuse("The caller may not know of it.") }
        };
        match self.authorizer.decide(&ask) {
            MaybeReady::Ready(decision) => verdict(decision).into(),
            MaybeReady::Wait(wait) => MaybeReady::wait(async move { verdict(wait.await) }),
        }
    }
}

/// By which method an item would be used; a template, by which it is found, since it is no URI to be read.
fn method(kind: Listed) -> &'static str {
    match kind {
        Listed::Tool => "tools/call",
        Listed::Prompt => "prompts/get",
        Listed::Resource | Listed::Subscription => "resources/read",
        Listed::Template => "resources/templates/list",
    }
}

fn written(body: &[u8], lists: &Lists<'_>, decisions: &[Decision], reach: Reach) -> Verdict {
    let mut decisions = decisions.iter();
    let keep = |item: &Item<'_>| {
        !reach.parts || (item.name.is_some() && decisions.next().is_some_and(|decision| decision.allow))
    };
    match lists.write(body, keep, !reach.some) {
        Some(body) => Verdict::Replace(body.into()),
        None => Verdict::Pass,
    }
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
