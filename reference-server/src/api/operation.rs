//! The table of operations.

use std::time::Duration;

use axum::routing::{MethodRouter, delete, get, post, put};
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, Method, StatusCode};
use jiff::Timestamp;
use mcp_gateway_core::record::{ActorKind, Principal, Roles, Scope};
use mcp_gateway_core::refusal::Refusal;

use super::{
    Shared, audit, bodies, connections, document, entries, evaluate, filters, groups, identities, keys, logs, me,
    oauth, policies, replay, servers, session_keys, tools, users,
};

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
    /// The subject must hold one of these, or a role that includes it.
    pub roles: &'static [Roles],
    /// Whether an API key suffices. Where it does not, a person must have signed in a short while ago
    /// (`login.fresh_seconds`): whoever finds a browser open changes no rights.
    pub by_key: bool,
}

/// When an operation is in the audit trail. A refused one always is, and so is every use of the bootstrap token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It shows nothing that is worth a row, unless `audit.admin_reads` wants one of every look at what is others'.
    No,
    /// It shows what not everybody may see.
    Look,
    /// It changes something: recorded before it begins and when it has ended.
    Write,
}

const OWNER: &[Roles] = &[Roles::OWNER];
pub(super) const ADMINS: &[Roles] = &[Roles::ADMIN];
const READERS: &[Roles] = &[Roles::OWNER, Roles::AUDITOR];
pub(super) const AUDITORS: &[Roles] = &[Roles::ADMIN, Roles::AUDITOR];
/// Who publishes for others has to know for whom.
const GROUP_READERS: &[Roles] = &[Roles::POWER_USER_PLUS, Roles::AUDITOR];
const EVERYBODY: &[Roles] = &[Roles::BASIC, Roles::AUDITOR];

const fn read(roles: &'static [Roles]) -> Access {
    Access { scope: Scope::ApiRead, roles, by_key: true }
}

const fn write(roles: &'static [Roles]) -> Access {
    Access { scope: Scope::ApiWrite, roles, by_key: true }
}

