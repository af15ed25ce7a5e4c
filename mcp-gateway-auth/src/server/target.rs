//! Which server a client asks for.

use mcp_gateway_core::record::Mount;
use url::Url;

/// Why a `resource` is none of ours (RFC 8707 §2): `invalid_target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidTarget;

/// The id of the server that the `resource` parameters name; `None` when they name none.
///
/// Values are brought into canonical form before they are compared: case of scheme and host, a default port, one
/// trailing slash. Several that come out the same are one. The bare origin names no server.
pub(crate) fn server_id<'a>(
    mount: &Mount,
    resources: impl Iterator<Item = &'a str>,
) -> Result<Option<String>, InvalidTarget> {
    let mut found = None;
    for resource in resources {
        let Some(id) = one(mount, resource)? else { continue };
        if found.get_or_insert_with(|| id.clone()) != &id {
            return Err(InvalidTarget);
        }
    }
    Ok(found)
}

fn one(mount: &Mount, resource: &str) -> Result<Option<String>, InvalidTarget> {
    // What a parser would repair is no name of ours.
    if !resource.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'@') {
        return Err(InvalidTarget);
    }
    let url = Url::parse(resource).map_err(|_| InvalidTarget)?;
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    if !plain || url.query().is_some() || url.fragment().is_some() || !is_origin(mount, &url) {
        return Err(InvalidTarget);
    }
    // The path as it was sent: a parser would take dot segments out.
    let after_scheme = resource.split_once("://").ok_or(InvalidTarget)?.1;
    let path = after_scheme.find('/').map_or("", |at| &after_scheme[at..]);
    if matches!(path, "" | "/") {
        return Ok(None);
    }
    let id = path.strip_prefix(mount.path()).and_then(|rest| rest.strip_prefix('/')).ok_or(InvalidTarget)?;
    let id = id.strip_suffix('/').unwrap_or(id);
    let is_plain = !matches!(id, "" | "." | "..")
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    if is_plain { Ok(Some(id.to_owned())) } else { Err(InvalidTarget) }
}

/// Ours, by whichever name a loopback address was called.
fn is_origin(mount: &Mount, url: &Url) -> bool {
    let origin = url.origin().ascii_serialization();
    if origin == mount.origin() {
        return true;
    }
    let other = origin.split_once("://").and_then(|(_, authority)| mount.on_loopback_as(authority));
    other.is_some_and(|mount| mount.origin() == origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_a_server_has_three_names() {
        let mount = Mount::new("http://127.0.0.1:8080", "/mcp-connect").unwrap();
        let id = |resource: &str| server_id(&mount, [resource].into_iter());
        for name in ["127.0.0.1", "localhost", "LocalHost", "[::1]"] {
            assert_eq!(id(&format!("http://{name}:8080/mcp-connect/a")), Ok(Some("a".to_owned())), "{name}");
            assert_eq!(id(&format!("http://{name}:8081/mcp-connect/a")), Err(InvalidTarget), "{name}");
            assert_eq!(id(&format!("https://{name}:8080/mcp-connect/a")), Err(InvalidTarget), "{name}");
        }
        assert_eq!(id("http://127.0.0.2:8080/mcp-connect/a"), Err(InvalidTarget));
    }

    #[test]
    fn one_server_has_one_name_however_it_is_written() {
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        let id = |resources: &[&str]| server_id(&mount, resources.iter().copied());
        for same in [
            "https://gw.example/mcp-connect/a",
            "HTTPS://GW.Example:443/mcp-connect/a/",
            "https://gw.example/mcp-connect/a/",
        ] {
            assert_eq!(id(&[same]), Ok(Some("a".to_owned())), "{same}");
            assert_eq!(id(&[same, "https://gw.example/mcp-connect/a"]), Ok(Some("a".to_owned())));
        }
        assert_eq!(id(&[]), Ok(None));
        assert_eq!(id(&["https://gw.example", "https://gw.example/"]), Ok(None));
        assert_eq!(id(&["https://gw.example/mcp-connect/a", "https://gw.example/mcp-connect/b"]), Err(InvalidTarget));
        for bad in [
            "https://gw.example/mcp-connect",
            "https://gw.example/mcp-connect/",
            "https://gw.example/mcp-connect//",
            "https://gw.example/mcp-connect/a//",
            "https://gw.example/mcp-connect/a/b",
            "https://gw.example/x/../mcp-connect/a",
            "https://gw.example/mcp-connect/../a",
            "https://gw.example/mcp-connect/%61",
            "https://gw.example/MCP-connect/a",
            "https://gw.example/mcp-connect/a?x",
            "https://gw.example/mcp-connect/a#x",
            "https://u@gw.example/mcp-connect/a",
            "https://gw.example:8443/mcp-connect/a",
            "http://gw.example/mcp-connect/a",
            "https://evil.example/mcp-connect/a",
            "https:/gw.example/mcp-connect/a",
            "https:\\\\gw.example\\mcp-connect\\a",
            "urn:a",
            "a",
        ] {
            assert_eq!(id(&[bad]), Err(InvalidTarget), "{bad}");
        }
    }
}
