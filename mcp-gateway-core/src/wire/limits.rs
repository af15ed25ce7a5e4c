//! How much of a message is read before it is refused.

/// Bounds of [`peek`](super::peek).
///
/// They cap the work and the memory that one message can cost, before anything is known about its sender's intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest body in bytes.
    pub max_bytes: usize,
    /// Deepest nesting of objects and arrays; the message itself is level 1.
    ///
    /// Values over [`Limits::DEEPEST`] count as that.
    pub max_depth: u16,
    /// Most members of one object among those that are read (message, `params`, `_meta`, `ref`, `clientInfo`, `error`).
    ///
    /// Finding a repeated member costs time in the square of this number.
    pub max_members: usize,
    /// Longest string that is read (`method`, `name`, `uri` …), in bytes as written in the body.
    pub max_string: usize,
    /// Longest `id` of a message, in bytes as written in the body: answers are compared with it.
    pub max_id: usize,
}

impl Limits {
    /// No message may be nested deeper than this, whatever is configured.
    ///
    /// It is the recursion limit of `serde_json`, which many servers and filters read the same bytes with.
    pub const DEEPEST: u16 = 127;

    /// The depth that holds.
    pub(super) fn depth(&self) -> u32 {
        u32::from(self.max_depth.min(Self::DEEPEST))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 4 << 20, max_depth: 64, max_members: 256, max_string: 8 << 10, max_id: 1 << 10 }
    }
}
