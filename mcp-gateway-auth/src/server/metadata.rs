//! What clients read about the authorization server.

use mcp_gateway_core::record::{Mount, Scope};
use serde_json::{Value, json};

use super::{Issuer, RegistrationMode, paths};

/// Says that company identity providers decide too (ID-JAG).
pub(crate) fn add_identity_grant(metadata: &mut Value) {
    metadata["authorization_grant_profiles_supported"] = json!(["urn:ietf:params:oauth:grant-profile:id-jag"]);
    add_grant(metadata, "urn:ietf:params:oauth:grant-type:jwt-bearer");
}

/// Names a further way to ask the token endpoint.
pub(crate) fn add_grant(metadata: &mut Value, grant: &str) {
    if let Some(grants) = metadata["grant_types_supported"].as_array_mut() {
        grants.push(grant.into());
    }
}

/// Authorization server metadata (RFC 8414 §2); the same document serves those who ask for OpenID Connect's, which
/// demands three members more (OpenID Connect Discovery 1.0 §3).
pub(crate) fn server(mount: &Mount, issuer: &Issuer, mode: RegistrationMode, documents: bool) -> Value {
    let at = |path: &str| format!("{}{path}", issuer.base);
    let mut metadata = json!({
        "issuer": issuer.url,
        "authorization_endpoint": at(paths::AUTHORIZE),
        "token_endpoint": at(paths::TOKEN),
        "revocation_endpoint": at(paths::REVOKE),
        "introspection_endpoint": at(paths::INTROSPECT),
        "jwks_uri": format!("{}{}", mount.origin(), paths::KEYS),
        "scopes_supported": [Scope::Mcp.as_str(), "offline_access"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256", "ES384", "EdDSA", "RS256", "PS256"],
        "revocation_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"],
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": documents,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    if mode != RegistrationMode::Off {
        metadata["registration_endpoint"] = at(paths::REGISTER).into();
    }
    metadata
}
