//! The calls that the gateway makes to a provider.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use mcp_gateway_core::BoxError;
use mcp_gateway_core::egress::Fetch;
use mcp_gateway_core::record::Secret;
use serde::Deserialize;
use serde_json::Value;

use super::error::invalid;
use super::person::{self, Claims};
use super::{OidcError, ProviderOptions};

/// What a code is exchanged for.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) access_token: Secret,
    #[serde(default)]
    pub(super) id_token: Option<Secret>,
    #[serde(default)]
    pub(super) refresh_token: Option<Secret>,
}

/// Gets new tokens for a refresh token (RFC 6749 §6).
///
/// # Errors
/// [`OidcError::Denied`] when the provider takes it no more: the person, or what they have agreed to, is gone there.
pub(super) async fn refresh(
    fetch: &dyn Fetch,
    provider: &ProviderOptions,
    endpoint: &str,
    basic: bool,
    token: &Secret,
) -> Result<Tokens, OidcError> {
    let request = {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.expose());
        posted(endpoint, basic, provider, form)?
    };
    let answer = fetch.fetch(request).await.map_err(failed)?;
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    match serde_json::from_slice(&answer.body) {
        // Nothing else says so: `invalid_client`, for instance, is a mistake of ours.
        Ok(Refused { error }) if error == "invalid_grant" => Err(OidcError::Denied(error)),
        Ok(Refused { error }) => Err(failed(format!("it gives no new token: {}", error.escape_default()))),
        Err(_) if answer.status != StatusCode::OK => {
            Err(failed(format!("its token endpoint answers {}", answer.status)))
        }
        Err(_) => serde_json::from_slice(&answer.body).map_err(|_| failed("its token endpoint answers something else")),
    }
}

/// Gives a refresh token back (RFC 7009 §2.1).
pub(super) async fn revoke(
    fetch: &dyn Fetch,
    provider: &ProviderOptions,
    endpoint: &str,
    basic: bool,
    token: &Secret,
) -> Result<(), OidcError> {
    let request = {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token.expose()).append_pair("token_type_hint", "refresh_token");
        posted(endpoint, basic, provider, form)?
    };
    match fetch.fetch(request).await.map_err(failed)?.status {
        StatusCode::OK => Ok(()),
        status => Err(failed(format!("its revocation endpoint answers {status}"))),
    }
}

/// A form with what proves who the gateway is.
fn posted(
    endpoint: &str,
    basic_first: bool,
    provider: &ProviderOptions,
    mut form: form_urlencoded::Serializer<'_, String>,
) -> Result<Request<Bytes>, OidcError> {
    let mut request = Request::post(endpoint)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json");
    match &provider.client_secret {
        Some(secret) if basic_first => request = request.header(AUTHORIZATION, basic(&provider.client_id, secret)?),
        secret => {
            form.append_pair("client_id", &provider.client_id);
            if let Some(secret) = secret {
                form.append_pair("client_secret", secret.expose());
            }
        }
    }
    request.body(Bytes::from(form.finish())).map_err(failed)
}

/// A code, and where it is to be exchanged.
pub(super) struct Exchange<'a> {
    pub(super) endpoint: &'a str,
    /// Whether the secret goes into the header (`client_secret_basic`) or the body (`client_secret_post`).
    pub(super) basic: bool,
    pub(super) code: &'a str,
    pub(super) redirect_uri: &'a str,
    pub(super) verifier: &'a Secret,
}

impl Exchange<'_> {
    /// Exchanges it (RFC 6749 §4.1.3, RFC 7636 §4.5).
    pub(super) async fn send(self, fetch: &dyn Fetch, provider: &ProviderOptions) -> Result<Tokens, OidcError> {
        let answer = fetch.fetch(self.request(provider)?).await.map_err(failed)?;
        if answer.status.is_server_error() {
            return Err(failed(format!("its token endpoint answers {}", answer.status)));
        }
        #[derive(Deserialize)]
        struct Refused {
            error: String,
        }
        // GitHub says with status 200 that a code is wrong.
        if let Ok(Refused { error }) = serde_json::from_slice(&answer.body) {
            tracing::warn!(provider = provider.name, error = %error.escape_default(), "a code is not exchanged");
            return invalid("the identity provider does not take the code");
        }
        if answer.status != StatusCode::OK {
            return invalid("the identity provider does not take the code");
        }
        // The text of an error could hold a token.
        serde_json::from_slice(&answer.body).map_err(|_| failed("its token endpoint answers something else"))
    }

    fn request(&self, provider: &ProviderOptions) -> Result<Request<Bytes>, OidcError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", self.code)
            .append_pair("redirect_uri", self.redirect_uri)
            .append_pair("code_verifier", self.verifier.expose());
        posted(self.endpoint, self.basic, provider, form)
    }
}

/// Asks with an access token for JSON.
pub(super) async fn ask(fetch: &dyn Fetch, url: &str, access_token: &Secret) -> Result<Value, OidcError> {
    let request = Request::get(url)
        .header(ACCEPT, "application/json")
        // GitHub answers nobody without a name.
        .header(USER_AGENT, "mcp-gateway")
        .header(AUTHORIZATION, sensitive(format!("Bearer {}", access_token.expose()))?)
        .body(Bytes::new())
        .map_err(failed)?;
    let answer = fetch.fetch(request).await.map_err(failed)?;
    if answer.status != StatusCode::OK {
        return Err(failed(format!("{url}: status {}", answer.status)));
    }
    serde_json::from_slice(&answer.body).map_err(|_| failed(format!("{url}: no JSON")))
}

/// Adds what userinfo says and the ID token does not (Core §5.3.2): it must be about the same person.
pub(super) async fn add_userinfo(
    fetch: &dyn Fetch,
    url: &str,
    access_token: &Secret,
    subject: &str,
    claims: &mut Claims,
) -> Result<(), OidcError> {
    let Value::Object(said) = ask(fetch, url, access_token).await? else {
        return invalid("userinfo is no object");
    };
    if said.get("sub").and_then(Value::as_str) != Some(subject) {
        return invalid("userinfo is about another person");
    }
    person::merge(claims, said);
    Ok(())
}

/// RFC 6749 §2.3.1: both parts are form-encoded before they are joined.
fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, OidcError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    sensitive(format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(client_id), encode(secret.expose())))))
}

fn sensitive(text: String) -> Result<HeaderValue, OidcError> {
    let mut value = HeaderValue::try_from(text).map_err(|_| failed("its token is no text of a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn failed(error: impl Into<BoxError>) -> OidcError {
    OidcError::Provider(error.into())
}
