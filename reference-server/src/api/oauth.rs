//! `/api/v1/oauth`: clients, what people have agreed to, and the keys that sign tokens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use mcp_gateway_auth::server::{
    AdminError, ClientAuthentication, Consent, Grant, GrantType, KnownBy, NewClient, OAuthClient,
};
use mcp_gateway_auth::token::SigningKeyError;
use mcp_gateway_core::contract::StoreError;
use mcp_gateway_core::layer::authenticate::Caller;
use mcp_gateway_core::record::{Principal, Roles, Stored};
use mcp_gateway_core::refusal::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Page, Problem, ProblemDetails, applied, cursor_of, expected, invalid, plain, tagged};
use super::extract::{Document, Nothing, PageParameters, Parameters};
use super::guard::Target;
use super::operation::{ADMINS, in_person};
use super::servers::SubjectView;
use crate::app::App;
use crate::oauth::OAuth;

/// A client that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "name": "Portal", "redirect_uris": ["https://portal.example.com/callback"], "secret": true }))]
pub(super) struct NewClientDocument {
    /// Its name, for people; at most 128 bytes.
    name: String,
    /// Where browsers may be sent back to; none for a client that calls for itself alone.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    redirect_uris: Vec<String>,
    /// Whether it gets a secret, which is shown once.
    #[serde(default)]
    #[schema(value_type = Option<bool>)]
    secret: bool,
    /// A JWK Set: it proves who it is by signatures instead.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    jwks: Option<serde_json::Value>,
    /// What it may do: `authorization_code`, `refresh_token`, `client_credentials`,
    /// `urn:ietf:params:oauth:grant-type:jwt-bearer`, `urn:ietf:params:oauth:grant-type:device_code`. By default the
    /// first two with redirect URIs, else the third.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    grant_types: BTreeSet<GrantType>,
    /// The id of the server that it is, when it is to introspect the tokens that are for it.
    #[serde(default)]
    resource_server: Option<String>,
}

impl NewClientDocument {
    /// Whether it gets anything without a person who agrees.
    fn acts_for_itself(&self) -> bool {
        let by_default = self.grant_types.is_empty() && self.redirect_uris.is_empty();
        let own = |grant: &GrantType| matches!(grant, GrantType::ClientCredentials | GrantType::JwtBearer);
        by_default || self.grant_types.iter().any(own) || self.resource_server.is_some()
    }
}

/// A client.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "u7uLwVpVb2m8uS0v2cF3mP9Qx8kHn1tYf6rJqE4zA0w",
    "name": "Portal",
    "known_by": "operator",
    "redirect_uris": ["https://portal.example.com/callback"],
    "authentication": "client_secret",
    "grant_types": ["authorization_code", "refresh_token"],
    "resource_server": null,
    "issuer": null,
    "state": "usable",
    "created_at": "2026-11-20T12:00:00Z",
    "used_at": null
}))]
pub(super) struct ClientView {
    /// Its id; for one that is known by its document the document's URL.
    id: String,
    /// What it says its name is.
    name: Option<String>,
    /// `operator`, `registration` or `document`.
    known_by: String,
    /// Where browsers may be sent back to.
    redirect_uris: Vec<String>,
    /// How it proves who it is: `none`, `client_secret` or `private_key_jwt`.
    authentication: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    grant_types: Vec<GrantType>,
    /// The id of the server that it is, when it may introspect the tokens that are for it.
    resource_server: Option<String>,
    /// The id of the server with whose own issuer it has registered.
    issuer: Option<String>,
    /// `usable`, `pending` until it is approved, or `blocked`.
    state: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When a person last agreed to it, up to a day behind.
    #[schema(value_type = Option<String>, format = DateTime)]
    used_at: Option<Timestamp>,
}

/// A client that was just made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "client_secret": "…",
    "id": "u7uLwVpVb2m8uS0v2cF3mP9Qx8kHn1tYf6rJqE4zA0w",
    "name": "Portal",
    "known_by": "operator",
    "redirect_uris": ["https://portal.example.com/callback"],
    "authentication": "client_secret",
    "grant_types": ["authorization_code", "refresh_token"],
    "resource_server": null,
    "issuer": null,
    "state": "usable",
    "created_at": "2026-11-20T12:00:00Z",
    "used_at": null
}))]
pub(super) struct CreatedClientView {
    /// Its secret, if it has one: shown once, kept nowhere.
    client_secret: Option<String>,
    #[serde(flatten)]
    about: ClientView,
}

