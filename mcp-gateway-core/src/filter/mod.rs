//! Filters that an administrator makes: what they look for, and what becomes of it.
//!
//! A [`FilterSpec`] is kept in the store, compiled into the snapshot when it changes, and asked by [`SnapshotFilters`], which
//! is one [`Filter`](crate::contract::Filter) of the shim. A message that no filter concerns is not read for them.
//!
//! ```
//! use mcp_gateway_core::filter::{FilterSpec, Filters};
//!
//! let spec: FilterSpec = serde_json::from_str(r#"{
//!     "name": "No credentials leave",
//!     "selectors": [{ "methods": ["tools/call"], "directions": ["request"] }],
//!     "check": { "kind": "secrets", "action": "redact" }
//! }"#)?;
//! let filters = Filters::compile([("no-credentials", &spec)])?;
//! # drop(filters);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compile;
mod detect;
mod elicitation;
mod index;
mod judgement;
mod nested;
mod pii;
mod record;
mod redact;
mod run;
mod secrets;
mod select;
mod server_requests;
mod webhook;

pub use self::compile::{Compiled, FilterError};
pub use self::index::Filters;
pub(crate) use self::index::of_kept;
pub use self::pii::pii_types;
pub use self::record::{Action, Check, FailMode, FilterLimits, FilterSpec, NamedPattern, Selector, Way};
pub use self::run::{SnapshotFilters, Trial, Tried};
pub use self::secrets::secret_types;
pub use self::server_requests::ServerRequestFilter;

/// What must hold for any input, as functions that panic if it does not: for fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub mod check {
    use super::{Compiled, FilterSpec};

    /// A document is refused, or can be asked about any message, and says the same after it was kept. What it makes of a
    /// message is the same message still, and holds nothing more of what it looks for.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn filter(data: &[u8]) {
        let Ok(spec) = serde_json::from_slice::<FilterSpec>(data) else { return };
        let kept = serde_json::to_vec(&spec).expect("a filter can be written");
        assert_eq!(serde_json::from_slice::<FilterSpec>(&kept).expect("what is written can be read"), spec);
        if let Ok(compiled) = Compiled::new("f", &spec) {
            let message = br#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"b":"4111 1111 1111 1111 abc","c":"{\"d\":\"\\nAKIAIOSFODNN7EXAMPLE\"}","mode":"url","url":"x"}}"#;
            for body in [&message[..], data] {
                compiled.check(body);
            }
        }
    }

    /// What a service answers never becomes a message that readers take for different things.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn filter_answer(data: &[u8]) {
        super::webhook::check(data);
    }
}
