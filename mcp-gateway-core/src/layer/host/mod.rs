//! Which names this listener answers to.

use std::sync::Arc;

use http::StatusCode;
use http::header::HOST;
use http::request::Parts;

use super::gate::{Gate, gate_layer};
use crate::MaybeReady;
use crate::record::Mount;
use crate::refusal::Refusal;

/// Refuses requests whose `Host` is not one of ours: 403, against DNS rebinding.
///
/// Allowed are the host of the public URL, the listed names, and, when the listener is bound to loopback, the names of
/// loopback. A listed name without a port matches any port. A name with the default port of the public URL's scheme is the
/// name without it (RFC 9110 §4.2.3).
#[derive(Debug, Clone)]
pub struct HostLayer(Arc<Allowed>);

#[derive(Debug)]
struct Allowed {
    authority: Box<str>,
    /// With its colon: of the public URL's scheme.
    default_port: &'static str,
    names: Vec<Box<str>>,
    loopback: bool,
}

impl HostLayer {
    /// Allows the public URL's host and these names.
    pub fn new(mount: &Mount, names: impl IntoIterator<Item = String>, loopback: bool) -> Self {
        Self(Arc::new(Allowed {
            authority: mount.authority().into(),
            default_port: if mount.is_https() { ":443" } else { ":80" },
            names: names.into_iter().map(|name| name.to_ascii_lowercase().into()).collect(),
            loopback,
        }))
    }

    /// Without the default port.
    fn plain<'a>(&self, host: &'a str) -> &'a str {
        host.strip_suffix(self.0.default_port).unwrap_or(host)
    }

    fn allows(&self, host: &str) -> bool {
        let allowed = &*self.0;
        let host = self.plain(host);
        if host.eq_ignore_ascii_case(&allowed.authority) {
            return true;
        }
        let name = without_port(host);
        (allowed.loopback && is_loopback(name))
            || allowed
                .names
                .iter()
                .any(|one| self.plain(one).eq_ignore_ascii_case(host) || one.eq_ignore_ascii_case(name))
    }
}

impl Gate for HostLayer {
    fn judge(&self, parts: &mut Parts) -> MaybeReady<Result<(), Refusal>> {
        let mut fields = parts.headers.get_all(HOST).iter();
        let field = match (fields.next(), fields.next()) {
            (Some(one), None) => one.to_str().ok(),
            (None, _) => None,
            (Some(_), Some(_)) => {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "The request has more than one Host.")).into();
            }
        };
        // HTTP/2 and absolute-form requests carry it in the URI; both must agree with the field (RFC 9112 §3.2.2).
        let host = match (parts.uri.authority().map(http::uri::Authority::as_str), field) {
            (Some(authority), Some(field)) if !self.plain(authority).eq_ignore_ascii_case(self.plain(field)) => None,
            (authority, field) => authority.or(field),
        };
        match host {
            Some(host) if self.allows(host) => Ok(()),
            host => {
                let host = crate::wire::untrusted::Untrusted(host.unwrap_or_default());
                tracing::warn!(%host, "a request for another host is refused; allow it by listing it in allowed_hosts");
                Err(Refusal::new(StatusCode::FORBIDDEN, "This host name is not served here."))
            }
        }
        .into()
    }
}

gate_layer!(HostLayer);

/// Host without port; brackets of IPv6 stay.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

/// Whether a name means this machine.
pub(crate) fn is_loopback(name: &str) -> bool {
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn judge(layer: &HostLayer, uri: &str, hosts: &[&str]) -> Option<u16> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        match layer.judge(&mut parts) {
            MaybeReady::Ready(judgement) => judgement.err().map(|refusal| refusal.status().as_u16()),
            MaybeReady::Wait(_) => panic!("never waits"),
        }
    }

    #[test]
    fn only_our_names_pass() {
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        let public = HostLayer::new(&mount, ["gw.internal".to_owned()], false);
        let local = HostLayer::new(&mount, [], true);
        let ported = HostLayer::new(&mount, ["gw.internal:443", "gw.other:8443"].map(str::to_owned), false);
        let plain = HostLayer::new(&Mount::new("http://gw.example", "/mcp-connect").unwrap(), [], false);
        for (layer, host, verdict) in [
            (&public, "GW.example", None),
            (&public, "gw.internal:8443", None),
            (&public, "gw.example.evil", Some(403)),
            (&public, "localhost:8080", Some(403)),
            (&public, "gw.example:8080", Some(403)),
            (&public, "GW.example:443", None),
            (&public, "gw.example:80", Some(403)),
            (&public, "gw.example.evil:443", Some(403)),
            (&ported, "gw.internal:443", None),
            (&ported, "gw.internal", None),
            (&ported, "gw.internal:8443", Some(403)),
            (&ported, "gw.other:8443", None),
            (&ported, "gw.other", Some(403)),
            (&plain, "gw.example:80", None),
            (&plain, "gw.example:443", Some(403)),
            (&plain, "[2001:db8::80]", Some(403)),
            (&local, "localhost:8080", None),
            (&local, "127.0.0.1", None),
            (&local, "[::1]:8080", None),
            (&local, "127.0.0.1.evil.example", Some(403)),
        ] {
            assert_eq!(judge(layer, "/", &[host]), verdict, "{host}");
        }
        assert_eq!(judge(&public, "/", &[]), Some(403));
        assert_eq!(judge(&public, "/", &["gw.example", "gw.example"]), Some(400));
        assert_eq!(judge(&public, "http://gw.example/", &["evil.example"]), Some(403));
        assert_eq!(judge(&public, "https://gw.example/", &[]), None);
        assert_eq!(judge(&public, "https://gw.example:443/", &["gw.example"]), None);
        assert_eq!(judge(&public, "https://gw.example:8443/", &["gw.example"]), Some(403));
    }
}
