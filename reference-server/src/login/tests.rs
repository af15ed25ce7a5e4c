use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use mcp_gateway_auth::user::NewUser;
use mcp_gateway_core::record::{AuditEvent, Category, Outcome, Principal, Roles, Secret};
use tower::ServiceExt as _;

use super::*;
use crate::api::tests::world::World;

const FIRST: &str = "chosen by an admin";
const SECOND: &str = "known to ada alone";

struct Browser {
    world: World,
    router: Router,
    cookies: std::collections::BTreeMap<String, String>,
}

struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    html: String,
}

impl Seen {
    /// The value of a hidden field.
    fn field(&self, name: &str) -> &str {
        let after = self.html.split(&format!("name=\"{name}\" value=\"")).nth(1).unwrap_or_else(|| panic!("{name}"));
        after.split('"').next().unwrap()
    }
}

impl Browser {
    async fn new() -> Self {
        let world = World::new().await;
        let owner = Principal::new("local", "owner").with_roles(Roles::OWNER);
        let new = NewUser { name: "Ada".into(), ..NewUser::default() };
        let made = world.app.logins.local.create(&owner, new, "ada@a.example", &Secret::new(FIRST)).await;
        world.app.snapshots.wait_for(made.unwrap().1).await;
        let router = router(&world.app);
        Self { world, router, cookies: Default::default() }
    }

