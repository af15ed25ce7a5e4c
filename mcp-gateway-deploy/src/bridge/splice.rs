//! Replacing ids in a message without touching another byte.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Where a part that was borrowed from a whole stands in it.
pub(super) fn range(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// Replaces parts of a message. Parts must not overlap.
pub(super) fn splice(whole: &[u8], mut edits: Vec<(Range<usize>, &[u8])>) -> Bytes {
    edits.sort_by_key(|(range, _)| range.start);
    let grown: usize = edits.iter().map(|(_, with)| with.len()).sum();
    let mut out = Vec::with_capacity(whole.len() + grown);
    let mut from = 0;
    for (range, with) in edits {
        out.extend_from_slice(&whole[from..range.start]);
        out.extend_from_slice(with);
        from = range.end;
    }
    out.extend_from_slice(&whole[from..]);
    out.into()
}

/// The members of a child's `params` or `result` that name a request.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ties<'a> {
    /// `progressToken` of `notifications/progress`.
    #[serde(borrow, rename = "progressToken")]
    pub(super) progress_token: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<TieMeta<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct TieMeta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
}

impl<'a> Ties<'a> {
    /// Reads `params`; what cannot be read ties nothing.
    pub(super) fn of_params(raw: &'a [u8]) -> Self {
        serde_json::from_slice(raw).unwrap_or_default()
    }

    /// Reads the `result` of a whole response.
    pub(super) fn of_result(message: &'a [u8]) -> Self {
        #[derive(Deserialize)]
        struct Response<'a> {
            #[serde(borrow, default)]
            result: Ties<'a>,
        }
        serde_json::from_slice::<Response<'a>>(message).map(|response| response.result).unwrap_or_default()
    }

    /// `_meta["io.modelcontextprotocol/subscriptionId"]`.
    pub(super) fn subscription(&self) -> Option<&'a RawValue> {
        self.meta.as_ref()?.subscription
    }
}
