//! An OAuth client that does what an MCP client does, step by step.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::browser::{Browser, parameters};
use super::http::{Answer, Call};
use super::{Gateway, Key};

pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const REDIRECT: &str = "http://127.0.0.1:33418/callback";

/// A client that is known to a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
    pub(crate) metadata: Value,
    pub(crate) redirect: String,
}

/// What the token endpoint gave.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Tokens {
    #[track_caller]
    pub(crate) fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }

    /// As what calls are made with.
    pub(crate) fn key(&self) -> Key {
        Key { id: String::new(), secret: self.access.clone() }
    }
}

impl Client {
    /// Finds everything out from the server's 401 on, and registers.
    pub(crate) async fn register(gateway: &Gateway, server: &str) -> Self {
        let metadata = discover(gateway, server).await;
        let path = path_of(gateway, metadata["registration_endpoint"].as_str().unwrap());
        let body = json!({ "client_name": "Laptop", "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token"] });
        let call = Call::post(&path, body.to_string()).header("content-type", "application/json");
        let answer = call.send(gateway.address).await.expect(201).json();
        let id = answer["client_id"].as_str().unwrap().to_owned();
        Self { id, secret: None, metadata, redirect: REDIRECT.to_owned() }
    }

    /// What the browser is to open.
    pub(crate) fn authorization_url(&self, resource: Option<&str>) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.id)
            .append_pair("redirect_uri", &self.redirect)
            .append_pair("state", "of the client")
            .append_pair("scope", "mcp offline_access")
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if let Some(resource) = resource {
            query.append_pair("resource", resource);
        }
        format!("{}?{}", self.metadata["authorization_endpoint"].as_str().unwrap(), query.finish())
    }

    /// A post to an endpoint, with what proves who the client is.
    pub(crate) async fn post(&self, gateway: &Gateway, endpoint: &str, fields: &[(&str, &str)]) -> Answer {
        let path = path_of(gateway, self.metadata[endpoint].as_str().unwrap());
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(fields).append_pair("client_id", &self.id);
        if let Some(secret) = &self.secret {
            body.append_pair("client_secret", secret);
        }
        let call = Call::post(&path, body.finish()).header("content-type", "application/x-www-form-urlencoded");
        call.send(gateway.address).await
    }

    pub(crate) async fn redeem(&self, gateway: &Gateway, code: &str) -> Answer {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", &*self.redirect),
        ];
        self.post(gateway, "token_endpoint", &fields).await
    }

    pub(crate) async fn refresh(&self, gateway: &Gateway, token: &str) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.post(gateway, "token_endpoint", &fields).await
    }

    pub(crate) async fn revoke(&self, gateway: &Gateway, token: &str) -> Answer {
        self.post(gateway, "revocation_endpoint", &[("token", token)]).await
    }

    /// The whole way: the browser's owner agrees, and the client has tokens.
    pub(crate) async fn connect(&self, gateway: &Gateway, browser: &mut Browser, server: &str) -> Tokens {
        let resource = format!("http://{}/mcp-connect/{server}", gateway.address);
        let page = browser.open(&self.authorization_url(Some(&resource))).await.expect(200);
        let answer = browser.decide(&page, "allow", None).await;
        let code = parameters(&answer).remove("code").expect("a code");
        Tokens::of(&self.redeem(gateway, &code).await)
    }
}

/// From a server's 401 by its metadata to that of its issuer.
pub(crate) async fn discover(gateway: &Gateway, server: &str) -> Value {
    let refused = Call::post(&format!("/mcp-connect/{server}"), "{}").send(gateway.address).await.expect(401);
    let challenge = refused.header("www-authenticate");
    let url = challenge.split("resource_metadata=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let document = Call::get(&path_of(gateway, url)).send(gateway.address).await.expect(200).json();
    assert_eq!(document["resource"], format!("http://{}/mcp-connect/{server}", gateway.address));
    let issuer = document["authorization_servers"][0].as_str().unwrap();
    let path = path_of(gateway, issuer);
    let at = format!("/.well-known/oauth-authorization-server{path}");
    let metadata = Call::get(&at).send(gateway.address).await.expect(200).json();
    assert_eq!(metadata["issuer"], issuer, "byte for byte");
    metadata
}

/// The path of a URL of the gateway's.
#[track_caller]
pub(crate) fn path_of(gateway: &Gateway, url: &str) -> String {
    let origin = format!("http://{}", gateway.address);
    url.strip_prefix(&origin).unwrap_or_else(|| panic!("{url} is not at {origin}")).to_owned()
}
