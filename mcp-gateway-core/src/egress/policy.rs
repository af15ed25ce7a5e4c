//! Which addresses may be reached.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

use ipnet::IpNet;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::proxy::{EgressProxy, Literal, Way, is_localhost, literal};

/// Refuses special-use addresses (RFC 6890), with holes that the operator opens on purpose.
///
/// ```
/// use mcp_gateway_core::egress::EgressPolicy;
///
/// let policy = EgressPolicy::new(["10.1.0.0/16".parse().unwrap(), "mcp.internal:8443".parse().unwrap()]);
/// assert!(policy.permits("203.0.114.7".parse().unwrap(), "api.example", 443).is_ok());
/// assert!(policy.permits("10.1.2.3".parse().unwrap(), "tools", 80).is_ok());
/// assert!(policy.permits("169.254.169.254".parse().unwrap(), "metadata", 80).is_err());
/// assert!(policy.permits("10.9.9.9".parse().unwrap(), "mcp.internal", 8443).is_ok());
/// ```
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    allow: Vec<AllowRule>,
    own: Vec<SocketAddr>,
    trusted: Vec<TrustAnchor<'static>>,
    proxy: Option<EgressProxy>,
    plain_in_holes: bool,
}

/// A hole: a network, or a name with an optional port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowRule {
    /// Every address of it.
    Net(IpNet),
    /// Whatever this name resolves to.
    Name {
        /// Lowercase.
        host: String,
        /// This port only.
        port: Option<u16>,
    },
}

impl AllowRule {
    fn names(&self, host: &str, port: u16) -> bool {
        matches!(self, Self::Name { host: name, port: only }
            if name.eq_ignore_ascii_case(host) && only.is_none_or(|only| only == port))
    }
}

/// Neither an address, a network nor a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address, network (10.0.0.0/8) or name (mcp.internal, mcp.internal:8443)")]
pub struct AllowRuleError(String);

impl FromStr for AllowRule {
    type Err = AllowRuleError;

    fn from_str(text: &str) -> Result<Self, AllowRuleError> {
        let text = text.trim();
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| AllowRuleError(text.to_owned()))?)),
            None => (text, None),
        };
        let is_name = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
            && !host.starts_with(['-', '.']);
        if is_name {
            Ok(Self::Name { host: host.to_ascii_lowercase(), port })
        } else {
            Err(AllowRuleError(text.to_owned()))
        }
    }
}

/// The name may not be asked of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no name that a proxy may be asked for; allow it in egress.allow to reach it directly")]
pub struct NameBlocked(pub String);

/// The address may not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is at the {class} address {address}, which outbound calls may not reach; allow it in egress.allow")]
pub struct Blocked {
    /// The name that was asked for.
    pub host: String,
    /// What it resolved to.
    pub address: IpAddr,
    /// Why it is special.
    pub class: &'static str,
}

impl EgressPolicy {
    /// A policy with these holes.
    pub fn new(allow: impl IntoIterator<Item = AllowRule>) -> Self {
        Self { allow: allow.into_iter().collect(), ..Self::default() }
    }

    /// The same, refusing calls to where the gateway itself listens, under whatever name and whatever else is allowed.
    ///
    /// A listener on every address is found at each address of this machine, one on loopback at all of loopback.
    #[must_use]
    pub fn without_loops_to(mut self, listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.own.extend(listeners);
        self
    }

    /// The same, with plain http only to where a hole is, and never through a proxy.
    #[must_use]
    pub fn with_plain_http_in_holes_alone(mut self) -> Self {
        self.plain_in_holes = true;
        self
    }

