//! The calls that the gateway makes to an issuer.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};
use jiff::Timestamp;
use mcp_gateway_core::egress::{Fetch, Fetched};
use mcp_gateway_core::record::Secret;
use serde::Deserialize;

use super::challenge::scopes;
use super::discovery::Issuer;
use super::error::foreign;
use super::record::ClientAtIssuer;
use super::{AccountError, AccountLimits};

/// What an issuer gives.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) access_token: Secret,
    pub(super) refresh_token: Option<Secret>,
    pub(super) expires_at: Option<Timestamp>,
    /// `None`: what was asked for.
    pub(super) scopes: Option<Vec<String>>,
}

/// Asks the token endpoint (RFC 6749 §3.2).
///
/// # Errors
/// [`AccountError::Refused`] with the issuer's word when it says no; everything else may come right again.
pub(super) async fn tokens(
    fetch: &dyn Fetch,
    endpoint: &str,
    client: &ClientAtIssuer,
    fields: &[(&str, &str)],
    now: Timestamp,
) -> Result<Tokens, AccountError> {
    // A form is no value that may be held while somebody else answers.
    let request = posted(endpoint, client, fields)?;
    let answer = fetch.fetch(request).await.map_err(foreign)?;
    read(&answer, now)
}

fn read(answer: &Fetched, now: Timestamp) -> Result<Tokens, AccountError> {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    #[derive(Deserialize)]
    struct Given {
        access_token: Secret,
        token_type: String,
        #[serde(default)]
        expires_in: Option<Seconds>,
        #[serde(default)]
        refresh_token: Option<Secret>,
        #[serde(default)]
        scope: Option<String>,
    }
    /// Some write a text.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(f64),
        Text(String),
    }
    // Some say with status 200 that they refuse.
    if let Ok(Refused { error }) = serde_json::from_slice(&answer.body)
        && !answer.status.is_server_error()
    {
        return Err(AccountError::Refused(word(&error)));
    }
    if answer.status != StatusCode::OK {
        return Err(foreign(format!("its token endpoint answers {}", answer.status)));
    }
    // The text of an error could hold a token.
    let given: Given =
        serde_json::from_slice(&answer.body).map_err(|_| foreign("its token endpoint answers something else"))?;
    if !given.token_type.eq_ignore_ascii_case("bearer") {
        return Err(foreign("it gives a token of a type that is not Bearer"));
    }
    let bearer = |token: &Secret| {
        let token = token.expose();
        (1..=AccountLimits::TOKEN).contains(&token.len()) && token.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
    };
    if !bearer(&given.access_token) || given.refresh_token.as_ref().is_some_and(|token| !bearer(token)) {
        return Err(foreign("it gives a token that is too long or no visible ASCII"));
    }
    let seconds = match given.expires_in {
        Some(Seconds::Number(seconds)) => Some(seconds),
        Some(Seconds::Text(text)) => text.parse().ok(),
        None => None,
    };
    let life = seconds.filter(|seconds| *seconds >= 0.0).map(|seconds| Duration::from_secs_f64(seconds.min(1e9)));
    Ok(Tokens {
        access_token: given.access_token,
        refresh_token: given.refresh_token,
        expires_at: life.map(|life| now.saturating_add(life).unwrap_or(Timestamp::MAX)),
        scopes: given.scope.as_deref().map(scopes),
    })
}

/// Gives a token back (RFC 7009 §2.1).
pub(super) async fn revoke(
    fetch: &dyn Fetch,
    endpoint: &str,
    client: &ClientAtIssuer,
    token: &Secret,
    kind: &str,
) -> Result<(), AccountError> {
    let fields = [("token", token.expose()), ("token_type_hint", kind)];
    let request = posted(endpoint, client, &fields)?;
    let mut status = fetch.fetch(request).await.map_err(foreign)?.status;
    if let Some(secret) = client.secret.as_ref().filter(|_| client.basic && status == StatusCode::BAD_REQUEST) {
        // The Python SDK demands the secret in the form, too, from clients that it wants to have it in the header.
        let [token, kind] = fields;
        let request = posted(endpoint, client, &[token, kind, ("client_secret", secret.expose())])?;
        status = fetch.fetch(request).await.map_err(foreign)?.status;
    }
    match status {
        StatusCode::OK => Ok(()),
        status => Err(foreign(format!("its revocation endpoint answers {status}"))),
    }
}

/// Registers the gateway (RFC 7591 §3); with the client comes when its secret ends.
pub(super) async fn register(
    fetch: &dyn Fetch,
    issuer: &Issuer,
    endpoint: &str,
    name: &str,
    redirect_uri: &str,
) -> Result<(ClientAtIssuer, Option<Timestamp>), AccountError> {
    // With a secret where there can be one: who reads a code still needs it.
    let method = match () {
        () if issuer.basic => "client_secret_basic",
        () if issuer.post => "client_secret_post",
        () => "none",
    };
    let document = serde_json::json!({
        "client_name": name,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "web",
        "token_endpoint_auth_method": method,
    });
    let request = Request::post(endpoint)
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Bytes::from(document.to_string()))
        .map_err(foreign)?;
    let answer = fetch.fetch(request).await.map_err(foreign)?;
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    #[derive(Deserialize)]
    struct Registered {
        client_id: String,
        #[serde(default)]
        client_secret: Option<Secret>,
        #[serde(default)]
        client_secret_expires_at: i64,
        #[serde(default)]
        token_endpoint_auth_method: Option<String>,
    }
    if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
        return Err(match serde_json::from_slice(&answer.body) {
            Ok(Refused { error }) => AccountError::Refused(word(&error)),
            Err(_) => foreign(format!("its registration endpoint answers {}", answer.status)),
        });
    }
    let registered: Registered = serde_json::from_slice(&answer.body)
        .map_err(|_| foreign("its registration endpoint answers something else"))?;
    if registered.client_id.is_empty() || registered.client_id.len() > 2_048 {
        return Err(foreign("it gives no client id, or one that is too long"));
    }
    let given = registered.token_endpoint_auth_method.as_deref().unwrap_or(method);
    let ends_at = (registered.client_secret_expires_at > 0)
        .then(|| Timestamp::from_second(registered.client_secret_expires_at).ok())
        .flatten();
    let client = ClientAtIssuer {
        id: registered.client_id,
        secret: registered.client_secret.filter(|_| given != "none"),
        basic: given == "client_secret_basic",
    };
    Ok((client, ends_at))
}

/// A form with what proves who the gateway is.
fn posted(endpoint: &str, client: &ClientAtIssuer, fields: &[(&str, &str)]) -> Result<Request<Bytes>, AccountError> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    // Beside the header, too: the Python SDK looks clients up by the form alone.
    form.extend_pairs(fields).append_pair("client_id", &client.id);
    let mut request = Request::post(endpoint)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json");
    match &client.secret {
        Some(secret) if client.basic => request = request.header(AUTHORIZATION, basic(&client.id, secret)?),
        Some(secret) => {
            form.append_pair("client_secret", secret.expose());
        }
        None => {}
    }
    request.body(Bytes::from(form.finish())).map_err(foreign)
}

/// RFC 6749 §2.3.1: both parts are form-encoded before they are joined.
fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, AccountError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret.expose()))));
    let mut value = HeaderValue::try_from(text).map_err(foreign)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A foreign error code: what else stands there is shown to nobody.
pub(super) fn word(error: &str) -> String {
    error.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).take(64).collect()
}
