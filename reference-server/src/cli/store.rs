//! `store copy`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use mcp_gateway_core::record::Secret;

use super::serve::load;
use super::{logs, print};

pub(super) fn copy(file: Option<&PathBuf>, from: String, to: Option<String>) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    logs::start(&config)?;
    let to = to.map(Secret::new).or_else(|| config.database.clone());
    let to = to.context("--to: name the target, or set database in the configuration")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let copied = runtime.block_on(crate::wiring::copy(&config, Secret::new(from), to))?;
    let mut text = String::new();
    for (what, moved) in [("records", copied.records), ("audit events", copied.events)] {
        let digest: String = moved.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("{} {what}, the same in both: sha256 {digest}\n", moved.count));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
