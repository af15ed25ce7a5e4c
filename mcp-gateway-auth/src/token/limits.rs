//! The bounds of tokens.

use std::time::Duration;

/// The bounds of what is accepted as a token.
#[derive(Debug)]
pub struct TokenLimits;

impl TokenLimits {
    /// Bytes of a token.
    pub const BYTES: usize = 8 * 1024;
    /// Bytes of a JOSE header, decoded.
    pub const HEADER: usize = 1024;
    /// How far the clocks of issuer and gateway may be apart: `exp`, `nbf` and `iat` are read with this tolerance.
    pub const CLOCK_SKEW: Duration = Duration::from_secs(30);
    /// The longest life of an access token of our own: 24 hours.
    pub const LIFETIME: Duration = Duration::from_secs(24 * 3_600);
    /// Keys of a foreign issuer's document; more are left out.
    pub const KEYS: usize = 64;
}
