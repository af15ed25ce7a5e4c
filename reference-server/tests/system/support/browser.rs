//! A browser that fills in forms: cookies, redirects of one origin, and no script.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use serde_json::json;

use super::http::{Answer, Call};
use super::{Gateway, until};

/// The password that people choose.
const PASSWORD: &str = "known to nobody else";

#[derive(Debug)]
pub(crate) struct Browser {
    address: SocketAddr,
    cookies: BTreeMap<String, String>,
    login: String,
}

impl Browser {
    /// Of a new person with this name.
    pub(crate) async fn of(gateway: &Gateway, login: &str) -> Self {
        let first = "only for the first time";
        let person = json!({ "name": login, "login": login, "password": first, "id": login });
        gateway.admin(Call::post("/api/v1/users", person.to_string())).await.expect(201);
        let mut browser = Self::nobodys(gateway, login);
        let form = browser.get("/login").await;
        let fields = [("csrf", &*field(&form, "csrf")), ("next", "/login"), ("login", login), ("password", first)];
        let change = browser.post("/login", &fields).await.expect(200);
        let csrf = field(&change, "csrf");
        let fields = [("csrf", &*csrf), ("login", login), ("password", first), ("new_password", PASSWORD)];
        browser.post("/login/password", &fields).await.expect(303);
        browser.cookies.clear();
        browser
    }

    /// A fresh browser of the same person.
    pub(crate) fn nobodys(gateway: &Gateway, login: &str) -> Self {
        Self { address: gateway.address, cookies: BTreeMap::new(), login: login.to_owned() }
    }

    /// The same browser, calling another replica.
    pub(crate) fn at(&self, gateway: &Gateway) -> Self {
        Self { address: gateway.address, cookies: self.cookies.clone(), login: self.login.clone() }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Call::get(path)).await
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let call = Call::post(path, body).header("content-type", "application/x-www-form-urlencoded");
        self.send(call.header("sec-fetch-site", "same-origin")).await
    }

    /// Sends with its cookies, and keeps those of the answer.
    async fn send(&mut self, call: Call) -> Answer {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let call = if cookies.is_empty() { call } else { call.header("cookie", &cookies.join("; ")) };
        let answer = call.send(self.address).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Follows redirects within the gateway.
    pub(crate) async fn follow(&mut self, mut answer: Answer) -> Answer {
        while answer.status.is_redirection() {
            let Some(path) = local(self.address, answer.header("location")) else { break };
            answer = self.get(&path).await;
        }
        answer
    }

    /// Opens what a client wants opened, and logs in where that is asked for: to the consent page, or where the client
    /// waits.
    pub(crate) async fn open(&mut self, url: &str) -> Answer {
        let path = local(self.address, url).expect("an address of the gateway");
        let answer = self.get(&path).await;
        let answer = self.follow(answer).await;
        if !answer.text().contains("action=\"/login\"") {
            return answer;
        }
        let (csrf, next) = (field(&answer, "csrf"), field(&answer, "next"));
        let login = self.login.clone();
        let fields = [("csrf", &*csrf), ("next", &*next), ("login", &*login), ("password", PASSWORD)];
        let answer = self.post("/login", &fields).await.expect(303);
        // The session is there at once, the person's record perhaps a moment later.
        let path = answer.header("location").to_owned();
        let path = &path;
        let this = tokio::sync::Mutex::new(self);
        until("the session counts", async || {
            let mut this = this.lock().await;
            let answer = this.get(path).await;
            let answer = this.follow(answer).await;
            (!answer.text().contains("action=\"/login\"")).then_some(answer)
        })
        .await
    }

    /// Answers a consent page.
    pub(crate) async fn decide(&mut self, page: &Answer, decision: &str, server: Option<&str>) -> Answer {
        let (csrf, request) = (field(page, "csrf"), field(page, "request"));
        let mut fields = vec![("csrf", &*csrf), ("request", &*request), ("decision", decision)];
        fields.extend(server.map(|server| ("server", server)));
        self.post("/authorize/decide", &fields).await
    }

    pub(crate) async fn sign_out(&mut self) {
        let page = self.get("/login").await.expect(200);
        let csrf = field(&page, "csrf");
        self.post("/logout", &[("csrf", &csrf)]).await.expect(303);
    }
}

/// The value of a hidden field.
#[track_caller]
pub(crate) fn field(page: &Answer, name: &str) -> String {
    let text = page.text();
    let after = text.split(&format!("name=\"{name}\" value=\"")).nth(1);
    let after = after.unwrap_or_else(|| panic!("no field {name} in {} {text}", page.status));
    after.split('"').next().unwrap().replace("&amp;", "&")
}

/// Where a page of the gateway sends the browser on. Not by a redirect: browsers hold the policy of the page whose form
/// was posted against every redirect that follows, those of the client too.
#[track_caller]
pub(crate) fn onward(page: &Answer) -> &str {
    assert_eq!(page.status, 200, "{}", page.text());
    page.header("refresh").strip_prefix("0; url=").expect("a URL, at once")
}

/// The parameters that it takes along.
#[track_caller]
pub(crate) fn parameters(page: &Answer) -> HashMap<String, String> {
    let (_, query) = onward(page).split_once('?').expect("a query");
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Path and query, when a URL is the gateway's.
fn local(address: SocketAddr, url: &str) -> Option<String> {
    if url.starts_with('/') {
        return Some(url.to_owned());
    }
    url.strip_prefix(&format!("http://{address}")).map(ToOwned::to_owned)
}