pub(super) const fn in_person(roles: &'static [Roles]) -> Access {
    Access { scope: Scope::ApiWrite, roles, by_key: false }
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
    GET get "/api/v1/me", read(EVERYBODY), "me.read", No => me::read;
    GET get "/api/v1/me/identities", read(EVERYBODY), "me.identities", No => identities::own;
    DELETE delete "/api/v1/me/identities/{id}", in_person(EVERYBODY), "identity.unlink", Write => identities::unlink_own;
    GET get "/api/v1/users", read(AUDITORS), "user.list", No => users::list;
    POST post "/api/v1/users", in_person(ADMINS), "user.create", Write => users::create;
    GET get "/api/v1/users/{id}", read(AUDITORS), "user.read", No => users::read;
    DELETE delete "/api/v1/users/{id}", in_person(ADMINS), "user.delete", Write => users::delete;
    PUT put "/api/v1/users/{id}/roles", in_person(ADMINS), "user.set-roles", Write => users::set_roles;
    PUT put "/api/v1/users/{id}/password", in_person(ADMINS), "user.set-password", Write => users::set_password;
    GET get "/api/v1/users/{id}/identities", read(AUDITORS), "user.identities", No => identities::list;
    POST post "/api/v1/users/{id}/identities", in_person(OWNER), "user.link-identity", Write => identities::link;
    DELETE delete "/api/v1/users/{id}/identities/{identity}", in_person(ADMINS), "user.unlink-identity", Write => identities::unlink;
    // Taking rights away must be quick, and by a program, too; giving them back is another matter.
    POST post "/api/v1/users/{id}/disable", write(ADMINS), "user.disable", Write => users::disable;
    POST post "/api/v1/users/{id}/end-sessions", write(ADMINS), "user.end-sessions", Write => users::end_sessions;
    POST post "/api/v1/users/{id}/enable", in_person(ADMINS), "user.enable", Write => users::enable;
    GET get "/api/v1/groups", read(GROUP_READERS), "group.list", No => groups::list;
    GET get "/api/v1/groups/{id}", read(GROUP_READERS), "group.read", No => groups::read;
    PUT put "/api/v1/groups/{id}/roles", in_person(ADMINS), "group.set-roles", Write => groups::set_roles;
    GET get "/api/v1/entries", read(AUDITORS), "entry.list", No => entries::list;
    GET get "/api/v1/entries/{id}", read(AUDITORS), "entry.read", No => entries::read;
    GET get "/api/v1/servers", read(AUDITORS), "server.list", No => servers::list;
    GET get "/api/v1/servers/{id}", read(AUDITORS), "server.read", No => servers::read;
    GET get "/api/v1/servers/{id}/logs", read(ADMINS), "server.logs", Look => logs::follow;
    POST post "/api/v1/servers/{id}/restart", write(ADMINS), "server.restart", Write => servers::restart;
    POST post "/api/v1/servers/{id}/stop", write(ADMINS), "server.stop", Write => servers::stop;
    GET get "/api/v1/servers/{id}/tools", read(AUDITORS), "tool.list", No => tools::list;
    // What is approved is given to models as it is, and so is what is trusted at first sight.
    DELETE delete "/api/v1/servers/{id}/tools", in_person(ADMINS), "tool.reset", Write => tools::reset;
    POST post "/api/v1/servers/{id}/tools/approve", in_person(ADMINS), "tool.approve", Write => tools::approve;
    // A deleted rule may have been the one that forbade: every change may give somebody something.
    GET get "/api/v1/policies", read(AUDITORS), "policy.list", No => policies::list;
    POST post "/api/v1/policies", in_person(ADMINS), "policy.create", Write => policies::create;
    GET get "/api/v1/policies/{id}", read(AUDITORS), "policy.read", No => policies::read;
    PUT put "/api/v1/policies/{id}", in_person(ADMINS), "policy.replace", Write => policies::replace;
    DELETE delete "/api/v1/policies/{id}", in_person(ADMINS), "policy.delete", Write => policies::delete;
    POST post "/api/v1/policies/evaluate", read(AUDITORS), "policy.evaluate", Look => evaluate::evaluate;
    POST post "/api/v1/policies/replay", read(AUDITORS), "policy.replay", Look => replay::replay;
    // One that is gone may have been the one that refused: every change may let something through.
    GET get "/api/v1/filters", read(AUDITORS), "filter.list", No => filters::list;
    POST post "/api/v1/filters", in_person(ADMINS), "filter.create", Write => filters::create;
    GET get "/api/v1/filters/{id}", read(AUDITORS), "filter.read", No => filters::read;
    PUT put "/api/v1/filters/{id}", in_person(ADMINS), "filter.replace", Write => filters::replace;
    DELETE delete "/api/v1/filters/{id}", in_person(ADMINS), "filter.delete", Write => filters::delete;
    // Calls the service that the filter asks.
    POST post "/api/v1/filters/{id}/test", write(ADMINS), "filter.test", Write => filters::test;
    // Their own keys; an admin everybody's.
    GET get "/api/v1/api-keys", read(EVERYBODY), "api-key.list", No => keys::list;
    // A key that makes keys would outlive its own revocation.
    POST post "/api/v1/api-keys", in_person(EVERYBODY), "api-key.create", Write => keys::create;
    GET get "/api/v1/api-keys/{id}", read(EVERYBODY), "api-key.read", No => keys::read;
    DELETE delete "/api/v1/api-keys/{id}", write(EVERYBODY), "api-key.revoke", Write => keys::revoke;
    // Their own accounts at servers; an admin ends everybody's, an auditor sees that they exist.
    GET get "/api/v1/connections", read(EVERYBODY), "connection.list", No => connections::list;
    DELETE delete "/api/v1/connections/{id}", write(EVERYBODY), "connection.disconnect", Write => connections::disconnect;
    GET get "/api/v1/oauth/clients", read(AUDITORS), "oauth-client.list", No => oauth::clients;
    // A client has rights by what people agree to: a program may keep the list of them. One with rights of its own is made
    // in person.
    POST post "/api/v1/oauth/clients", write(ADMINS), "oauth-client.create", Write => oauth::create_client;
    GET get "/api/v1/oauth/clients/{id}", read(AUDITORS), "oauth-client.read", No => oauth::client;
    DELETE delete "/api/v1/oauth/clients/{id}", write(ADMINS), "oauth-client.delete", Write => oauth::delete_client;
    POST post "/api/v1/oauth/clients/{id}/approve", write(ADMINS), "oauth-client.approve", Write => oauth::approve;
    POST post "/api/v1/oauth/clients/{id}/block", write(ADMINS), "oauth-client.block", Write => oauth::block;
    POST post "/api/v1/oauth/clients/{id}/unblock", write(ADMINS), "oauth-client.unblock", Write => oauth::unblock;
    // What clients may do in their own name; an admin everybody's, an auditor sees everybody's.
    GET get "/api/v1/oauth/grants", read(EVERYBODY), "oauth-grant.list", No => oauth::grants;
    DELETE delete "/api/v1/oauth/grants/{id}", write(EVERYBODY), "oauth-grant.end", Write => oauth::end_grant;
    GET get "/api/v1/oauth/consents", read(EVERYBODY), "oauth-consent.list", No => oauth::consents;
    DELETE delete "/api/v1/oauth/consents/{id}", write(EVERYBODY), "oauth-consent.forget", Write => oauth::forget_consent;
    POST post "/api/v1/oauth/signing-keys/rotate", in_person(OWNER), "signing-key.rotate", Write => oauth::rotate_keys;
    POST post "/api/v1/oauth/signing-keys/replace", in_person(OWNER), "signing-key.replace", Write => oauth::replace_keys;
    POST post "/api/v1/session-keys/replace", in_person(OWNER), "session-key.replace", Write => session_keys::replace;
    // Everybody's for admins and auditors, else what the caller did.
    GET get "/api/v1/audit-events", read(EVERYBODY), "audit-event.list", Look => audit::list;
    // What people said to servers is not for whoever only keeps them running.
    GET get "/api/v1/audit-events/{id}/bodies", Access { by_key: false, ..read(READERS) }, "audit-event.bodies", Look => bodies::read;
    GET get "/api/v1/usage", read(AUDITORS), "usage.read", Look => audit::usage;
}

