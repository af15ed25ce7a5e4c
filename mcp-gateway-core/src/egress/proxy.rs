//! The way out of networks that let nothing out directly.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Scheme;
use http::{HeaderValue, Uri};

/// A proxy that opens tunnels (`CONNECT`, RFC 9110 §9.3.6). Text: `http://proxy.corp:3128`, `http://user:password@…`.
///
/// Where a name leads to is then the proxy's to find out, and its rules say what may be reached: names are checked here,
/// addresses are not. Names and literal addresses that the policy opens on purpose are reached directly.
#[derive(Clone, PartialEq, Eq)]
pub struct EgressProxy {
    pub(super) url: Uri,
    pub(super) authorization: Option<HeaderValue>,
}

/// Not the URL of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be http:// with a host, a port and nothing behind it; user:password@ may stand before the host")]
pub struct EgressProxyError;

impl FromStr for EgressProxy {
    type Err = EgressProxyError;

    fn from_str(text: &str) -> Result<Self, EgressProxyError> {
        let url: Uri = text.trim().parse().map_err(|_| EgressProxyError)?;
        let authority = url.authority().ok_or(EgressProxyError)?.as_str();
        let plain = url.scheme() == Some(&Scheme::HTTP) && url.path() == "/" && url.query().is_none();
        if !plain || url.port_u16().is_none() {
            return Err(EgressProxyError);
        }
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let authorization = user.map(|user| {
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(user)))
                // Base64 is visible ASCII.
                .map_err(|_| EgressProxyError)?;
            value.set_sensitive(true);
            Ok(value)
        });
        let url = format!("http://{address}").parse().map_err(|_| EgressProxyError)?;
        Ok(Self { url, authorization: authorization.transpose()? })
    }
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressProxy").field("url", &self.url).finish_non_exhaustive()
    }
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way<'a> {
    /// By its checked address.
    Direct,
    /// Through the proxy.
    Proxy(&'a EgressProxy),
}

/// Whether a name is this machine's own by definition (RFC 6761 §6.3).
pub(super) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The address that a host in a URL is, if it is no name. `inet_aton` takes forms that Rust does not (`0x7f.1`, `127.1`);
/// a proxy may take them too, so whatever ends in a number is none of a name (WHATWG URL, "ends in a number").
pub(super) fn literal(host: &str) -> Literal {
    if let Ok(address) = host.parse() {
        return Literal::Address(address);
    }
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let numeric = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if numeric { Literal::Disguised } else { Literal::Name }
}

/// What a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Literal {
    Address(IpAddr),
    /// A number in a form that some take for an address.
    Disguised,
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_plain_url() {
        let proxy: EgressProxy = "http://ada:s3cret@proxy.corp:3128".parse().unwrap();
        assert_eq!(proxy.url, "http://proxy.corp:3128/");
        assert_eq!(proxy.authorization.as_ref().unwrap(), "Basic YWRhOnMzY3JldA==");
        assert!(!format!("{proxy:?}").contains("s3cret"));
        assert!("http://10.0.0.1:80".parse::<EgressProxy>().is_ok());
        for bad in
            ["", "proxy:3128", "https://proxy:1", "socks5://proxy:1", "http://proxy", "http://p:1/x", "http://p:1?q"]
        {
            assert!(bad.parse::<EgressProxy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_no_names() {
        for number in ["127.1", "2130706433", "0x7f000001", "0X7F.1", "1.2.3.4.5", "0177.0.0.1.", "1."] {
            assert_eq!(literal(number), Literal::Disguised, "{number}");
        }
        assert_eq!(literal("10.0.0.1"), Literal::Address("10.0.0.1".parse().unwrap()));
        for name in ["api.example", "1.example", "x1", "0xyz", "localhost"] {
            assert_eq!(literal(name), Literal::Name, "{name}");
        }
    }
}
