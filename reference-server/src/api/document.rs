//! The OpenAPI document and the index.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation as Described;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use super::answer::{Problem, ProblemDetails, plain, tagged};
use super::operation::OPERATIONS;
use super::{
    audit, bodies, connections, entries, evaluate, filters, groups, identities, keys, logs, me, oauth, policies,
    replay, servers, session_keys, tools, users,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mcp-gateway admin API",
        description = "Administers an mcp-gateway. Errors are problem documents (RFC 9457)."
    ),
    paths(
        index,
        openapi,
        me::read,
        identities::own,
        identities::unlink_own,
        identities::list,
        identities::link,
        identities::unlink,
        users::list,
        users::create,
        users::read,
        users::delete,
        users::set_roles,
        users::set_password,
        users::disable,
        users::end_sessions,
        users::enable,
        groups::list,
        groups::read,
        groups::set_roles,
        entries::list,
        entries::read,
        servers::list,
        servers::read,
        servers::restart,
        servers::stop,
        tools::list,
        tools::approve,
        tools::reset,
        logs::follow,
        policies::list,
        policies::create,
        policies::read,
        policies::replace,
        policies::delete,
        evaluate::evaluate,
        replay::replay,
        filters::list,
        filters::create,
        filters::read,
        filters::replace,
        filters::delete,
        filters::test,
        keys::list,
        keys::create,
        keys::read,
        keys::revoke,
        connections::list,
        connections::disconnect,
        oauth::clients,
        oauth::create_client,
        oauth::client,
        oauth::delete_client,
        oauth::approve,
        oauth::block,
        oauth::unblock,
        oauth::grants,
        oauth::end_grant,
        oauth::consents,
        oauth::forget_consent,
        oauth::rotate_keys,
        oauth::replace_keys,
        session_keys::replace,
        audit::list,
        bodies::read,
        audit::usage,
    ),
    components(schemas(ProblemDetails))
)]
struct Api;

/// The document, with what all operations have in common.
pub(super) fn document() -> &'static Document {
    static DOCUMENT: OnceLock<Document> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document = Api::openapi();
        document.info.version = env!("CARGO_PKG_VERSION").to_owned();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key with the operation's scope and an owner's subject, or the bootstrap token."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        for operation in OPERATIONS {
            let item = document.paths.paths.get_mut(operation.path);
            if let Some(described) = item.and_then(|item| of_method(item, operation.method.as_str())) {
                let problem =
                    ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("ProblemDetails")))).build();
                let problem = ResponseBuilder::new()
                    .description("A problem.")
                    .content("application/problem+json", problem)
                    .build();
                described.responses.responses.insert("default".to_owned(), problem.into());
                described.operation_id = Some(operation.action.to_owned());
                described.security = Some(vec![SecurityRequirement::new("bearer", [operation.access.scope.as_str()])]);
            }
        }
        document
    })
}

/// The operation of a path, by its method.
pub(super) fn of_method<'a>(item: &'a mut PathItem, method: &str) -> Option<&'a mut Described> {
    match method {
        "GET" => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PUT" => item.put.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// Reads this document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "api",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)))]
pub(super) async fn openapi(headers: HeaderMap) -> Result<Response, Problem> {
    tagged(&headers, None, document())
}

/// What there is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "name": "mcp-gateway",
    "version": "0.1.0",
    "operations": { "/api/v1/api-keys": ["GET", "POST"] }
}))]
pub(super) struct Index {
    /// `mcp-gateway`.
    name: String,
    /// The version of the server.
    version: String,
    /// The methods of each path.
    operations: BTreeMap<String, Vec<String>>,
}

/// Lists what there is.
#[utoipa::path(get, path = "/api/v1", tag = "api",
    responses((status = 200, description = "The paths.", body = Index)))]
pub(super) async fn index() -> Result<Response, Problem> {
    let mut operations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for operation in OPERATIONS {
        operations.entry(operation.path.to_owned()).or_default().push(operation.method.to_string());
    }
    let (name, version) = ("mcp-gateway".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    plain(StatusCode::OK, &Index { name, version, operations })
}
