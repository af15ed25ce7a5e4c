//! What is new about a list.

use std::collections::BTreeSet;

use jiff::Timestamp;
use unicode_security::skeleton;

use super::read::{Observed, Unpinned};
use super::record::{ToolInventory, ToolVersion};
use super::suspicion::{Flag, suspicions};
use super::{ApproveError, PinLimits};
use crate::record::FirstUse;

/// How much of a list was seen.
#[derive(Debug, Default)]
pub(super) struct Extent {
    /// Whether it was the last page.
    pub(super) last: bool,
    /// The names on all pages, if all of them were seen.
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
        extent.last && !self.complete
            || seen.tools.iter().any(|(name, tool)| news(name, &tool.digest))
            || extent.whole.as_ref().is_some_and(|names| self.missing(names).next().is_some())
    }

    /// Tools that are not among all that a server has, and are not known to come and go.
    fn missing<'a>(&'a self, names: &'a BTreeSet<Box<str>>) -> impl Iterator<Item = &'a str> {
        let listed = self.tools.iter().filter(|(_, tool)| tool.missing_since.is_none() && !tool.comes_and_goes);
        listed.map(|(name, _)| &**name).filter(|name| !names.contains(*name))
    }

    /// Takes a page in. All of it or nothing.
    ///
    /// # Errors
    /// [`Unpinned::TooMany`].
    pub(super) fn observe(
        &mut self,
        seen: &Observed,
        extent: &Extent,
        first: FirstUse,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<Finding>, Unpinned> {
        let new = seen.tools.keys().filter(|name| !self.tools.contains_key(*name)).count();
        if self.tools.len() + new > most {
            return Err(Unpinned::TooMany(most));
        }
        let trusts = first == FirstUse::Trust && !self.is_settled(now);
        let twins = if new > 0 { self.twins(seen) } else { BTreeSet::new() };
        let mut findings = Vec::new();
        for (name, tool) in &seen.tools {
            let known = self.tools.get(name);
            let returned = known.is_some_and(|known| known.missing_since.is_some());
            let knows = known.is_some_and(|known| known.knows(&tool.digest));
            let is_new = known.is_none();
            if returned {
                findings.push(Finding { what: What::Returned, tool: name.clone(), flags: Vec::new() });
            } else if knows {
                continue;
            }
            let entry = self.tools.entry(name.clone()).or_default();
            if entry.missing_since.take().is_some() {
                entry.comes_and_goes = true;
            }
            if knows {
                continue;
            }
            let mut flags = suspicions(&tool.definitions);
            if twins.contains(name) {
                flags.push(Flag::ConfusableName);
            }
            let version = ToolVersion { digest: tool.digest.clone(), since: now, flags: flags.clone() };
            let what = match () {
                () if is_new && trusts => What::First,
                () if is_new => What::New,
                () if entry.changed.len() >= PinLimits::CHANGES => What::Unstable,
                () => What::Changed,
            };
            match what {
                What::First => entry.pinned.push(version),
                What::Unstable => entry.unstable = true,
                _ => entry.changed.push(version),
            }
            findings.push(Finding { what, tool: name.clone(), flags });
        }
        if let Some(names) = &extent.whole {
            let missing: Vec<Box<str>> = self.missing(names).map(Into::into).collect();
            for name in missing {
                if let Some(tool) = self.tools.get_mut(&name) {
                    tool.missing_since = Some(now);
                }
                findings.push(Finding { what: What::Removed, tool: name, flags: Vec::new() });
            }
        }
        self.complete |= extent.last;
        Ok(findings)
    }

    /// Names that people may take for one another (Unicode TR 39), letter case aside.
    fn twins(&self, seen: &Observed) -> BTreeSet<Box<str>> {
        let names: BTreeSet<&str> = self.tools.keys().chain(seen.tools.keys()).map(|name| &**name).collect();
        let mut looks: Vec<(String, &str)> = names.into_iter().map(|name| (look(name), name)).collect();
        looks.sort_unstable();
        let alike = looks.windows(2).filter(|pair| pair[0].0 == pair[1].0);
        alike.flat_map(|pair| [pair[0].1.into(), pair[1].1.into()]).collect()
    }

    /// Approves definitions of one tool, by their digests; without any, of the last one that was seen. A tool that is gone
    /// is forgotten then.
    ///
    /// # Errors
    /// There is no such tool or definition.
    pub(super) fn approve(&mut self, name: &str, digests: Option<&[String]>) -> Result<(), ApproveError> {
        let tool = self.tools.get_mut(name).ok_or(ApproveError::Tool)?;
        let chosen: Vec<ToolVersion> = match digests {
            None if tool.missing_since.is_some() => {
                self.tools.remove(name);
                return Ok(());
            }
            None => tool.changed.last().map_or_else(|| tool.pinned.clone(), |last| vec![last.clone()]),
            Some(digests) => {
                let version = |digest: &String| tool.versions().find(|one| *one.digest == **digest).cloned();
                digests.iter().map(version).collect::<Option<_>>().ok_or(ApproveError::Digest)?
            }
        };
        if chosen.is_empty() {
            return Err(ApproveError::Digest);
        }
        (tool.pinned, tool.unstable) = (chosen, false);
        tool.changed.clear();
        Ok(())
    }
}

/// How a name looks, confusable characters and letter case aside.
fn look(name: &str) -> String {
    let skeleton: String = skeleton(name).collect();
    // Upper case first: what `I` is taken for is `l`, of either case.
    let lower: String = skeleton.to_lowercase();
    unicode_security::skeleton(&lower).collect()
}
