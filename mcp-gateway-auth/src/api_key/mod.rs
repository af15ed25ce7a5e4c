//! API keys.

mod format;

pub use format::{KeyFormatError, KeyText, NewKeyText};
