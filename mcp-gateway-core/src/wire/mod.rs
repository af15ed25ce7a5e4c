//! The wire.

pub mod rpc;

/// The two eras of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Era {
    /// 2025-03-26 to 2025-11-25.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// A protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProtocolVersion(&'static str);
