//! The directories of streams: one per process life, locked while it lives.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mcp_gateway_core::contract::StreamId;
use ulid::Ulid;

use super::SpoolError;

const LOCK: &str = "lock";
const SEGMENT: &str = "segment";
/// A directory that is not complete yet, and one whose events are all in the store.
const NEW: &str = "new";
const DONE: &str = "done";

/// A stream's directory, locked until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct StreamDir {
    pub(super) path: PathBuf,
    _lock: File,
}

impl StreamDir {
    /// Makes the directory of a new stream. It gets its name once it is locked, so nobody takes it for an orphan.
    pub(super) fn create(root: &Path, stream: StreamId) -> Result<Self, SpoolError> {
        make_dir(root)?;
        let path = root.join(stream.0.to_string());
        let new = path.with_extension(NEW);
        make_dir(&new)?;
        let lock = lock(&new)?.ok_or_else(|| SpoolError::InUse { path: new.clone() })?;
        std::fs::rename(&new, &path).map_err(|source| SpoolError::io(&path, source))?;
        sync_dir(root)?;
        Ok(Self { path, _lock: lock })
    }

    /// Takes a directory that nobody writes to; `None` when somebody does, or it is gone.
    pub(super) fn adopt(path: &Path) -> Result<Option<Self>, SpoolError> {
        match lock(path) {
            Ok(Some(lock)) => Ok(path.is_dir().then(|| Self { path: path.to_owned(), _lock: lock })),
            Ok(None) => Ok(None),
            Err(SpoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The segments, in order.
    pub(super) fn segments(&self) -> Result<Vec<(u64, PathBuf)>, SpoolError> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|source| SpoolError::io(&self.path, source))? {
            let path = entry.map_err(|source| SpoolError::io(&self.path, source))?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let (Some(number), true) = (number, path.extension().is_some_and(|end| end == SEGMENT)) {
                segments.push((number, path));
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Removes the directory: at once as far as any reader is concerned, so that half of one is never read.
    pub(super) fn remove(self) -> Result<(), SpoolError> {
        let done = self.path.with_extension(DONE);
        std::fs::rename(&self.path, &done).map_err(|source| SpoolError::io(&self.path, source))?;
        std::fs::remove_dir_all(&done).map_err(|source| SpoolError::io(&done, source))
    }
}

/// The name of a segment's file.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.{SEGMENT}"))
}

/// The directories of other streams, oldest first. What is known to be rubbish is removed on the way.
pub(super) fn others(root: &Path, own: StreamId) -> Result<Vec<PathBuf>, SpoolError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(|source| SpoolError::io(root, source))? {
        let path = entry.map_err(|source| SpoolError::io(root, source))?.path();
        let stream = path.file_stem().and_then(|stem| Ulid::from_string(stem.to_str()?).ok());
        let Some(stream) = stream.filter(|stream| *stream != own.0) else { continue };
        match path.extension().and_then(|end| end.to_str()) {
            None => found.push((stream, path)),
            // Unlocked under this name: its process died while it made or removed it.
            Some(NEW | DONE) => {
                if let Ok(Some(_locked)) = StreamDir::adopt(&path) {
                    let _ = std::fs::remove_dir_all(&path);
                }
            }
            Some(_) => {}
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Makes what was created or removed in a directory survive the loss of power.
pub(super) fn sync_dir(path: &Path) -> Result<(), SpoolError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|source| SpoolError::io(path, source))
}

fn make_dir(path: &Path) -> Result<(), SpoolError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| SpoolError::io(path, source))
}

fn lock(dir: &Path) -> Result<Option<File>, SpoolError> {
    let path = dir.join(LOCK);
    let io = |source| SpoolError::io(&path, source);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}
