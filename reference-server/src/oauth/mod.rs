//! The authorization server's side of the reference server: who is at the browser, and its pages.

mod interaction;
mod routes;

use std::sync::Arc;

use mcp_gateway_auth::server::AuthorizationServer;
use mcp_gateway_auth::token::SigningKeys;

pub(crate) use self::interaction::Browser;
pub(crate) use self::routes::router;

/// What gives tokens to MCP clients.
#[derive(Debug, Clone)]
pub struct OAuth {
    /// The endpoints, and what administrators do with clients and grants.
    pub server: AuthorizationServer,
    /// What signs access tokens.
    pub keys: Arc<SigningKeys>,
}
