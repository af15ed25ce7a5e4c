//! Where a browser may be sent back to.

use url::Url;

use super::super::ServerLimits;

/// What kind of place a redirect URI is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectKind {
    /// A web site, by its host.
    Https(String),
    /// A program on the user's machine: `127.0.0.1`, `[::1]` or `localhost`, at any port (RFC 8252 §7.3).
    Loopback,
    /// A program that has claimed a scheme (RFC 8252 §7.1), in lower case.
    Scheme(String),
}

impl RedirectKind {
    /// What kind a URI is.
    ///
    /// # Errors
    /// Says why nobody may be sent there.
    pub fn of(uri: &str) -> Result<Self, &'static str> {
        if uri.len() > ServerLimits::REDIRECT_URI {
            return Err("is longer than 2,048 bytes");
        }
        // What parsers repair or read in different ways: blanks, backslashes, anything but printable ASCII.
        if !uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte)) {
            return Err("has characters that a URI cannot have");
        }
        let url = Url::parse(uri).map_err(|_| "is not an absolute URI")?;
        if uri.contains('#') {
            return Err("has a fragment");
        }
        if !url.username().is_empty() || url.password().is_some() || authority(uri).is_some_and(|it| it.contains('@')) {
            return Err("has user information");
        }
        match url.scheme() {
            "https" => {
                let host = url.host_str().filter(|host| !host.is_empty()).ok_or("has no host")?;
                Ok(Self::Https(host.to_owned()))
            }
            "http" => match url.host_str() {
                Some("127.0.0.1" | "[::1]" | "localhost") => Ok(Self::Loopback),
                _ => Err("is http to another machine; use https"),
            },
            "javascript" | "data" | "file" | "blob" | "vbscript" | "about" | "view-source" | "ws" | "wss" | "ftp" => {
                Err("has a scheme that nobody is sent to")
            }
            scheme => Ok(Self::Scheme(scheme.to_owned())),
        }
    }
}

/// Whether a request may name `given` when `registered` is registered: byte for byte the same, but for the port of a
/// loopback address.
pub(crate) fn matches(registered: &str, given: &str) -> bool {
    if registered == given {
        return true;
    }
    let loopback = |uri| matches!(RedirectKind::of(uri), Ok(RedirectKind::Loopback));
    loopback(registered) && loopback(given) && without_port(registered) == without_port(given)
}

fn authority(uri: &str) -> Option<&str> {
    let rest = uri.split_once("://")?.1;
    Some(rest.split(['/', '?']).next().unwrap_or(rest))
}

/// Host, and what follows the authority.
fn without_port(uri: &str) -> Option<(&str, &str)> {
    let authority = authority(uri)?;
    let rest = &uri.split_once("://")?.1[authority.len()..];
    let port = authority.rfind(':').filter(|at| authority[at + 1..].bytes().all(|byte| byte.is_ascii_digit()));
    Some((port.map_or(authority, |at| &authority[..at]), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_places_are_places() {
        assert_eq!(RedirectKind::of("https://claude.ai/cb"), Ok(RedirectKind::Https("claude.ai".into())));
        assert_eq!(
            RedirectKind::of("cursor://anysphere.cursor-mcp/oauth/callback"),
            Ok(RedirectKind::Scheme("cursor".into()))
        );
        for loopback in ["http://127.0.0.1:33418/", "http://localhost/cb", "http://[::1]:1/x?y=z"] {
            assert_eq!(RedirectKind::of(loopback), Ok(RedirectKind::Loopback), "{loopback}");
        }
        for bad in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "blob:https://x/y",
            "http://evil.example/cb",
            "http://127.0.0.1.evil.example/cb",
            "http://localhost.evil.example/",
            "http://127.0.0.1@evil.example/",
            "https://user@claude.ai/cb",
            "https://@claude.ai/cb",
            "https://claude.ai/cb#x",
            "https://claude.ai/cb#",
            "https://claude.ai\\@evil.example/",
            "https://claude.ai/ cb",
            " https://claude.ai/cb",
            "https://claude.ai/\u{e9}",
            "https://claude.ai/cb\r\nx: y",
            "https://",
            "//claude.ai/cb",
            "/cb",
            "",
        ] {
            assert!(RedirectKind::of(bad).is_err(), "{bad}");
        }
        assert!(RedirectKind::of(&format!("https://a/{}", "a".repeat(2_038))).is_ok());
        assert!(RedirectKind::of(&format!("https://a/{}", "a".repeat(2_039))).is_err());
    }

    #[test]
    fn a_redirect_uri_is_compared_byte_for_byte_but_for_a_loopback_port() {
        assert!(matches("https://a.example/cb", "https://a.example/cb"));
        assert!(matches("http://127.0.0.1:33418/cb", "http://127.0.0.1:5000/cb"));
        assert!(matches("http://127.0.0.1/cb", "http://127.0.0.1:5000/cb"));
        assert!(matches("http://[::1]:1/cb", "http://[::1]/cb"));
        for (registered, given) in [
            ("https://a.example/cb", "https://a.example/cb/"),
            ("https://a.example/cb", "https://a.example/cb?x=y"),
            ("https://a.example/cb", "https://a.example/CB"),
            ("https://a.example/cb", "https://A.example/cb"),
            ("https://a.example/cb", "https://a.example:443/cb"),
            ("https://a.example/cb", "https://a.example.evil/cb"),
            ("https://a.example/cb", "https://a.example/cb/../x"),
            ("http://127.0.0.1:1/cb", "http://127.0.0.1:2/other"),
            ("http://127.0.0.1:1/cb", "http://localhost:1/cb"),
            ("http://127.0.0.1:1/cb", "http://127.0.0.1:2/cb?x=y"),
            ("http://127.0.0.1:1/cb", "https://127.0.0.1:1/cb"),
            ("http://localhost/cb", "http://localhost:80@evil.example/cb"),
            ("cursor://a/cb", "cursor://b/cb"),
        ] {
            assert!(!matches(registered, given), "{registered} {given}");
        }
    }
}
