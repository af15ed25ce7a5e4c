//! The table of operations.

use axum::routing::{MethodRouter, delete, get, post};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, StatusCode};
use mcp_gateway_core::record::{ActorKind, Principal, Roles, Scope};
use mcp_gateway_core::refusal::Refusal;

use super::{Shared, audit, bodies, document, entries, keys, logs, servers, session_keys};

/// An operation of the admin API.
pub struct Operation {
    /// Its method.
    pub method: Method,
    /// Its path, as a route.
    pub path: &'static str,
    /// Who may.
    pub access: Access,
    /// Its name in the audit trail.
    pub action: &'static str,
    /// When it is in the audit trail.
    pub recorded: Recorded,
    pub(super) handler: fn() -> MethodRouter<Shared>,
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.method, self.path, self.action)
    }
}

/// Who may perform an operation. The credential's scope and the subject's role must both suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What the credential must be good for.
    pub scope: Scope,
    /// The subject must hold one of these.
    pub roles: &'static [Roles],
    /// Whether an API key suffices.
    pub by_key: bool,
}

/// When an operation is in the audit trail. A refused one always is, and so is every use of the bootstrap token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It shows nothing that is worth a row.
    No,
    /// It shows what not everybody may see.
    Look,
    /// It changes something: recorded before it begins and when it has ended.
    Write,
}

const OWNER: &[Roles] = &[Roles::OWNER];
const ADMINS: &[Roles] = &[Roles::OWNER, Roles::ADMIN];
const READERS: &[Roles] = &[Roles::OWNER, Roles::AUDITOR];
const AUDITORS: &[Roles] = &[Roles::OWNER, Roles::ADMIN, Roles::AUDITOR];

const fn read(roles: &'static [Roles]) -> Access {
    Access { scope: Scope::ApiRead, roles, by_key: true }
}

const fn write(roles: &'static [Roles]) -> Access {
    Access { scope: Scope::ApiWrite, roles, by_key: true }
}

macro_rules! operations {
    ($($method:ident $verb:ident $path:literal, $access:expr, $action:literal, $recorded:ident => $handler:path;)+) => {
        /// Every operation. The router is made from this table.
        pub static OPERATIONS: &[Operation] = &[$(Operation {
            method: Method::$method,
            path: $path,
            access: $access,
            action: $action,
            recorded: Recorded::$recorded,
            handler: || $verb($handler),
        },)+];
    };
}

operations! {
    GET get "/api/v1", read(AUDITORS), "api.index", No => document::index;
    GET get "/api/v1/openapi.json", read(AUDITORS), "api.document", No => document::openapi;
    GET get "/api/v1/entries", read(ADMINS), "entry.list", No => entries::list;
    GET get "/api/v1/entries/{id}", read(ADMINS), "entry.read", No => entries::read;
    GET get "/api/v1/servers", read(ADMINS), "server.list", No => servers::list;
    GET get "/api/v1/servers/{id}", read(ADMINS), "server.read", No => servers::read;
    GET get "/api/v1/servers/{id}/logs", read(ADMINS), "server.logs", Look => logs::follow;
    POST post "/api/v1/servers/{id}/restart", write(ADMINS), "server.restart", Write => servers::restart;
    POST post "/api/v1/servers/{id}/stop", write(ADMINS), "server.stop", Write => servers::stop;
    GET get "/api/v1/api-keys", read(OWNER), "api-key.list", No => keys::list;
    // A key that makes keys would outlive its own revocation.
    POST post "/api/v1/api-keys", Access { by_key: false, ..write(OWNER) }, "api-key.create", Write => keys::create;
    GET get "/api/v1/api-keys/{id}", read(OWNER), "api-key.read", No => keys::read;
    DELETE delete "/api/v1/api-keys/{id}", write(OWNER), "api-key.revoke", Write => keys::revoke;
    POST post "/api/v1/session-keys/replace", write(OWNER), "session-key.replace", Write => session_keys::replace;
    GET get "/api/v1/audit-events", read(AUDITORS), "audit-event.list", Look => audit::list;
    // What people said to servers is not for whoever only keeps them running.
    GET get "/api/v1/audit-events/{id}/bodies", read(READERS), "audit-event.bodies", Look => bodies::read;
    GET get "/api/v1/usage", read(AUDITORS), "usage.read", Look => audit::usage;
}

impl Operation {
    /// When it is in the trail for this caller: the token that knows no person leaves none of its uses out.
    pub(super) fn recorded_of(&self, principal: &Principal) -> Recorded {
        match self.recorded {
            Recorded::No if principal.actor.kind == ActorKind::Bootstrap => Recorded::Look,
            recorded => recorded,
        }
    }
}

impl Access {
    /// Whether this caller may.
    ///
    /// # Errors
    /// 403 that says what is missing.
    pub fn check(&self, principal: &Principal) -> Result<(), Refusal> {
        if !principal.has(self.scope) {
            let scope = self.scope.as_str();
            let refusal = Refusal::new(StatusCode::FORBIDDEN, format!("The credential lacks the scope `{scope}`."));
            let challenge = HeaderValue::from_str(&format!("Bearer scope=\"{scope}\", error=\"insufficient_scope\""));
            return Err(match challenge {
                Ok(challenge) => refusal.with_header(WWW_AUTHENTICATE, challenge),
                Err(_) => refusal,
            });
        }
        if !self.by_key && principal.actor.kind != ActorKind::Bootstrap {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "Only an owner in person may do this, not an API key: a key cannot make keys.",
            ));
        }
        if !self.roles.iter().any(|role| principal.roles.contains(*role)) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "The credential's subject lacks the role for this."));
        }
        Ok(())
    }
}
