//! `catalog validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use mcp_gateway_core::catalog::{DirectorySource, compile};
use mcp_gateway_core::contract::Fetched;
use mcp_gateway_core::record::Mount;

use super::{print, tell};

/// Names every bad entry; fails when there is one.
pub(super) fn validate(directory: PathBuf) -> anyhow::Result<ExitCode> {
    // Where it will be served does not matter for whether it can be.
    let mount = Mount::new("http://127.0.0.1:8080", "/mcp-connect")?;
    let Fetched::Snapshot { entries, .. } = DirectorySource::new("catalog", directory).read(None)? else {
        anyhow::bail!("the directory could not be read")
    };
    let (mut good, mut bad) = (0_usize, 0_usize);
    for entry in entries {
        match entry.and_then(|entry| compile(&entry, &mount)) {
            Ok(_) => good += 1,
            Err(error) => {
                bad += 1;
                tell(&error.to_string());
            }
        }
    }
    print(&format!("{good} good, {bad} bad\n"))?;
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
