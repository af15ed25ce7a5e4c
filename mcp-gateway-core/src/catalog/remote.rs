//! Where a remote entry is.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use http::header::AUTHORIZATION;
use http::uri::Scheme;
use sha2::{Digest, Sha256};

use super::compile::{Problem, bounded, no_variables, unsupported, wrong};
use super::limits::CatalogLimits as Limits;
use super::{auth, headers};
use crate::contract::Incarnation;
use crate::record::{Entry, Mount, RouteTarget};

pub(super) fn target(entry: &Entry, mount: &Mount) -> Result<RouteTarget, Problem> {
    let Some(remote) = &entry.remote_config else { return wrong("remoteConfig", "is missing") };
    if remote.static_oauth_required {
        return unsupported("remoteConfig.staticOAuthRequired", "an OAuth client for a remote server");
    }
    let url = fixed_url(&remote.fixed_url, mount)?;
    bounded("remoteConfig.headers", &remote.headers)?;
    let mut all = Vec::with_capacity(remote.headers.len());
    for (index, spec) in remote.headers.iter().enumerate() {
        let field = format!("remoteConfig.headers[{index}]");
        let (name, value) = headers::request(&field, spec)?;
        if all.iter().any(|(other, _)| *other == name) {
            return wrong(format!("{field}.key"), format!("{name} is given twice"));
        }
        all.push((name, value));
    }
    // Another URL is another server as far as sessions are concerned.
    let digest = Sha256::digest(url.to_string().as_bytes());
    let incarnation = Incarnation(format!("{}~{}", entry.entry_key, URL_SAFE_NO_PAD.encode(&digest[..12])).into());
    let auth = auth::route_auth(entry, &url, mount)?.map(Arc::new);
    if auth.is_some() && all.iter().any(|(name, _)| *name == AUTHORIZATION) {
        return wrong("remoteConfig.auth", "and a header Authorization both say who calls; remove one");
    }
    Ok(RouteTarget::Remote { url, headers: all.into(), auth, incarnation })
}

fn fixed_url(text: &str, mount: &Mount) -> Result<Uri, Problem> {
    const FIELD: &str = "remoteConfig.fixedURL";
    no_variables(FIELD, text)?;
    if text.len() > Limits::URL {
        return wrong(FIELD, format!("is longer than {} bytes", Limits::URL));
    }
    let not_a_url = || wrong(FIELD, "is not an http or https URL such as https://mcp.example/mcp");
    let Ok(url) = text.parse::<Uri>() else { return not_a_url() };
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return not_a_url() };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") || authority.host().is_empty() {
        return not_a_url();
    }
    // The parser has dropped the fragment; whoever wrote one expects something from it.
    if text.contains('#') {
        return wrong(FIELD, "must not have a fragment (#…)");
    }
    if authority.as_str().contains('@') {
        return wrong(FIELD, "must not hold a user or password; put credentials into remoteConfig.headers");
    }
    let behind_host = authority.as_str().len() > authority.host().len();
    if behind_host && authority.port_u16().is_none_or(|port| port == 0) {
        return wrong(FIELD, "has a port that is not 1 to 65535");
    }
    if url.path().split('/').any(is_dot_segment) {
        return wrong(FIELD, "must not have . or .. in its path");
    }
    if authority_of(&url).is_some_and(|authority| authority == mount.authority()) {
        return wrong(FIELD, "names this gateway itself: calls would go round in circles");
    }
    Ok(url)
}

/// Host and port as in a canonical origin: in lower case, without a default port.
pub(super) fn authority_of(url: &Uri) -> Option<String> {
    let authority = url.authority()?;
    let default_port = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = authority.host().to_ascii_lowercase();
    Some(match authority.port_u16().filter(|port| *port != default_port) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// Written plainly or percent-encoded: servers decode before they resolve.
fn is_dot_segment(segment: &str) -> bool {
    let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
    matches!(decoded.as_str(), "." | "..")
}

/// A link that people follow or a browser loads: http and https alone, so that no script can stand there.
pub(super) fn link(field: &str, text: &str) -> Result<(), Problem> {
    let web = text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if web && text.len() <= Limits::URL {
        return Ok(());
    }
    wrong(field, format!("must be an http or https URL of at most {} bytes", Limits::URL))
}
