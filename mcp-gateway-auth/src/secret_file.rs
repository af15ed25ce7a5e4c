//! Files that hold one secret and belong to their owner alone.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Reads a secret of at most `longest` bytes, without white space around it; `None` when there is no file.
pub(crate) fn read(path: &Path, longest: u64) -> io::Result<Option<String>> {
    let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    let facts = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if !facts.is_file() || facts.len() > longest {
        return Err(invalid(format!("it is not a file of at most {longest} bytes")));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = facts.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(invalid(format!("others may read it (mode {mode:04o}); run `chmod 600 {}`", path.display())));
        }
    }
    Ok(Some(fs::read_to_string(path)?.trim().to_owned()))
}

/// Makes a file with this secret unless there is one; complete or not at all, whatever happens in between.
pub(crate) fn create(path: &Path, secret: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = folder.join(format!(".new-{:032x}", rand::random::<u128>()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = (|| {
        let mut file = options.open(&unfinished)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        match fs::hard_link(&unfinished, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let _ = fs::remove_file(&unfinished);
    written?;
    fs::File::open(folder)?.sync_all()
}
