//! Lists without the tools that are held back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::observe::Extent;
use super::read::{Observed, Unpinned};
use super::record::{ToolInventory, is_unknown_hidden};
use super::{PinPolicy, ToolPinning};
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Filter, Head, Needs, Verdict, View};
use crate::record::FilterVerdict;
use crate::wire::list::{Item, Listed, Lists};

/// How long a list waits until what is new about it is recorded; it is recorded all the same.
const RECORD: Duration = Duration::from_secs(4);

impl Filter for ToolPinning {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn needs(&self, head: &Head<'_>) -> Needs {
        match head.method {
            Some("tools/list") => Needs { response: self.policy(head.server).is_on(), ..Needs::NONE },
            _ => Needs::NONE,
        }
    }

    fn resumed(&self, server: &str) -> bool {
        self.policy(server).is_on()
    }

    fn response(&self, cx: &McpContext, view: &View) -> MaybeReady<Verdict> {
        let Some(route) = cx.route() else { return Verdict::failed("the layer that sets the route is absent").into() };
        let policy = self.policy(&route.id);
        if !policy.is_on() {
            return Verdict::Pass.into();
        }
        let is_list = view.method.as_deref() == Some("tools/list");
        let lists = match Lists::of_response(&view.body) {
            Ok(lists) => lists,
            // On a resumed stream it may be an answer to anything.
            Err(_) if !is_list => return Verdict::Pass.into(),
            Err(error) => return self.unpinned(cx, policy, &error.into()).into(),
        };
        // An error lists nothing, which does not mean that there is nothing.
        if !lists.has_tools() {
            return Verdict::Pass.into();
        }
        let seen = match Observed::read(&view.body, &lists, self.0.options.tools) {
            Ok(seen) => seen,
            Err(error) => return self.unpinned(cx, policy, &error).into(),
        };
        let extent = self.0.walks.step(cx, is_list, &lists, &seen);
        let known = self.0.snapshots.load().tools.get(&route.id).cloned();
        if let Some(known) = known.filter(|known| !known.is_news(&seen, &extent)) {
            return self.left(&view.body, &lists, &known, policy).into();
        }
        let (this, cx, body) = (self.clone(), cx.clone(), view.body.clone());
        MaybeReady::wait(async move { this.with_news(&cx, &body, Arc::new(seen), extent, policy).await })
    }
}

impl ToolPinning {
    async fn with_news(
        &self,
        cx: &McpContext,
        body: &Bytes,
        seen: Arc<Observed>,
        extent: Extent,
        policy: PinPolicy,
    ) -> Verdict {
        let server: Arc<str> = cx.route().map_or_else(|| "".into(), |route| Arc::clone(&route.id));
        let (this, list) = (self.clone(), Arc::clone(&seen));
        // Whoever hangs up must not keep the trail from hearing of it.
        let recording = tokio::spawn(async move { this.record(&server, &list, &extent, policy).await });
        let recorded = match tokio::time::timeout(RECORD, recording).await {
            Ok(Ok(recorded)) => recorded,
            Ok(Err(_)) | Err(_) => Err(Unpinned::Late),
        };
        match (recorded, Lists::of_response(body)) {
            (Ok(inventory), Ok(lists)) => {
                if seen.tools.keys().any(|name| inventory.tools.get(name).is_some_and(super::PinnedTool::waits)) {
                    self.flag(cx, "changed");
                }
                self.left(body, &lists, &inventory, policy)
            }
            (Err(error), _) => self.unpinned(cx, policy, &error),
            (_, Err(error)) => self.unpinned(cx, policy, &error.into()),
        }
    }

    /// The list without what is held back. Everything else keeps its bytes.
    fn left(&self, body: &Bytes, lists: &Lists<'_>, inventory: &ToolInventory, policy: PinPolicy) -> Verdict {
        let now = self.0.clock.now();
        let keep = |item: &Item<'_>| match (item.kind, item.name.as_deref()) {
            (Listed::Tool, Some(name)) => !inventory.hides(name, policy, now),
            (Listed::Tool, None) => !is_unknown_hidden(policy, true),
            _ => true,
        };
        match lists.write(body, keep, true) {
            Some(body) => Verdict::Replace(body.into()),
            None => Verdict::Pass,
        }
    }

    /// What cannot be compared is refused where anything is held back, and else goes on and is noted: never silently.
    fn unpinned(&self, cx: &McpContext, policy: PinPolicy, error: &Unpinned) -> Verdict {
        let server = cx.route().map_or("", |route| &*route.id);
        if policy.holds_back() {
            return Verdict::failed(format!("the tools cannot be compared with those that are pinned: {error}"));
        }
        tracing::warn!(server, %error, "a server's tools cannot be compared with those that are pinned");
        self.flag(cx, "not-compared");
        Verdict::Pass
    }

    /// Notes something of an exchange, for the trail.
    pub(super) fn flag(&self, cx: &McpContext, found: &'static str) {
        cx.note_filter(&Self::NAME.into(), FilterVerdict::Flagged, vec![found.into()]);
    }
}
