//! Tokens of one issuer, in front of any axum handler: the company's identity provider says who calls.
//!
//! ```sh
//! cargo run -p mcp-gateway-examples --bin one_issuer
//! curl -i http://127.0.0.1:3000/whoami    # 401
//! ```

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use mcp_gateway_auth::token::{RemoteKeys, TokenAuthenticator, TrustedIssuer, Unrevoked};
use mcp_gateway_core::contract::{KeyRing, Resource, SystemClock};
use mcp_gateway_core::egress::{FetchOptions, Fetcher};
use mcp_gateway_core::layer::authenticate::{AuthenticateLayer, Caller};
use tokio::net::TcpListener;

const ISSUER: &str = "https://login.example.com";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let fetch = Arc::new(Fetcher::new(FetchOptions::default()));
    let keys = RemoteKeys::new(format!("{ISSUER}/jwks"), fetch, Arc::new(SystemClock), Default::default());
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, service(Arc::new(keys))).await?)
}

// ANCHOR: service
/// The service. A token is good when the issuer has signed it for this URL.
pub(crate) fn service(keys: Arc<dyn KeyRing>) -> Router {
    let resource = Resource { url: "https://tools.example.com".into(), metadata: None, server: None };
    let tokens = TokenAuthenticator::builder(Arc::new(Unrevoked), Arc::new(SystemClock))
        .trust(TrustedIssuer::new(ISSUER, keys))
        .build();
    let authenticate = AuthenticateLayer::new(resource, vec![Arc::new(tokens)]);
    Router::new().route("/whoami", get(whoami)).layer(authenticate)
}

async fn whoami(Caller(principal): Caller) -> String {
    format!("{}\n", principal.subject.id)
}
// ANCHOR_END: service
