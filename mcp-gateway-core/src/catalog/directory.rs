//! Entries from the files of a directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use super::limits::CatalogLimits as Limits;
use super::parse;
use crate::contract::{CatalogError, CatalogSource, EntryError, Fetched};
use crate::record::{Entry, EntryOrigin};
use crate::wire::untrusted::Untrusted;

/// A file that changed this recently may change again without its time telling.
const UNSETTLED: Duration = Duration::from_secs(3);

const NO_FILE: &str = "holds no file with entries (*.yaml, *.yml, *.json), as when a mount is lost, so what came from it \
                       stays; if there are to be no entries, put a file there that holds none";

/// Reads `*.yaml`, `*.yml` and `*.json` of a directory and the folders below it; each file holds one entry or a list.
///
/// Files and folders whose name begins with `.` are passed over. A symbolic link to a file is followed as long as it
/// stays inside the directory (mounted Kubernetes `ConfigMap`s are made of such links); one that leaves it, and every
/// link to a folder, is an error of its own. Ids are unique in the whole directory: the later file loses.
///
/// A directory without any such file is an error of its own too, for that is what a lost mount looks like: what came from
/// it stays. A file that holds no entries says that there are none.
///
/// Asked often, it is cheap: while no name, time or size has changed, no file is opened.
///
/// ```
/// use mcp_gateway_core::catalog::DirectorySource;
/// use mcp_gateway_core::contract::{CatalogSource as _, Fetched};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let directory = tempfile::tempdir().unwrap();
/// std::fs::write(directory.path().join("docs.yaml"), "{entryKey: docs, name: Docs, runtime: npx}").unwrap();
///
/// let source = DirectorySource::new("catalog", directory.path());
/// let Fetched::Snapshot { version, entries } = source.fetch(None).await.unwrap() else { panic!() };
/// assert_eq!(entries[0].as_ref().unwrap().entry_key, "docs");
/// assert!(matches!(source.fetch(Some(&version)).await.unwrap(), Fetched::Unchanged));
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct DirectorySource {
    name: Arc<str>,
    root: Arc<Path>,
    last: Arc<Mutex<Option<Scan>>>,
}

/// What was seen last, so that an unchanged directory is not read again.
#[derive(Debug)]
struct Scan {
    files: Vec<Seen>,
    version: String,
    at: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    modified: Option<SystemTime>,
    size: u64,
}

impl DirectorySource {
    /// A source of this name, which its entries remember.
    pub fn new(name: impl Into<Arc<str>>, root: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), root: root.into().into(), last: Arc::default() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// [`fetch`](CatalogSource::fetch) without waiting elsewhere; blocks on the file system.
    ///
    /// # Errors
    /// [`CatalogError`] when the directory cannot be read or holds too many files.
    pub fn read(&self, since: Option<&str>) -> Result<Fetched, CatalogError> {
        let at = SystemTime::now();
        let mut walk = Walk::new(&self.root).map_err(|error| self.failed("cannot be read", Some(error)))?;
        walk.folder(&self.root.clone(), 0).map_err(|error| self.failed("cannot be read", Some(error)))?;
        if walk.files.len() > Limits::FILES {
            return Err(self.failed("holds more than 1,000 files; split the directory", None));
        }
        if walk.files.is_empty() && walk.errors.is_empty() {
            walk.errors.push(broken(&self.root, NO_FILE.to_owned()));
        }
        walk.files.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        let files: Vec<Seen> = walk.files.iter().map(|(seen, _)| seen.clone()).collect();
        {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let known = last.as_ref().filter(|last| since == Some(&last.version) && last.files == files);
            if walk.errors.is_empty() && known.is_some_and(Scan::is_settled) {
                return Ok(Fetched::Unchanged);
            }
        }

        let mut hash = Sha256::new();
        let mut entries: Vec<_> = Vec::new();
        for error in walk.errors {
            hash.update(error.to_string());
            entries.push(Err(error));
        }
        for (seen, target) in &walk.files {
            let name = seen.path.display().to_string();
            match read_file(target) {
                Ok(text) => {
                    hash.update((name.len() as u64).to_be_bytes());
                    hash.update(&name);
                    hash.update(Sha256::digest(&text));
                    entries.extend(parse(&text, &name).into_iter().map(|entry| self.with_origin(entry, &seen.path)));
                }
                Err(error) => {
                    let error = broken(&seen.path, format!("cannot be read: {error}"));
                    hash.update(error.to_string());
                    entries.push(Err(error));
                }
            }
        }
        let version: String = hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Scan { files, version: version.clone(), at });
        if since == Some(&version) {
            return Ok(Fetched::Unchanged);
        }
        Ok(Fetched::Snapshot { version, entries: refuse_duplicates(entries) })
    }

    fn with_origin(&self, entry: Result<Entry, EntryError>, path: &Path) -> Result<Entry, EntryError> {
        entry.map(|mut entry| {
            entry.origin = Some(EntryOrigin::File { source: self.name.to_string(), path: path.to_owned() });
            entry
        })
    }

    fn failed(&self, problem: &str, cause: Option<io::Error>) -> CatalogError {
        let problem = format!("the directory {} {problem}", self.root.display());
        CatalogError { source_name: self.name.to_string(), problem, cause: cause.map(Into::into) }
    }
}

