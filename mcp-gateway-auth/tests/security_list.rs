//! The list of what is tested names tests that exist, and all fuzz targets.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The names of all tests below a folder.
fn tests(folder: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("a folder of sources").path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source is text");
            let mut is_test = false;
            for line in source.lines().map(str::trim) {
                let name = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
                match name.and_then(|rest| rest.split('(').next()) {
                    Some(name) if is_test => drop(names.insert(name.to_owned())),
                    _ => {}
                }
                is_test = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn page() -> String {
    fs::read_to_string(root().join("../docs/src/reference/oauth-security.md")).expect("the page")
}

/// What is quoted in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_named_test_exists() {
    let mut known = HashSet::new();
    for folder in [
        "src",
        "../mcp-gateway-core/src",
        "../mcp-gateway-deploy/tests",
        "../reference-server/src",
        "../reference-server/tests",
    ] {
        tests(&root().join(folder), &mut known);
    }
    let page = page();
    // Of a row, the last cell names tests, and nothing else.
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| item"));
    let cells = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let named: Vec<&str> = cells.flat_map(quoted).collect();
    assert!(named.len() > 100, "the page names tests: {}", named.len());
    let missing: Vec<_> = named.into_iter().filter(|name| !known.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[test]
fn every_fuzz_target_is_named() {
    let page = page();
    let (_, parsers) = page.split_once("## Parsers").expect("the section");
    let named: HashSet<&str> = quoted(parsers).collect();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets")).expect("the targets") {
        let path = entry.expect("a target").path();
        let target = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        assert!(named.contains(&*target), "{target}");
    }
}
