//! URIs of resources that rules and servers may read in two ways.

use url::Url;

/// Whether servers may take a URI for another one than its text says, so that no pattern can tell what it names: whatever
/// is not [spelled](is_misspelled) in the one way; what a URL parser writes differently (WHATWG, as the official SDKs look
/// resources up); and a fragment or an empty query, which say nothing to a server.
pub(crate) fn is_ambiguous(uri: &str) -> bool {
    is_misspelled(uri)
        || uri.bytes().any(|byte| matches!(byte, b'{' | b'}' | b'#'))
        || uri.ends_with('?')
        || Url::parse(uri).is_ok_and(|url| url.as_str() != uri)
}

/// Whether a URI, a template of URIs or a pattern is written in another way than the one in which all that decode and
/// normalise URIs leave it (RFC 3986 §6.2.2): dot and empty segments; codes of what may stand as it is, or in small
/// letters; characters that have to be coded; capitals in a scheme or in a host of the web; who logs in, or a dot, at a
/// host.
pub(super) fn is_misspelled(uri: &str) -> bool {
    let stray = |byte: u8| !byte.is_ascii_graphic() || b"\"<>\\^`|".contains(&byte);
    if uri.bytes().any(stray) || has_needless_code(uri.as_bytes()) {
        return true;
    }
    let end = uri.find(['?', '#']).unwrap_or(uri.len());
    let (scheme, rest) = uri[..end].split_once(':').unwrap_or(("", &uri[..end]));
    let capital = |text: &str| text.bytes().any(|byte| byte.is_ascii_uppercase());
    if capital(scheme) {
        return true;
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let web = matches!(scheme, "http" | "https" | "ws" | "wss" | "ftp" | "file");
    let segments = || path.split('/');
    authority.contains('@')
        || web && (host.ends_with('.') || capital(host))
        || segments().any(|segment| segment == "." || segment == "..")
        || path.contains("//")
}

/// Whether something is encoded that may stand in a URI as it is, or that decodes to what no URI can hold; or in small
/// letters.
fn has_needless_code(uri: &[u8]) -> bool {
    memchr::memchr_iter(b'%', uri).any(|at| {
        let digit = |offset: usize| char::from(*uri.get(at + offset)?).to_digit(16);
        let (Some(high), Some(low)) = (digit(1), digit(2)) else { return false };
        let small = uri[at + 1..at + 3].iter().any(u8::is_ascii_lowercase);
        let byte = u8::try_from(high << 4 | low).unwrap_or_default();
        small || !(byte >= 0x80 || b" \"<>^`{|}".contains(&byte))
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
            "test://static-text",
            "https://h/a%20b?q=../%C3%A9",
            "https://h:8443/",
            "memo:///%C3%A9t%C3%A9",
            "a:b",
            "a:b?c",
            "urn:isbn:0451450523",
            "x",
            "",
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
            "file:///a%5Cb",
            "file:///a\\b",
            "file:///s%65cret",
            "file:///a%00",
            "file:///a\n",
            " file:///a",
            "file:///a b",
            "https://INTERNAL.example/x",
            "https://internal.example:443/x",
            "https:internal.example/x",
            "https:/internal.example/x",
            "https://u@internal.example/x",
            "https://internal.example./x",
            "https://\u{ff49}nternal.example/x",
            "https://internal.example",
            "file://localhost/secret",
            "file:/secret",
            "file:secret",
            "memo:///\u{e9}t\u{e9}",
            "memo:\u{e9}",
            "memo:///%c3%a9",
            "memo:///a\"",
            "memo:a\"",
            "memo:///a<b>",
            "memo:///a`",
            "memo:///{a}",
            "memo:///a%40b",
            "memo:///a%2Bb",
            "memo:///a%3Ab",
            "memo:///a%21",
            "memo:///a%3Fb",
            "memo:///a%252F",
            "memo:///a#b",
            "memo:///a?",
            "memo:///a//b",
            "memo:////a",
        ] {
            assert!(is_ambiguous(ambiguous), "{ambiguous}");
        }
        for template in ["file:///{+path}", "test://template/{id}/data", "a://{host}{/path}{?q}{#f}"] {
            assert!(!is_misspelled(template), "{template}");
        }
        for template in ["FILE:///{a}", "file:///a%2F{b}", "file:///../{a}", "file:///\u{e9}{a}"] {
            assert!(is_misspelled(template), "{template}");
        }
    }
}
