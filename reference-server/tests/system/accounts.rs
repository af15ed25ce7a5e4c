//! Accounts that people connect at servers: one with an authorization server of its own, one of a vendor.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use serde_json::{Value, json};

use crate::support::browser::{Browser, field, onward};
use crate::support::gateway::{free_address, remote};
use crate::support::identity::{self, IdentityProvider};
use crate::support::process::Process;
use crate::support::upstream::{Arrived, json as answer_of};
use crate::support::{Answer, Call, Gateway, Key, Upstream, mcp, until};

const SETTINGS: [(&str, &str); 2] = [("RUNTIME__PROCESS__ENABLED", "false"), ("EGRESS__OAUTH__ALLOW", "127.0.0.0/8")];

/// A server of other people's, behind their authorization server.
struct Protected {
    _process: Process,
    address: SocketAddr,
}

impl Protected {
    /// `None`: Python with FastMCP is not at hand.
    async fn start(seconds: u32) -> Option<Self> {
        if std::env::var_os("MCP_GATEWAY_TEST_PARTNERS").is_none_or(|value| value != "1") {
            println!("SKIPPED: set MCP_GATEWAY_TEST_PARTNERS=1, with FastMCP in PATH, to run a server from PyPI");
            return None;
        }
        let address = free_address();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/partners/servers/protected_server.py");
        let mut command = Command::new("python3");
        command.arg(script).args([address.port().to_string(), seconds.to_string()]);
        let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let protected = Self { _process: process, address };
        until("the protected server", async || Call::get("/counts").try_open(address).await.ok().map(drop)).await;
        Some(protected)
    }

    fn entry(&self) -> String {
        format!("{}  auth: {{type: oauth}}\n", remote("protected", &format!("http://{}/mcp", self.address)))
    }

    async fn count(&self, name: &str) -> u64 {
        Call::get("/counts").send(self.address).await.expect(200).json()[name].as_u64().unwrap()
    }
}

async fn key_of(gateway: &Gateway, user: &str) -> Key {
    gateway.key_for(&json!({ "name": user, "servers": ["*"], "subject": user })).await
}

async fn whoami(gateway: &Gateway, server: &str, key: &Key) -> Answer {
    mcp::modern_tool(server, key, 1, "whoami", &json!({})).send(gateway.address).await
}

/// A call of the older era, in a session of its own.
async fn legacy_whoami(gateway: &Gateway, server: &str, key: &Key) -> String {
    let session = mcp::Session::open(gateway, server, key).await;
    session.call(1, "whoami", &json!({})).send(gateway.address).await.expect(200).tool_text()
}

/// The address that the caller is told to visit.
#[track_caller]
fn link(answer: &Answer) -> String {
    let json = answer.json();
    assert_eq!((answer.status.as_u16(), &json["error"]["code"]), (200, &json!(40101)), "{json}");
    let url = json["error"]["data"]["url"].as_str().unwrap().to_owned();
    assert!(json["error"]["message"].as_str().unwrap().contains(&url), "{json}");
    url
}

fn path_of(gateway: &Gateway, url: &str) -> String {
    url.strip_prefix(&format!("http://{}", gateway.address)).unwrap_or_else(|| panic!("{url}")).to_owned()
}

/// Opens the link and agrees: where the browser goes then.
async fn agree(gateway: &Gateway, person: &mut Browser, link: &str) -> String {
    let page = person.open(link).await.expect(200);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    let (csrf, request) = (field(&page, "csrf"), field(&page, "request"));
    let path = path_of(gateway, link);
    let action = path.split('?').next().unwrap();
    let on = person.post(action, &[("csrf", &*csrf), ("request", &*request)]).await;
    onward(&on).to_owned()
}