    async fn send(&mut self, request: http::request::Builder, body: Body) -> Seen {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let peer = mcp_gateway_core::context::PeerAddr("192.0.2.1:1".parse().unwrap());
        let request = request.header("cookie", cookies.join("; ")).extension(peer).body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        for cookie in response.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            match value {
                "" => self.cookies.remove(name),
                value => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        let (parts, body) = response.into_parts();
        let html = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        if !html.is_empty() {
            assert!(parts.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
            assert_eq!(parts.headers["cache-control"], "no-store");
        }
        Seen { status: parts.status, headers: parts.headers, html }
    }

    async fn get(&mut self, path: &str) -> Seen {
        self.send(Request::get(path), Body::empty()).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Seen {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let kind = "application/x-www-form-urlencoded";
        self.send(Request::post(path).header("content-type", kind), Body::from(body)).await
    }

    /// Types name and password into the form.
    async fn sign_in(&mut self, password: &str, next: &str) -> Seen {
        let form = self.get("/login").await;
        let csrf = form.field("csrf").to_owned();
        let fields = [("csrf", &*csrf), ("next", next), ("login", "Ada@a.example"), ("password", password)];
        self.post("/login", &fields).await
    }

    /// Signs in for the first time, and chooses a password.
    async fn settle(&mut self) -> Seen {
        let demand = self.sign_in(FIRST, "/").await;
        assert_eq!(demand.status, StatusCode::OK);
        assert!(!self.cookies.contains_key("__Host-mcpgw_session"), "no session yet");
        let csrf = demand.field("csrf").to_owned();
        let login = ("login", "ada@a.example");
        let fields = [("csrf", &*csrf), ("next", "/"), login, ("password", FIRST), ("new_password", SECOND)];
        self.post("/login/password", &fields).await
    }

    fn logins(&self) -> Vec<AuditEvent> {
        self.world.recorded().into_iter().filter(|event| event.category == Category::Auth).collect()
    }
}

#[tokio::test]
async fn a_person_signs_in_and_out() {
    let mut browser = Browser::new().await;
    let settled = browser.settle().await;
    assert_eq!((settled.status, &settled.headers["location"]), (StatusCode::SEE_OTHER, &HeaderValue::from_static("/")));
    let page = browser.get("/login").await;
    assert!(page.html.contains("Ada"), "{}", page.html);
    let session = browser.cookies["__Host-mcpgw_session"].clone();

    let out = browser.post("/logout", &[("csrf", "guess")]).await;
    assert_eq!(out.status, StatusCode::FORBIDDEN);
    let csrf = page.field("csrf").to_owned();
    assert_eq!(browser.post("/logout", &[("csrf", &csrf)]).await.status, StatusCode::SEE_OTHER);
    assert!(!browser.cookies.contains_key("__Host-mcpgw_session"));
    assert!(browser.world.app.logins.sessions.find(&session).await.unwrap().is_none(), "ended, not forgotten");

    // Each login is a session of its own, and goes where it was to go.
    let back = browser.sign_in(SECOND, "/api/v1/me?x=1").await;
    assert_eq!(back.headers["location"], "/api/v1/me?x=1");
    assert_ne!(browser.cookies["__Host-mcpgw_session"], session);
    let acts: Vec<_> = browser.logins().into_iter().map(|event| (event.method.unwrap(), event.outcome)).collect();
    let wanted = ["login.change-password", "login.password", "login.sign-out", "login.password"];
    assert_eq!(acts[0], ("login.must-change".into(), Outcome::Denied));
    assert_eq!(acts[1..], wanted.map(|act| (act.into(), Outcome::Ok)));
    // A login ends the browser's session of before.
    let before = browser.cookies["__Host-mcpgw_session"].clone();
    let form = browser.get("/login?again=1").await;
    let csrf = form.field("csrf").to_owned();
    let fields = [("csrf", &*csrf), ("next", "/"), ("login", "ada@a.example"), ("password", SECOND)];
    assert_eq!(browser.post("/login", &fields).await.status, StatusCode::SEE_OTHER);
    assert!(browser.world.app.logins.sessions.find(&before).await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_password_is_said_and_recorded_without_it() {
    let mut browser = Browser::new().await;
    browser.settle().await;
    browser.cookies.clear();
    browser.logins();
    let refused = browser.sign_in("hunter2hunter2", "/").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(refused.html.contains("role=\"alert\"") && refused.html.contains("Ada@a.example"));
    assert!(!refused.html.contains("hunter2") && browser.cookies.keys().all(|name| !name.contains("session")));
    let events = browser.logins();
    assert_eq!((events.len(), events[0].outcome, events[0].status), (1, Outcome::Denied, 401));
    assert!(!format!("{events:?}").contains("hunter2") && !format!("{events:?}").contains("a.example"));
    assert!(events[0].address.is_some());
    let mut last = refused;
    for _ in 0..20 {
        browser.logins();
        last = browser.sign_in("hunter2hunter2", "/").await;
        if last.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
    }
    assert_eq!(last.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(last.headers.contains_key("retry-after"));
    assert!(browser.logins().is_empty(), "what is not looked at is counted, not listed");
}

/// Anybody can send a logout, and each that looks right costs a look at the provider's keys.
#[tokio::test]
async fn logouts_that_are_not_believed_are_counted_and_bounded() {
    let mut browser = Browser::new().await;
    let limit = browser.world.app.config.limits.auth_failures_per_minute;
    let mut refused = 0;
    loop {
        let status = browser.post("/login/back-channel/nobody", &[("logout_token", "x")]).await.status;
        if status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(status, StatusCode::NOT_FOUND);
        refused += 1;
        assert!(refused < 2 * limit, "there is a bound");
    }
    assert!(refused >= limit);
    assert!(browser.logins().is_empty());
}

#[tokio::test]
async fn no_other_site_signs_anybody_in() {
    let mut browser = Browser::new().await;
    let csrf = browser.get("/login").await.field("csrf").to_owned();
    let fields = |csrf| [("csrf", csrf), ("next", "/"), ("login", "ada@a.example"), ("password", FIRST)];
    let cookies = browser.cookies.clone();
    // The token of another browser, none, and no cookie.
    assert_eq!(browser.post("/login", &fields("x")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.post("/login", &fields("")).await.status, StatusCode::FORBIDDEN);
    browser.cookies.clear();
    assert_eq!(browser.post("/login", &fields(&csrf)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.post("/login/password", &fields(&csrf)).await.status, StatusCode::FORBIDDEN);
    browser.cookies = cookies;
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let foreign = Request::post("/login").header(kind.0, kind.1).header("origin", "https://evil.example");
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields(&csrf)).finish();
    assert_eq!(browser.send(foreign, Body::from(body)).await.status, StatusCode::FORBIDDEN);
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields(&csrf)).finish();
    let foreign = Request::post("/login").header(kind.0, kind.1).header("sec-fetch-site", "same-site");
    assert_eq!(browser.send(foreign, Body::from(body)).await.status, StatusCode::FORBIDDEN);
    assert!(browser.logins().is_empty(), "no attempt was made");
    assert_eq!(browser.post("/login", &fields(&csrf)).await.status, StatusCode::OK);
    // On plain http beyond loopback a browser sends no Sec-Fetch-Site, and our pages have no referrer.
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields(&csrf)).finish();
    let own = Request::post("/login").header(kind.0, kind.1).header("origin", "null");
    assert_eq!(browser.send(own, Body::from(body)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn forms_are_bounded_and_strict() {
    let mut browser = Browser::new().await;
    let csrf = browser.get("/login").await.field("csrf").to_owned();
    let kind = ("content-type", "application/x-www-form-urlencoded");
    let send =
        |kind: (&'static str, &'static str), body: String| (Request::post("/login").header(kind.0, kind.1), body);
    let padded = |size: usize| {
        let form = format!("csrf={csrf}&login=nobody&password=");
        format!("{form}{}", "x".repeat(size - form.len()))
    };
    for ((request, body), status) in [
        (send(kind, padded(FORM_LIMIT)), StatusCode::UNAUTHORIZED),
        (send(kind, padded(FORM_LIMIT + 1)), StatusCode::PAYLOAD_TOO_LARGE),
        (send(("content-type", "text/plain"), padded(500)), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (send(kind, format!("csrf={csrf}&csrf={csrf}")), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(browser.send(request, Body::from(body)).await.status, status);
    }
}

#[test]
fn after_a_login_it_goes_on_at_this_gateway_alone() {
    for next in ["/", "/api/v1/me?x=1&y=%2f"] {
        assert_eq!(local(next), next);
    }
    let long = format!("/{}", "x".repeat(NEXT));
    for next in [
        "",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/a\r\nb",
        "/a b",
        "/é",
        &long,
    ] {
        assert_eq!(local(next), HERE, "{next}");
    }
    assert_eq!(local(&long[..NEXT]), &long[..NEXT]);
}

/// A logout that stops half-way can be done again: what was agreed to in the login must not outlive it unseen.
#[tokio::test]
async fn a_logout_that_fails_leaves_the_session() {
    let mut browser = Browser::new().await;
    browser.settle().await;
    let csrf = browser.get("/login").await.field("csrf").to_owned();
    let session = browser.cookies["__Host-mcpgw_session"].clone();
    // The grants of the session cannot be listed.
    browser.world.store.fail_lists(1);
    let out = browser.post("/logout", &[("csrf", &csrf)]).await;
    assert_eq!(out.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(browser.world.app.logins.sessions.find(&session).await.unwrap().is_some());
    browser.world.store.cut();
    assert_eq!(browser.post("/logout", &[("csrf", &csrf)]).await.status, StatusCode::SERVICE_UNAVAILABLE);
    browser.world.store.restore();
    assert_eq!(browser.post("/logout", &[("csrf", &csrf)]).await.status, StatusCode::SEE_OTHER);
    assert!(browser.world.app.logins.sessions.find(&session).await.unwrap().is_none());
}