/// What a client may do in a person's name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "u7uLwVpVb2m8uS0v2cF3mP9Qx8kHn1tYf6rJqE4zA0w",
    "subject": { "issuer": "local", "id": "ada" },
    "client_id": "https://claude.ai/oauth/client.json",
    "server": "github",
    "scope": "mcp",
    "created_at": "2026-11-20T12:00:00Z",
    "refreshed_at": "2026-11-21T12:00:00Z",
    "ends_at": "2027-05-19T12:00:00Z"
}))]
pub(super) struct GrantView {
    /// Its id.
    id: String,
    /// Whose rights.
    subject: SubjectView,
    /// Which client has them.
    client_id: String,
    /// At which server.
    server: String,
    /// For what.
    scope: String,
    /// When the person agreed.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the client last renewed its token.
    #[schema(value_type = String, format = DateTime)]
    refreshed_at: Timestamp,
    /// When it ends at the latest.
    #[schema(value_type = String, format = DateTime)]
    ends_at: Timestamp,
}

/// What a person has agreed to and is not asked about again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "3d3f1c5e0ab95d6f4fd6c3ac2c3d9a40e8d35a3c9f0a0d6e9c1f6a3b2c1d0e9f",
    "subject": { "issuer": "local", "id": "ada" },
    "client_id": "https://claude.ai/oauth/client.json",
    "server": "github",
    "scope": "mcp",
    "redirect_uri": "https://claude.ai/api/mcp/auth_callback",
    "agreed_at": "2026-11-20T12:00:00Z",
    "ends_at": "2027-05-19T12:00:00Z"
}))]
pub(super) struct ConsentView {
    /// Its id.
    id: String,
    /// Who agreed.
    subject: SubjectView,
    /// To which client.
    client_id: String,
    /// At which server.
    server: String,
    /// For what.
    scope: String,
    /// Where the browser is sent back to.
    redirect_uri: String,
    /// When the person was asked.
    #[schema(value_type = String, format = DateTime)]
    agreed_at: Timestamp,
    /// When they are asked again.
    #[schema(value_type = String, format = DateTime)]
    ends_at: Timestamp,
}

impl ConsentView {
    fn of(oauth: &OAuth, Stored { id, value, .. }: Stored<Consent>) -> Self {
        Self {
            id: id.into(),
            ends_at: oauth.server.consent_ends_at(&value),
            subject: SubjectView::of(&value.subject),
            client_id: value.client_id,
            server: value.server,
            scope: value.scope,
            redirect_uri: value.redirect_uri,
            agreed_at: value.agreed_at,
        }
    }
}

impl ClientView {
    fn of(oauth: &OAuth, kept: Stored<OAuthClient>) -> Self {
        let id = OAuthClient::id_of(&kept).to_owned();
        Self::named(oauth, id, kept.value)
    }

    fn named(oauth: &OAuth, id: String, client: OAuthClient) -> Self {
        let state = match () {
            () if client.blocked => "blocked",
            () if oauth.server.may_be_used(&client) => "usable",
            () => "pending",
        };
        let known_by = match client.known_by {
            KnownBy::Operator => "operator",
            KnownBy::Registration => "registration",
            _ => "document",
        };
        let authentication = match client.authentication {
            ClientAuthentication::None => "none",
            ClientAuthentication::Secret { .. } => "client_secret",
            _ => "private_key_jwt",
        };
        Self {
            id,
            name: client.name,
            known_by: known_by.to_owned(),
            redirect_uris: client.redirect_uris,
            authentication: authentication.to_owned(),
            grant_types: client.grants,
            resource_server: client.resource_server,
            issuer: client.issuer,
            state: state.to_owned(),
            created_at: client.created_at,
            used_at: client.used_at,
        }
    }
}

impl GrantView {
    fn of(Stored { id, value, .. }: Stored<Grant>) -> Self {
        Self {
            id: id.into(),
            subject: SubjectView::of(&value.subject),
            client_id: value.client_id,
            server: value.server,
            scope: value.scope,
            created_at: value.created_at,
            refreshed_at: value.rotated_at,
            ends_at: value.ends_at,
        }
    }
}

/// Lists the clients, in the order of ids.
#[utoipa::path(get, path = "/api/v1/oauth/clients", tag = "oauth", params(PageParameters),
    responses((status = 200, description = "A page of clients.", body = Page<ClientView>)))]
