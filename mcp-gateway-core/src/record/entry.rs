//! A catalog entry: what a server is and how it is run.
//!
//! Field names follow the catalogs that exist in the wild, so that they load unchanged.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Resource, Secret, ServerRequests};
use crate::contract::{IndexTerm, Kind};

/// A catalog entry. `serde` accepts YAML and JSON; unknown fields are an error, so that a typo is seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Its id: lowercase letters, digits and `-` (RFC 1123 label). The last part of the server's URL.
    pub entry_key: String,
    /// Its name, for people.
    pub name: String,
    /// One line about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_description: Option<String>,
    /// Markdown about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// URL of a picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// Where its source is.
    #[serde(default, rename = "repoURL", skip_serializing_if = "Option::is_none")]
    pub repo_url: Option<String>,
    /// Free-form, for example `categories`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Tools as the catalog's author saw them; shown, not enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_preview: Vec<serde_json::Value>,
    /// One server for each subject, or one for all. A remote server is always shared.
    #[serde(default)]
    pub server_user_type: ServerUserType,
    /// How it is run.
    pub runtime: RuntimeKind,
    /// For `runtime: npx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub npx_config: Option<NpxConfig>,
    /// For `runtime: uvx`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uvx_config: Option<UvxConfig>,
    /// For `runtime: remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_config: Option<RemoteConfig>,
    /// For `runtime: command`: the path of a local program, or a name looked up in `PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// For `runtime: command`: its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The environment of a hosted server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// How much it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<EntryLimits>,
    /// How long a start may take, 1 to 600 seconds; 60 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout_seconds: Option<u64>,
    /// Stopped after this long without use, 10 seconds to 7 days; 0 for never, 600 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u64>,
    /// Paths below the server's URL that are forwarded, exact segments; none by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sub_paths: Vec<String>,
    /// Names of query parameters that are forwarded; none by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_parameters: Vec<String>,
    /// Names of further response headers that reach the client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
    /// What its server may ask of clients; everything by default.
    #[serde(default, skip_serializing_if = "ServerRequests::is_all")]
    pub server_requests: ServerRequests,
    /// What becomes of changes of its tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_pinning: Option<ToolPinningSpec>,
    /// Who provided it. The catalog sets it and keeps it with the entry; a file or request that states one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<EntryOrigin>,
}

/// What becomes of changes of a server's tools; what is absent is as the configuration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolPinningSpec {
    /// What becomes of a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnToolChange>,
    /// Whether what is seen first is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_use: Option<FirstUse>,
}

/// What becomes of a tool that is not as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnToolChange {
    /// Nobody looks.
    Off,
    /// It is recorded, and served.
    Allow,
    /// It is served, and calls of it are marked in the audit trail.
    Flag,
    /// It is not served until somebody approves it.
    Block,
}

/// What becomes of a tool that nobody has seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirstUse {
    /// It is trusted, if it is among the first that its server shows.
    Trust,
    /// It is not served until somebody approves it.
    Approve,
}

/// Where an entry came from. Only what the operator wrote or built in may name a `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
#[non_exhaustive]
pub enum EntryOrigin {
    /// Built into the gateway.
    Builtin,
    /// A local file of the operator's.
    File {
        /// The name of the source that read it.
        source: String,
        /// Its path.
        path: PathBuf,
    },
    /// Another source: a repository, a registry.
    Source {
        /// The source's name.
        source: String,
    },
    /// The admin API.
    Api,
}

impl EntryOrigin {
    /// The name of the built-in source.
    pub const BUILTIN: &'static str = "builtin";

    /// The name of the source that provides the entry and may change or remove it; `None` for the admin API.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Builtin => Some(Self::BUILTIN),
            Self::File { source, .. } | Self::Source { source } => Some(source),
            Self::Api => None,
        }
    }

    /// Whether the operator of this machine wrote it, so that it may name a local program.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        matches!(self, Self::Builtin | Self::File { .. })
    }
}

/// One server for each subject, or one for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServerUserType {
    /// Each subject has its own.
    #[default]
    SingleUser,
    /// All share one.
    MultiUser,
}

