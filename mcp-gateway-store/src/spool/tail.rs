//! Where a stream's chain is, kept beside its segments: what is signed of rows whose segments are gone.
//!
//! ```text
//! chain = nonce:[12] sealed( seq:u64 head:[32] newest:i64 count:u64 checkpoint:[32] upto:u64 ) tag:[16]
//! ```
//!
//! Integers are little-endian; sealed under the local key, with the stream as associated data.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;
use mcp_gateway_core::contract::StreamId;
use mcp_gateway_core::trail::{Head, Signed, Tail};

use super::key::{NONCE, TAG};
use super::{SpoolError, SpoolKey};

const FILE: &str = "chain";
const PLAIN: usize = 96;

pub(super) fn write(dir: &Path, key: &SpoolKey, tail: &Tail) -> Result<(), SpoolError> {
    let mut sealed = [0; PLAIN];
    sealed[..8].copy_from_slice(&tail.head.seq.to_le_bytes());
    sealed[8..40].copy_from_slice(&tail.head.hash);
    sealed[40..48].copy_from_slice(&tail.head.newest.as_microsecond().to_le_bytes());
    sealed[48..56].copy_from_slice(&tail.signed.count.to_le_bytes());
    sealed[56..88].copy_from_slice(&tail.signed.hash);
    sealed[88..].copy_from_slice(&tail.upto.to_le_bytes());
    let nonce: [u8; NONCE] = rand::random();
    let tag = key.wrap(&nonce, &context(tail.head.stream), &mut sealed);
    let (path, new) = (dir.join(FILE), dir.join(format!("{FILE}.new")));
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(&[&nonce[..], &sealed, &tag].concat())?;
            file.sync_data()
        });
    written.and_then(|()| std::fs::rename(&new, &path)).map_err(|source| SpoolError::io(&path, source))
}

/// What was kept; before the first row, where nothing was.
pub(super) fn read(dir: &Path, key: &SpoolKey, stream: StreamId) -> Result<Option<Tail>, SpoolError> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Some(Tail::start(stream))),
        Err(source) => return Err(SpoolError::io(&path, source)),
    };
    Ok(open(&bytes, key, stream))
}

fn open(bytes: &[u8], key: &SpoolKey, stream: StreamId) -> Option<Tail> {
    let (nonce, rest) = bytes.split_first_chunk::<NONCE>()?;
    let (sealed, tag) = rest.split_last_chunk::<TAG>()?;
    let mut plain: [u8; PLAIN] = sealed.try_into().ok()?;
    if !key.unwrap(nonce, &context(stream), &mut plain, tag) {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(plain[at..at + 8].try_into().ok()?));
    let digest = |at: usize| <[u8; 32]>::try_from(&plain[at..at + 32]).ok();
    let newest = Timestamp::from_microsecond(number(40)?.cast_signed()).ok()?;
    let head = Head { stream, seq: number(0)?, hash: digest(8)?, newest };
    Some(Tail { head, signed: Signed { count: number(48)?, hash: digest(56)? }, upto: number(88)?, ended: false })
}

fn context(stream: StreamId) -> Vec<u8> {
    [&b"mcp-gateway chain v1"[..], &stream.0.to_bytes()].concat()
}
