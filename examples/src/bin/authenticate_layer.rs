//! The authenticate layer alone, in front of any axum handler.
//!
//! ```sh
//! cargo run -p mcp-gateway-examples --bin authenticate_layer
//! curl -H 'Authorization: Bearer correct horse' http://127.0.0.1:3000/whoami
//! ```
//!
//! The layer knows nothing of MCP: it asks its authenticators who calls, answers 401 with a challenge (RFC 6750) when
//! nobody knows, and removes every credential from the request before the handler sees it.

// ANCHOR: program
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use mcp_gateway_core::contract::{AuthError, Resource};
use mcp_gateway_core::layer::authenticate::{AuthenticateLayer, Caller};
use mcp_gateway_core::record::Principal;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, service()).await?)
}

/// The service, and all that it takes to know its callers.
pub(crate) fn service() -> Router {
    // What a credential must be good for; no metadata document (RFC 9728), so the challenge names none.
    let resource = Resource { url: "http://127.0.0.1:3000".into(), metadata: None, server: None };
    let ada = Arc::new(Principal::new("local", "ada"));
    let authenticate = AuthenticateLayer::from_fn(resource, move |request, _| {
        match request.headers.get("authorization") {
            // A real service compares in constant time, or looks a hash up: see `own_authenticator`.
            Some(value) if value == "Bearer correct horse" => Ok(Some(Arc::clone(&ada))),
            // There, but wrong: nobody else is asked.
            Some(_) => Err(AuthError::Invalid("not the password")),
            None => Ok(None),
        }
    });
    Router::new().route("/whoami", get(whoami)).layer(authenticate)
}

async fn whoami(Caller(principal): Caller) -> String {
    format!("{}\n", principal.subject.id)
}
// ANCHOR_END: program
