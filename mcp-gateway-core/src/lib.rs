//! The protocol, the domain, the contracts and the tower layers of mcp-gateway.

pub mod wire;
