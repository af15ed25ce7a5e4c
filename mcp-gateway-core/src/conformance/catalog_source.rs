//! The suite of [`CatalogSource`].

use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::{CatalogSource, EntryError, Fetched};
use crate::record::Entry;

/// A source under test, and a hand in what it reads.
#[async_trait]
pub trait Bench: Send + Sync {
    /// The source. It holds nothing yet.
    fn source(&self) -> Arc<dyn CatalogSource>;

    /// Puts a document in place, anew or instead of the one of this name; the source reads it with its next fetch.
    async fn put(&self, name: &str, document: &str);

    /// Takes a document away.
    async fn remove(&self, name: &str);
}

/// Runs every rule.
///
/// # Panics
/// When a rule does not hold.
pub async fn suite(bench: &dyn Bench) {
    let source = bench.source();
    let source = &*source;
    let (_, entries) = read(source, None).await.expect("a first fetch is a snapshot");
    assert!(ids(&entries).is_empty(), "the bench begins without entries");
    bench.put("b", &document("b1")).await;
    bench.put("a", &document("a1")).await;
    let before = unchanging(source).await;

    bench.put("c", &document("c1")).await;
    let (version, entries) = read(source, Some(&before)).await.expect("a change is seen");
    assert_ne!(version, before, "another content is another version");
    assert_eq!(ids(&entries), ["a1", "b1", "c1"], "all entries, not the changed ones alone");

    bench.put("c", "entryKey: c1\nname: C\nruntime: npx\nno-such-field: x\n").await;
    let (version, entries) = read(source, Some(&version)).await.expect("a change is seen");
    assert_eq!(ids(&entries), ["a1", "b1"], "one bad entry leaves the others alone");
    let errors: Vec<&EntryError> = entries.iter().filter_map(|entry| entry.as_ref().err()).collect();
    assert_eq!(errors.len(), 1);
    assert!(!errors[0].place.is_empty() && !errors[0].problem.is_empty(), "it says where and what: {errors:?}");
    assert_eq!(errors[0].id.as_deref(), Some("c1"), "what was served under it goes on being served");

    bench.remove("c").await;
    bench.remove("a").await;
    let (_, entries) = read(source, Some(&version)).await.expect("a change is seen");
    assert_eq!(ids(&entries), ["b1"], "what is gone is not in the snapshot");
}

/// The rules that hold for a source whose content stays as it is; returns the version. For sources without a bench.
///
/// # Panics
/// When a rule does not hold.
pub async fn unchanging(source: &dyn CatalogSource) -> String {
    assert!(!source.name().is_empty(), "entries remember which source they came from");
    let name = source.name().to_owned();
    let (version, entries) = read(source, None).await.expect("a first fetch is a snapshot");
    let (again, same) = read(source, None).await.expect("so is every fetch that names no version");
    assert_eq!((&version, ids(&entries)), (&again, ids(&same)), "the same content is the same version, in one order");
    assert!(read(source, Some(&version)).await.is_none(), "still at the version asked about");
    let other = read(source, Some("a version of long ago")).await;
    assert_eq!(other.expect("a version that it does not know").0, version);
    assert_eq!(source.name(), name, "the name is stable");
    version
}

/// `None` when it is unchanged.
async fn read(source: &dyn CatalogSource, since: Option<&str>) -> Option<(String, Vec<Result<Entry, EntryError>>)> {
    match source.fetch(since).await.expect("the source can be read") {
        Fetched::Unchanged => None,
        Fetched::Snapshot { version, entries } => Some((version, entries)),
    }
}

fn ids(entries: &[Result<Entry, EntryError>]) -> Vec<&str> {
    let mut ids: Vec<&str> = entries.iter().flatten().map(|entry| entry.entry_key.as_str()).collect();
    ids.sort_unstable();
    ids
}

fn document(id: &str) -> String {
    format!("entryKey: {id}\nname: {id}\nruntime: npx\nnpxConfig:\n  package: some-package\n")
}
