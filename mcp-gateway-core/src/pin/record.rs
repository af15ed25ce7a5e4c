//! Inventories as they are kept.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::read::quoted;
use super::{Flag, PinLimits, PinPolicy};
use crate::contract::Kind;
use crate::record::{FirstUse, OnToolChange, Resource};

/// What tools a server has shown, by the server's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolInventory {
    /// When its first list was seen.
    pub since: Timestamp,
    /// Whether a list was seen from its first page to its last: whatever comes then is new.
    pub complete: bool,
    /// Where the server was: its URL, or how it is started. Another one has another inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<str>>,
    /// By name.
    pub tools: BTreeMap<Box<str>, PinnedTool>,
}

/// A tool of an inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTool {
    /// What was approved, or trusted at first sight, the last approval last; at most [`PinLimits::PINNED`]. None, if nobody
    /// has approved of it yet.
    pub pinned: Vec<ToolVersion>,
    /// What else was seen and waits for approval, the oldest first; at most [`PinLimits::CHANGES`].
    pub changed: Vec<ToolVersion>,
    /// Whether there were more changes than are kept.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unstable: bool,
    /// Since when it is not listed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<Timestamp>,
    /// Whether it was missing and came back: some callers are shown it and some are not. It is not missed again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub comes_and_goes: bool,
}

/// A definition of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolVersion {
    /// SHA-256 of the definition in canonical form ([`canonical`](crate::wire::canonical)), base64url. Of several under
    /// one name: of all of them, sorted, with a line feed between.
    pub digest: Box<str>,
    /// When it was seen first.
    pub since: Timestamp,
    /// What is odd about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
}

/// A definition, to be shown; its id is the server's, `/`, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolText {
    /// In canonical form, but with name, description and input schema first, and with escapes in the place of characters
    /// that cannot be seen. Of several under one name: one a line.
    pub text: String,
    /// Whether that is all of it.
    pub whole: bool,
    /// SHA-256 of each of its members, base64url, whether they are in the text or not. `None` of several under one name, and
    /// of more than [`PinLimits::MEMBERS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<BTreeMap<Box<str>, Box<str>>>,
}

impl ToolVersion {
    /// The bytes that it takes in a record, with a comma.
    pub(super) fn weight(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX / 4, |json| json.len() + 1)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Resource for ToolInventory {
    const KIND: Kind = Kind::logged("tool-inventory");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

impl Resource for ToolText {
    const KIND: Kind = Kind::quiet("tool-text");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}

impl ToolInventory {
    /// An empty one.
    #[must_use]
    pub fn new(since: Timestamp) -> Self {
        Self { since, complete: false, origin: None, tools: BTreeMap::new() }
    }

    /// Whether it is of the server that is there. Whoever does not say where it is keeps what it has.
    pub(super) fn is_of(&self, origin: Option<&str>) -> bool {
        match (&self.origin, origin) {
            (Some(own), Some(origin)) => **own == *origin,
            _ => true,
        }
    }

    /// In the place of one that cannot be read: nobody knows what was approved, so nothing is.
    pub(crate) fn unreadable() -> Self {
        Self { since: Timestamp::UNIX_EPOCH, complete: true, origin: None, tools: BTreeMap::new() }
    }

    /// The most bytes that it takes as a record, whatever becomes of its tools' marks.
    pub(super) fn weight(&self) -> usize {
        let tools = self.tools.iter().map(|(name, tool)| {
            let versions: usize = tool.versions().map(ToolVersion::weight).sum();
            quoted(name) + PinLimits::MARKS + versions
        });
        PinLimits::HEAD + self.origin.as_deref().map_or(0, quoted) + tools.sum::<usize>()
    }

    /// Whether what was not seen yet is new, and no part of the first sight any more.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        self.complete || now.duration_since(self.since) > SignedDuration::from_secs(PinLimits::FIRST_SIGHT_SECONDS)
    }

    /// Whether a policy hides a tool from everybody.
    #[must_use]
    pub fn hides(&self, tool: &str, policy: PinPolicy, now: Timestamp) -> bool {
        match self.tools.get(tool) {
            Some(tool) => tool.is_hidden(policy),
            None => is_unknown_hidden(policy, self.is_settled(now)),
        }
    }
}

/// Whether a policy hides a tool that no list has shown.
pub(super) fn is_unknown_hidden(policy: PinPolicy, settled: bool) -> bool {
    policy.is_on() && (policy.first_use == FirstUse::Approve || policy.on_change == OnToolChange::Block && settled)
}

impl PinnedTool {
    /// Whether anything about it waits for approval.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.pinned.is_empty() || !self.changed.is_empty() || self.unstable
    }

    /// Whether a policy hides it from everybody.
    #[must_use]
    pub fn is_hidden(&self, policy: PinPolicy) -> bool {
        policy.is_on()
            && (policy.on_change == OnToolChange::Block && self.waits()
                || policy.first_use == FirstUse::Approve && self.pinned.is_empty())
    }

    /// Whether a definition of it needs no record any more.
    pub(super) fn knows(&self, digest: &str) -> bool {
        self.unstable || self.versions().any(|version| *version.digest == *digest)
    }

    /// Every definition of it, those that were approved first.
    pub fn versions(&self) -> impl Iterator<Item = &ToolVersion> {
        self.pinned.iter().chain(&self.changed)
    }
}
