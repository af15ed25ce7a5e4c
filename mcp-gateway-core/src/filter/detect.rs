//! What is looked for in texts.

use std::ops::Range;

use regex::Regex;

use super::{pii, secrets};
use crate::record::Label;

/// Something that was found in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where, in bytes.
    pub(super) at: Range<usize>,
    /// What.
    pub(super) name: Label,
}

/// Which types of a list, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u64);

impl Types {
    pub(super) const ALL: Self = Self(u64::MAX);

    pub(super) fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    /// The types of these names.
    ///
    /// # Errors
    /// Where the first one is that is not known.
    pub(super) fn named(known: &(impl Iterator<Item = &'static str> + Clone), names: &[String]) -> Result<Self, usize> {
        names.iter().enumerate().try_fold(Self(0), |types, (index, name)| {
            let number = known.clone().position(|known| known == name).ok_or(index)?;
            Ok(Self(types.0 | 1 << number))
        })
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
    /// Everything in a text of the member of this name, in order, nothing twice.
    pub(super) fn find(&self, text: &str, member: &str) -> Vec<Found> {
        let mut found = Vec::new();
        match self {
            Self::Secrets(types) => secrets::find(text, *types, &mut found),
            Self::Pii(types) => pii::find(text, member, *types, &mut found),
            Self::Regex(patterns) => {
                for (name, pattern) in patterns {
                    let fits = pattern.find_iter(text).filter(|fit| !fit.is_empty());
                    found.extend(fits.map(|fit| Found { at: fit.range(), name: name.clone() }));
                }
            }
        }
        found.sort_by_key(|found| (found.at.start, std::cmp::Reverse(found.at.end)));
        // What overlaps is one.
        found.dedup_by(|later, earlier| {
            let overlaps = later.at.start < earlier.at.end;
            if overlaps {
                earlier.at.end = earlier.at.end.max(later.at.end);
            }
            overlaps
        });
        found
    }
}
