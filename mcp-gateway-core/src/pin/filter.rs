//! Lists without the tools that are held back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::observe::Extent;
use super::read::{Observed, Unpinned, may_list};
use super::record::{ToolInventory, is_unknown_hidden};
use super::{PinPolicy, ToolPinning};
use crate::MaybeReady;
use crate::context::McpContext;
use crate::contract::{Filter, Head, Needs, Verdict, View};
use crate::record::FilterVerdict;
use crate::wire::list::{Item, Listed, Lists};

/// How long a list waits until what is new about it is recorded; once it is its turn it is recorded all the same.
const RECORD: Duration = Duration::from_secs(4);

impl Filter for ToolPinning {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn needs(&self, head: &Head<'_>) -> Needs {
        // Clients go by ids: a list may come on the stream of any other request.
        Needs { response: self.policy(head.server).is_on(), ..Needs::NONE }
    }

    fn may_outgrow(&self) -> bool {
        true
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
        let is_list = match view.method.as_deref() {
            Some("tools/list") => true,
            Some(_) => return Verdict::Pass.into(),
            // It answers another request, which may be one for a list.
            None if !may_list(&view.body) => return Verdict::Pass.into(),
            None => false,
        };
        let lists = match Lists::of_response(&view.body) {
            Ok(lists) => lists,
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
        let extent = self.0.walks.step(cx, is_list, &lists, &seen, (self.0.options.tools, self.0.clock.now()));
        let known = self.known(&route.id);
        if let Some(known) = known.as_ref().filter(|known| !known.is_news(&seen, &extent)) {
            return self.left(&view.body, &lists, known, policy).into();
        }
        if let Some(why) = self.0.recorders.failed(&route.id, &seen.fingerprint(), known.as_ref()) {
            return self.unpinned(cx, policy, &why.into()).into();
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
        let recording = async move {
            let slot = this.0.recorders.slot(&server);
            let turn = this.0.recorders.turn(&slot).await;
            // Whoever hangs up now must not keep the trail from hearing of it.
            let recording = tokio::spawn(async move {
                let _turn = turn;
                this.record(&server, &list, &extent, policy, &slot).await
            });
            recording.await.unwrap_or(Err(Unpinned::Late))
        };
        let recorded = tokio::time::timeout(RECORD, recording).await.unwrap_or(Err(Unpinned::Late));
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
