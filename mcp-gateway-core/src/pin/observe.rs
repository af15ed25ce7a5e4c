//! What is new about a list.

use std::collections::BTreeSet;

use jiff::Timestamp;
use unicode_security::skeleton;

use super::read::{Observed, ObservedTool, Unfit, quoted};
use super::record::{ToolInventory, ToolVersion};
use super::suspicion::{Flag, suspicions};
use super::{ApproveError, PinLimits, PinnedTool};
use crate::contract::StoreLimits;
use crate::record::FirstUse;

/// How much of a list was seen.
#[derive(Debug, Default)]
pub(super) struct Extent {
    /// The names on all pages, if all of them were seen, from the first one on.
    pub(super) whole: Option<BTreeSet<Box<str>>>,
}

/// Something that the trail is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: What,
    pub(super) tool: Box<str>,
    pub(super) flags: Vec<Flag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Trusted at first sight.
    First,
    New,
    Changed,
    /// Changed again, more often than changes are kept.
    Unstable,
    Removed,
    Returned,
}

impl What {
    /// The action in the trail.
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::First => "tool.trust",
            Self::New => "tool.new",
            Self::Changed => "tool.change",
            Self::Unstable => "tool.unstable",
            Self::Removed => "tool.remove",
            Self::Returned => "tool.return",
        }
    }
}

impl ToolInventory {
    /// Whether there is something to be recorded.
    pub(super) fn is_news(&self, seen: &Observed, extent: &Extent) -> bool {
        let news = |name: &str, digest: &str| match self.tools.get(name) {
            Some(known) => known.missing_since.is_some() || !known.knows(digest),
            None => true,
        };
        // Of a server that has shown nothing yet nothing is known.
        let ends = extent.whole.is_some() && !self.complete && !(self.tools.is_empty() && seen.tools.is_empty());
        ends || seen.tools.iter().any(|(name, tool)| news(name, &tool.digest))
            || extent.whole.as_ref().is_some_and(|names| self.missing(names).next().is_some())
    }

    /// Tools that are not among all that a server has, and are not known to come and go.
    fn missing<'a>(&'a self, names: &'a BTreeSet<Box<str>>) -> impl Iterator<Item = &'a str> {
        let listed = self.tools.iter().filter(|(_, tool)| tool.missing_since.is_none() && !tool.comes_and_goes);
        listed.map(|(name, _)| &**name).filter(|name| !names.contains(*name))
    }

    /// Takes a page in: what is known of it in any case, and what is new all or not at all, which the error says.
    pub(super) fn observe(
        &mut self,
        seen: &Observed,
        extent: &Extent,
        first: FirstUse,
        most: usize,
        now: Timestamp,
    ) -> (Vec<Finding>, Result<(), Unfit>) {
        let trusts = first == FirstUse::Trust && !self.is_settled(now);
        let mut findings = self.observe_known(seen, now);
        if let Some(names) = &extent.whole {
            let missing: Vec<Box<str>> = self.missing(names).map(Into::into).collect();
            for name in missing {
                if let Some(tool) = self.tools.get_mut(&name) {
                    tool.missing_since = Some(now);
                }
                findings.push(Finding { what: What::Removed, tool: name, flags: Vec::new() });
            }
        }
        let fits = self.observe_new(seen, trusts, (most, now), &mut findings);
        self.complete |= extent.whole.is_some() && !self.tools.is_empty();
        (findings, fits)
    }

