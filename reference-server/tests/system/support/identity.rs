//! A company's identity provider, and a browser that goes between it and the gateway.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{REDIRECT, VERIFIER};
use super::gateway::Gateway;
use super::http::{Answer, Call};
use super::process::Process;

/// `oidc-provider`, by `tests/identity/start.sh`.
#[derive(Debug)]
pub(crate) struct IdentityProvider {
    _process: Process,
    _stdin: ChildStdin,
    pub(crate) issuer: String,
    pub(crate) address: SocketAddr,
    /// Where its clients' secret is: a gateway that starts again reads it again.
    folder: tempfile::TempDir,
}

impl IdentityProvider {
    pub(crate) fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/identity/start.sh");
        let mut command = Command::new(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = Process::start(&mut command);
        let stdin = process.child().stdin.take().expect("it is piped");
        let stdout = process.child().stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let issuer = line.trim().to_owned();
        let address = issuer.strip_prefix("http://").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("the identity provider said {line:?}"));
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("secret"), "not a secret\n").unwrap();
        Self { _process: process, _stdin: stdin, issuer, address, folder }
    }

    /// A gateway that people sign in to with it, as `company`; `more` are further members of the provider's settings.
    pub(crate) async fn gateway(&self, more: Value) -> Gateway {
        self.gateway_with(more, &[], &[]).await
    }

    /// The same with these entries and further settings.
    pub(crate) async fn gateway_with(&self, more: Value, entries: &[String], further: &[(&str, &str)]) -> Gateway {
        let secret = self.secret();
        let mut provider = json!({
            "name": "company", "title": "Company", "issuer": self.issuer, "client_id": "gateway",
            "client_secret_file": secret, "scopes": ["openid", "profile", "email", "groups"],
            "groups_claim": "groups", "email_domains": ["a.example"],
        });
        let more = more.as_object().expect("settings are an object").clone();
        provider.as_object_mut().expect("it is one").extend(more);
        let providers = json!([provider]).to_string();
        let settings = [
            ("LOGIN__PROVIDERS", &*providers),
            ("EGRESS__IDENTITY__ALLOW", "127.0.0.0/8"),
            ("RUNTIME__PROCESS__ENABLED", "false"),
            ("ROLES__OWNERS", "owner@a.example"),
        ];
        let gateway = Gateway::start_with(entries, &[&settings, further].concat()).await;
        self.tell(json!({ "client": format!("http://{}", gateway.address) })).await;
        gateway
    }

    /// Whoever comes next is this account.
    pub(crate) async fn account(&self, account: Value) {
        self.tell(json!({ "account": account })).await;
    }

    /// Other keys sign from now on.
    pub(crate) async fn rotate(&self) {
        self.tell(json!({ "rotate": true })).await;
    }

    /// The file with the secret of its client `gateway`.
    pub(crate) fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Access tokens for resources are of this format (`jwt`, `opaque`) and audience from now on.
    pub(crate) async fn tokens(&self, format: &str, audience: Option<&str>) {
        self.tell(json!({ "tokens": { "format": format, "audience": audience } })).await;
    }

    /// A JWT with its key.
    pub(crate) async fn sign(&self, header: Value, claims: Value) -> String {
        let answer = self.tell(json!({ "sign": { "header": header, "claims": claims } })).await;
        answer.json()["jwt"].as_str().unwrap().to_owned()
    }

    /// An access token for this resource, which its client `cli` has got in the name of whoever is at the browser.
    pub(crate) async fn access_token(&self, browser: &mut Browser, resource: &str) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("response_type", "code"),
                ("client_id", "cli"),
                ("redirect_uri", REDIRECT),
                ("scope", "openid mcp"),
                ("code_challenge", &challenge),
                ("code_challenge_method", "S256"),
                ("resource", resource),
            ])
            .finish();
        let (back, _) = browser.follow(&format!("{}/auth?{query}", self.issuer), Some(REDIRECT)).await;
        let (_, query) = back.split_once('?').unwrap();
        let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code");
        let (_, code) = code.unwrap_or_else(|| panic!("no code in {back}"));
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", "cli"),
            ("redirect_uri", REDIRECT),
            ("code", &code),
            ("code_verifier", VERIFIER),
            ("resource", resource),
        ];
        let answer = browser.post(&format!("{}/token", self.issuer), &fields).await.expect(200);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// Its client `cli` gives a token back.
    pub(crate) async fn revoke(&self, token: &str) {
        let fields = [("client_id", "cli"), ("token", token)];
        Browser::default().post(&format!("{}/token/revocation", self.issuer), &fields).await.expect(200);
    }

    /// How many refresh tokens it has given.
    pub(crate) async fn refresh_tokens(&self) -> u64 {
        Call::get("/_test").send(self.address).await.expect(200).json()["refreshTokens"].as_u64().unwrap()
    }

    async fn tell(&self, what: Value) -> Answer {
        Call::post("/_test", what.to_string()).send(self.address).await.expect(200)
    }
}

