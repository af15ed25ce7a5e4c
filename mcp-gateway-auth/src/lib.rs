//! Who is calling an MCP gateway.
//!
//! Each way of presenting a credential is an [`Authenticator`](mcp_gateway_core::contract::Authenticator) of its own,
//! to be chained in the gateway's authenticate layer:
//!
//! - [`api_key`]: keys of this gateway, for programs and people.
//! - [`bootstrap`]: the owner's token until a real owner exists, for the admin API alone.
//! - [`token`]: OAuth access tokens, of this gateway and of issuers it trusts.

mod bearer;
mod secret_file;

pub mod api_key;
pub mod bootstrap;
pub mod token;
