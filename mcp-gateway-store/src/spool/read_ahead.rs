//! Reading a segment in large pieces: most blocks are small, and a call of the system costs more than they do.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes that are asked for at once.
pub(super) const READ_AHEAD: usize = 64 << 10;

/// What a segment is read from.
pub(super) trait Source {
    fn read_at(&self, out: &mut [u8], at: u64) -> std::io::Result<()>;
}

impl Source for File {
    fn read_at(&self, out: &mut [u8], at: u64) -> std::io::Result<()> {
        self.read_exact_at(out, at)
    }
}

impl Source for &[u8] {
    fn read_at(&self, out: &mut [u8], at: u64) -> std::io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..out.len()));
        out.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A source with the piece of it that was read last.
pub(super) struct ReadAhead<S> {
    source: S,
    piece: Vec<u8>,
    /// Where the piece begins.
    at: u64,
}

impl<S: Source> ReadAhead<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, piece: Vec::new(), at: 0 }
    }

    /// Bytes that end before `limit`, to be opened in place: once, as they are not read again.
    pub(super) fn bytes(&mut self, at: u64, len: usize, limit: u64) -> std::io::Result<&mut [u8]> {
        let from = at.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
        let held = from.filter(|from| from.checked_add(len).is_some_and(|end| end <= self.piece.len()));
        let from = match held {
            Some(from) => from,
            None => {
                let room = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
                self.piece.resize(len.max(READ_AHEAD.min(room)), 0);
                self.at = at;
                if let Err(error) = self.source.read_at(&mut self.piece, at) {
                    self.forget();
                    return Err(error);
                }
                0
            }
        };
        Ok(&mut self.piece[from..from + len])
    }

    /// Reads anew what is asked for next.
    pub(super) fn forget(&mut self) {
        self.piece.clear();
    }
}
