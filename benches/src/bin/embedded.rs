//! A gateway over memory alone, for measuring the request path apart from store and spool.
//!
//! Prints the `Authorization` header that callers need.

use std::io::Write as _;
use std::net::SocketAddr;

use clap::Parser;
use mcp_gateway_benches::memory::MemoryGateway;
use mcp_gateway_benches::serve;
use mcp_gateway_core::contract::Address;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9101")]
    listen: SocketAddr,
    /// The server to call.
    #[arg(long, default_value = "http://127.0.0.1:9100/mcp")]
    upstream: http::Uri,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let built = MemoryGateway::new(&format!("http://{}", options.listen), Address::Http(options.upstream))?;
    writeln!(std::io::stdout(), "{}", built.authorization.to_str()?)?;
    serve(options.listen, built.gateway).await
}
