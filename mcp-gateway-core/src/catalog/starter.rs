//! The catalog that is served when the operator has none yet.

use async_trait::async_trait;

use super::parse;
use crate::contract::{CatalogError, CatalogSource, Fetched};
use crate::record::{Entry, EntryOrigin};

/// Three reference servers of the MCP project, each at an exact version.
///
/// `everything` (npm) shows every feature of the protocol, `time` (PyPI) knows time zones, and `memory` (npm) keeps
/// notes, so each subject gets its own.
///
/// ```
/// let ids: Vec<_> = mcp_gateway_core::catalog::starter().into_iter().map(|entry| entry.entry_key).collect();
/// assert_eq!(ids, ["everything", "time", "memory"]);
/// ```
#[must_use]
pub fn starter() -> Vec<Entry> {
    let entries = parse(include_bytes!("starter.yaml"), "starter.yaml").into_iter();
    entries
        .map(|entry| {
            let mut entry = entry.expect("the built-in catalog is part of this crate, and a test reads it");
            entry.origin = Some(EntryOrigin::Builtin);
            entry
        })
        .collect()
}

/// [`starter`] as a source, for a [`Sync`](super::Sync).
#[derive(Debug, Clone, Copy, Default)]
pub struct StarterSource;

#[async_trait]
impl CatalogSource for StarterSource {
    fn name(&self) -> &str {
        EntryOrigin::BUILTIN
    }

    async fn fetch(&self, since: Option<&str>) -> Result<Fetched, CatalogError> {
        // It changes with the program alone.
        let version = env!("CARGO_PKG_VERSION");
        if since == Some(version) {
            return Ok(Fetched::Unchanged);
        }
        Ok(Fetched::Snapshot { version: version.to_owned(), entries: starter().into_iter().map(Ok).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::compile;
    use crate::conformance::catalog_source;
    use crate::record::{Mount, Placement, RouteTarget};

    #[tokio::test]
    async fn it_is_a_catalog_source() {
        catalog_source::unchanging(&StarterSource).await;
    }

    #[test]
    fn compiles_with_the_right_placements() {
        let mount = Mount::new("http://127.0.0.1:8080", "/mcp-connect").unwrap();
        let placements: Vec<_> = starter()
            .iter()
            .map(|entry| match compile(entry, &mount).unwrap().target {
                RouteTarget::Hosted { placement, .. } => (entry.entry_key.clone(), placement),
                RouteTarget::Remote { .. } => panic!("remote"),
            })
            .collect();
        let expected = [
            ("everything".to_owned(), Placement::Shared),
            ("time".to_owned(), Placement::Shared),
            // Shared, one caller's notes would be the next caller's.
            ("memory".to_owned(), Placement::PerSubject),
        ];
        assert_eq!(placements, expected);
    }
}