/// Opens the link, agrees, goes to the issuer and comes back.
async fn connect(gateway: &Gateway, person: &mut Browser, at_issuer: &mut identity::Browser, link: &str) {
    let href = agree(gateway, person, link).await;
    let back = format!("http://{}/oauth/callback", gateway.address);
    let (url, _) = at_issuer.follow(&href, Some(&back)).await;
    let page = person.get(&path_of(gateway, &url)).await.expect(200);
    assert!(page.text().contains("is connected"), "{}", page.text());
}

#[tokio::test]
async fn people_connect_accounts_at_a_server_with_its_own_authorization_server() {
    let Some(protected) = Protected::start(4).await else { return };
    let gateway = Gateway::start_with(&[protected.entry()], &SETTINGS).await;
    let (mut ada, mut bob) = (Browser::of(&gateway, "ada").await, Browser::of(&gateway, "bob").await);
    let (adas, bobs) = (key_of(&gateway, "ada").await, key_of(&gateway, "bob").await);
    let initialize = |key: &Key| mcp::post("protected", key, mcp::initialize().to_string()).send(gateway.address);

    let to_ada = link(&initialize(&adas).await);
    connect(&gateway, &mut ada, &mut identity::Browser::default(), &to_ada).await;
    assert_eq!(legacy_whoami(&gateway, "protected", &adas).await, "account-1");
    let to_bob = link(&initialize(&bobs).await);
    // A link is for one person.
    bob.open(&to_ada).await.expect(403);
    connect(&gateway, &mut bob, &mut identity::Browser::default(), &to_bob).await;
    assert_eq!(legacy_whoami(&gateway, "protected", &bobs).await, "account-2");
    assert_eq!(legacy_whoami(&gateway, "protected", &adas).await, "account-1");

    // A hundred calls after the token's end: it is renewed once.
    let session = mcp::Session::open(&gateway, "protected", &adas).await;
    tokio::time::sleep(std::time::Duration::from_millis(4_200)).await;
    let before = protected.count("refreshes").await;
    let calls = (0..100).map(|id| session.call(id, "whoami", &json!({})).send(gateway.address));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect(200).tool_text(), "account-1");
    }
    assert_eq!(protected.count("refreshes").await - before, 1);

    // The administrator sees that there are accounts, and no token.
    let all = gateway.admin(Call::get("/api/v1/connections")).await.expect(200);
    assert_eq!(all.json()["items"].as_array().unwrap().len(), 2, "{}", all.text());
    assert!(!all.text().contains("test_access_token") && !all.text().contains("test_refresh_token"));
    assert!(!gateway.log().contains("test_access_token") && !gateway.log().contains("test_refresh_token"));
    let own = Call::get("/api/v1/connections").bearer(&api_key_of(&gateway, "bob").await.secret);
    let own = own.send(gateway.address).await.expect(200).json();
    assert_eq!(own["items"].as_array().unwrap().len(), 1, "{own}");
    let bobs_id = own["items"][0]["id"].as_str().unwrap().to_owned();

    // Disconnected: the tokens are given back, and the next call asks for another account.
    let live = protected.count("live").await;
    let adas_api = api_key_of(&gateway, "ada").await;
    let foreign = Call::delete(&format!("/api/v1/connections/{bobs_id}")).bearer(&adas_api.secret);
    foreign.send(gateway.address).await.expect(404);
    gateway.admin(Call::delete(&format!("/api/v1/connections/{bobs_id}"))).await.expect(204);
    assert_eq!(protected.count("live").await, live - 1);
    let to_bob = link(&initialize(&bobs).await);
    connect(&gateway, &mut bob, &mut identity::Browser::default(), &to_bob).await;
    assert_eq!(legacy_whoami(&gateway, "protected", &bobs).await, "account-3");

    // The authorization server forgets everybody: whoever calls has to connect anew, and can.
    Call::post("/forget", "").send(protected.address).await.expect(200);
    tokio::time::sleep(std::time::Duration::from_millis(4_200)).await;
    let to_ada = link(&initialize(&adas).await);
    let failures = gateway.audit_of(1, |row| row["method"] == "account.refresh").await;
    assert_eq!((&failures[0]["outcome"], &failures[0]["server"]), (&json!("denied"), &json!("protected")));
    connect(&gateway, &mut ada, &mut identity::Browser::default(), &to_ada).await;
    assert_eq!(legacy_whoami(&gateway, "protected", &adas).await, "account-4");
    gateway.audit_of(4, |row| row["method"] == "account.connect" && row["outcome"] == "ok").await;
}

