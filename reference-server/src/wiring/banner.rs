//! What a start tells the person who started it.

use std::fmt::Write as _;
use std::path::Path;

use mcp_gateway_auth::api_key::CreatedKey;
use mcp_gateway_core::record::Mount;
use serde_json::json;

use crate::config::ProcessRole;

/// What is told.
pub(super) struct Banner<'a> {
    pub(super) mount: &'a Mount,
    /// Those of this process, where others have the rest.
    pub(super) roles: Option<&'a [ProcessRole]>,
    pub(super) servers: &'a [String],
    pub(super) starter_key: Option<&'a CreatedKey>,
    pub(super) bootstrap_token: Option<&'a Path>,
}

/// Servers that the client configuration names.
const SHOWN: usize = 20;

impl Banner<'_> {
    /// For standard output. Writing to a string never fails.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let origin = self.mount.origin();
        let _ = writeln!(text, "mcp-gateway {} at {origin}", env!("CARGO_PKG_VERSION"));
        if let Some(roles) = self.roles {
            let roles: Vec<_> = roles.iter().map(|role| role.name()).collect();
            let _ = writeln!(text, "  this process: {}", roles.join(", "));
        }
        let _ = writeln!(text, "  admin API  {origin}/api/v1");
        for id in self.servers.iter().take(SHOWN) {
            let _ = writeln!(text, "  MCP        {}", self.mount.resource(id).url);
        }
        if let Some(more) = self.servers.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(text, "  and {more} more: {origin}/api/v1/servers");
        }
        if let Some(path) = self.bootstrap_token {
            let _ = writeln!(text, "  owner's token for /api/v1, for 24 hours: {}", path.display());
        }
        if let Some(created) = self.starter_key {
            let key = created.key.expose();
            let _ = write!(
                text,
                "\nYour first API key, for all servers, 30 days. It is shown only now:\n\n  {key}\n\n\
                 For Claude Code, Cursor and other MCP clients:\n\n{}\n",
                self.client_configuration(key)
            );
        }
        text
    }

    /// The form that most clients read (`mcpServers` with `url` and `headers`).
    fn client_configuration(&self, key: &str) -> String {
        let servers: serde_json::Map<_, _> = self
            .servers
            .iter()
            .take(SHOWN)
            .map(|id| {
                let url = &*self.mount.resource(id).url;
                let headers = json!({ "Authorization": format!("Bearer {key}") });
                (id.clone(), json!({ "type": "http", "url": url, "headers": headers }))
            })
            .collect();
        serde_json::to_string_pretty(&json!({ "mcpServers": servers })).unwrap_or_default()
    }
}
