//! A catalog entry: what a server is and how it is run.
//!
//! Field names follow the catalogs that exist in the wild, so that they load unchanged.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Resource, Secret};
use crate::contract::Kind;

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
    /// How long a start may take, 1 to 600 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout_seconds: Option<u64>,
    /// Stopped after this long without use; 0 for never.
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
    /// Who provided it; set by the catalog, never read from a file.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub origin: Option<EntryOrigin>,
}

/// Where an entry came from. Only operator-owned local files may name a `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum EntryOrigin {
    /// Built into the gateway.
    Builtin,
    /// A local file of the operator's.
    File {
        /// Its path.
        path: PathBuf,
    },
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
    /// Its value.
    pub value: Secret,
    /// Put before the value, for example `Bearer `.
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
    /// Its value.
    #[serde(default)]
    pub value: Secret,
    /// Put before the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether it is shown to people.
    #[serde(default)]
    pub sensitive: bool,
    /// Whether it must be there.
    #[serde(default)]
    pub required: bool,
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
    const INDEXES: &'static [&'static str] = &[];
    const SEALED: &'static [&'static str] = &["/env/*/value", "/remoteConfig/headers/*/value"];
}