async fn api_key_of(gateway: &Gateway, user: &str) -> Key {
    let scopes = ["api:read", "api:write"];
    gateway.key_for(&json!({ "name": "api", "servers": ["*"], "subject": user, "scopes": scopes })).await
}

/// A server that says whose token it gets, and takes none but those of its vendor.
fn vendors(arrived: &Arrived) -> Response<Body> {
    let token = arrived.headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let claims = token.and_then(|token| URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok());
    let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let Some(sub) = claims.as_ref().and_then(|claims| claims["sub"].as_str()) else {
        let challenge = "Bearer resource_metadata=\"https://evil.example/prm\"";
        return Response::builder().status(401).header("www-authenticate", challenge).body(Body::empty()).unwrap();
    };
    let id = serde_json::from_slice::<Value>(&arrived.body).unwrap()["id"].clone();
    let result = json!({ "content": [{ "type": "text", "text": sub }], "resultType": "complete" });
    answer_of(json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string())
}

struct Vendor {
    vendor: IdentityProvider,
    upstream: Upstream,
    gateway: Gateway,
}

/// A gateway in front of a vendor's server, as the client that an administrator has registered there.
async fn vendor() -> Vendor {
    let vendor = IdentityProvider::start();
    let upstream = Upstream::start(vendors).await;
    let client =
        format!("{{type: static, issuer: '{}', clientId: gateway, clientSecret: not a secret}}", vendor.issuer);
    let entry = format!("{}  auth: {{type: oauth, scopes: [openid], client: {client}}}\n", upstream.entry("vendor"));
    let gateway = vendor.gateway_with(json!({}), &[entry], &[SETTINGS[1]]).await;
    Vendor { vendor, upstream, gateway }
}

#[tokio::test]
async fn two_people_at_a_vendor_are_never_mixed() {
    let Vendor { vendor, upstream, gateway } = vendor().await;
    let mut people = Vec::new();
    for name in ["ada", "bob"] {
        let mut browser = Browser::of(&gateway, name).await;
        let key = key_of(&gateway, name).await;
        let asked = whoami(&gateway, "vendor", &key).await;
        vendor.account(json!({ "sub": format!("{name}-at-vendor") })).await;
        connect(&gateway, &mut browser, &mut identity::Browser::default(), &link(&asked)).await;
        people.push((name, key));
    }
    let calls = (0..60).map(|turn| {
        let (name, key) = &people[turn % 2];
        let gateway = &gateway;
        async move { (*name, whoami(gateway, "vendor", key).await.expect(200).tool_text()) }
    });
    for (name, sub) in futures_util::future::join_all(calls).await {
        assert_eq!(sub, format!("{name}-at-vendor"));
    }
    // The caller's own key went nowhere.
    assert!(upstream.arrived().iter().all(|one| {
        let sent = format!("{:?}", one.headers);
        people.iter().all(|(_, key)| !sent.contains(&key.secret))
    }));
}