/// A browser without a screen: cookies for each address, redirects one by one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Browser(BTreeMap<SocketAddr, BTreeMap<String, String>>);

impl Browser {
    /// Sends one request with the cookies of the address, and keeps those of the answer.
    pub(crate) async fn send(&mut self, address: SocketAddr, call: Call) -> Answer {
        let jar = self.0.entry(address).or_default();
        let cookies: Vec<_> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let call = if cookies.is_empty() { call } else { call.header("cookie", &cookies.join("; ")) };
        let answer = call.send(address).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let gone = value.is_empty() || attributes.contains("Max-Age=0") || attributes.contains("1970");
            if gone {
                jar.remove(name)
            } else {
                jar.insert(name.to_owned(), value.to_owned())
            };
        }
        answer
    }

    pub(crate) async fn get(&mut self, url: &str) -> Answer {
        let (address, path) = split(url);
        self.send(address, Call::get(&path)).await
    }

    /// Follows redirects from here until the URL begins with `stop` or there is no further one; the last URL, and the
    /// answer of the one before when it was stopped.
    pub(crate) async fn follow(&mut self, url: &str, stop: Option<&str>) -> (String, Answer) {
        let mut at = url.to_owned();
        for _ in 0..20 {
            let answer = self.get(&at).await;
            if !answer.status.is_redirection() {
                return (at, answer);
            }
            let (address, _) = split(&at);
            at = match answer.header("location") {
                path if path.starts_with('/') => format!("http://{address}{path}"),
                url => url.to_owned(),
            };
            if stop.is_some_and(|stop| at.starts_with(stop)) {
                return (at, answer);
            }
        }
        panic!("{url} leads nowhere");
    }

    /// Posts a form with these fields to the gateway's own page.
    pub(crate) async fn post(&mut self, url: &str, fields: &[(&str, &str)]) -> Answer {
        let (address, path) = split(url);
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = "application/x-www-form-urlencoded";
        self.send(address, Call::post(&path, body).header("content-type", kind)).await
    }

    /// Signs in with the company; where it ends.
    pub(crate) async fn sign_in(&mut self, gateway: &Gateway) -> (String, Answer) {
        self.follow(&format!("http://{}/login/with/company?next=/api/v1/me", gateway.address), None).await
    }

    /// Who the gateway thinks it is; `None` for nobody.
    pub(crate) async fn me(&mut self, gateway: &Gateway) -> Option<Value> {
        let answer = self.get(&format!("http://{}/api/v1/me", gateway.address)).await;
        (answer.status == StatusCode::OK).then(|| answer.json())
    }
}

fn split(url: &str) -> (SocketAddr, String) {
    let uri: Uri = url.parse().unwrap();
    let address = uri.authority().unwrap_or_else(|| panic!("{url}")).as_str().parse().unwrap();
    (address, uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())
}

/// The value of a hidden field.
pub(crate) fn field(page: &Answer, name: &str) -> String {
    let text = page.text();
    let after = text.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_else(|| panic!("no {name}: {text}"));
    after.split('"').next().unwrap().to_owned()
}
