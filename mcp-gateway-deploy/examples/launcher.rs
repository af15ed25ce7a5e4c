//! The sandbox launcher alone, as the `mcp-gateway` binary runs it: `launcher [--hide PATH]… [--write PATH]… -- CMD…`.

use mcp_gateway_deploy::process::launcher::Sandbox;

#[allow(clippy::print_stderr)]
fn main() -> std::process::ExitCode {
    let error = match Sandbox::parse(std::env::args_os().skip(1)) {
        // Returns only if it failed.
        Ok(sandbox) => sandbox.exec(),
        Err(error) => error,
    };
    eprintln!("mcp-gateway: {error}");
    std::process::ExitCode::from(127)
}