#[tokio::test]
async fn what_a_browser_brings_back_counts_for_its_own_attempt_alone() {
    let Vendor { vendor, upstream: _upstream, gateway } = vendor().await;
    vendor.account(json!({ "sub": "ada-at-vendor" })).await;
    let (mut ada, mut bob) = (Browser::of(&gateway, "ada").await, Browser::of(&gateway, "bob").await);
    let key = key_of(&gateway, "ada").await;
    let to_ada = link(&whoami(&gateway, "vendor", &key).await);
    let back = format!("http://{}/oauth/callback", gateway.address);
    let come_back = async |ada: &mut Browser| {
        let href = agree(&gateway, ada, &to_ada).await;
        assert!(href.starts_with(&vendor.issuer) && href.contains("code_challenge_method=S256"), "{href}");
        let (url, _) = identity::Browser::default().follow(&href, Some(&back)).await;
        path_of(&gateway, &url)
    };
    // Ada sends Bob her answer: it is not his, and is used up.
    let url = come_back(&mut ada).await;
    let own_page = format!("http://{}/connect/vendor", gateway.address);
    bob.open(&own_page).await.expect(200);
    bob.get(&url).await.expect(403);
    ada.get(&url).await.expect(403);
    // At the address of another issuer, with another issuer's name, without a session.
    let url = come_back(&mut ada).await;
    let (_, query) = url.split_once('?').unwrap();
    ada.get(&format!("/oauth/callback/{}?{query}", "a".repeat(43))).await.expect(403);
    let url = come_back(&mut ada).await;
    let issuer: String = form_urlencoded::byte_serialize(vendor.issuer.as_bytes()).collect();
    assert!(url.contains(&issuer), "{url}");
    ada.get(&url.replace(&issuer, "https%3A%2F%2Fevil.example")).await.expect(502);
    let url = come_back(&mut ada).await;
    Browser::nobodys(&gateway, "ada").get(&url).await.expect(403);
    // A form of another page, and none of the page's own.
    ada.post("/connect/vendor", &[("csrf", "x"), ("request", "y")]).await.expect(403);
    link(&whoami(&gateway, "vendor", &key).await);
    // The honest way is open.
    let url = come_back(&mut ada).await;
    ada.get(&url).await.expect(200);
    assert_eq!(whoami(&gateway, "vendor", &key).await.expect(200).tool_text(), "ada-at-vendor");
    ada.get(&url).await.expect(403);
}

#[tokio::test]
async fn whoever_can_ask_its_user_is_told_so_in_the_form_of_its_era() {
    let Vendor { vendor, upstream, gateway } = vendor().await;
    let mut ada = Browser::of(&gateway, "ada").await;
    let key = key_of(&gateway, "ada").await;
    let mut message = mcp::modern_request(7, "tools/call", json!({ "name": "whoami", "arguments": {} }));
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": { "url": {} } });
    let answer = mcp::modern("vendor", &key, &message).send(gateway.address).await.expect(200).json();
    assert_eq!(answer["result"]["resultType"], "input_required", "{answer}");
    let asked = &answer["result"]["inputRequests"]["mcp-gateway/connect"];
    assert_eq!((&asked["method"], &asked["params"]["mode"]), (&json!("elicitation/create"), &json!("url")));
    vendor.account(json!({ "sub": "ada-at-vendor" })).await;
    let url = asked["params"]["url"].as_str().unwrap();
    connect(&gateway, &mut ada, &mut identity::Browser::default(), url).await;
    // The answer to our question is not for the server.
    message["params"]["inputResponses"] = json!({ "mcp-gateway/connect": { "action": "accept" }, "own": { "x": 1 } });
    let answer = mcp::modern("vendor", &key, &message).send(gateway.address).await.expect(200);
    assert_eq!(answer.tool_text(), "ada-at-vendor");
    let arrived = upstream.arrived().pop().unwrap();
    let body: Value = serde_json::from_slice(&arrived.body).unwrap();
    assert_eq!(body["params"]["inputResponses"], json!({ "own": { "x": 1 } }));
    // Who finds out the era learns nothing that looks like an older server.
    let bob = key_of(&gateway, "bob").await;
    let probe = mcp::modern("vendor", &bob, &mcp::modern_request(1, "server/discover", json!({})));
    let answer = probe.send(gateway.address).await.expect(502);
    assert_eq!(answer.header("content-type"), "application/problem+json");
}
