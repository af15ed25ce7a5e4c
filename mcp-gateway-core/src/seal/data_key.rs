//! Data keys as they are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::contract::{Kind, WrappedKey};
use crate::record::Resource;

/// A data key of a tenant, under the master key. Its id counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataKey {
    /// The key itself; only the key management can open it.
    pub wrapped: WrappedKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is first used for sealing: by then every replica has it.
    pub not_before: Timestamp,
}

impl Resource for DataKey {
    const KIND: Kind = Kind::logged("data-key");
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &[];
}
