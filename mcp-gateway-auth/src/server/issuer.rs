//! In whose name tokens are given.

use std::sync::Arc;

use mcp_gateway_core::record::Mount;
use serde::{Deserialize, Serialize};

use super::paths;
use super::target::{InvalidTarget, server_id};

/// Which issuers there are (`oauth.issuer`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Issuers {
    /// One, the origin, for all servers.
    #[default]
    Shared,
    /// Each server's own URL as well: for clients that take the issuer for the server, or send no `resource`.
    PerServer,
}

/// The issuer of the whole gateway, or one server's own. Codes, grants and registrations belong to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issuer {
    /// The server, when it is that one's alone.
    pub(crate) server: Option<String>,
    /// Byte for byte what metadata, redirects and tokens say.
    pub(crate) url: Arc<str>,
    /// What stands in front of the paths of its endpoints.
    pub(crate) base: String,
}

impl Issuer {
    pub(crate) fn shared(mount: &Mount) -> Self {
        Self { server: None, url: mount.origin().into(), base: mount.origin().to_owned() }
    }

    pub(crate) fn of_server(mount: &Mount, id: &str) -> Self {
        let base = format!("{}{}/{id}", mount.origin(), paths::ISSUERS);
        Self { server: Some(id.to_owned()), url: mount.resource(id).url, base }
    }

    /// The one that codes and grants remember.
    pub(crate) fn remembered(mount: &Mount, server: Option<&str>) -> Self {
        server.map_or_else(|| Self::shared(mount), |id| Self::of_server(mount, id))
    }

    /// The issuer that a path belongs to, and the path as it is at the shared one. `None`: there is no such issuer.
    ///
    /// Every id of the right form has one: which servers there are cannot be found out here.
    pub(crate) fn of_path<'a>(mount: &Mount, issuers: Issuers, path: &'a str) -> Option<(Self, &'a str)> {
        let of = |id: &str| is_id(id).then(|| Self::of_server(mount, id));
        let below = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix(mount.path())?.strip_prefix('/');
        let per_server = issuers == Issuers::PerServer;
        if let Some(rest) = path.strip_prefix(paths::ISSUERS).and_then(|rest| rest.strip_prefix('/')) {
            let (id, endpoint) = rest.split_once('/')?;
            let endpoint = &rest[id.len()..][..=endpoint.len()];
            let own = [
                paths::AUTHORIZE,
                paths::TOKEN,
                paths::REVOKE,
                paths::INTROSPECT,
                paths::REGISTER,
                paths::DEVICE_AUTHORIZATION,
            ];
            let is_own = own.contains(&endpoint) || endpoint.starts_with("/register/");
            return of(id).filter(|_| per_server && is_own).map(|issuer| (issuer, endpoint));
        }
        for document in [paths::METADATA, paths::OPENID] {
            if let Some(id) = below(document) {
                return of(id).filter(|_| per_server).map(|issuer| (issuer, document));
            }
        }
        if let Some(id) = below("").and_then(|rest| rest.strip_suffix(paths::OPENID)) {
            return of(id).filter(|_| per_server).map(|issuer| (issuer, paths::OPENID));
        }
        Some((Self::shared(mount), path))
    }

    /// The server that `resource` parameters name; that of the issuer when they name none.
    pub(crate) fn target<'a>(
        &self,
        mount: &Mount,
        resources: impl Iterator<Item = &'a str>,
    ) -> Result<Option<String>, InvalidTarget> {
        match (server_id(mount, resources)?, &self.server) {
            (Some(named), Some(own)) if named != *own => Err(InvalidTarget),
            (named, own) => Ok(named.or_else(|| own.clone())),
        }
    }
}

fn is_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_its_own_issuer_where_that_is_wanted_and_no_other_path_names_one() {
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        let at = |issuers, path| Issuer::of_path(&mount, issuers, path).map(|(issuer, path)| (issuer.url, path));
        let own: Arc<str> = "https://gw.example/mcp-connect/a".into();
        for (path, endpoint) in [
            ("/issuers/a/token", "/token"),
            ("/issuers/a/register/x", "/register/x"),
            ("/.well-known/oauth-authorization-server/mcp-connect/a", paths::METADATA),
            ("/.well-known/openid-configuration/mcp-connect/a", paths::OPENID),
            ("/mcp-connect/a/.well-known/openid-configuration", paths::OPENID),
        ] {
            assert_eq!(at(Issuers::PerServer, path), Some((own.clone(), endpoint)), "{path}");
            assert_eq!(at(Issuers::Shared, path), None, "{path}");
        }
        for (path, endpoint) in [("/token", "/token"), ("/.well-known/oauth-authorization-server", paths::METADATA)] {
            assert_eq!(at(Issuers::PerServer, path), Some(("https://gw.example".into(), endpoint)));
        }
        for none in [
            "/issuers/a",
            "/issuers/a/",
            "/issuers/A/token",
            "/issuers/a/authorize/continue",
            "/issuers/a/jwks.json",
            "/issuers/a/device",
            "/.well-known/oauth-authorization-server/mcp-connect/",
            "/.well-known/oauth-authorization-server/mcp-connect/a/b",
        ] {
            assert_eq!(at(Issuers::PerServer, none), None, "{none}");
        }
    }

    #[test]
    fn a_servers_issuer_gives_nothing_for_another_server() {
        let mount = Mount::new("https://gw.example", "/mcp-connect").unwrap();
        let (shared, own) = (Issuer::shared(&mount), Issuer::of_server(&mount, "a"));
        let (a, b) = ("https://gw.example/mcp-connect/a", "https://gw.example/mcp-connect/b");
        assert_eq!(own.target(&mount, [].into_iter()), Ok(Some("a".to_owned())));
        assert_eq!(own.target(&mount, [a].into_iter()), Ok(Some("a".to_owned())));
        assert_eq!(own.target(&mount, [b].into_iter()), Err(InvalidTarget));
        assert_eq!(shared.target(&mount, [].into_iter()), Ok(None));
        assert_eq!(shared.target(&mount, [b].into_iter()), Ok(Some("b".to_owned())));
    }
}
