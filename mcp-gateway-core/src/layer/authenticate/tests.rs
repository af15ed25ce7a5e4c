use std::convert::Infallible;

use http::Request;
use proptest::prelude::*;
use tower::ServiceExt;
use tower_layer::Layer;

use super::*;
use crate::memory::MemoryRateLimiter;

fn resource() -> Resource {
    Mount::new("https://gw.example", "/mcp-connect").unwrap().resource("a")
}

fn password(parts: &Parts, _: &Resource) -> Result<Option<Arc<Principal>>, AuthError> {
    match parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) {
        Some(b"Bearer good") => Ok(Some(Arc::new(Principal::new("local", "ada")))),
        Some(b"Bearer narrow") => Ok(Some(Arc::new(Principal::new("local", "ada").with_scopes([])))),
        Some(b"Bearer down") => Err(AuthError::Unavailable("database".into())),
        Some(text) if text.starts_with(b"Bearer") => Err(AuthError::Invalid("not the password")),
        _ => Ok(None),
    }
}

async fn call(layer: &AuthenticateLayer, headers: &[(&str, &str)]) -> (u16, Option<String>) {
    let inner = tower::service_fn(|request: Request<()>| async move {
        for name in ["authorization", "cookie", "x-api-key", "proxy-authorization"] {
            assert!(!request.headers().contains_key(name), "{name} went on");
        }
        assert!(McpContext::of(request.extensions()).unwrap().principal().is_some());
        Ok::<_, Infallible>(Response::new(Bytes::new()))
    });
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(()).unwrap();
    let cx = McpContext::new(&SystemClock);
    cx.set_address("192.0.2.1".parse().unwrap()).unwrap();
    request.extensions_mut().insert(cx);
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), challenge)
}

#[tokio::test]
async fn answers_and_challenges() {
    let layer = AuthenticateLayer::from_fn(resource(), password).require(Scope::Mcp);
    let metadata = "https://gw.example/.well-known/oauth-protected-resource/mcp-connect/a";
    for (headers, status, challenge) in [
        (&[("authorization", "Bearer good"), ("cookie", "a=b"), ("x-api-key", "k")][..], 200, None),
        (&[], 401, Some(format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp\""))),
        (
            &[("authorization", "Bearer bad")],
            401,
            Some(format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp\", error=\"invalid_token\"")),
        ),
        (
            &[("authorization", "Bearer narrow")],
            403,
            Some(format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp\", error=\"insufficient_scope\"")),
        ),
        (
            &[("authorization", "Bearer good"), ("authorization", "Bearer good")],
            400,
            Some(format!("Bearer resource_metadata=\"{metadata}\", scope=\"mcp\", error=\"invalid_request\"")),
        ),
        (&[("authorization", "Bearer down")], 503, None),
    ] {
        assert_eq!(call(&layer, headers).await, (status, challenge), "{headers:?}");
    }
}

