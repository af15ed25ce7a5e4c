//! Lists of tools, as digests.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::PinLimits;
use crate::contract::StoreError;
use crate::wire::list::{Listed, Lists};
use crate::wire::{PeekError, canonical};

/// Why a list cannot be compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unpinned {
    #[error("a tool cannot be read in one way only: {0}")]
    Ambiguous(#[from] PeekError),
    #[error("there are more than {0} tools: `tools.max_tools`")]
    TooMany(usize),
    #[error("a tool's name has more than {} bytes", PinLimits::NAME)]
    LongName,
    #[error("what is new about it cannot be recorded: {0}")]
    Store(#[from] StoreError),
    #[error("what is new about it is not recorded yet")]
    Late,
}

/// The tools of one page.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) tools: BTreeMap<Box<str>, ObservedTool>,
}

#[derive(Debug)]
pub(super) struct ObservedTool {
    pub(super) digest: Box<str>,
    /// In canonical form, sorted; more than one where a name is listed more than once.
    pub(super) definitions: Vec<Vec<u8>>,
}

impl Observed {
    /// The tools with a name; what has none cannot be called.
    pub(super) fn read(body: &[u8], lists: &Lists<'_>, most: usize) -> Result<Self, Unpinned> {
        let mut all: BTreeMap<Box<str>, Vec<Vec<u8>>> = BTreeMap::new();
        for item in lists.items.iter().filter(|item| item.kind == Listed::Tool) {
            let Some(name) = item.name.as_deref() else { continue };
            if name.len() > PinLimits::NAME {
                return Err(Unpinned::LongName);
            }
            all.entry(name.into()).or_default().push(canonical(item.text(body), &mut |_| {})?);
            if all.len() > most {
                return Err(Unpinned::TooMany(most));
            }
        }
        let tools = all.into_iter().map(|(name, mut definitions)| {
            definitions.sort_unstable();
            let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(definitions.join(&b'\n'))).into();
            (name, ObservedTool { digest, definitions })
        });
        Ok(Self { tools: tools.collect() })
    }
}
