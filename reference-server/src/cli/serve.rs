//! `serve` and `migrate`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mcp_gateway_core::record::Secret;

use super::environment::{self, Variable};
use super::signals::Signals;
use super::{MigrateArgs, ServeArgs, logs, print};
use crate::config::{self, Config};
use crate::wiring::{MigrateOptions, Server, StartOptions, raise_open_files};

/// The variable that `--roles` wins over.
const ROLES: &str = "MCP_GATEWAY__PROCESS__ROLES";
/// The variable of the owner's first token.
const BOOTSTRAP_TOKEN: &str = "MCP_GATEWAY_BOOTSTRAP_TOKEN";

pub(super) fn load(file: Option<&PathBuf>) -> anyhow::Result<Config> {
    load_with(file, &environment::read()?)
}

fn load_with(file: Option<&PathBuf>, variables: &[Variable]) -> anyhow::Result<Config> {
    Ok(config::load(file.map(PathBuf::as_path), variables.iter().cloned())?)
}

pub(super) fn run(file: Option<PathBuf>, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let mut variables = if args.print_config { environment::read()? } else { environment::take()? };
    if !args.roles.is_empty() {
        let roles: Vec<_> = args.roles.iter().map(|role| role.name()).collect();
        variables.retain(|(name, _)| name != ROLES);
        variables.push((ROLES.to_owned(), roles.join(",")));
    }
    let config = load_with(file.as_ref(), &variables)?;
    let open_files = raise_open_files();
    if args.print_config {
        print(&config.printed(open_files))?;
        return Ok(ExitCode::SUCCESS);
    }
    logs::start(&config)?;
    // The memory holds keys: children must not read it.
    #[cfg(feature = "process")]
    if let Err(error) = mcp_gateway_deploy::process::launcher::hide_process() {
        tracing::warn!(%error, "this process cannot be hidden from others of its user");
    }
    let mut secrets: HashMap<String, Secret> = variables
        .into_iter()
        .filter(|(name, value)| !name.starts_with("MCP_GATEWAY__") && !value.is_empty())
        .map(|(name, value)| (name, Secret::new(value)))
        .collect();
    let bootstrap_token = secrets.remove(BOOTSTRAP_TOKEN);
    let launcher = std::env::current_exe().context("this program's own path")?;
    let options = StartOptions {
        config_file: file,
        bootstrap_token,
        secrets,
        reopen_bootstrap: args.bootstrap,
        open_files,
        launcher: Some(launcher),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = Signals::new()?;
        let server = Server::start(config, options).await?;
        print(server.banner())?;
        let (stop, at_once) = signals.split();
        server.run(stop, at_once).await;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn migrate(file: Option<&PathBuf>, args: &MigrateArgs) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    logs::start(&config)?;
    let options = MigrateOptions { wait: Duration::from_secs(args.wait_seconds), contract: args.contract };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::wiring::migrate(&config, options))?;
    Ok(ExitCode::SUCCESS)
}
