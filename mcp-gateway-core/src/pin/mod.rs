//! Tools as they were when somebody last looked: a server that changes what its tools say is seen, and may be held to it.
//!
//! What a model does with a tool is decided by the tool's text, which a server may change at any time. From the lists that
//! pass, [`ToolPinning`] keeps a digest of each tool's whole definition in a [`ToolInventory`] for each server. What is not
//! the definition that was approved, or trusted at first sight, is recorded, shown to administrators, and, as
//! [`OnToolChange`] says, allowed, flagged, or blocked until somebody approves it.
//!
//! | module | does |
//! |---|---|
//! | `read` | lists to digests |
//! | `observe` | what is new about them |
//! | `suspicion` | what in a definition is written to deceive |
//! | `recorder` | whose turn it is to record it |
//! | `keep` | store, texts and trail |
//! | `filter`, `authorizer` | leaves tools out of lists, and denies calls of them |

mod authorizer;
mod filter;
mod keep;
mod observe;
mod read;
mod record;
mod recorder;
mod suspicion;
mod walk;

use std::sync::Arc;

pub use self::authorizer::PinnedTools;
pub use self::keep::{Approval, ApproveError};
pub use self::record::{PinnedTool, ToolInventory, ToolText, ToolVersion};
use self::recorder::Recorders;
pub use self::suspicion::Flag;
use self::walk::Walks;
use crate::context::McpContext;
use crate::contract::{AuditSink, Clock};
use crate::record::{Entry, FirstUse, OnToolChange, Resources};
use crate::snapshot::Snapshots;

/// Bounds of what is kept.
#[derive(Debug, Clone, Copy)]
pub struct PinLimits;

impl PinLimits {
    /// Bytes of a tool's name as JSON, without quotes: as long as MCP lets names be.
    pub const NAME: usize = 128;
    /// Changes of one tool that wait for approval; a server that brings more is unstable, and those are not kept.
    pub const CHANGES: usize = 4;
    /// Members of a definition that are compared each by itself, with names of at most [`NAME`](Self::NAME) bytes.
    pub const MEMBERS: usize = 64;
    /// Definitions of one tool that are approved; the oldest one gives way.
    pub const PINNED: usize = 4;
    /// The most that [`PinOptions::tools`] may say: an inventory is one record of the store, which has room for the first
    /// definitions of so many, with the longest names and every flag. Changes that it has no room for are not kept.
    pub const TOOLS: usize = 500;
    /// Bytes of an inventory beside its tools and origin.
    const HEAD: usize = 256;
    /// Bytes of a tool beside its name and definitions, with every mark.
    const MARKS: usize = 120;
    /// The most that [`PinOptions::text_bytes`] may say: a definition is one record, in which quotes are escaped.
    pub const TEXT: usize = 96 << 10;
    /// For how long after a server's first list further pages count as part of it, seconds.
    pub const FIRST_SIGHT_SECONDS: i64 = 600;
}

/// How tools are pinned.
#[derive(Debug, Clone, Copy)]
pub struct PinOptions {
    /// `tools.on_change`: what becomes of a change, where an entry does not say otherwise; off by default.
    pub on_change: OnToolChange,
    /// `tools.first_use`: whether what is seen first is trusted, where an entry does not say otherwise; it is by default.
    pub first_use: FirstUse,
    /// `tools.max_tools`: tools of one server; 500 by default. A list with more cannot be pinned.
    pub tools: usize,
    /// `tools.text_bytes`: how much of a definition is kept to be shown; 64 KiB by default. The digest is of all of it.
    pub text_bytes: usize,
}

impl Default for PinOptions {
    fn default() -> Self {
        Self { on_change: OnToolChange::Off, first_use: FirstUse::Trust, tools: 500, text_bytes: 64 << 10 }
    }
}

/// What becomes of a server's tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinPolicy {
    /// What becomes of a change.
    pub on_change: OnToolChange,
    /// Whether what is seen first is trusted.
    pub first_use: FirstUse,
}

impl PinPolicy {
    /// Whether anything is pinned.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.on_change != OnToolChange::Off
    }

    /// Whether what cannot be compared is refused.
    fn holds_back(self) -> bool {
        self.is_on() && (self.on_change == OnToolChange::Block || self.first_use == FirstUse::Approve)
    }
}

/// Pins the tools of the servers of a snapshot. A handle: clones share it.
///
/// It is a [`Filter`](crate::contract::Filter): the first one of a shim, since it has to see lists as servers make them.
/// Calls are judged by [`PinnedTools`], which wraps the shim's authorizer. What it compares with is in the snapshot; the
/// store is written to when a server shows something new.
#[derive(Clone)]
pub struct ToolPinning(Arc<Pinning>);

struct Pinning {
    snapshots: Snapshots,
    kept: Resources<ToolInventory>,
    texts: Resources<ToolText>,
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    options: PinOptions,
    walks: Walks,
    recorders: Recorders,
}

