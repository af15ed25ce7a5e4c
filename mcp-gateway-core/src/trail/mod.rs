//! The chain through the audit trail, and what it takes to check it.
//!
//! Every row has a [`Link`]: a digest of its event, kept beside it. The links of a stream, in order, give its [`Head`],
//! which a process signs now and then as a [`Checkpoint`]: when the stream begins, every so many rows, at least every
//! [`ALIVE`], and when it has ended, each with a digest of the checkpoint before. Whoever has the public keys finds a row that
//! was changed, taken away, put in or moved, up to the last checkpoint of its stream, and checkpoints that are gone; what
//! comes after the last one of a stream that has not ended can be cut off unseen for as long as the stream may be alive, and
//! so can, for ever, a whole stream with all its checkpoints, unless somebody elsewhere has one of them.
//!
//! ```text
//! digest = SHA-256( event as canonical JSON, with the commitment to its bodies )
//! head_n = SHA-256( "mcp-gateway trail v1" 0 ‖ head_n-1 ‖ stream ‖ n ‖ ts ‖ digest )        head_0 = 0…0
//! ```
//!
//! Numbers are 64 bits, big endian; `stream` are the 16 bytes of a ULID, `ts` microseconds since 1970. Bodies are beside
//! the chain, which has only a commitment to them: HMAC-SHA-256 under a salt that is erased with them.

mod checkpoint;
mod link;
mod store;
mod verifier;

use std::time::Duration;

use checkpoint::Opened;
pub use checkpoint::{Checkpoint, MARKS, Notary, Part, Signed, beginning, sign_beginning, sign_head, sign_retention};
pub use link::{Head, Link, canonical};
pub use store::{RESUMED, Tail, verify};
pub use verifier::{Check, Expected, Fault, FaultKind, Found, Report, Verifier};

/// How often the last checkpoint of a stream is signed again while no rows come.
pub const ALIVE: Duration = Duration::from_secs(15 * 60);
