//! `audit import`, `audit verify`, `audit keys`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mcp_gateway_core::trail::Report;

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

/// Fails when something is wrong with the trail.
pub(super) fn verify(file: Option<&PathBuf>, key: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    logs::start(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(crate::wiring::verify_audit(&config, key))?;
    print(&told(&report)?)?;
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn keys(file: Option<&PathBuf>) -> anyhow::Result<ExitCode> {
    let keys = crate::wiring::audit_keys(&load(file)?)?;
    print(&format!("{keys}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn told(report: &Report) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for fault in &report.faults {
        writeln!(text, "BAD {fault}")?;
    }
    let Report { streams, verified, unsigned, removed, unchained, signatures, .. } = report;
    writeln!(text, "{verified} events in {streams} streams are as they were signed, {signatures} signatures")?;
    writeln!(text, "{unsigned} events are chained and not signed yet: what was cut off behind them does not show")?;
    if let Some(before) = report.removed_before {
        writeln!(text, "events before {before} were removed for their age, {removed} of them from streams that go on")?;
    }
    if *unchained > 0 {
        writeln!(text, "{unchained} events are from before there was a chain: nothing can be said of them")?;
    }
    Ok(text)
}