impl Operation {
    /// When it is in the trail for this caller: the token that knows no person leaves none of its uses out.
    pub(super) fn recorded_of(&self, principal: &Principal, admin_reads: bool) -> Recorded {
        let own = ["/api/v1/me", "/api/v1/openapi.json"].iter().any(|path| self.path.starts_with(path));
        let held = principal.roles.with_included();
        let looks = admin_reads && !own && AUDITORS.iter().any(|role| held.contains(*role));
        match self.recorded {
            Recorded::No if looks || principal.actor.kind == ActorKind::Bootstrap => Recorded::Look,
            recorded => recorded,
        }
    }
}

impl Access {
    /// Whether this caller may, `now`, where a login is fresh for so long.
    ///
    /// # Errors
    /// 403 that says what is missing.
    pub fn check(&self, principal: &Principal, now: Timestamp, fresh: Duration) -> Result<(), Refusal> {
        if !principal.has(self.scope) {
            let scope = self.scope.as_str();
            let refusal = Refusal::new(StatusCode::FORBIDDEN, format!("The credential lacks the scope `{scope}`."));
            let challenge = HeaderValue::from_str(&format!("Bearer scope=\"{scope}\", error=\"insufficient_scope\""));
            return Err(match challenge {
                Ok(challenge) => refusal.with_header(WWW_AUTHENTICATE, challenge),
                Err(_) => refusal,
            });
        }
        if !self.by_key && !matches!(principal.actor.kind, ActorKind::Bootstrap | ActorKind::Session) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "Only a person may do this, not an API key: a key makes no keys and changes no rights.",
            ));
        }
        let held = principal.roles.with_included();
        if !self.roles.iter().any(|role| held.contains(*role)) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "The credential's subject lacks the role for this."));
        }
        let stale = |at: Timestamp| Duration::try_from(now.duration_since(at)).is_ok_and(|age| age > fresh);
        if !self.by_key && principal.authenticated_at.is_some_and(stale) {
            let text = "Sign in again for this: the last login is too long ago.";
            return Err(Refusal::new(StatusCode::FORBIDDEN, text).with_data(serde_json::json!({ "login": "/login" })));
        }
        Ok(())
    }
}
