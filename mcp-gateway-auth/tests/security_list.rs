//! The list of what is tested names tests that exist.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

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

#[test]
fn every_named_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = HashSet::new();
    for folder in ["src", "../mcp-gateway-core/src", "../reference-server/tests"] {
        tests(&root.join(folder), &mut known);
    }
    let page = fs::read_to_string(root.join("../docs/src/reference/oauth-security.md")).unwrap();
    // Names of tests are sentences: what is quoted and has several underscores.
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|text| text.matches('_').count() >= 3).collect();
    assert!(named.len() > 40, "the page names tests");
    let missing: Vec<_> = named.into_iter().filter(|name| !known.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