    /// The same, trusting certificates of these authorities, too, beside those of Mozilla's program.
    ///
    /// # Errors
    /// When one is no certificate of an authority.
    pub fn trusting(
        mut self,
        authorities: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, rustls::Error> {
        let mut store = RootCertStore::empty();
        for authority in authorities {
            store.add(authority)?;
        }
        self.trusted.extend(store.roots);
        Ok(self)
    }

    /// The same, reaching what no hole is for through this proxy.
    #[must_use]
    pub fn through(mut self, proxy: EgressProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// How to reach this host. Addresses that are reached directly are checked with [`permits`](Self::permits).
    pub(super) fn way(&self, host: &str, port: u16) -> Result<Way<'_>, crate::BoxError> {
        let Some(proxy) = &self.proxy else { return Ok(Way::Direct) };
        let hole = |address: Option<IpAddr>| {
            self.allow.iter().any(|rule| match (rule, address) {
                (AllowRule::Net(net), Some(address)) => net.contains(&address),
                (rule, _) => rule.names(host, port),
            })
        };
        match literal(host) {
            Literal::Address(address) if hole(Some(address)) => Ok(Way::Direct),
            Literal::Address(address) => Ok(self.permits(address, host, port).map(|()| Way::Proxy(proxy))?),
            Literal::Name if hole(None) => Ok(Way::Direct),
            Literal::Name if !is_localhost(host) => Ok(Way::Proxy(proxy)),
            Literal::Name | Literal::Disguised => Err(NameBlocked(host.to_owned()).into()),
        }
    }

    /// The authorities that are trusted beside Mozilla's.
    pub(super) fn trusted(&self) -> &[TrustAnchor<'static>] {
        &self.trusted
    }

    /// Whether this address may be reached under this name.
    ///
    /// # Errors
    /// [`Blocked`] names the class of the address and the setting that opens it.
    pub fn permits(&self, address: IpAddr, host: &str, port: u16) -> Result<(), Blocked> {
        let blocked = |class| Err(Blocked { host: host.to_owned(), address, class });
        let plain = embedded(address).unwrap_or(address);
        if self.own.iter().any(|own| own.port() == port && leads_to(plain, own.ip())) {
            return blocked("gateway's own");
        }
        let Some(class) = special(address) else { return Ok(()) };
        if self.opens(address, host, port) { Ok(()) } else { blocked(class) }
    }

    /// Whether there is a hole at this address under this name.
    fn opens(&self, address: IpAddr, host: &str, port: u16) -> bool {
        let plain = embedded(address).unwrap_or(address);
        self.allow.iter().any(|rule| match rule {
            AllowRule::Net(net) => net.contains(&address) || net.contains(&plain),
            AllowRule::Name { .. } => rule.names(host, port),
        })
    }

    /// Whether what is sent there may be read on the way; `None` for the address of a proxy.
    pub(super) fn permits_plain(&self, address: Option<IpAddr>, host: &str, port: u16) -> bool {
        !self.plain_in_holes || address.is_some_and(|address| self.opens(address, host, port))
    }
}

/// Whether who connects to this address is accepted by a listener on that one.
fn leads_to(address: IpAddr, listener: IpAddr) -> bool {
    let listener = listener.to_canonical();
    if listener.is_unspecified() {
        return is_here(address);
    }
    // Whoever connects to the unspecified address is connected to loopback.
    let loopback = address.is_loopback() || address.is_unspecified();
    address == listener || (loopback && listener.is_loopback())
}

/// Whether this machine has the address: only then can something be bound to it. Where it cannot be found out, because
/// no file can be opened for instance, it has.
fn is_here(address: IpAddr) -> bool {
    let absent = |error: io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
    address.is_loopback() || address.is_unspecified() || !UdpSocket::bind((address, 0)).is_err_and(absent)
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, NAT64, 6to4.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, g, h] = address.segments();
    let join = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(join(g, h)),
        (0, 0, 0, 0, 0, 0) if g != 0 => Some(join(g, h)),
        (0x64, 0xff9b, 1, ..) => Some(join(g, h)),
        (0x2002, ..) => Some(join(b, c)),
        _ => None,
    }
}

