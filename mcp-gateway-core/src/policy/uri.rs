//! URIs of resources that rules and servers may read in two ways.

/// Whether servers may take a URI for another one than its text says, so that no pattern can tell what it names: dot
/// segments, also encoded; encoded slashes, backslashes and letters, which decode to a text that a pattern would fit; a
/// scheme in capitals (RFC 3986 §6.2.2); backslashes, blanks and control characters, which parsers drop or replace.
pub(super) fn is_ambiguous(uri: &str) -> bool {
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    if scheme.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return true;
    }
    if uri.bytes().any(|byte| byte <= b' ' || byte == b'\\' || byte == 0x7f) || has_needless_code(uri.as_bytes()) {
        return true;
    }
    let path = uri.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once(':').map_or(path, |(_, rest)| rest);
    path.split('/').any(|segment| segment == "." || segment == "..")
}

/// Whether something is encoded that is the same or means more when it is decoded: unreserved characters, `/` and `\`.
fn has_needless_code(uri: &[u8]) -> bool {
    memchr::memchr_iter(b'%', uri).any(|at| {
        let digit = |offset: usize| char::from(*uri.get(at + offset)?).to_digit(16);
        let (Some(high), Some(low)) = (digit(1), digit(2)) else { return false };
        let byte = u8::try_from(high << 4 | low).unwrap_or_default();
        byte.is_ascii_alphanumeric() || byte < b' ' || b"-._~/\\".contains(&byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_it_is_meant_is_plain() {
        for plain in [
            "file:///a/b.c",
            "file:///a/..b/.c/d.",
            "memo://Insights",
            "https://h/a%20b?q=../%C3%A9#x",
            "a:b",
            "x",
            "",
            "file:///{+path}",
            "a:100%",
        ] {
            assert!(!is_ambiguous(plain), "{plain}");
        }
        for ambiguous in [
            "FILE:///a",
            "file:///a/../b",
            "file:///a/.",
            "a:../b",
            "file:///a/%2e%2E/b",
            "file:///a%2Fb",
            "file:///a%5cb",
            "file:///a\\b",
            "file:///s%65cret",
            "file:///a%00",
            "file:///a\n",
            " file:///a",
            "file:///a b",
        ] {
            assert!(is_ambiguous(ambiguous), "{ambiguous}");
        }
    }
}
