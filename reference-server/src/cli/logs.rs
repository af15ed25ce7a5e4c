//! The log, on standard error.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};

/// Starts it. Text of callers and servers is escaped by whoever logs it; JSON lines cannot be forged anyway.
pub(super) fn start(config: &Config) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&config.log.filter).context("log.filter: use a level such as info, or target=level")?;
    let text = match config.log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    if text {
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()?;
    } else {
        registry.with(layer.json().flatten_event(true)).try_init()?;
    }
    Ok(())
}
