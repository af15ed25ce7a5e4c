//! The command line.

mod audit;
mod catalog;
mod environment;
mod logs;
mod serve;
mod signals;
mod stdio;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod store;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::ProcessRole;

/// A governed URL for every MCP server.
#[derive(Debug, Parser)]
#[command(name = "mcp-gateway", version, about, max_term_width = 100)]
pub struct Cli {
    /// The configuration file (YAML). Every setting is also an environment variable: MCP_GATEWAY__SECTION__KEY.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway. The default.
    Serve(ServeArgs),
    /// Serve one stdio MCP server over streamable HTTP.
    Stdio(StdioArgs),
    /// Work with catalog files.
    Catalog {
        #[command(subcommand)]
        command: CatalogCommand,
    },
    /// Bring the databases to this version's form and exit.
    Migrate(MigrateArgs),
    /// Work with the databases.
    #[cfg(all(feature = "sqlite", feature = "postgres"))]
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Work with the audit trail.
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
}

/// Arguments of `serve`.
#[derive(Debug, Clone, Default, Args)]
struct ServeArgs {
    /// What this process does of the gateway's work; `process.roles` of the configuration by default.
    #[arg(long, value_delimiter = ',', value_name = "ROLE,...")]
    roles: Vec<ProcessRole>,
    /// Print the effective configuration, secrets hidden, and exit.
    #[arg(long)]
    print_config: bool,
    /// Make the owner's bootstrap token good for another 24 hours.
    #[arg(long)]
    bootstrap: bool,
}

/// Arguments of `migrate`.
#[derive(Debug, Args)]
struct MigrateArgs {
    /// How long to wait for a database on another machine that does not answer yet.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait_seconds: u64,
    /// Remove what only the version before needed; no replica of it may run any more.
    #[arg(long)]
    contract: bool,
}

/// Arguments of `stdio`.
#[derive(Debug, Args)]
struct StdioArgs {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: std::net::SocketAddr,
    /// Permits an address beyond loopback: whoever reaches it may call, in the clear and without a key.
    #[arg(long)]
    insecure_http: bool,
    /// How long calls may go on after SIGTERM. A second signal ends them at once.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    drain_seconds: u64,
    /// The server's command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    /// Read and check every entry of a directory; name what is wrong by file and field.
    Validate {
        /// The directory.
        directory: PathBuf,
    },
}

#[cfg(all(feature = "sqlite", feature = "postgres"))]
#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Copy all records and the audit trail to an empty database, and compare. No server may run on either.
    Copy {
        /// `sqlite:PATH` or `postgres://HOST/DATABASE`.
        #[arg(long, value_name = "DATABASE")]
        from: String,
        /// The same; `database` of the configuration by default, where others of this machine do not see a password.
        #[arg(long, value_name = "DATABASE")]
        to: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check the audit trail: name what was changed, removed, put in or moved. A server may run meanwhile.
    Verify {
        /// The public keys, as `audit keys` prints them; `audit-keys.json` in `data_dir` by default.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Print the public keys (a JWK Set) that check what is signed of the audit trail.
    Keys,
    /// Put the spool of another machine, or a saved one, into the audit trail.
    Import {
        /// The directory of one stream of the spool.
        directory: PathBuf,
        /// The key that it was sealed with; `spool.key` in `data_dir` by default.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    // The launcher must run before there is a second thread, and takes options that are not ours.
    if let Some(failed) = stdio::launcher(std::env::args_os().skip(1)) {
        return failed;
    }
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => serve::run(cli.config, &cli.serve),
        Some(Command::Serve(args)) => serve::run(cli.config, &args),
        Some(Command::Stdio(args)) => stdio::run(args),
        Some(Command::Catalog { command: CatalogCommand::Validate { directory } }) => catalog::validate(directory),
        Some(Command::Migrate(args)) => serve::migrate(cli.config.as_ref(), &args),
        #[cfg(all(feature = "sqlite", feature = "postgres"))]
        Some(Command::Store { command: StoreCommand::Copy { from, to } }) => store::copy(cli.config.as_ref(), from, to),
        Some(Command::Audit { command: AuditCommand::Verify { key } }) => {
            audit::verify(cli.config.as_ref(), key.as_deref())
        }
        Some(Command::Audit { command: AuditCommand::Keys }) => audit::keys(cli.config.as_ref()),
        Some(Command::Audit { command: AuditCommand::Import { directory, key } }) => {
            audit::import(cli.config.as_ref(), &directory, key.as_deref())
        }
    };
    outcome.unwrap_or_else(|error| {
        tell(&format!("mcp-gateway: {error:#}"));
        ExitCode::FAILURE
    })
}

#[allow(clippy::print_stderr, reason = "the last word of a command line program")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// Standard output is for what the command was asked for.
fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;

    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
