//! What is looked for in texts.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;

use super::record::FilterLimits;
use super::{pii, secrets};
use crate::record::Label;

/// Something that was found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where, in bytes.
    pub(super) at: Range<usize>,
    /// What, as the number of its [name](Detector::name).
    pub(super) name: usize,
}

/// Which types of a list, by number; at most 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u128);

impl Types {
    pub(super) const ALL: Self = Self(u128::MAX);
    pub(super) const NONE: Self = Self(0);

    pub(super) fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    fn add(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    /// The types of these names.
    ///
    /// # Errors
    /// Where the first one is that is not known.
    pub(super) fn named(known: &(impl Iterator<Item = &'static str> + Clone), names: &[String]) -> Result<Self, usize> {
        names.iter().enumerate().try_fold(Self::NONE, |mut types, (index, name)| {
            types.add(known.clone().position(|known| known == name).ok_or(index)?);
            Ok(types)
        })
    }
}

/// How much is done for one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// [`FilterLimits::FINDS`].
    pub(super) finds: usize,
    /// [`FilterLimits::AGAIN`].
    pub(super) again: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { finds: FilterLimits::FINDS, again: FilterLimits::AGAIN }
    }
}

/// A message holds more than is looked for, or nobody waits for the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMuch;

/// A look through one message, text by text.
#[derive(Debug)]
pub(super) struct Search<'a> {
    /// Whether every place is to be known, or only what there is.
    every: bool,
    left: Bounds,
    stop: &'a AtomicBool,
    /// What there was so far.
    names: Types,
    found: Vec<Found>,
}

impl<'a> Search<'a> {
    /// One that ends when `stop` is set.
    pub(super) fn new(every: bool, left: Bounds, stop: &'a AtomicBool) -> Self {
        Self { every, left, stop, names: Types::NONE, found: Vec::new() }
    }

    /// What there was so far.
    pub(super) fn names(&self) -> Types {
        self.names
    }

    /// Whether it is still of interest where this is.
    pub(super) fn wants(&self, name: usize) -> bool {
        self.every || !self.names.has(name)
    }

    pub(super) fn add(&mut self, at: Range<usize>, name: usize) -> Result<(), TooMuch> {
        if !self.wants(name) {
            return Ok(());
        }
        self.names.add(name);
        match self.found.last_mut() {
            // What goes on without a gap is one.
            Some(last) if last.name == name && last.at.end == at.start => last.at.end = at.end,
            _ => {
                self.left.finds = self.left.finds.checked_sub(1).ok_or(TooMuch)?;
                self.found.push(Found { at, name });
            }
        }
        Ok(())
    }

    /// Counts bytes that are searched once more.
    fn again(&mut self, bytes: usize) -> Result<(), TooMuch> {
        self.left.again = self.left.again.checked_sub(bytes).ok_or(TooMuch)?;
        self.goes_on()
    }

    fn goes_on(&self) -> Result<(), TooMuch> {
        if self.stop.load(Ordering::Relaxed) { Err(TooMuch) } else { Ok(()) }
    }
}

/// Looks for one kind of thing.
#[derive(Debug)]
pub(super) enum Detector {
    Secrets(Types),
    Pii(Types),
    Regex(Box<[(Label, Regex)]>),
}

impl Detector {
    /// What is in a text of the member of this name, in order, nothing twice.
    ///
    /// # Errors
    /// The message holds too much.
    pub(super) fn find(&self, text: &str, member: &str, search: &mut Search<'_>) -> Result<Vec<Found>, TooMuch> {
        search.goes_on()?;
        match self {
            Self::Secrets(types) => secrets::find(text, *types, search)?,
            Self::Pii(types) => pii::find(text, member, *types, search)?,
            Self::Regex(patterns) => {
                for (name, (_, pattern)) in patterns.iter().enumerate() {
                    if !search.wants(name) {
                        continue;
                    }
                    for fit in pattern.find_iter(text) {
                        if !fit.is_empty() {
                            search.add(fit.range(), name)?;
                            if !search.every {
                                break;
                            }
                        }
                        // To know where the next one begins, it may read up to the end.
                        search.again(text.len() - fit.end())?;
                    }
                }
            }
        }
        Ok(merged(std::mem::take(&mut search.found)))
    }

    /// What is called by this number.
    pub(super) fn name(&self, number: usize) -> Label {
        match self {
            Self::Secrets(_) => secrets::secret_types().nth(number).unwrap_or_default().into(),
            Self::Pii(_) => pii::pii_types().nth(number).unwrap_or_default().into(),
            Self::Regex(patterns) => patterns.get(number).map(|(name, _)| name.clone()).unwrap_or_default(),
        }
    }

    /// What all of these are called, each once.
    pub(super) fn names(&self, types: Types) -> Vec<Label> {
        let mut names: Vec<Label> = Vec::new();
        for name in (0..128).filter(|number| types.has(*number)).map(|number| self.name(number)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// In order; what overlaps is one, called by the first.
pub(super) fn merged(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by_key(|found| (found.at.start, std::cmp::Reverse(found.at.end)));
    found.dedup_by(|later, earlier| {
        let overlaps = later.at.start < earlier.at.end;
        if overlaps {
            earlier.at.end = earlier.at.end.max(later.at.end);
        }
        overlaps
    });
    found
}
