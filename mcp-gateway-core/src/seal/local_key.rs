//! The master key in a file.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::aead::{MasterKey, Secret256, random_secret};
use crate::contract::{KeyContext, KeyManagement, KeyManagementError, WrappedKey};

/// A [`KeyManagement`] whose master key is a local file: 32 random bytes in base64, readable by its owner alone.
///
/// Whoever has the file and the store has every secret; without the file the sealed fields of the store are lost.
/// Keep a copy of it apart from the store's backups.
///
/// ```
/// use mcp_gateway_core::contract::{KeyContext, KeyManagement as _};
/// use mcp_gateway_core::record::TenantId;
/// use mcp_gateway_core::seal::LocalKeyFile;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let directory = tempfile::tempdir().unwrap();
/// let path = directory.path().join("master.key");
/// let context = KeyContext { tenant: TenantId::default(), purpose: "resource" };
///
/// let wrapped = LocalKeyFile::open_or_create(&path).unwrap().wrap(b"a data key", &context).await.unwrap();
/// let again = LocalKeyFile::open_or_create(&path).unwrap();
/// assert_eq!(**again.unwrap(&wrapped, &context).await.unwrap(), *b"a data key");
/// # });
/// ```
pub struct LocalKeyFile {
    path: PathBuf,
    master: MasterKey,
}

/// Why a key file cannot be used. The message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read or made.
    #[error("the key file {path} cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("the key file {path} has mode {mode:04o}: others may read it; run `chmod 600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a regular file of base64 text that stands for 32 bytes.
    #[error(
        "the key file {path} does not hold 32 bytes in base64; restore it from a copy (moving it away makes a new key, \
         which cannot open what the old one sealed)"
    )]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// More than any way of writing 32 bytes in base64 needs.
const LONGEST: u64 = 256;

impl LocalKeyFile {
    /// Reads the key, or makes the file on the first use.
    ///
    /// Made atomically: of several processes that start at once one makes the key and all read the same.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn open_or_create(path: impl Into<PathBuf>) -> Result<Self, KeyFileError> {
        let path = path.into();
        let secret = match read(&path) {
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create(&path).map_err(|source| KeyFileError::Io { path: path.clone(), source })?;
                read(&path)?
            }
            other => other?,
        };
        Ok(Self { path, master: MasterKey::new("local", secret) })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait]
impl KeyManagement for LocalKeyFile {
    async fn wrap(&self, key: &[u8], context: &KeyContext) -> Result<WrappedKey, KeyManagementError> {
        self.master.wrap(key, context)
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedKey,
        context: &KeyContext,
    ) -> Result<Zeroizing<Vec<u8>>, KeyManagementError> {
        self.master.unwrap(wrapped, context)
    }
}

impl fmt::Debug for LocalKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeyFile").field("path", &self.path).field("master", &self.master.name()).finish()
    }
}

fn read(path: &Path) -> Result<Secret256, KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let content = || KeyFileError::Content { path: path.to_owned() };
    // Judged before it is opened: a pipe would block, and judged again by what was opened.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(content());
    }
    let mut file = fs::File::open(path).map_err(io)?;
    let facts = file.metadata().map_err(io)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = facts.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Mode { path: path.to_owned(), mode });
        }
    }
    if facts.len() > LONGEST {
        return Err(content());
    }
    let mut text = Zeroizing::new(Vec::new());
    io::Read::read_to_end(&mut file, &mut text).map_err(io)?;
    let bytes = Zeroizing::new(STANDARD.decode(text.trim_ascii()).map_err(|_| content())?);
    let mut secret = Zeroizing::new([0; 32]);
    if bytes.len() != secret.len() {
        return Err(content());
    }
    secret.copy_from_slice(&bytes);
    Ok(secret)
}

/// Writes a new file beside the path, complete and on disk, and links it in place unless another process was first.
fn create(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let unfinished = folder.join(format!(".key-{:032x}", rand::random::<u128>()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = (|| {
        let text = Zeroizing::new(STANDARD.encode(&random_secret()[..]));
        let mut file = options.open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match fs::hard_link(&unfinished, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let _ = fs::remove_file(&unfinished);
    written?;
    // The name itself must survive a loss of power, too.
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn it_is_a_key_management() {
        let dir = tempfile::tempdir().unwrap();
        let keys = LocalKeyFile::open_or_create(dir.path().join("master.key")).unwrap();
        crate::conformance::key_management::suite(&keys).await;
    }

    fn set(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let key = LocalKeyFile::open_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(STANDARD.decode(fs::read(&path).unwrap().trim_ascii()).unwrap().len(), 32);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
        assert_eq!(LocalKeyFile::open_or_create(&path).unwrap().master.name(), key.master.name());
        let secret = fs::read_to_string(&path).unwrap();
        assert!(!format!("{key:?}").contains(secret.trim()));
    }

    #[test]
    fn a_file_that_is_not_right_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let good = STANDARD.encode([1; 32]);
        for mode in [0o640, 0o604, 0o660, 0o644] {
            set(&path, &good, mode);
            let error = LocalKeyFile::open_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Mode { .. }), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        for bad in ["", "x", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33]), &"A".repeat(300), "ä"] {
            set(&path, bad, 0o600);
            let error = LocalKeyFile::open_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Content { .. }), "{bad}: {error}");
        }
        set(&path, &format!("{good}\n"), 0o400);
        assert!(LocalKeyFile::open_or_create(&path).is_ok());
        assert!(LocalKeyFile::open_or_create(folder.path()).is_err());
        let nowhere = folder.path().join("missing/master.key");
        assert!(matches!(LocalKeyFile::open_or_create(nowhere), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn of_many_first_starts_one_makes_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let names: Vec<String> = std::thread::scope(|scope| {
            let start = || LocalKeyFile::open_or_create(&path).unwrap().master.name().to_owned();
            let all: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(names.iter().all(|name| *name == names[0]));
    }
}
