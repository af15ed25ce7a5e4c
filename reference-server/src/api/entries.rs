//! `/api/v1/entries`: the catalog.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use mcp_gateway_core::catalog::compile;
use mcp_gateway_core::contract::{Cursor, Query, Record, Revision, StoreErrorKind};
use mcp_gateway_core::record::{Entry, Resource, Resources, Stored, TenantId};
use mcp_gateway_core::refusal::Refusal;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, cursor_of, tagged};
use super::extract::{PageParameters, Parameters};
use crate::app::App;

/// A catalog entry.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "github",
    "name": "GitHub",
    "url": "https://gateway.example/mcp-connect/github",
    "revision": 42,
    "served": true,
    "problem": null,
    "entry": {
        "entryKey": "github",
        "name": "GitHub",
        "serverUserType": "multiUser",
        "runtime": "remote",
        "remoteConfig": {
            "fixedURL": "https://api.githubcopilot.com/mcp/",
            "headers": [{ "key": "Authorization", "sensitive": true, "required": true, "hasValue": true }]
        }
    }
}))]
pub(super) struct EntryView {
    /// Its id, the last part of the server's URL.
    id: String,
    /// Its name, for people.
    name: String,
    /// Where MCP clients reach the server.
    url: String,
    /// The revision that wrote it: its `ETag`.
    revision: u64,
    /// Whether the entry is sound, so that its server can be reached.
    served: bool,
    /// What is wrong with it, if it is not.
    problem: Option<String>,
    /// The entry as in a catalog file. The values of headers and of sensitive variables are replaced by `hasValue`.
    #[schema(value_type = Object)]
    entry: Value,
}

/// Lists the catalog, in the order of ids.
#[utoipa::path(get, path = "/api/v1/entries", tag = "catalog", params(PageParameters),
    responses((status = 200, description = "A page of entries.", body = Page<EntryView>)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = TenantId::default();
    let after = page.after()?.map(|id| Cursor { tenant: tenant.clone(), id: id.into() });
    let query = Query { tenant: Some(tenant), kind: Entry::KIND, term: None, after, limit: page.limit()? };
    let found = app.resources.list(&query).await?;
    let items = found.records.iter().filter_map(|record| view(&app, record).transpose()).collect::<Result<_, _>>()?;
    let next_cursor = found.next.map(|cursor| cursor_of(&cursor.id));
    tagged(&headers, None, &Page::<EntryView> { items, next_cursor })
}

/// Reads one entry.
#[utoipa::path(get, path = "/api/v1/entries/{id}", tag = "catalog", params(("id" = String, Path, description = "The entry's id.")),
    responses((status = 200, description = "The entry.", body = EntryView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let entries = Resources::<Entry>::new(Arc::clone(&app.resources), Arc::clone(&app.sealer), TenantId::default());
    let found = if is_label(&id) { app.resources.get(&[entries.key(&id)]).await?.pop().flatten() } else { None };
    let entry = found.as_ref().map(|record| view(&app, record)).transpose()?.flatten();
    let Some(entry) = entry else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "There is no entry of this id.").into());
    };
    tagged(&headers, Some(Revision(entry.revision)), &entry)
}

/// What an entry's id looks like (RFC 1123 label); no other is asked for.
pub(super) fn is_label(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// `None` for a record that cannot be read: it is logged and must not hide the others.
fn view(app: &App, record: &Record) -> Result<Option<EntryView>, Problem> {
    let stored = match Stored::<Entry>::decode(record, &*app.sealer) {
        Ok(stored) => stored,
        Err(error) if error.kind() == StoreErrorKind::Corrupt => {
            tracing::error!(%error, id = %record.key.id, "an entry cannot be read; it is left out");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let problem = compile(&stored.value, &app.mount).err().map(|error| error.to_string());
    Ok(Some(EntryView {
        url: app.mount.resource(&stored.id).url.to_string(),
        name: stored.value.name.clone(),
        revision: stored.revision.0,
        served: problem.is_none(),
        problem,
        entry: shown(&stored.value),
        id: stored.id.into(),
    }))
}

/// The entry as JSON, without what is secret.
fn shown(entry: &Entry) -> Value {
    let mut json = serde_json::to_value(entry).unwrap_or_default();
    for variable in json.pointer_mut("/env").and_then(Value::as_array_mut).into_iter().flatten() {
        let sensitive = variable["sensitive"] == json!(true) || variable["key"].as_str().is_none_or(sounds_secret);
        if sensitive {
            hide(variable);
        }
    }
    // What a header carries to a foreign server is a credential more often than not.
    for header in json.pointer_mut("/remoteConfig/headers").and_then(Value::as_array_mut).into_iter().flatten() {
        hide(header);
    }
    if let Some(client) = json.pointer_mut("/remoteConfig/auth/client").and_then(Value::as_object_mut)
        && client.remove("clientSecret").is_some()
    {
        client.insert("hasClientSecret".to_owned(), json!(true));
    }
    if let Some(Value::String(url)) = json.pointer_mut("/remoteConfig/fixedURL") {
        *url = without_secrets(url);
    }
    json
}

fn hide(item: &mut Value) {
    if let Some(item) = item.as_object_mut() {
        let value = item.remove("value");
        item.insert("hasValue".to_owned(), json!(value.is_some_and(|value| value != json!(""))));
    }
}

/// An author may forget to mark a variable as sensitive.
fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "secret", "passw", "key", "auth", "credential", "cookie"].iter().any(|word| name.contains(word))
}

/// A URL without user, password and the values of its query.
fn without_secrets(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let mut shown = match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    };
    for (n, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        shown.push(if n == 0 { '?' } else { '&' });
        shown.push_str(pair.split('=').next().unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let entry: Entry = serde_json::from_value(json!({
            "entryKey": "x", "name": "X", "runtime": "remote",
            "remoteConfig": {
                "fixedURL": "https://user:hunter2@x.example/mcp?api_key=hunter2&v=hunter2",
                "headers": [{ "key": "X-Team", "value": "hunter2" }, { "key": "X-Empty" }],
                "auth": { "type": "oauth", "client": { "type": "static", "issuer": "https://as.example", "clientId": "c", "clientSecret": "hunter2" } },
            },
            "env": [
                { "key": "LEVEL", "value": "debug" },
                { "key": "PLAIN", "value": "hunter2", "sensitive": true },
                { "key": "GITHUB_TOKEN", "value": "hunter2" },
            ],
        }))
        .unwrap();
        let shown = shown(&entry);
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        assert_eq!(shown["env"][0]["value"], "debug");
        assert_eq!((&shown["env"][1]["hasValue"], &shown["env"][2]["hasValue"]), (&json!(true), &json!(true)));
        let headers = &shown["remoteConfig"]["headers"];
        assert_eq!((&headers[0]["hasValue"], &headers[1]["hasValue"]), (&json!(true), &json!(false)));
        assert_eq!(shown["remoteConfig"]["fixedURL"], "https://x.example/mcp?api_key&v");
    }
}
