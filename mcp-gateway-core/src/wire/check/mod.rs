//! What must hold of the parsers for any input, as functions that panic if it does not.
//!
//! Property tests, the replay of the corpus under `fuzz/corpus` and the fuzz targets all call these.

mod canonical;
mod duplicates;
mod list;
mod mirror;
mod outcome;
mod peek;
mod sse;
mod tree;

pub use self::canonical::canonical;
pub use self::duplicates::duplicates;
pub use self::list::list;
pub use self::mirror::mirror;
pub use self::outcome::outcome;
pub use self::peek::peek;
pub use self::sse::sse;

/// Cuts bytes into chunks of lengths that depend on the bytes, so that a fuzzer controls them.
pub(crate) fn cut(data: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let mut rest = data;
    let mut seed = data.len();
    while !rest.is_empty() {
        seed = seed.wrapping_mul(31).wrapping_add(usize::from(rest[0]));
        let (chunk, tail) = rest.split_at((seed % 7 + 1).min(rest.len()));
        chunks.push(chunk);
        rest = tail;
    }
    chunks
}

/// Whether `serde_json` might take an object of the text for its private encoding of a number.
fn confuses_serde(data: &[u8]) -> bool {
    // The name begins with a dollar sign, which may be escaped.
    memchr::memmem::find(data, b"serde_json").is_some()
        || memchr::memmem::find(data, b"\\u00").is_some_and(|_| {
            serde_json::from_slice::<serde_json::Value>(data)
                .is_ok_and(|value| value.to_string().contains("serde_json"))
        })
}

#[cfg(test)]
mod tests;