fn special(address: IpAddr) -> Option<&'static str> {
    if let Some(inner) = embedded(address) {
        return special(inner);
    }
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (0, ..) => Some("unspecified"),
        (127, ..) => Some("loopback"),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some("private"),
        (100, 64..=127, _) => Some("shared (carrier NAT)"),
        (169, 254, _) => Some("link-local"),
        (192, 0, 0) => Some("protocol assignment"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Some("documentation"),
        (192, 88, 99) => Some("6to4 relay"),
        (198, 18..=19, _) => Some("benchmarking"),
        (224..=239, ..) => Some("multicast"),
        (240..=255, ..) => Some("reserved"),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [a, b, ..] = address.segments();
    match (a, b) {
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_loopback() => Some("loopback"),
        (0xfc00..=0xfdff, _) => Some("unique local"),
        (0xfe80..=0xfebf, _) => Some("link-local"),
        (0xfec0..=0xfeff, _) => Some("site-local"),
        (0xff00..=0xffff, _) => Some("multicast"),
        (0x100, 0) => Some("discard"),
        (0x2001, 0..=0x1ff) => Some("protocol assignment"),
        (0x2001, 0xdb8) | (0x3fff, 0..=0xfff) => Some("documentation"),
        (0x5f00, _) => Some("segment routing"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_address_is_refused_in_every_disguise() {
        let policy = EgressPolicy::default();
        for address in [
            "127.0.0.1",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "::127.0.0.1",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(policy.permits(address.parse().unwrap(), "x", 443).is_err(), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"]
        {
            assert!(policy.permits(address.parse().unwrap(), "x", 443).is_ok(), "{address}");
        }
    }

    #[test]
    fn holes_are_exactly_as_wide_as_they_say() {
        let rules = ["127.0.0.0/8", "::1", "mcp.internal:8443", "Other.Internal"].map(|rule| rule.parse().unwrap());
        let policy = EgressPolicy::new(rules).without_loops_to(["127.0.0.1:8080".parse().unwrap()]);
        let permits = |address: &str, host, port| policy.permits(address.parse().unwrap(), host, port).is_ok();
        assert!(permits("127.0.0.1", "127.0.0.1", 9000));
        assert!(permits("::ffff:127.0.0.1", "localhost", 9000));
        assert!(!permits("127.0.0.1", "127.0.0.1", 8080));
        assert!(permits("10.0.0.1", "MCP.internal", 8443));
        assert!(!permits("10.0.0.1", "mcp.internal", 443));
        assert!(permits("10.0.0.1", "other.internal", 1));
        assert!(!permits("10.0.0.1", "another.internal", 1));
        for bad in ["", "-x", "10.0.0.0/33", "a b", "x:99999", ".x"] {
            assert!(bad.parse::<AllowRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proxy_is_asked_for_names_and_public_addresses_alone() {
        let rules = ["10.0.0.0/8", "mcp.internal:8443"].map(|rule| rule.parse().unwrap());
        let proxy: EgressProxy = "http://proxy:3128".parse().unwrap();
        let policy = EgressPolicy::new(rules).without_loops_to(["203.0.114.9:80".parse().unwrap()]).through(proxy);
        let way = |host, port| policy.way(host, port).map(|way| way == Way::Direct).ok();
        for (host, port, direct) in [
            ("api.example", 443, Some(false)),
            ("1.1.1.1", 443, Some(false)),
            ("10.1.2.3", 80, Some(true)),
            ("mcp.internal", 8443, Some(true)),
            ("mcp.internal", 443, Some(false)),
            ("192.168.1.1", 80, None),
            ("169.254.169.254", 80, None),
            ("::1", 80, None),
            ("::ffff:127.0.0.1", 80, None),
            ("203.0.114.9", 80, None),
            ("127.1", 80, None),
            ("0x7f000001", 80, None),
            ("localhost", 80, None),
            ("a.LOCALHOST.", 80, None),
        ] {
            assert_eq!(way(host, port), direct, "{host}:{port}");
        }
    }

    #[test]
    fn the_gateway_itself_is_never_reached_under_no_name() {
        let policy = |listener: &str| {
            let holes = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap(), "self.example".parse().unwrap()];
            EgressPolicy::new(holes).without_loops_to([listener.parse().unwrap()])
        };
        let permits = |policy: &EgressPolicy, address: &str, port| {
            policy.permits(address.parse().unwrap(), "self.example", port).is_ok()
        };
        let disguises = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "0.0.0.0", "::"];
        for listener in ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080", "[::]:8080", "[::ffff:127.0.0.1]:8080"] {
            let policy = policy(listener);
            for address in disguises {
                assert!(!permits(&policy, address, 8080), "{address} of {listener}");
                assert!(permits(&policy, address, 8081), "{address} beside {listener}");
            }
            // Nobody's: kept for documentation.
            assert!(permits(&policy, "203.0.113.9", 8080), "{listener}");
        }
        let elsewhere = policy("203.0.113.7:8080");
        for (address, permitted) in
            [("203.0.113.7", false), ("::ffff:203.0.113.7", false), ("203.0.113.8", true), ("127.0.0.1", true)]
        {
            assert_eq!(permits(&elsewhere, address, 8080), permitted, "{address}");
        }
        // An address of this machine beyond loopback, where there is one.
        let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
        if probe.connect("203.0.113.9:9").is_ok() {
            let own = probe.local_addr().unwrap().ip().to_string();
            assert!(!permits(&policy("0.0.0.0:8080"), &own, 8080), "{own}");
            assert!(permits(&policy("127.0.0.1:8080"), &own, 8080), "{own}");
        }
    }
}