impl ToolPinning {
    /// By which name it is in the trail, as a rule and as a filter.
    pub const NAME: &'static str = "tool-pinning";

    /// Keeps inventories here, by these options.
    #[must_use]
    pub fn new(
        snapshots: Snapshots,
        kept: Resources<ToolInventory>,
        sink: Arc<dyn AuditSink>,
        clock: Arc<dyn Clock>,
        options: PinOptions,
    ) -> Self {
        let (texts, walks, recorders) = (kept.of_kind(), Walks::default(), Recorders::default());
        Self(Arc::new(Pinning { snapshots, kept, texts, sink, clock, options, walks, recorders }))
    }

    /// What is known of a server's tools: of the server that is meant now, and of none that was called so before.
    fn known(&self, server: &str) -> Option<Arc<ToolInventory>> {
        let known = self.0.snapshots.load().tools.get(server).cloned()?;
        known.is_of(self.origin(server).as_deref()).then_some(known)
    }

    /// Where a server is.
    fn origin(&self, server: &str) -> Option<Box<str>> {
        origin_of(self.0.snapshots.load().entries.get(server)?)
    }

    /// Whether lists are compared that were not when the stream of this exchange was opened: it has to end, and is
    /// compared when it is opened again.
    #[must_use]
    pub fn outgrow(&self, cx: &McpContext) -> bool {
        let (Some(before), Some(route)) = (cx.inspected(), cx.route()) else { return false };
        self.policy(&route.id).is_on() && !before.by(Self::NAME).response
    }

    /// What becomes of a server's tools: what its entry says, or the options do.
    #[must_use]
    pub fn policy(&self, server: &str) -> PinPolicy {
        let snapshot = self.0.snapshots.load();
        let own = snapshot.entries.get(server).and_then(|entry| entry.tool_pinning);
        PinPolicy {
            on_change: own.and_then(|own| own.on_change).unwrap_or(self.0.options.on_change),
            first_use: own.and_then(|own| own.first_use).unwrap_or(self.0.options.first_use),
        }
    }

    /// Other servers that have a tool of this name, letter case aside; at most ten, in the order of ids.
    #[must_use]
    pub fn namesakes(&self, server: &str, tool: &str) -> Vec<Arc<str>> {
        let snapshot = self.0.snapshots.load();
        let folded = tool.to_lowercase();
        let has = |inventory: &ToolInventory| {
            inventory.tools.contains_key(tool) || inventory.tools.keys().any(|name| name.to_lowercase() == folded)
        };
        let others = snapshot.tools.iter().filter(|(id, _)| ***id != *server && snapshot.routes.contains_key(*id));
        let mut found: Vec<Arc<str>> =
            others.filter(|(_, inventory)| has(inventory)).map(|(id, _)| Arc::clone(id)).collect();
        found.sort_unstable();
        found.truncate(10);
        found
    }
}

/// Where a server is: its URL, or the package or command by which it is started; at most 1 KiB of it.
fn origin_of(entry: &Entry) -> Option<Box<str>> {
    let mut origin = match (&entry.remote_config, &entry.npx_config, &entry.uvx_config, &entry.command) {
        (Some(remote), ..) => remote.fixed_url.clone(),
        (_, Some(npx), ..) => format!("npm:{}", npx.package),
        (_, _, Some(uvx), _) => format!("pypi:{}", uvx.package),
        (.., Some(command)) => [std::slice::from_ref(command), &entry.args].concat().join(" "),
        _ => return None,
    };
    origin.truncate(origin.floor_char_boundary(1_024));
    Some(origin.into())
}

impl std::fmt::Debug for ToolPinning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ToolPinning").field(&self.0.options).finish()
    }
}

/// Reads arbitrary bytes as an answer with a list of tools: for fuzzing.
///
/// # Panics
/// When a list that was just recorded is new still, or one with another text is not.
#[cfg(any(test, feature = "fuzzing"))]
pub fn check(data: &[u8]) {
    use self::observe::Extent;
    use crate::wire::list::Lists;

    let Ok(lists) = Lists::of_response(data) else { return };
    let Ok(seen) = read::Observed::read(data, &lists, PinLimits::TOOLS) else { return };
    for first in [FirstUse::Trust, FirstUse::Approve] {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut inventory = ToolInventory::new(now);
        let whole = lists.next_cursor.is_none().then(|| seen.tools.keys().cloned().collect());
        let extent = Extent { whole };
        let (_, fits) = inventory.observe(&seen, &extent, first, PinLimits::TOOLS, now);
        assert_eq!(fits, Ok(()), "an inventory has room for one list");
        assert!(!inventory.is_news(&seen, &extent), "it is recorded");
        assert_eq!(inventory.tools.len(), seen.tools.len());
    }
    for tool in seen.tools.values() {
        let _ = suspicion::suspicions(&tool.definitions);
        let shown = keep::shown(&tool.definitions, PinLimits::TEXT);
        assert!(shown.text.len() <= PinLimits::TEXT);
    }
}

#[cfg(test)]
mod tests;
