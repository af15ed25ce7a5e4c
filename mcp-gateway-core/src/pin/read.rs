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
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("a tool's name has more than {} bytes", PinLimits::NAME)]
    LongName,
    #[error("what is new about it cannot be recorded: {0}")]
    Store(#[from] StoreError),
    #[error("what is new about it is not recorded yet")]
    Late,
}

/// Why an inventory does not take a list in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("there are more than {0} tools: `tools.max_tools`")]
    TooMany(usize),
    #[error("there are so many definitions that wait for approval that no new tool can be kept")]
    Full,
}

/// By what a list is known again: SHA-256 over its names and digests.
pub(super) type Fingerprint = [u8; 32];

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
            if quoted(name) > PinLimits::NAME + 2 {
                return Err(Unpinned::LongName);
            }
            all.entry(name.into()).or_default().push(canonical(item.text(body), &mut |_| {})?);
            if all.len() > most {
                return Err(Unfit::TooMany(most).into());
            }
        }
        let tools = all.into_iter().map(|(name, mut definitions)| {
            definitions.sort_unstable();
            let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(definitions.join(&b'\n'))).into();
            (name, ObservedTool { digest, definitions })
        });
        Ok(Self { tools: tools.collect() })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for (name, tool) in &self.tools {
            hash.update(name.len().to_be_bytes());
            hash.update(name.as_bytes());
            hash.update(tool.digest.as_bytes());
        }
        hash.finalize().into()
    }
}

/// Bytes of a text as JSON.
pub(super) fn quoted(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX, |json| json.len())
}

/// Whether a message may list tools, however it is written: a cheap look at what is read in full only then.
pub(super) fn may_list(body: &[u8]) -> bool {
    // Readers that fold case take `ToolS`, too, and with some foreign letters as its last one.
    let is_tool = |at: usize| body[at..].get(..4).is_some_and(|word| word.eq_ignore_ascii_case(b"tool"));
    memchr::memchr2_iter(b't', b'T', body).any(is_tool) || memchr::memmem::find(body, b"\\u00").is_some()
}
