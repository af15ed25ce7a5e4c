//! Where the data plane is, as clients see it.

use std::sync::Arc;

use http::Uri;

use crate::contract::Resource;

/// The public URL and the path under which servers are mounted.
///
/// Audiences and metadata URLs come from here alone: never from `Host`, and never from a path that a router may have
/// stripped of its prefix.
///
/// ```
/// use mcp_gateway_core::record::Mount;
///
/// let mount = Mount::new("https://GW.example:443/", "/mcp-connect").unwrap();
/// let resource = mount.resource("github");
/// assert_eq!(&*resource.url, "https://gw.example/mcp-connect/github");
/// assert_eq!(
///     resource.metadata.as_deref(),
///     Some("https://gw.example/.well-known/oauth-protected-resource/mcp-connect/github"),
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    origin: Arc<str>,
    authority: Arc<str>,
    path: Arc<str>,
}

/// The public URL or path cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Not an absolute http or https URL.
    #[error("public_url {0:?} is not an http or https URL such as https://gateway.example")]
    NotAUrl(String),
    /// It has a path, query, fragment or user.
    #[error("public_url {0:?} must be an origin: scheme, host and port, nothing else")]
    NotAnOrigin(String),
    /// The path is not like `/mcp-connect`.
    #[error("the mount path {0:?} must be one or more plain segments such as /mcp-connect")]
    Path(String),
}

impl Mount {
    /// A mount of the data plane.
    ///
    /// Scheme and host are lowered and a default port is dropped (RFC 3986 §6.2).
    ///
    /// # Errors
    /// [`MountError`] says what is wrong and how it should look.
    pub fn new(public_url: &str, path: &str) -> Result<Self, MountError> {
        let not_a_url = || MountError::NotAUrl(public_url.to_owned());
        let uri: Uri = public_url.parse().map_err(|_| not_a_url())?;
        let scheme = uri.scheme_str().map(str::to_ascii_lowercase).ok_or_else(not_a_url)?;
        let default_port = match &*scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(not_a_url()),
        };
        let authority = uri.authority().ok_or_else(not_a_url)?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none() && !public_url.contains('#');
        if !plain || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(MountError::NotAnOrigin(public_url.to_owned()));
        }
        let segments_are_plain = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|segment| {
                !segment.is_empty()
                    && !matches!(segment, "." | "..")
                    && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
            })
        });
        if !segments_are_plain {
            return Err(MountError::Path(path.to_owned()));
        }
        let host = authority.host().to_ascii_lowercase();
        let authority = match authority.port_u16().filter(|port| *port != default_port) {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        Ok(Self { origin: format!("{scheme}://{authority}").into(), authority: authority.into(), path: path.into() })
    }

    /// Scheme, host and port, without a trailing slash.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Host and port, as `Host` should say it.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether clients reach it by TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https:")
    }

    /// Whether its host is this machine and no other: `localhost`, or an address of loopback.
    #[must_use]
    pub fn is_on_loopback(&self) -> bool {
        let host = host_and_port(&self.authority).0;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
    }

    /// The path, with a leading and without a trailing slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same mount by another name of its loopback address (`127.0.0.1`, `[::1]`, `localhost`), when `authority` is
    /// one, at the same port: whoever came by that name finds it again in documents. Audiences keep to one name.
    #[must_use]
    pub fn on_loopback_as(&self, authority: &str) -> Option<Self> {
        let names = |host| ["127.0.0.1", "[::1]", "localhost"].contains(&host);
        let (own, port) = host_and_port(&self.authority);
        if !names(own) {
            return None;
        }
        let authority = authority.to_ascii_lowercase();
        let (other, same_port) = host_and_port(&authority);
        let is_other = names(other) && own != other && port == same_port;
        let scheme = if self.is_https() { "https" } else { "http" };
        is_other.then(|| Self {
            origin: format!("{scheme}://{authority}").into(),
            authority: authority.as_str().into(),
            path: Arc::clone(&self.path),
        })
    }

    /// The protected resource of a server: its audience and where its metadata document is.
    #[must_use]
    pub fn resource(&self, id: &str) -> Resource {
        let (origin, path) = (&self.origin, &self.path);
        Resource {
            url: format!("{origin}{path}/{id}").into(),
            metadata: Some(format!("{origin}/.well-known/oauth-protected-resource{path}/{id}").into()),
            server: Some(id.into()),
        }
    }
}

/// The parts of an authority, of which the port may be missing.
fn host_and_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_an_origin() {
        for bad in
            ["gateway.example", "ftp://x", "https://", "https://u@x", "https://x/y", "https://x?q", "https://x/#f"]
        {
            assert!(Mount::new(bad, "/mcp-connect").is_err(), "{bad}");
        }
        for bad in ["", "/", "mcp", "/a//b", "/a/", "/../x", "/%2e"] {
            assert!(matches!(Mount::new("https://x", bad), Err(MountError::Path(_))), "{bad}");
        }
    }

    #[test]
    fn loopback_has_three_names_and_nothing_else_has() {
        let mount = Mount::new("http://127.0.0.1:8080", "/mcp-connect").unwrap();
        for (name, origin) in [
            ("localhost:8080", Some("http://localhost:8080")),
            ("LOCALHOST:8080", Some("http://localhost:8080")),
            ("[::1]:8080", Some("http://[::1]:8080")),
            ("127.0.0.1:8080", None),
            ("localhost", None),
            ("localhost:8081", None),
            ("[::1]", None),
            ("evil.example:8080", None),
            ("", None),
        ] {
            let found = mount.on_loopback_as(name);
            assert_eq!(found.as_ref().map(Mount::origin), origin, "{name}");
        }
        let elsewhere = Mount::new("https://gateway.example", "/mcp-connect").unwrap();
        assert_eq!(elsewhere.on_loopback_as("localhost"), None);
    }

    #[test]
    fn keeps_a_port_that_is_not_the_default() {
        assert_eq!(Mount::new("http://127.0.0.1:8080", "/mcp-connect").unwrap().origin(), "http://127.0.0.1:8080");
        assert_eq!(Mount::new("http://[::1]:80", "/a/b").unwrap().origin(), "http://[::1]");
    }
}
