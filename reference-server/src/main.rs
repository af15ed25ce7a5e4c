//! `mcp-gateway`.

/// Half the work of the system's allocator for a call, and memory goes back to the system when a load is over.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    mcp_gateway_server::cli::main()
}
