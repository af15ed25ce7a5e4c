//! A resolved server: everything a call needs to know, compiled once from its entry.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::{Secret, ServerRequests, Subject};
use crate::contract::{Incarnation, Program, Resource, ResourceLimits, Workload, WorkloadId};

/// A server as the data plane sees it. In the snapshot behind an `Arc`; a call clones nothing of it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The server's id, the last part of its URL.
    pub id: Arc<str>,
    /// Its name, for people.
    pub name: Arc<str>,
    /// Its audience and metadata.
    pub resource: Resource,
    /// Where it is.
    pub target: RouteTarget,
    /// Paths below its URL that are forwarded.
    pub sub_paths: Arc<[Box<str>]>,
    /// Query parameters that are forwarded.
    pub query_parameters: Arc<[Box<str>]>,
    /// Further response headers that reach the client.
    pub response_headers: Arc<[HeaderName]>,
    /// What it may ask of clients.
    pub server_requests: ServerRequests,
}

/// Where a server is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RouteTarget {
    /// An HTTP endpoint somewhere else.
    Remote {
        /// Its URL.
        url: Uri,
        /// Headers that the shim puts on; their values are sensitive.
        headers: Arc<[(HeaderName, HeaderValue)]>,
        /// As whom it is called, beside `headers`; `None` for most servers, whose calls ask nobody for a credential.
        auth: Option<Arc<RouteAuth>>,
        /// Names this endpoint in sessions; another URL is another incarnation.
        incarnation: Incarnation,
    },
    /// A server that a runtime runs.
    Hosted {
        /// Shared, or one for each subject.
        placement: Placement,
        /// What to run; `id` and `subject` are filled in per subject.
        template: Arc<Workload>,
    },
}

/// As whom a remote server is called.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteAuth {
    /// As the person, by the account that they have connected.
    Account {
        /// What is asked for; none: what the server names.
        scopes: Arc<[Box<str>]>,
        /// As which client.
        client: OAuthClientSource,
    },
    /// As the gateway: one token for all callers.
    Machine {
        /// What is asked for.
        scopes: Arc<[Box<str>]>,
        /// As which client; it has a secret.
        client: StaticClient,
    },
    /// By a token of this gateway's upstream issuer, for the subject of the call.
    Minted {
        /// Who it is for.
        audience: Arc<str>,
    },
}

/// How an authorization server comes to know the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OAuthClientSource {
    /// By document where that is supported, else by registration.
    Auto,
    /// By the document that the gateway serves.
    Document,
    /// By registration at run time (RFC 7591).
    Registration,
    /// An administrator has registered it.
    Static(StaticClient),
}

/// A client that an administrator has registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticClient {
    /// Where. Its secret goes to no other issuer, whatever a server says of itself.
    pub issuer: Arc<str>,
    /// Its id there.
    pub client_id: Arc<str>,
    /// Its secret.
    pub client_secret: Option<Secret>,
}

/// Shared, or one for each subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// All callers share one workload.
    Shared,
    /// Each subject has its own.
    PerSubject,
}

impl Route {
    /// As whom it is called, if somebody has to be asked for a credential.
    #[must_use]
    pub fn auth(&self) -> Option<&Arc<RouteAuth>> {
        match &self.target {
            RouteTarget::Remote { auth, .. } => auth.as_ref(),
            RouteTarget::Hosted { .. } => None,
        }
    }

    /// Whether requests to this path below its URL are forwarded.
    #[must_use]
    pub fn has_sub_path(&self, path: &str) -> bool {
        self.sub_paths.iter().any(|one| **one == *path)
    }

    /// The workload that serves this subject; `None` for a remote server.
    #[must_use]
    pub fn workload(&self, subject: &Subject) -> Option<Arc<Workload>> {
        let RouteTarget::Hosted { placement, template } = &self.target else { return None };
        match placement {
            Placement::Shared => Some(Arc::clone(template)),
            Placement::PerSubject => Some(Arc::new(Workload {
                id: Self::workload_id(&self.id, subject),
                subject: Some(subject.clone()),
                ..Workload::clone(template)
            })),
        }
    }

    /// The id of a subject's own workload: the server's id and 128 bits of a hash of the subject.
    #[must_use]
    pub fn workload_id(server: &str, subject: &Subject) -> WorkloadId {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for part in [subject.tenant.as_str(), &subject.issuer, &subject.id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut id = format!("{server}:");
        for byte in &hash.finalize()[..16] {
            id.push_str(&format!("{byte:02x}"));
        }
        WorkloadId(id.into())
    }

    /// A template for tests and embedders: a hosted server with no environment and the usual timeouts.
    #[must_use]
    pub fn template(server: &str, program: Program, env: Vec<(String, Secret)>) -> Workload {
        Workload {
            id: WorkloadId(server.into()),
            server: server.into(),
            subject: None,
            digest: "".into(),
            program,
            env,
            limits: ResourceLimits::default(),
            startup_timeout: Duration::from_secs(60),
            idle_timeout: Some(Duration::from_secs(600)),
        }
    }
}

#[cfg(test)]
impl Route {
    /// A remote server of this id, for the tests of layers.
    pub(crate) fn remote(id: &str) -> Self {
        Self {
            id: id.into(),
            name: id.into(),
            resource: super::Mount::new("https://gw.example", "/mcp-connect").expect("an origin").resource(id),
            target: RouteTarget::Remote {
                url: Uri::from_static("https://up.example/mcp"),
                headers: [].into(),
                auth: None,
                incarnation: Incarnation(format!("{id}~remote").into()),
            },
            sub_paths: [].into(),
            query_parameters: [].into(),
            response_headers: [].into(),
            server_requests: ServerRequests::default(),
        }
    }

    /// The same server, run by a runtime and shared.
    pub(crate) fn hosted(id: &str) -> Self {
        let program = Program::Command { command: "true".into(), args: Vec::new() };
        let template = Arc::new(Self::template(id, program, Vec::new()));
        Self { target: RouteTarget::Hosted { placement: Placement::Shared, template }, ..Self::remote(id) }
    }
}
