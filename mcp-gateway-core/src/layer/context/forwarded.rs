//! The caller's address behind proxies (RFC 7239, and the older `X-Forwarded-For`).

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The nearest address that is not a trusted proxy, read from right to left: what stands left of it may be invented.
pub(super) fn caller(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let trusts = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if !trusts(peer) {
        return peer;
    }
    let mut nearest = peer;
    let (name, of) = if headers.contains_key("forwarded") {
        ("forwarded", element as fn(&str) -> Option<IpAddr>)
    } else {
        ("x-forwarded-for", address as fn(&str) -> Option<IpAddr>)
    };
    // Several fields are one list, in order (RFC 9110 §5.3).
    for field in headers.get_all(name).iter().rev() {
        let Ok(text) = field.to_str() else { return nearest };
        for part in text.rsplit(',') {
            let Some(address) = of(part.trim()) else { return nearest };
            nearest = address;
            if !trusts(address) {
                return nearest;
            }
        }
    }
    nearest
}

/// `for=…` of one element of `Forwarded`.
fn element(text: &str) -> Option<IpAddr> {
    text.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| address(value.trim().trim_matches('"'))).flatten()
    })
}

/// An address with or without a port, an IPv6 one with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    plain
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, value: &str) -> String {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]);
        caller("10.0.0.1".parse().unwrap(), &headers, &["10.0.0.0/8".parse().unwrap()]).to_string()
    }

    #[test]
    fn what_stands_left_of_the_nearest_stranger_is_not_believed() {
        assert_eq!(of("x-forwarded-for", "1.1.1.1, 203.0.113.7, 10.2.2.2"), "203.0.113.7");
        assert_eq!(of("x-forwarded-for", "10.3.3.3"), "10.3.3.3");
        assert_eq!(of("x-forwarded-for", "203.0.113.7, junk"), "10.0.0.1");
        assert_eq!(of("forwarded", "for=1.1.1.1;proto=http, For=\"[2001:db8::7]:4711\""), "2001:db8::7");
        assert_eq!(of("forwarded", "proto=https"), "10.0.0.1");
    }
}
