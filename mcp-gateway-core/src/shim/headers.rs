//! Which headers travel on, and under which URL.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Uri};

use crate::context::McpContext;
use crate::layer::authenticate;
use crate::record::{Route, RouteTarget};
use crate::wire::mirror;
use crate::wire::version::{Claim, claimed_era};

/// Query parameters that hold credentials: never read, never forwarded, whatever an entry lists.
const CREDENTIAL_PARAMETERS: &[&str] = &["access_token", "api_key", "apikey", "token"];

static OF_THIS_HOP: [HeaderName; 11] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HOST,
    CONTENT_LENGTH,
    EXPECT,
    ORIGIN,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Removes the headers of this hop (RFC 9110 §7.6.1), the named by `Connection`, and those that are ours to say.
pub(super) fn prepare(headers: &mut HeaderMap, method: &Method, cx: &McpContext, route: &Route) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // A credential that got here, because somebody built a stack without the authenticate layer, gets no further.
    let ends_here = |name: &&HeaderName| OF_THIS_HOP.contains(name) || authenticate::is_credential(name);
    // A head has few fields: looking at each costs less than looking up all that it could have.
    let ending: Vec<HeaderName> = headers.keys().filter(ends_here).cloned().collect();
    for name in named.into_iter().chain(ending) {
        headers.remove(name);
    }
    // Without a body there is nothing that anybody could have compared the mirrors with.
    let posts = *method == Method::POST;
    mirror::strip(headers, if posts { claimed_era(headers).unwrap_or(Claim::Unknown) } else { Claim::Absent });
    // An encoded answer could not be read on its way back.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(trace) = cx.trace() {
        trace.propagate(headers);
    }
    if let RouteTarget::Remote { headers: own, .. } = &route.target {
        for (name, value) in own.iter() {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Tells a server that we run under which URL it is reached and from where it was called. Remote servers, which are
/// somebody else's, learn nothing about callers.
pub(super) fn forwarded(headers: &mut HeaderMap, cx: &McpContext, route: &Route) {
    static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
    if let Some(address) = cx.address().and_then(|address| HeaderValue::try_from(address.to_string()).ok()) {
        headers.insert(&FOR, address);
    }
    let url = &*route.resource.url;
    let (proto, rest) = match url.strip_prefix("http://") {
        Some(rest) => (HeaderValue::from_static("http"), rest),
        None => (HeaderValue::from_static("https"), url.strip_prefix("https://").unwrap_or(url)),
    };
    headers.insert(&PROTO, proto);
    let end = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
    if let Ok(host) = HeaderValue::from_str(&rest[..end]) {
        headers.insert(&FORWARDED_HOST, host);
    }
}

/// The URL to call: the endpoint's, with the sub-path and those query parameters that the entry lists.
///
/// `None` when the sub-path is not listed.
pub(super) fn target(base: &Uri, sub_path: Option<&str>, query: Option<&str>, route: &Route) -> Option<Uri> {
    if let Some(sub_path) = sub_path
        && !route.has_sub_path(sub_path)
    {
        return None;
    }
    let kept: Vec<&str> = query
        .filter(|_| !route.query_parameters.is_empty())
        .map(|query| query.split('&').filter(|pair| is_listed(pair, route)).collect())
        .unwrap_or_default();
    if sub_path.is_none() && kept.is_empty() {
        return Some(base.clone());
    }
    let mut path = base.path().to_owned();
    if let Some(sub_path) = sub_path {
        if !path.ends_with('/') {
            path.push('/');
        }
        path.push_str(sub_path);
    }
    let own = base.query().into_iter();
    for (at, pair) in own.chain(kept).enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(pair);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn is_listed(pair: &str, route: &Route) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    !CREDENTIAL_PARAMETERS.iter().any(|secret| secret.eq_ignore_ascii_case(name))
        && route.query_parameters.iter().any(|one| &**one == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(sub_paths: &[&str], query: &[&str]) -> Route {
        Route {
            sub_paths: sub_paths.iter().map(|&path| path.into()).collect(),
            query_parameters: query.iter().map(|&name| name.into()).collect(),
            ..Route::remote("a")
        }
    }

    #[test]
    fn only_listed_paths_and_parameters_travel() {
        let base = Uri::from_static("https://up.example/mcp?v=1");
        let url = |sub_path, query, route: &Route| target(&base, sub_path, query, route).map(|url| url.to_string());
        let closed = route(&[], &[]);
        assert_eq!(url(None, Some("access_token=x&a=1"), &closed).unwrap(), "https://up.example/mcp?v=1");
        assert_eq!(url(Some("admin"), None, &closed), None);
        let open = route(&["messages/x"], &["a", "access_token"]);
        assert_eq!(
            url(Some("messages/x"), Some("b=2&a=1&access_token=s&a=%2e"), &open).unwrap(),
            "https://up.example/mcp/messages/x?v=1&a=1&a=%2e"
        );
        assert_eq!(url(Some("messages"), None, &open), None);
    }

    #[test]
    fn hop_by_hop_headers_and_credentials_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "gw.example"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-api-key", "k"),
            ("proxy-authorization", "x"),
            ("origin", "https://x"),
            ("accept-encoding", "gzip"),
            ("mcp-method", "evil"),
            ("mcp-session-id", "s"),
            ("accept", "application/json"),
            ("x-custom", "kept"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let cx = McpContext::new(&crate::contract::SystemClock);
        prepare(&mut headers, &Method::POST, &cx, &route(&[], &[]));
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            ["accept-encoding: identity", "accept: application/json", "mcp-session-id: s", "x-custom: kept"]
        );
    }

    #[test]
    fn mirrors_travel_only_with_a_body_that_they_were_compared_with() {
        let left = |method: Method, version: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            for name in ["mcp-method", "mcp-name", "mcp-param-region"] {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
            }
            if let Some(version) = version {
                headers.insert("mcp-protocol-version", HeaderValue::from_static(version));
            }
            prepare(&mut headers, &method, &McpContext::new(&crate::contract::SystemClock), &route(&[], &[]));
            headers.keys().filter(|name| mirror::is_mirror(name)).count()
        };
        for (version, forwarded) in
            [(None, 0), (Some("2025-11-25"), 0), (Some("2026-07-28"), 3), (Some("2027-01-01"), 3)]
        {
            assert_eq!(left(Method::POST, version), forwarded, "{version:?}");
            assert_eq!((left(Method::GET, version), left(Method::DELETE, version)), (0, 0), "{version:?}");
        }
    }

    #[test]
    fn a_server_that_we_run_is_told_where_it_is_and_a_remote_one_gets_its_own_headers() {
        let cx = McpContext::new(&crate::contract::SystemClock);
        cx.set_address("2001:db8::1".parse().unwrap()).unwrap();
        let mut headers = HeaderMap::new();
        forwarded(&mut headers, &cx, &route(&[], &[]));
        assert_eq!(headers["x-forwarded-for"], "2001:db8::1");
        assert_eq!(
            (&headers["x-forwarded-proto"], &headers["x-forwarded-host"]),
            (&"https".parse().unwrap(), &"gw.example".parse().unwrap())
        );

        let RouteTarget::Remote { url, incarnation, .. } = route(&[], &[]).target else { unreachable!() };
        let own = [(HeaderName::from_static("x-api-key"), HeaderValue::from_static("ours"))].into();
        let remote =
            Route { target: RouteTarget::Remote { url, headers: own, auth: None, incarnation }, ..route(&[], &[]) };
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("the caller's"));
        prepare(&mut headers, &Method::GET, &cx, &remote);
        assert_eq!(headers["x-api-key"], "ours");
        assert!(!headers.contains_key("x-forwarded-for"), "nothing about the caller");
    }
}
