//! The local key under which spools are sealed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

use super::SpoolError;

/// Bytes of an AES-256 key.
pub(super) const KEY: usize = 32;
/// Bytes of a nonce.
pub(super) const NONCE: usize = 12;
/// Bytes of an authentication tag.
pub(super) const TAG: usize = 16;

/// A key of this machine, which wraps the key of every segment.
///
/// It is local on purpose: a process that starts while a remote key service is away must be able to spool, and to
/// replay what the process before it left.
#[derive(Clone)]
pub struct SpoolKey(Arc<Aes256Gcm>);

impl SpoolKey {
    /// A key that is kept elsewhere, for example in a mounted secret.
    #[must_use]
    pub fn new(bytes: &[u8; KEY]) -> Self {
        Self(Arc::new(cipher(bytes)))
    }

    /// Reads a key file, making it (mode 0600, random) where there is none.
    ///
    /// # Errors
    /// [`SpoolError::KeyMode`] when others may read the file, [`SpoolError::KeyLength`] when it is no key,
    /// [`SpoolError::Io`] when it cannot be read or made.
    pub fn load_or_create(path: &Path) -> Result<Self, SpoolError> {
        match Self::load(path) {
            Err(SpoolError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        create(path).map_err(|source| SpoolError::io(path, source))?;
        Self::load(path)
    }

    fn load(path: &Path) -> Result<Self, SpoolError> {
        let io = |source| SpoolError::io(path, source);
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(SpoolError::KeyMode { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
        let mut bytes = Zeroizing::new([0; KEY]);
        let whole = metadata.is_file() && metadata.len() == KEY as u64;
        if !whole {
            return Err(SpoolError::KeyLength { path: path.to_owned() });
        }
        file.read_exact(&mut *bytes).map_err(io)?;
        Ok(Self::new(&bytes))
    }

    /// Encrypts a segment's key, or what else is as short, in place.
    pub(super) fn wrap(&self, nonce: &[u8; NONCE], context: &[u8], key: &mut [u8]) -> [u8; TAG] {
        seal(&self.0, nonce, context, key)
    }

    /// Decrypts it in place; false when it is not of this key and context.
    pub(super) fn unwrap(&self, nonce: &[u8; NONCE], context: &[u8], key: &mut [u8], tag: &[u8; TAG]) -> bool {
        open(&self.0, nonce, context, key, tag)
    }
}

impl std::fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpoolKey(..)")
    }
}

pub(super) fn cipher(key: &[u8; KEY]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

/// Encrypts in place.
pub(super) fn seal(cipher: &Aes256Gcm, nonce: &[u8; NONCE], context: &[u8], data: &mut [u8]) -> [u8; TAG] {
    cipher
        .encrypt_inout_detached(&Nonce::from(*nonce), context, data.into())
        .expect("data is shorter than the 64 GiB that AES-GCM takes")
        .into()
}

/// Decrypts in place; false when the data is not authentic.
pub(super) fn open(cipher: &Aes256Gcm, nonce: &[u8; NONCE], context: &[u8], data: &mut [u8], tag: &[u8; TAG]) -> bool {
    cipher.decrypt_inout_detached(&Nonce::from(*nonce), context, data.into(), &Tag::from(*tag)).is_ok()
}

/// Makes the file appear whole or not at all; one that another process made meanwhile wins.
fn create(path: &Path) -> std::io::Result<()> {
    let mut key = Zeroizing::new([0; KEY]);
    rand::fill(&mut *key);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let linked =
        file.write_all(&*key).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&temporary, path));
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => path.parent().map_or(Ok(()), |parent| match File::open(parent) {
            Ok(parent) => parent.sync_all(),
            // A path without a folder in it: the current directory.
            Err(_) => Ok(()),
        }),
    }
}
