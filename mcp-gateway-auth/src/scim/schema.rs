//! What the gateway says about itself (RFC 7643 §5-7).

use serde_json::{Value, json};

use super::ScimLimits;

pub(super) const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub(super) const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";

pub(super) fn service_provider_config(base: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": { "supported": true },
        "bulk": { "supported": false, "maxOperations": 0, "maxPayloadSize": 0 },
        "filter": { "supported": true, "maxResults": ScimLimits::PAGE },
        "changePassword": { "supported": false },
        "sort": { "supported": false },
        "etag": { "supported": true },
        "authenticationSchemes": [{
            "type": "oauthbearertoken",
            "name": "Bearer token",
            "description": "The token that the operator has given to the provider",
        }],
        "meta": { "resourceType": "ServiceProviderConfig", "location": format!("{base}/ServiceProviderConfig") },
    })
}

pub(super) fn resource_types(base: &str) -> Vec<Value> {
    [("User", "/Users", USER), ("Group", "/Groups", GROUP)]
        .map(|(name, endpoint, schema)| {
            json!({
                "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
                "id": name,
                "name": name,
                "endpoint": endpoint,
                "schema": schema,
                "meta": { "resourceType": "ResourceType", "location": format!("{base}/ResourceTypes/{name}") },
            })
        })
        .into()
}

pub(super) fn schemas(base: &str) -> Vec<Value> {
    let schema = |id: &str, name: &str, attributes: Value| {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": id,
            "name": name,
            "attributes": attributes,
            "meta": { "resourceType": "Schema", "location": format!("{base}/Schemas/{id}") },
        })
    };
    let user = json!([
        text("userName", true, "server"),
        text("externalId", true, "server"),
        text("displayName", false, "none"),
        complex(
            "name",
            false,
            &[text("formatted", false, "none"), text("givenName", false, "none"), text("familyName", false, "none")]
        ),
        complex("emails", true, &[text("value", false, "none"), text("type", false, "none"), flag("primary")]),
        flag("active"),
    ]);
    let group = json!([
        text("displayName", true, "none"),
        text("externalId", false, "server"),
        complex("members", true, &[text("value", true, "none")]),
    ]);
    vec![schema(USER, "User", user), schema(GROUP, "Group", group)]
}

fn text(name: &str, required: bool, uniqueness: &str) -> Value {
    attribute(name, "string", false, required, uniqueness)
}

fn flag(name: &str) -> Value {
    attribute(name, "boolean", false, false, "none")
}

fn complex(name: &str, many: bool, parts: &[Value]) -> Value {
    let mut attribute = attribute(name, "complex", many, false, "none");
    attribute["subAttributes"] = json!(parts);
    attribute
}

fn attribute(name: &str, kind: &str, many: bool, required: bool, uniqueness: &str) -> Value {
    json!({
        "name": name, "type": kind, "multiValued": many, "required": required, "caseExact": false,
        "mutability": if name == "externalId" { "immutable" } else { "readWrite" },
        "returned": "default", "uniqueness": uniqueness,
    })
}
