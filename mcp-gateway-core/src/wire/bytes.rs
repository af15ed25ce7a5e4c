//! Looking for a few bytes in short runs, eight at a time; `memchr` pays only on long ones.

/// Bytes looked at here before a vector search takes over.
const NEAR: usize = 32;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = ONES << 7;

/// The high bit of the lowest byte that equals `byte`, and possibly bits above it.
const fn equal(word: u64, byte: u8) -> u64 {
    let zero = word ^ (ONES * byte as u64);
    zero.wrapping_sub(ONES) & !zero & HIGH
}

/// The high bit of the lowest byte under `bound` (at most 0x80), and possibly bits above it.
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & HIGH
}

/// Searches the first bytes: `Ok` with the place of a match, `Err` with the number of bytes that hold none.
#[inline]
fn near(bytes: &[u8], test: impl Fn(u64) -> u64) -> Result<usize, usize> {
    let mut at = 0;
    while at < NEAR
        && let Some(word) = bytes[at..].first_chunk::<8>()
    {
        let found = test(u64::from_le_bytes(*word));
        if found != 0 {
            return Ok(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    if at < NEAR {
        // The rest is shorter than a word: fill it up with bytes that nobody looks for.
        let rest = &bytes[at..];
        let mut word = [b' '; 8];
        word[..rest.len()].copy_from_slice(rest);
        let found = test(u64::from_le_bytes(word));
        return if found == 0 { Err(bytes.len()) } else { Ok(at + (found.trailing_zeros() / 8) as usize) };
    }
    Err(at)
}

/// The first quote or backslash.
pub(super) fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    match near(bytes, |word| equal(word, b'"') | equal(word, b'\\')) {
        Ok(at) => Some(at),
        Err(seen) => memchr::memchr2(b'"', b'\\', &bytes[seen..]).map(|at| seen + at),
    }
}

/// The first quote, backslash or control character.
#[inline]
pub(super) fn special(bytes: &[u8]) -> Option<usize> {
    match near(bytes, |word| equal(word, b'"') | equal(word, b'\\') | below(word, 0x20)) {
        Ok(at) => Some(at),
        Err(seen) => {
            let far = &bytes[seen..];
            let end = memchr::memchr2(b'"', b'\\', far);
            let plain = &far[..end.unwrap_or(far.len())];
            // Without an early exit the compiler makes vector code of this.
            let control = plain.iter().fold(false, |any, &b| any | (b < 0x20));
            let end = if control { plain.iter().position(|&b| b < 0x20) } else { end };
            end.map(|at| seen + at)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte =
            prop_oneof![8 => Just(b'a'), 1 => any::<u8>(), 1 => prop::sample::select(vec![b'"', b'\\', 0x1f, 0x80])];
        vec(byte, 0..100)
    }

    proptest! {
        #[test]
        fn every_place_is_found(bytes in text()) {
            prop_assert_eq!(quote_or_backslash(&bytes), bytes.iter().position(|b| matches!(b, b'"' | b'\\')));
            prop_assert_eq!(special(&bytes), bytes.iter().position(|&b| b < 0x20 || matches!(b, b'"' | b'\\')));
        }
    }

    #[test]
    fn every_byte_at_every_place_of_a_word() {
        for at in 0..70 {
            for byte in 0..=255 {
                let mut bytes = vec![b'x'; 70];
                bytes[at] = byte;
                assert_eq!(special(&bytes) == Some(at), byte < 0x20 || byte == b'"' || byte == b'\\', "{byte} at {at}");
            }
        }
    }
}
