//! `mcp-gateway`.

fn main() -> std::process::ExitCode {
    mcp_gateway_server::cli::main()
}
