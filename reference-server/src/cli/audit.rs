//! `audit import`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::serve::load;
use super::{logs, print};

pub(super) fn import(file: Option<&PathBuf>, directory: &Path, key: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    logs::start(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let imported = runtime.block_on(crate::wiring::import_audit(&config, directory, key))?;
    print(&format!("{} events, {} of them calls whose end nobody saw\n", imported.rows, imported.unknown))?;
    Ok(ExitCode::SUCCESS)
}