pub(super) async fn clients(
    State(app): State<Arc<App>>,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    let (found, next) = oauth.server.clients(page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(|kept| ClientView::of(oauth, kept)).collect();
    tagged(&headers, None, &Page::<ClientView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Makes a client that needs no approval. Its secret is shown in the answer alone.
#[utoipa::path(post, path = "/api/v1/oauth/clients", tag = "oauth", request_body = NewClientDocument,
    responses((status = 201, description = "The client.", body = CreatedClientView, headers(("Location" = String, description = "Where it can be read."))), (status = 422, description = "A field is wrong.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn create_client(
    State(app): State<Arc<App>>,
    caller: Caller,
    Document(new): Document<NewClientDocument>,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    if new.acts_for_itself() {
        // Made by a key, it would outlive that key's revocation.
        let fresh = Duration::from_secs(app.config.login.fresh_seconds);
        in_person(ADMINS).check(&caller.0, app.clock.now(), fresh)?;
    }
    let mut client = NewClient::named(new.name);
    client.redirect_uris = new.redirect_uris;
    client.secret = new.secret;
    client.keys = new.jwks.map(|keys| keys.to_string());
    client.grants = new.grant_types;
    client.resource_server = new.resource_server;
    let created = oauth.server.create_client(client).await?;
    applied(&app, created.revision).await;
    let location = HeaderValue::from_str(&format!("/api/v1/oauth/clients/{}", created.id));
    let about = ClientView::named(oauth, created.id.clone(), created.client);
    let client_secret = created.secret.map(|secret| secret.expose().to_owned());
    let mut response = plain(StatusCode::CREATED, &CreatedClientView { client_secret, about })?;
    response.headers_mut().insert(LOCATION, location.unwrap_or(HeaderValue::from_static("/")));
    response.extensions_mut().insert(Target(created.id.into()));
    Ok(response)
}

/// Reads one client.
#[utoipa::path(get, path = "/api/v1/oauth/clients/{id}", tag = "oauth", params(("id" = String, Path, description = "The client's id; a URL percent-encoded.")),
    responses((status = 200, description = "The client.", body = ClientView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn client(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    let stored = oauth.server.client(&id).await?.ok_or_else(absent)?;
    let revision = Some(stored.revision);
    tagged(&headers, revision, &ClientView::of(oauth, stored))
}

/// Approves a client that waits: it may be used, wherever it sends browsers, as long as it says the same of itself. With
/// `If-Match`, only what was shown under that tag.
#[utoipa::path(post, path = "/api/v1/oauth/clients/{id}/approve", tag = "oauth", params(("id" = String, Path, description = "The client's id; a URL percent-encoded."), ("If-Match" = Option<String>, Header, description = "The tag of the version that was looked at.")),
    responses((status = 200, description = "The client.", body = ClientView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 412, description = "It is another version.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn approve(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    oauth.server.approve_client(&id, expected(&headers)?).await?;
    let client = oauth.server.client(&id).await.map_err(StoreError::halfway)?.ok_or_else(absent)?;
    plain(StatusCode::OK, &ClientView::of(oauth, client))
}

/// Lets a blocked client in again.
#[utoipa::path(post, path = "/api/v1/oauth/clients/{id}/unblock", tag = "oauth", params(("id" = String, Path, description = "The client's id; a URL percent-encoded.")),
    responses((status = 200, description = "The client.", body = ClientView), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn unblock(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    oauth.server.client(&id).await?.ok_or_else(absent)?;
    oauth.server.unblock_client(&id).await?;
    let client = oauth.server.client(&id).await.map_err(StoreError::halfway)?.ok_or_else(absent)?;
    plain(StatusCode::OK, &ClientView::of(oauth, client))
}

/// Blocks a client, one that has never been used too: what it has ends at every replica within a second.
#[utoipa::path(post, path = "/api/v1/oauth/clients/{id}/block", tag = "oauth", params(("id" = String, Path, description = "The client's id; a URL percent-encoded.")),
    responses((status = 200, description = "The client.", body = ClientView)))]
pub(super) async fn block(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    oauth.server.block_client(&id).await?;
    let client = oauth.server.client(&id).await.map_err(StoreError::halfway)?.ok_or_else(absent)?;
    plain(StatusCode::OK, &ClientView::of(oauth, client))
}

/// Deletes a client, and ends what it has at every replica. One that is known by its document can come again: block a
/// client that is to stay away. A blocked one is unblocked before it is deleted.
#[utoipa::path(delete, path = "/api/v1/oauth/clients/{id}", tag = "oauth", params(("id" = String, Path, description = "The client's id; a URL percent-encoded.")),
    responses((status = 204, description = "The client is gone."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json"), (status = 409, description = "The client is blocked.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn delete_client(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    oauth(&app)?.server.delete_client(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Lists what clients may do in the caller's name; for an admin or auditor, in everybody's.
#[utoipa::path(get, path = "/api/v1/oauth/grants", tag = "oauth", params(PageParameters),
    responses((status = 200, description = "A page of grants.", body = Page<GrantView>)))]
pub(super) async fn grants(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let of = (!sees_all(&caller.0)).then_some(&caller.0.subject);
    let (found, next) = oauth(&app)?.server.grants(of, page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(GrantView::of).collect();
    tagged(&headers, None, &Page::<GrantView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Ends a grant: the client has to ask again. When the answer is 204, no call that this gateway process gets later is
/// accepted with a token of it.
#[utoipa::path(delete, path = "/api/v1/oauth/grants/{id}", tag = "oauth", params(("id" = String, Path, description = "The grant's id.")),
    responses((status = 204, description = "It has ended."), (status = 202, description = "It has ended in the store, which this process cannot hear at the moment."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn end_grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    let found = oauth.server.grant(&id).await?;
    // What is somebody else's is not there for who may not end it.
    let own = found.filter(|grant| ends_all(&caller.0) || grant.value.subject == caller.0.subject);
    own.ok_or_else(absent)?;
    let revision = oauth.server.end_grant(&id).await?;
    let status = if applied(&app, revision).await { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED };
    Ok(status.into_response())
}

/// Lists what the caller has agreed to and is not asked about again; for an admin or auditor, what everybody has.
#[utoipa::path(get, path = "/api/v1/oauth/consents", tag = "oauth", params(PageParameters),
    responses((status = 200, description = "A page of consents.", body = Page<ConsentView>)))]
pub(super) async fn consents(
    State(app): State<Arc<App>>,
    caller: Caller,
    Parameters(page): Parameters<PageParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    let of = (!sees_all(&caller.0)).then_some(&caller.0.subject);
    let (found, next) = oauth.server.consents(of, page.after()?.as_deref(), page.limit()?).await?;
    let items = found.into_iter().map(|kept| ConsentView::of(oauth, kept)).collect();
    tagged(&headers, None, &Page::<ConsentView> { items, next_cursor: next.as_deref().map(cursor_of) })
}

/// Forgets a consent: the person is asked again. What the client has by it goes on until its grant is ended.
#[utoipa::path(delete, path = "/api/v1/oauth/consents/{id}", tag = "oauth", params(("id" = String, Path, description = "The consent's id.")),
    responses((status = 204, description = "It is forgotten."), (status = 404, description = "There is none.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn forget_consent(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Nothing: Nothing,
) -> Result<Response, Problem> {
    let oauth = oauth(&app)?;
    let found = oauth.server.consent(&id).await?;
    // What is somebody else's is not there for who may not forget it.
    let own = found.filter(|consent| ends_all(&caller.0) || consent.value.subject == caller.0.subject);
    own.ok_or_else(absent)?;
    oauth.server.forget_consent(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Makes the next signing key of access tokens and of tokens for servers, which is published at once and signs in 10
/// minutes. Nobody notices.
#[utoipa::path(post, path = "/api/v1/oauth/signing-keys/rotate", tag = "oauth",
    responses((status = 204, description = "It is made."), (status = 409, description = "Every key of the full ring may still be needed.", body = ProblemDetails, content_type = "application/problem+json")))]
pub(super) async fn rotate_keys(State(app): State<Arc<App>>, Nothing: Nothing) -> Result<Response, Problem> {
    if let Some(oauth) = &app.oauth {
        oauth.keys.rotate().await?;
    }
    app.upstream_keys.rotate().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Replaces every signing key of access tokens and of tokens for servers at once, for when one may have leaked. Every
/// access token ends; clients renew theirs.
#[utoipa::path(post, path = "/api/v1/oauth/signing-keys/replace", tag = "oauth",
    responses((status = 204, description = "They are replaced: here at once, on other replicas when their feed says so.")))]
pub(super) async fn replace_keys(State(app): State<Arc<App>>, Nothing: Nothing) -> Result<Response, Problem> {
    if let Some(oauth) = &app.oauth {
        oauth.keys.rotate_now().await?;
    }
    app.upstream_keys.rotate_now().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn oauth(app: &App) -> Result<&OAuth, Problem> {
    let off = || Refusal::new(StatusCode::NOT_FOUND, "This gateway gives no tokens: oauth.enabled is false.");
    Ok(app.oauth.as_ref().ok_or_else(off)?)
}

pub(super) fn sees_all(caller: &Principal) -> bool {
    let held = caller.roles.with_included();
    held.contains(Roles::ADMIN) || held.contains(Roles::AUDITOR)
}

pub(super) fn ends_all(caller: &Principal) -> bool {
    caller.roles.with_included().contains(Roles::ADMIN)
}

fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "There is none of this id.")
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Store(error) => error.into(),
            AdminError::Invalid { field, problem } => invalid(field, format!("`{field}` {problem}.")).into(),
            AdminError::Blocked => {
                Refusal::new(StatusCode::CONFLICT, "The client is blocked. Unblock it before it is deleted.").into()
            }
            _ => absent().into(),
        }
    }
}

impl From<SigningKeyError> for Problem {
    fn from(error: SigningKeyError) -> Self {
        match error {
            SigningKeyError::Store(error) => error.into(),
            SigningKeyError::TooSoon { .. } => {
                let text = error.to_string();
                let (first, rest) = text.split_at(1);
                Refusal::new(StatusCode::CONFLICT, format!("{}{rest}.", first.to_uppercase())).into()
            }
            error => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "No key can be made here.").because(error).into(),
        }
    }
}
