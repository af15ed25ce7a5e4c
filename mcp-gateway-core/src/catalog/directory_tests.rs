use super::*;

fn entry(id: &str) -> String {
    format!("{{entryKey: {id}, name: A, runtime: npx}}")
}

struct Catalog(tempfile::TempDir);

impl Catalog {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn source(&self) -> DirectorySource {
        DirectorySource::new("dir", self.0.path())
    }

    fn read(&self) -> (Vec<String>, Vec<String>) {
        let (_, entries) = snapshot(self.source().read(None).unwrap());
        let errors = entries.iter().filter_map(|entry| entry.as_ref().err()).map(ToString::to_string).collect();
        (entries.into_iter().flatten().map(|entry| entry.entry_key).collect(), errors)
    }
}

fn snapshot(fetched: Fetched) -> (String, Vec<Result<Entry, EntryError>>) {
    match fetched {
        Fetched::Snapshot { version, entries } => (version, entries),
        Fetched::Unchanged => panic!("unchanged"),
    }
}

#[async_trait::async_trait]
impl crate::conformance::catalog_source::Bench for Catalog {
    fn source(&self) -> std::sync::Arc<dyn CatalogSource> {
        std::sync::Arc::new(Catalog::source(self))
    }

    async fn put(&self, name: &str, document: &str) {
        self.write(&format!("{name}.yaml"), document);
    }

    async fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join(format!("{name}.yaml"))).unwrap();
    }
}

#[tokio::test]
async fn it_is_a_catalog_source() {
    crate::conformance::catalog_source::suite(&Catalog::new()).await;
}

#[test]
fn reads_the_files_that_belong_to_it() {
    let catalog = Catalog::new();
    catalog.write("b.yaml", &entry("b")).write("a.YML", &format!("[{},{}]", entry("a"), entry("a2")));
    catalog.write("deep/er/c.json", r#"{"entryKey": "c", "name": "C", "runtime": "npx"}"#);
    catalog.write("notes.txt", "x").write(".hidden.yaml", "x").write(".git/config.yaml", "x");
    assert_eq!(catalog.read(), (vec!["a".into(), "a2".into(), "b".into(), "c".into()], vec![]));
}

#[test]
fn entries_remember_their_file() {
    let catalog = Catalog::new();
    catalog.write("a.yaml", &entry("a"));
    let (_, mut entries) = snapshot(catalog.source().read(None).unwrap());
    let origin = entries.remove(0).unwrap().origin.unwrap();
    assert_eq!(origin, EntryOrigin::File { source: "dir".into(), path: catalog.0.path().join("a.yaml") });
}

#[test]
fn a_bad_file_is_named_and_leaves_the_others_alone() {
    let catalog = Catalog::new();
    catalog.write("a.yaml", &entry("a")).write("bad.yaml", "entryKey: b\nname: B\nruntime: npx\nnpx: x\n");
    let (ids, errors) = catalog.read();
    assert_eq!(ids, ["a"]);
    let expected = format!("{}/bad.yaml:4:1: npx: unknown field `npx`", catalog.0.path().display());
    assert!(errors[0].starts_with(&expected), "{}", errors[0]);
}

#[test]
fn the_later_of_two_equal_ids_loses() {
    let catalog = Catalog::new();
    catalog.write("a.yaml", &entry("a")).write("b.yaml", &format!("[{}, {}]", entry("a"), entry("b")));
    let (ids, errors) = catalog.read();
    assert_eq!(ids, ["a", "b"]);
    assert!(errors[0].contains("b.yaml") && errors[0].contains("already the id of an entry in"), "{}", errors[0]);
    assert_eq!(errors.len(), 1);
}

#[test]
fn changes_are_seen_and_silence_is_cheap() {
    let catalog = Catalog::new();
    catalog.write("a.yaml", &entry("a"));
    let source = catalog.source();
    let (first, _) = snapshot(source.read(None).unwrap());
    assert!(matches!(source.read(Some(&first)).unwrap(), Fetched::Unchanged));

    // Same length, same second: only the content tells.
    catalog.write("a.yaml", &entry("b"));
    let (second, entries) = snapshot(source.read(Some(&first)).unwrap());
    assert_eq!(entries[0].as_ref().unwrap().entry_key, "b");
    assert_ne!(first, second);

    fs::rename(catalog.0.path().join("a.yaml"), catalog.0.path().join("c.yaml")).unwrap();
    let (third, _) = snapshot(source.read(Some(&second)).unwrap());
    assert_ne!(second, third);
    // The version is of the content: another process gives the same one.
    assert_eq!(snapshot(catalog.source().read(None).unwrap()).0, third);

    // Long settled: not even opened, so what the file says now is not noticed while its time and size stay.
    let file = catalog.0.path().join("c.yaml");
    let old = SystemTime::now() - Duration::from_secs(60);
    let settle = || fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    settle();
    assert!(matches!(source.read(Some(&third)).unwrap(), Fetched::Unchanged));
    fs::write(&file, entry("x")).unwrap();
    settle();
    assert!(matches!(source.read(Some(&third)).unwrap(), Fetched::Unchanged));
}

#[cfg(unix)]
#[test]
fn links_stay_inside() {
    use std::os::unix::fs::symlink;
    let outside = Catalog::new();
    outside.write("secret.yaml", &entry("secret")).write("folder/x.yaml", &entry("x"));
    let catalog = Catalog::new();
    // As Kubernetes mounts a ConfigMap.
    catalog.write("..2026/a.yaml", &entry("a"));
    symlink("..2026", catalog.0.path().join("..data")).unwrap();
    symlink("..data/a.yaml", catalog.0.path().join("a.yaml")).unwrap();
    symlink(outside.0.path().join("secret.yaml"), catalog.0.path().join("out.yaml")).unwrap();
    symlink(outside.0.path().join("folder"), catalog.0.path().join("folder")).unwrap();
    symlink("nowhere.yaml", catalog.0.path().join("dangling.yaml")).unwrap();
    let (ids, errors) = catalog.read();
    assert_eq!(ids, ["a"]);
    assert_eq!(errors.len(), 3);
    assert!(errors.iter().any(|error| error.contains("out.yaml") && error.contains("leaves")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("folder") && error.contains("not followed")), "{errors:?}");
}

#[test]
fn limits_hold_at_their_edges() {
    let catalog = Catalog::new();
    for number in 0..Limits::FILES {
        catalog.write(&format!("{number}.yaml"), "");
    }
    assert!(catalog.source().read(None).is_ok());
    catalog.write("one-more.yaml", "");
    let error = catalog.source().read(None).unwrap_err().to_string();
    assert!(error.contains("1,000 files"), "{error}");

    let catalog = Catalog::new();
    catalog.write(&format!("{}a.yaml", "d/".repeat(Limits::FOLDER_DEPTH)), &entry("a"));
    assert_eq!(catalog.read(), (vec!["a".into()], vec![]));
    catalog.write(&format!("{}b.yaml", "d/".repeat(Limits::FOLDER_DEPTH + 1)), &entry("b"));
    assert_eq!(catalog.read().1.len(), 1);
}

#[test]
fn a_directory_that_is_not_there_is_an_error_of_the_source() {
    let error = DirectorySource::new("dir", "/nonexistent/catalog").read(None).unwrap_err();
    assert_eq!(error.source_name, "dir");
    assert!(error.problem.contains("/nonexistent/catalog"));
}