#[async_trait]
impl CatalogSource for DirectorySource {
    fn name(&self) -> &str {
        &self.name
    }

    async fn fetch(&self, since: Option<&str>) -> Result<Fetched, CatalogError> {
        let (this, since) = (self.clone(), since.map(str::to_owned));
        match tokio::task::spawn_blocking(move || this.read(since.as_deref())).await {
            Ok(fetched) => fetched,
            Err(error) => Err(self.failed("cannot be read", Some(io::Error::other(error)))),
        }
    }
}

impl Scan {
    /// Whether no file is so fresh that a second change may hide behind the same time.
    fn is_settled(&self) -> bool {
        self.files.iter().all(|file| {
            file.modified.is_some_and(|time| self.at.duration_since(time).is_ok_and(|age| age >= UNSETTLED))
        })
    }
}

/// Collects the files below a directory.
struct Walk {
    /// The directory without links, below which every file must be.
    real_root: PathBuf,
    /// Each file as it is called, and where it really is.
    files: Vec<(Seen, PathBuf)>,
    errors: Vec<EntryError>,
}

impl Walk {
    fn new(root: &Path) -> io::Result<Self> {
        Ok(Self { real_root: fs::canonicalize(root)?, files: Vec::new(), errors: Vec::new() })
    }

    fn folder(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        let mut below = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        below.sort_by_key(fs::DirEntry::file_name);
        for item in below {
            let path = item.path();
            if item.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = item.file_type()?;
            if kind.is_dir() {
                if depth == Limits::FOLDER_DEPTH {
                    self.errors.push(broken(&path, "is more than 16 folders deep and is not read".to_owned()));
                } else if let Err(error) = self.folder(&path, depth + 1) {
                    self.errors.push(broken(&path, format!("cannot be read: {error}")));
                }
            } else if is_catalog_file(&path) {
                if self.files.len() > Limits::FILES {
                    return Ok(());
                }
                match self.file(&path) {
                    Ok(found) => self.files.push(found),
                    Err(problem) => self.errors.push(broken(&path, problem)),
                }
            } else if kind.is_symlink() && fs::metadata(&path).is_ok_and(|target| target.is_dir()) {
                self.errors.push(broken(&path, "is a symbolic link to a folder, which is not followed".to_owned()));
            }
        }
        Ok(())
    }

    fn file(&self, path: &Path) -> Result<(Seen, PathBuf), String> {
        let unreadable = |error: io::Error| format!("cannot be read: {error}");
        let target = fs::canonicalize(path).map_err(unreadable)?;
        if !target.starts_with(&self.real_root) {
            return Err("is a symbolic link that leaves the catalog's directory; copy the file instead".to_owned());
        }
        let facts = fs::metadata(&target).map_err(unreadable)?;
        // A pipe or device would block whoever opens it.
        if !facts.is_file() {
            return Err("is not a regular file".to_owned());
        }
        Ok((Seen { path: path.to_owned(), modified: facts.modified().ok(), size: facts.len() }, target))
    }
}

fn is_catalog_file(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("yaml" | "yml" | "json"))
}

/// At most one byte more than is allowed, so that the excess is noticed.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(Limits::FILE as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn broken(path: &Path, problem: String) -> EntryError {
    EntryError { place: Untrusted(&path.display().to_string()).to_string(), field: None, problem, id: None }
}

fn refuse_duplicates(entries: Vec<Result<Entry, EntryError>>) -> Vec<Result<Entry, EntryError>> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let unique = entries.into_iter().map(|entry| {
        let entry = entry?;
        let place = match &entry.origin {
            Some(EntryOrigin::File { path, .. }) => Untrusted(&path.display().to_string()).to_string(),
            _ => String::new(),
        };
        if let Some(first) = seen.get(&entry.entry_key) {
            let id = &entry.entry_key;
            let problem = format!("\"{}\" is already the id of an entry in {first}", Untrusted(id));
            return Err(EntryError { place, field: Some("entryKey".to_owned()), problem, id: Some(id.clone()) });
        }
        seen.insert(entry.entry_key.clone(), place);
        Ok(entry)
    });
    unique.collect()
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