    /// What has become of tools that are known. Changes that there is no room for make them unstable.
    fn observe_known(&mut self, seen: &Observed, now: Timestamp) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut room = StoreLimits::RECORD.saturating_sub(self.weight());
        let twins = if self.tools.is_empty() { BTreeSet::new() } else { self.twins(seen) };
        for (name, tool) in &seen.tools {
            let Some(entry) = self.tools.get_mut(name) else { continue };
            if entry.missing_since.take().is_some() {
                entry.comes_and_goes = true;
                findings.push(Finding { what: What::Returned, tool: name.clone(), flags: Vec::new() });
            }
            if entry.knows(&tool.digest) {
                continue;
            }
            let flags = flags_of(tool, twins.contains(name));
            let version = ToolVersion { digest: tool.digest.clone(), since: now, flags: flags.clone() };
            let what = match version.weight() {
                weight if entry.changed.len() < PinLimits::CHANGES && weight <= room => {
                    room -= weight;
                    entry.changed.push(version);
                    What::Changed
                }
                _ => {
                    entry.unstable = true;
                    What::Unstable
                }
            };
            findings.push(Finding { what, tool: name.clone(), flags });
        }
        findings
    }

    /// Takes in what is new, in the place of what is missing if need be.
    fn observe_new(
        &mut self,
        seen: &Observed,
        trusts: bool,
        (most, now): (usize, Timestamp),
        findings: &mut Vec<Finding>,
    ) -> Result<(), Unfit> {
        let new: Vec<_> = seen.tools.iter().filter(|(name, _)| !self.tools.contains_key(*name)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let listed = self.tools.values().filter(|tool| tool.missing_since.is_none()).count();
        if listed + new.len() > most {
            return Err(Unfit::TooMany(most));
        }
        let twins = self.twins(seen);
        let what = if trusts { What::First } else { What::New };
        let versions = new.into_iter().map(|(name, tool)| {
            let flags = flags_of(tool, twins.contains(name));
            (name.clone(), ToolVersion { digest: tool.digest.clone(), since: now, flags })
        });
        let new: Vec<(Box<str>, ToolVersion)> = versions.collect();
        let weight: usize = new.iter().map(|(name, version)| quoted(name) + PinLimits::MARKS + version.weight()).sum();
        let mut gone: Vec<(Timestamp, Box<str>)> =
            self.tools.iter().filter_map(|(name, tool)| Some((tool.missing_since?, name.clone()))).collect();
        gone.sort_unstable_by(|one, other| other.cmp(one));
        let mut evicted = Vec::new();
        while self.tools.len() + new.len() > most || self.weight() + weight > StoreLimits::RECORD {
            let Some((_, name)) = gone.pop() else {
                self.tools.extend(evicted);
                return Err(Unfit::Full);
            };
            evicted.extend(self.tools.remove_entry(&name));
        }
        for (name, version) in new {
            findings.push(Finding { what, tool: name.clone(), flags: version.flags.clone() });
            let (pinned, changed) = if trusts { (vec![version], Vec::new()) } else { (Vec::new(), vec![version]) };
            self.tools.insert(name, PinnedTool { pinned, changed, ..PinnedTool::default() });
        }
        Ok(())
    }

    /// Names that people may take for one another (Unicode TR 39), letter case aside.
    fn twins(&self, seen: &Observed) -> BTreeSet<Box<str>> {
        let names: BTreeSet<&str> = self.tools.keys().chain(seen.tools.keys()).map(|name| &**name).collect();
        let mut looks: Vec<(String, &str)> = names.into_iter().map(|name| (look(name), name)).collect();
        looks.sort_unstable();
        let alike = looks.windows(2).filter(|pair| pair[0].0 == pair[1].0);
        alike.flat_map(|pair| [pair[0].1.into(), pair[1].1.into()]).collect()
    }

    /// Approves definitions of one tool, by their digests, beside those that are approved; what is not named waits on.
    /// Without any: of the one that waits; a tool that is gone is forgotten then.
    ///
    /// # Errors
    /// There is no such tool or definition, or several wait.
    pub(super) fn approve(&mut self, name: &str, digests: Option<&[String]>) -> Result<(), ApproveError> {
        let tool = self.tools.get_mut(name).ok_or(ApproveError::Tool)?;
        match digests {
            None if tool.missing_since.is_some() => {
                self.tools.remove(name);
            }
            None if tool.is_ambiguous() => return Err(ApproveError::Several),
            None => {
                let waiting: Vec<Box<str>> = tool.changed.iter().map(|version| version.digest.clone()).collect();
                tool.accept(waiting.iter().map(|digest| &**digest))?;
            }
            Some(digests) => tool.accept(digests.iter().map(String::as_str))?,
        }
        Ok(())
    }

    /// Approves of every tool with one definition that waits. Nothing is forgotten.
    pub(super) fn approve_all(&mut self) -> Result<(), ApproveError> {
        for tool in self.tools.values_mut().filter(|tool| tool.waits() && !tool.is_ambiguous()) {
            let waiting: Vec<Box<str>> = tool.changed.iter().map(|version| version.digest.clone()).collect();
            tool.accept(waiting.iter().map(|digest| &**digest))?;
        }
        Ok(())
    }
}

impl PinnedTool {
    /// Whether nobody can say which definition is meant.
    fn is_ambiguous(&self) -> bool {
        self.unstable || self.changed.len() > 1
    }

    fn accept<'a>(&mut self, digests: impl Iterator<Item = &'a str> + Clone) -> Result<(), ApproveError> {
        if digests.clone().any(|digest| self.versions().all(|version| *version.digest != *digest)) {
            return Err(ApproveError::Digest);
        }
        for digest in digests {
            let is = |version: &ToolVersion| *version.digest == *digest;
            let chosen = match self.changed.iter().position(is) {
                Some(at) => self.changed.remove(at),
                None => match self.pinned.iter().position(is) {
                    Some(at) => self.pinned.remove(at),
                    None => continue,
                },
            };
            self.pinned.push(chosen);
        }
        let surplus = self.pinned.len().saturating_sub(PinLimits::PINNED);
        self.pinned.drain(..surplus);
        // What was not kept is new when it is seen again.
        self.unstable = false;
        Ok(())
    }
}

/// What is odd about a definition.
fn flags_of(tool: &ObservedTool, has_twin: bool) -> Vec<Flag> {
    let mut flags = suspicions(&tool.definitions);
    flags.extend(has_twin.then_some(Flag::ConfusableName));
    flags
}

/// How a name looks, confusable characters and letter case aside.
fn look(name: &str) -> String {
    let skeleton: String = skeleton(name).collect();
    // Upper case first: what `I` is taken for is `l`, of either case.
    let lower: String = skeleton.to_lowercase();
    unicode_security::skeleton(&lower).collect()
}