/// Knows nobody, or somebody, after a while.
struct Slow(Option<&'static str>);

impl Authenticator for Slow {
    fn authenticate(&self, _: &Parts, _: &Resource) -> MaybeReady<Result<Option<Arc<Principal>>, AuthError>> {
        let found = self.0.map(|id| Arc::new(Principal::new("slow", id)));
        MaybeReady::wait(async move {
            tokio::task::yield_now().await;
            Ok(found)
        })
    }
}

#[tokio::test]
async fn a_wrong_credential_never_falls_through() {
    let chain: Vec<Arc<dyn Authenticator>> =
        vec![Arc::new(Slow(None)), Arc::new(password), Arc::new(Slow(Some("guest")))];
    let layer = AuthenticateLayer::new(resource(), chain);
    assert_eq!(call(&layer, &[("authorization", "Bearer bad")]).await.0, 401);
    assert_eq!(call(&layer, &[("authorization", "Bearer good")]).await.0, 200);
    assert_eq!(call(&layer, &[]).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_fails_too_often_is_not_looked_at() {
    let limiter = MemoryRateLimiter::new(SystemClock, 10);
    let layer = AuthenticateLayer::from_fn(resource(), password).limit_failures(limiter, 3);
    for _ in 0..3 {
        assert_eq!(call(&layer, &[("authorization", "Bearer bad")]).await.0, 401);
    }
    assert_eq!(call(&layer, &[("authorization", "Bearer good")]).await.0, 429);
    // Without a credential there is nothing to guess.
    assert_eq!(call(&layer, &[]).await.0, 401);
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(call(&layer, &[("authorization", "Bearer good")]).await.0, 200);
}

/// Knows one credential of each effort.
struct Mixed;

impl Authenticator for Mixed {
    fn authenticate(&self, parts: &Parts, _: &Resource) -> MaybeReady<Verdict> {
        match parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) {
            Some(b"Bearer known" | b"Bearer key" | b"Bearer signed") => {
                Ok(Some(Arc::new(Principal::new("local", "ada"))))
            }
            Some(b"Basic of-somebody-else") => Ok(None),
            _ => Err(AuthError::Invalid("not good")),
        }
        .into()
    }

    fn effort(&self, parts: &Parts, _: &Resource) -> Effort {
        match parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) {
            Some(b"Bearer known" | b"Bearer expired") => Effort::Recall,
            Some(b"Bearer key" | b"Bearer guess") => Effort::Comparison,
            Some(b"Basic of-somebody-else") | None => Effort::Nothing,
            Some(_) => Effort::Work,
        }
    }
}

/// Behind one address there may be a broken program and many people.
#[tokio::test]
async fn whose_address_has_failed_too_often_is_let_in_with_what_is_good() {
    let limiter = MemoryRateLimiter::new(SystemClock, 10);
    let layer = AuthenticateLayer::new(resource(), vec![Arc::new(Mixed)]).limit_failures(limiter, 2);
    let with = async |credential: &str| call(&layer, &[("authorization", credential)]).await.0;
    for _ in 0..5 {
        assert_eq!(with("Bearer expired").await, 401, "who goes on with it is told to get another one");
    }
    for status in [401, 401, 429] {
        assert_eq!(with("Bearer guess").await, status);
    }
    assert_eq!(with("Basic of-somebody-else").await, 429, "what nobody knows is a guess");
    for good in ["Bearer key", "Bearer known", "Bearer signed"] {
        assert_eq!(with(good).await, 200, "{good}: guesses are no matter of theirs");
    }
    for status in [401, 401, 429] {
        assert_eq!(with("Bearer forged").await, status);
    }
    assert_eq!(with("Bearer signed").await, 429, "what takes work is not looked at any more");
    for (credential, status) in [("Bearer key", 200), ("Bearer known", 200), ("Bearer expired", 401)] {
        assert_eq!(with(credential).await, status, "{credential}");
    }
}

#[tokio::test]
async fn an_ipv6_network_is_one_address() {
    let limiter = MemoryRateLimiter::new(SystemClock, 10);
    let layer = AuthenticateLayer::from_fn(resource(), password).limit_failures(limiter, 2);
    let bad = async |address: &str| {
        let inner = tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(Bytes::new())));
        let mut request = Request::builder().header("authorization", "Bearer bad").body(()).unwrap();
        let cx = McpContext::new(&SystemClock);
        cx.set_address(address.parse().unwrap()).unwrap();
        request.extensions_mut().insert(cx);
        layer.clone().layer(inner).oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(bad("2001:db8:1:2::1").await, 401);
    assert_eq!(bad("2001:db8:1:2:ffff::2").await, 401);
    assert_eq!(bad("2001:db8:1:2:1234::3").await, 429);
    assert_eq!(bad("2001:db8:1:3::1").await, 401);
}

proptest! {
    #[test]
    fn no_credential_gets_in_but_the_right_one(value in "(Bearer |bearer |Basic )?[ -~]{0,12}") {
        prop_assume!(!matches!(&*value, "Bearer good" | "Bearer narrow" | "Bearer down"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let layer = AuthenticateLayer::from_fn(resource(), password);
        let status = runtime.block_on(call(&layer, &[("authorization", &value)])).0;
        prop_assert_eq!(status, 401);
    }
}

#[tokio::test]
async fn a_caller_of_another_tenant_is_a_stranger() {
    use crate::layer::context::{ContextLayer, Tenants};
    use crate::record::TenantId;

    let in_tenant = |parts: &Parts, _: &Resource| {
        let tenant = parts.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().replace("Bearer ", ""));
        Ok(tenant.map(|tenant| Arc::new(Principal::new("local", "ada").with_tenant(TenantId::new(tenant)))))
    };
    let by_host: Tenants = Arc::new(|parts| {
        let host = parts.headers.get("host")?.to_str().ok()?.strip_suffix(".gw.example")?;
        (host != "nobody").then(|| TenantId::new(host))
    });
    let status = async |context: ContextLayer, host: &str, tenant: &str| {
        let inner = tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Bytes::new())) });
        let stack = context.layer(AuthenticateLayer::from_fn(resource(), in_tenant).layer(inner));
        let request = Request::builder().header("host", host).header("authorization", format!("Bearer {tenant}"));
        stack.oneshot(request.body(()).unwrap()).await.unwrap().status().as_u16()
    };
    for (host, tenant, expected) in [
        ("acme.gw.example", "acme", 200),
        ("acme.gw.example", "umbrella", 401),
        ("acme.gw.example", "default", 401),
        ("nobody.gw.example", "default", 401),
        ("elsewhere.example", "acme", 401),
    ] {
        assert_eq!(
            status(ContextLayer::new().tenants(by_host.clone()), host, tenant).await,
            expected,
            "{host} {tenant}"
        );
    }
    assert_eq!(status(ContextLayer::new(), "acme.gw.example", "default").await, 200);
    assert_eq!(status(ContextLayer::new(), "acme.gw.example", "acme").await, 401);
}
