//! Who is calling an MCP gateway.
//!
//! Each way of presenting a credential is an [`Authenticator`](mcp_gateway_core::contract::Authenticator) of its own,
//! to be chained in the gateway's authenticate layer:
//!
//! - [`api_key`]: keys of this gateway, for programs and people.
//! - [`bootstrap`]: the owner's token until a real owner exists, for the admin API alone.
//! - `scim` (feature `login`): users and groups that an identity provider makes and removes by itself.
//! - [`server`]: an OAuth 2.1 authorization server for MCP clients, to be mounted with one's own people.
//! - [`token`]: OAuth access tokens, of this gateway and of issuers it trusts.
//! - `login` (feature `login`): sessions of browsers, and the passwords that they begin with.
//! - `oidc` (feature `login`): login with the identity providers of a company.
//!
//! `page` (feature `page`) has the pages that people see on the way.
//!
//! `upstream` (feature `login`) has the other half: as whom the gateway calls servers.
//!
//! [`user`] keeps who people are and what they may do.

mod bearer;
mod secret_file;
#[cfg(test)]
mod testing;

pub mod api_key;
pub mod bootstrap;
#[cfg(any(test, feature = "fuzzing"))]
pub mod check;
#[cfg(feature = "login")]
pub mod login;
#[cfg(feature = "login")]
pub mod oidc;
#[cfg(feature = "page")]
pub mod page;
#[cfg(feature = "login")]
pub mod scim;
pub mod server;
pub mod token;
#[cfg(feature = "login")]
pub mod upstream;
pub mod user;
