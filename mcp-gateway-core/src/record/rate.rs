//! How much in how much time.

/// How much there is of something per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// This many, at once or spread.
    pub limit: u32,
    /// Per so many seconds.
    pub seconds: u32,
}
