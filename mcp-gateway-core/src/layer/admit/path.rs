//! From a path to an id.

use crate::context::Requested;

/// A path that names no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It is outside the mount, or has no id.
    Absent,
    /// It could be read in more than one way: dot segments, encoded slashes, empty segments, NUL.
    Malformed,
}

/// Reads id and sub-path of a request path.
///
/// With `mount`, the path must begin with it; without, a router has stripped it already.
///
/// # Errors
/// [`PathError`]; malformed paths are refused before anything is decided by them.
///
/// ```
/// use mcp_gateway_core::layer::admit::{PathError, split};
///
/// assert_eq!(&*split("/mcp-connect/github", Some("/mcp-connect")).unwrap().id, "github");
/// assert_eq!(split("/mcp-connect/github/%2e%2e/admin", Some("/mcp-connect")), Err(PathError::Malformed));
/// ```
pub fn split(path: &str, mount: Option<&str>) -> Result<Requested, PathError> {
    if is_ambiguous(path) {
        return Err(PathError::Malformed);
    }
    let below = match mount {
        Some(mount) => path.strip_prefix(mount).ok_or(PathError::Absent)?,
        None => path,
    };
    let below = below.strip_prefix('/').ok_or(PathError::Absent)?;
    // Paths are short: a look at each byte costs less than a search.
    let end = below.bytes().position(|byte| byte == b'/');
    let (id, rest) = end.map_or((below, None), |end| (&below[..end], Some(&below[end + 1..])));
    if id.is_empty() {
        return Err(PathError::Absent);
    }
    // One trailing slash is the same resource; empty segments elsewhere are not plain.
    let sub_path = match rest {
        None | Some("") => None,
        Some(rest) if rest.split('/').any(str::is_empty) => return Err(PathError::Malformed),
        Some(rest) => Some(rest.into()),
    };
    Ok(Requested { id: id.into(), sub_path })
}

/// Whether two readers may see different segments in it.
fn is_ambiguous(path: &str) -> bool {
    let (mut before, mut encoded, mut dotted) = (0, false, false);
    for byte in path.bytes() {
        if !byte.is_ascii_graphic() || byte == b'\\' || (before == b'/' && byte == b'/') {
            return true;
        }
        encoded |= byte == b'%';
        dotted |= byte == b'.' && matches!(before, 0 | b'/');
        before = byte;
    }
    let dots = |segment: &str| matches!(segment, "." | "..");
    if !encoded {
        return dotted && path.split('/').any(dots);
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else { return true };
        let byte = u8::try_from(high * 16 + low).unwrap_or(0);
        // `%25` would decode to something else in a second reader.
        if matches!(byte, b'/' | b'\\' | b'%') || byte.is_ascii_control() {
            return true;
        }
        decoded.push(byte);
    }
    String::from_utf8(decoded).map_or(true, |decoded| decoded.split('/').any(dots))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_can_be_read_in_two_ways_are_refused() {
        for bad in [
            "/m/a/../b",
            "/m/a/./b",
            "/m/../a",
            "/m/a/%2e%2e/b",
            "/m/a/%2E./b",
            "/m/a%2fb",
            "/m/a%5Cb",
            "/m/a\\b",
            "/m//a",
            "/m/a//b",
            "/m/a/b//",
            "/m/a%00",
            "/m/a%2",
            "/m/a%zz",
            "/m/a%252e",
            "/m/a%ff",
        ] {
            assert_eq!(split(bad, Some("/m")), Err(PathError::Malformed), "{bad}");
        }
    }

    #[test]
    fn ids_and_sub_paths() {
        let requested =
            |path, mount| split(path, mount).map(|one| (one.id.to_string(), one.sub_path.map(String::from)));
        assert_eq!(requested("/m/a", Some("/m")), Ok(("a".into(), None)));
        assert_eq!(requested("/m/a/", Some("/m")), Ok(("a".into(), None)));
        assert_eq!(requested("/m/a/b/c", Some("/m")), Ok(("a".into(), Some("b/c".into()))));
        assert_eq!(requested("/a/b", None), Ok(("a".into(), Some("b".into()))));
        for absent in ["/m", "/m/", "/other/a", "/", "/ma"] {
            assert_eq!(requested(absent, Some("/m")), Err(PathError::Absent), "{absent}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_has_no_special_segment(path in "/m/[a-z./%2eEfF\\\\]{0,24}") {
            if let Ok(requested) = split(&path, Some("/m")) {
                let whole = format!("{}/{}", requested.id, requested.sub_path.unwrap_or_default());
                prop_assert!(!whole.to_ascii_lowercase().contains("%2f"));
                prop_assert!(whole.split('/').all(|segment| segment != ".." && segment != "."));
            }
        }
    }
}
