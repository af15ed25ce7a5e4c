//! Which headers an entry may add to requests and let through in responses.

use http::{HeaderName, HeaderValue};

use super::compile::{Problem, no_variables, unsupported, wrong};
use super::limits::CatalogLimits as Limits;
use crate::record::HeaderSpec;
use crate::wire::untrusted::Untrusted;

/// Meant for the next hop only (RFC 9110 §7.6.1), and what would change how the message is framed.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the gateway itself decides in a request.
const REQUEST: &[&str] = &["host", "accept", "accept-encoding", "expect", "last-event-id"];

/// What would act on the gateway's own origin, where people log in, or send a client elsewhere.
const RESPONSE: &[&str] = &[
    "alt-svc",
    "authentication-info",
    "cache-control",
    "clear-site-data",
    "link",
    "location",
    "refresh",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
];

/// Prefixes of the same.
const RESPONSE_PREFIXES: &[&str] =
    &["access-control-", "content-", "cross-origin-", "mcp-", "proxy-", "sec-", "origin-agent-"];

/// A header that is sent with each request to a remote server; its value is marked sensitive.
pub(super) fn request(field: &str, spec: &HeaderSpec) -> Result<(HeaderName, HeaderValue), Problem> {
    let name = header_name(&format!("{field}.key"), &spec.key)?;
    let text = name.as_str();
    let refused = HOP_BY_HOP.contains(&text)
        || REQUEST.contains(&text)
        || ["content-", "mcp-"].iter().any(|prefix| text.starts_with(prefix));
    if refused {
        return wrong(format!("{field}.key"), format!("{text} is decided by the gateway and cannot be set"));
    }
    let at = format!("{field}.value");
    let value = spec.value.expose();
    if value.is_empty() {
        return unsupported(at, "a header without a value, to be supplied by each user,");
    }
    no_variables(&at, value)?;
    prefix(&at, spec.prefix.as_deref(), value)?;
    if value.len() > Limits::VALUE {
        return wrong(at, format!("is longer than {} bytes", Limits::VALUE));
    }
    // Never the value itself in the message: it is a secret.
    let Ok(mut value) = HeaderValue::from_str(value) else {
        return wrong(at, "has characters that no header may hold; visible ASCII is safe");
    };
    value.set_sensitive(true);
    Ok((name, value))
}

/// A header that reaches the client.
pub(super) fn response(field: &str, name: &str) -> Result<HeaderName, Problem> {
    let name = header_name(field, name)?;
    let text = name.as_str();
    let refused = HOP_BY_HOP.contains(&text)
        || RESPONSE.contains(&text)
        || RESPONSE_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    if refused {
        return wrong(field, format!("{text} never reaches a client from a server: it would speak for the gateway"));
    }
    Ok(name)
}

/// A prefix is put before values that users supply. A value in the file is whole; one without its prefix is a mistake.
pub(super) fn prefix(field: &str, prefix: Option<&str>, value: &str) -> Result<(), Problem> {
    match prefix {
        Some(prefix) if !value.starts_with(prefix) => wrong(
            field,
            format!(
                "does not begin with its prefix \"{}\"; write the whole value, or remove the prefix",
                Untrusted(prefix)
            ),
        ),
        _ => Ok(()),
    }
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, Problem> {
    name.parse().or_else(|_| wrong(field, format!("\"{}\" is not the name of a header", Untrusted(name))))
}