/// How a server is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum RuntimeKind {
    /// An npm package over stdio.
    Npx,
    /// A PyPI package over stdio.
    Uvx,
    /// An HTTP endpoint somewhere else.
    Remote,
    /// A local program over stdio.
    Command,
}

/// An npm package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NpxConfig {
    /// The package, with a version where given.
    pub package: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Where many catalogs put the entry's `startupTimeoutSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout_seconds: Option<u64>,
}

/// A PyPI package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UvxConfig {
    /// The package, with a version where given.
    pub package: String,
    /// The command, when it is not called like the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Where many catalogs put the entry's `startupTimeoutSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout_seconds: Option<u64>,
}

/// An HTTP endpoint somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteConfig {
    /// Its URL.
    #[serde(rename = "fixedURL")]
    pub fixed_url: String,
    /// Headers that are sent with each request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderSpec>,
    /// As whom the gateway calls it, beside `headers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RemoteAuth>,
    /// Whether an administrator must register an OAuth client first.
    #[serde(default, rename = "staticOAuthRequired", skip_serializing_if = "is_false")]
    pub static_oauth_required: bool,
}

/// As whom the gateway calls a remote server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteAuth {
    /// In which way.
    #[serde(rename = "type")]
    pub kind: RemoteAuthKind,
    /// For `oauth` and `clientCredentials`: the scopes that are asked for. None: those that the server names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// For `oauth` and `clientCredentials`: as which client of the authorization server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<RemoteClient>,
    /// For `minted`: who the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// In which way the gateway is known to a remote server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum RemoteAuthKind {
    /// Not at all, or by `headers`.
    #[default]
    None,
    /// By the account that each person has connected.
    Oauth,
    /// As itself: one token for all callers.
    ClientCredentials,
    /// By a token that the gateway makes for each call's subject.
    Minted,
}

/// A client at the authorization server of a remote server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteClient {
    /// How the authorization server comes to know it.
    #[serde(default, rename = "type")]
    pub kind: RemoteClientKind,
    /// For `static`: the issuer that has registered it. The server does not choose who sees the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// For `static`: its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// For `static`: its secret, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
}

/// How an authorization server comes to know the gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum RemoteClientKind {
    /// By the gateway's document where that is supported, else by registration.
    #[default]
    Auto,
    /// By the document that the gateway serves (Client ID Metadata Document).
    Cimd,
    /// By registration at run time (RFC 7591).
    Dcr,
    /// An administrator has registered it.
    Static,
}

/// A header with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSpec {
    /// Its name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The header's name.
    pub key: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its value, sent as it stands.
    #[serde(default)]
    pub value: Secret,
    /// What a value begins with, for example `Bearer `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether it is shown to people.
    #[serde(default)]
    pub sensitive: bool,
    /// Whether it must be there.
    #[serde(default)]
    pub required: bool,
}

/// An environment variable of a hosted server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Its name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The variable's name.
    pub key: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its value, passed on as it stands.
    #[serde(default)]
    pub value: Secret,
    /// What a value begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether it is shown to people.
    #[serde(default)]
    pub sensitive: bool,
    /// Whether it must be there.
    #[serde(default)]
    pub required: bool,
    /// Whether the value is written to a file and the variable holds its path.
    #[serde(default, skip_serializing_if = "is_false")]
    pub file: bool,
    /// Whether such a file follows changes without a restart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dynamic_file: bool,
}

/// How much a server may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryLimits {
    /// What it needs at least, for runtimes that schedule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
    /// What it gets at most: `cpu` (`500m`, `2`) and `memory` (`256Mi`, `1Gi`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
}

impl Resource for Entry {
    const KIND: Kind = Kind::logged("entry");
    const INDEXES: &'static [&'static str] = &[Self::BY_SOURCE];
    const SEALED: &'static [&'static str] =
        &["/env/*/value", "/remoteConfig/headers/*/value", "/remoteConfig/auth/client/clientSecret"];

    fn terms(&self) -> Vec<IndexTerm> {
        let source = self.origin.as_ref().and_then(EntryOrigin::source);
        source.map(|source| IndexTerm { name: Self::BY_SOURCE, value: source.into() }).into_iter().collect()
    }
}

impl Entry {
    /// The index by [`EntryOrigin::source`].
    pub const BY_SOURCE: &'static str = "source";
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
