//! What must not work: one test per attack of RFC 9700 §4 and reference of the MCP specification that an authorization
//! server can stop. `docs/src/reference/oauth-security.md` lists them.

use mcp_gateway_core::context::McpContext;

use super::*;

/// RFC 9700 §4.1: redirect URIs are compared byte for byte, and nobody is ever sent to another place, errors included.
#[tokio::test]
async fn nobody_is_sent_to_a_redirect_uri_that_is_not_registered() {
    let world = World::new().await;
    let client = world.laptop().await;
    for redirect in [
        "https://evil.example/cb",
        "http://127.0.0.1:33418/callback/../x",
        "http://127.0.0.1:33418/callbac",
        "http://127.0.0.1:33418/callback?x=y",
        "http://127.0.0.1:33418@evil.example/callback",
        "http://localhost:33418/callback",
        "javascript:alert(1)",
        "//evil.example",
    ] {
        for response_type in ["code", "token"] {
            let answer =
                world.authorize(&client, &[("redirect_uri", redirect), ("response_type", response_type)]).await;
            assert_eq!(answer.status, 400, "{redirect}");
            assert!(!answer.headers.contains_key("location"), "{redirect}");
        }
    }
    let elsewhere = world.authorize(&client, &[("redirect_uri", "http://127.0.0.1:5000/callback")]).await;
    assert_eq!(elsewhere.status, 303, "a loopback port may vary");
}

/// RFC 9700 §4.4.2: mix-up. `iss` is in success and in error, so a client knows who answered.
#[tokio::test]
async fn iss_is_in_every_redirect_to_a_client() {
    let world = World::new().await;
    let client = world.laptop().await;
    let wrong = world.authorize(&client, &[("response_type", "token")]).await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    let denied = world.decide(&page, &cookie, "ada", "deny").await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    let allowed = world.decide(&page, &cookie, "ada", "allow").await;
    for answer in [wrong, denied, allowed] {
        let parameters = answer.parameters();
        assert_eq!((&*parameters["iss"], &*parameters["state"]), (ORIGIN, "s t&te"), "{answer:?}");
    }
}

/// RFC 9700 §4.8: PKCE downgrade; RFC 7636 §4.3: no method means `plain`.
#[tokio::test]
async fn pkce_is_s256_or_nothing() {
    let world = World::new().await;
    let client = world.laptop().await;
    let hex = "a".repeat(43);
    for changes in [
        [("code_challenge_method", "plain"), ("code_challenge", VERIFIER)],
        [("code_challenge_method", ""), ("code_challenge", VERIFIER)],
        [("code_challenge_method", "s256"), ("code_challenge", VERIFIER)],
        [("code_challenge_method", "S256"), ("code_challenge", "")],
        [("code_challenge_method", "S256"), ("code_challenge", "short")],
        [("code_challenge_method", "S256"), ("code_challenge", &hex[..42])],
    ] {
        let answer = world.authorize(&client, &changes).await;
        assert_eq!(answer.parameters()["error"], "invalid_request", "{changes:?}");
    }
}

/// RFC 9700 §4.5: code injection. A code is good for who asked for it, with what it was asked with.
#[tokio::test]
async fn a_code_is_bound_to_client_verifier_redirect_and_resource() {
    let world = World::new().await;
    let (client, other) = (world.laptop().await, world.laptop().await);
    let long = "a".repeat(129);
    let other_resource = "https://gateway.example/mcp-connect/gitlab";
    let wrong: [&[(&str, &str)]; 7] = [
        &[("client_id", &other)],
        &[("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXX")],
        &[("code_verifier", &VERIFIER[..42])],
        &[("code_verifier", &long)],
        &[("redirect_uri", "http://127.0.0.1:5000/callback")],
        &[("resource", other_resource)],
        &[("resource", "https://other.example")],
    ];
    for changes in wrong {
        let code = world.code(&client).await;
        let answer = world.redeem(&client, &code, changes).await;
        assert_eq!(answer.error(), "invalid_grant", "{changes:?}");
        let again = world.redeem(&client, &code, &[]).await;
        assert_eq!(again.error(), "invalid_grant", "a code in wrong hands is used up: {changes:?}");
    }
    let code = world.code(&client).await;
    assert_eq!(world.redeem(&client, &code, &[("code_verifier", "")]).await.error(), "invalid_request");
    assert_eq!(world.redeem(&client, "made-up", &[]).await.error(), "invalid_grant");
}

/// RFC 6749 §4.1.2, RFC 9700 §4.5.3: once, and the second use ends what came of the first.
#[tokio::test]
async fn a_code_that_comes_twice_ends_what_came_of_it() {
    let world = World::new().await;
    let client = world.laptop().await;
    let code = world.code(&client).await;
    let tokens = world.redeem(&client, &code, &[]).await.json();
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok());
    assert_eq!(world.redeem(&client, &code, &[]).await.error(), "invalid_grant");
    world.settle().await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_err());
    assert_eq!(world.refresh(&client, text(&tokens, "refresh_token")).await.error(), "invalid_grant");

    let code = world.code(&client).await;
    let (one, other) = tokio::join!(world.redeem(&client, &code, &[]), world.redeem(&client, &code, &[]));
    assert!([one.status, other.status].contains(&400), "at the same time: one of them at most");
}

#[tokio::test]
async fn a_code_is_good_for_a_minute_and_not_longer() {
    let world = World::new().await;
    let client = world.laptop().await;
    for (seconds, status) in [(59, 200), (60, 400)] {
        let code = world.code(&client).await;
        world.clock.advance(Duration::from_secs(seconds));
        assert_eq!(world.redeem(&client, &code, &[]).await.status, status, "{seconds}");
    }
}

/// RFC 9700 §4.7: cross-site request forgery against the consent form.
#[tokio::test]
async fn a_decision_needs_the_page_the_browser_and_the_person() {
    let world = World::new().await;
    let client = world.laptop().await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    let (_, other_browser) = world.ask(&client, "ada", &[]).await;
    let send = async |csrf: &str, cookie: Option<&str>, user: &str, header: (&'static str, &str)| {
        let mut request = Request::post("/authorize/decide")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("x-user", user)
            .header(header.0, header.1);
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        let form = [("request", &*page.request), ("csrf", csrf), ("decision", "allow")];
        world.send(request, encoded(&form)).await
    };
    let none = ("accept", "*/*");
    let twice = format!("{cookie}; {other_browser}");
    for (csrf, cookie, user, header) in [
        ("", Some(&*cookie), "ada", none),
        ("guessed", Some(&*cookie), "ada", none),
        (&*page.csrf, None, "ada", none),
        (&*page.csrf, Some(&*other_browser), "ada", none),
        (&*page.csrf, Some(&*twice), "ada", none),
        (&*page.csrf, Some(&*cookie), "eve", none),
        (&*page.csrf, Some(&*cookie), "ada", ("origin", "https://evil.example")),
        (&*page.csrf, Some(&*cookie), "ada", ("sec-fetch-site", "cross-site")),
        (&*page.csrf, Some(&*cookie), "ada", ("sec-fetch-site", "same-site")),
    ] {
        let answer = send(csrf, cookie, user, header).await;
        assert_eq!(answer.status, 400, "{user} {header:?}");
        assert!(!answer.headers.contains_key("location"));
    }
    let ours = send(&page.csrf, Some(&cookie), "ada", ("sec-fetch-site", "same-origin")).await;
    assert!(ours.location().contains("code="));
    let again = send(&page.csrf, Some(&cookie), "ada", none).await;
    assert_eq!(again.status, 400, "a request is answered once");
}

/// Session fixation, and a link that is handed on: a request belongs to the browser that brought it.
#[tokio::test]
async fn a_request_of_one_browser_is_nothing_in_another() {
    let world = World::new().await;
    let client = world.laptop().await;
    let held = world.authorize(&client, &[]).await;
    let (_, bobs) = world.ask(&client, "bob", &[]).await;
    for cookie in [None, Some(bobs)] {
        let mut request = Request::get(held.location()).header("x-user", "bob");
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        assert_eq!(world.send(request, "").await.status, 400);
        assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::RequestGone));
    }
    world.clock.advance(ServerLimits::REQUEST);
    let late = Request::get(held.location()).header("x-user", "ada").header(COOKIE, cookie(&held));
    assert_eq!(world.send(late, "").await.status, 400, "10 minutes are over");
}

/// RFC 9700 §4.16: clickjacking; §4.2: nothing leaks by the referrer.
#[tokio::test]
async fn pages_are_in_no_frame_and_no_referrer_leaves_them() {
    let world = World::new().await;
    let client = world.laptop().await;
    let held = world.authorize(&client, &[]).await;
    let asked = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
    let asked = world.send(asked, "").await;
    let problem = world.authorize("nobody", &[]).await;
    let (page, nonce) = world.ask(&client, "ada", &[]).await;
    let sent_on = world.decide(&page, &nonce, "ada", "allow").await;
    for answer in [held, asked, problem, sent_on] {
        assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
}

/// RFC 9700 §4.12: after a form a 303, so that the browser posts nothing on.
#[tokio::test]
async fn a_decision_is_answered_by_303() {
    let world = World::new().await;
    let client = world.laptop().await;
    for decision in ["allow", "deny"] {
        let (page, cookie) = world.ask(&client, "ada", &[]).await;
        assert_eq!(world.decide(&page, &cookie, "ada", decision).await.status, 303);
    }
}

/// RFC 9700 §2.3, RFC 8707: a token is for one server of ours.
#[tokio::test]
async fn a_resource_is_one_server_of_ours() {
    let world = World::new().await;
    let client = world.laptop().await;
    for resource in [
        "https://gateway.example/mcp-connect",
        "https://gateway.example/api/v1",
        "https://other.example/mcp-connect/github",
        "https://gateway.example/mcp-connect/../github",
        "github",
    ] {
        let answer = world.authorize(&client, &[("resource", resource)]).await;
        assert_eq!(answer.parameters()["error"], "invalid_target", "{resource}");
    }
    let github = "https://gateway.example/mcp-connect/github";
    let same = world.authorize(&client, &[("resource", "HTTPS://Gateway.example:443/mcp-connect/github/")]).await;
    assert_eq!(same.status, 303, "{github} written otherwise");
}

/// RFC 9700 §2.1.2, §2.4: neither the implicit nor the password grant.
#[tokio::test]
async fn grants_that_are_obsolete_are_refused() {
    let world = World::new().await;
    let client = world.laptop().await;
    for response_type in ["token", "id_token", "code token", ""] {
        let answer = world.authorize(&client, &[("response_type", response_type)]).await;
        assert_eq!(answer.parameters()["error"], "unsupported_response_type");
    }
    for grant in ["password", "implicit", "urn:ietf:params:oauth:grant-type:device_code"] {
        let answer = world.post("/token", &[("client_id", &client), ("grant_type", grant)]).await;
        assert_eq!(answer.error(), "unsupported_grant_type");
    }
    let answer = world.post("/token", &[("client_id", &client), ("grant_type", "client_credentials")]).await;
    assert_eq!(answer.error(), "unauthorized_client");
}

/// RFC 6749 §3.2: parameters occur once; RFC 6749 §2.3: one way of client authentication.
#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let world = World::new().await;
    let client = world.laptop().await;
    let double = format!("grant_type=refresh_token&client_id={client}&client_id={client}&refresh_token=x");
    let form = || Request::post("/token").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    assert_eq!(world.send(form(), double).await.error(), "invalid_request");
    let form_and_header = [("grant_type", "refresh_token"), ("client_id", &*client), ("client_secret", "x")];
    let both = world.post_as("/token", &form_and_header, Some("Basic eDp5")).await;
    assert_eq!(both.error(), "invalid_request");
    let json = Request::post("/token").header(CONTENT_TYPE, "application/json");
    assert_eq!(world.send(json, "{}").await.error(), "invalid_request");
    let large = world.send(form(), "a=".to_owned() + &"b".repeat(ServerLimits::BODY - 1)).await;
    assert_eq!(large.status, 413);
    let large = world.send(form(), "a=".to_owned() + &"b".repeat(ServerLimits::BODY - 2)).await;
    assert_eq!(large.status, 400, "the limit itself is read");
    let twice = world.get(&format!("/authorize?client_id={client}&client_id=x")).await;
    assert_eq!(twice.status, 400);
    assert!(!twice.headers.contains_key("location"));
}

/// Enumeration: nobody learns which clients or registrations exist.
#[tokio::test]
async fn unknown_blocked_and_unproven_clients_get_one_answer() {
    let world = World::new().await;
    let client = world.laptop().await;
    let clients = world.kept::<OAuthClient>();
    let mut blocked = clients.get(&client).await.unwrap().unwrap().value;
    blocked.blocked = true;
    clients.save("blocked", &blocked, mcp_gateway_core::contract::When::Any).await.unwrap();
    let mut answers = Vec::new();
    for form in [
        vec![("client_id", "nobody")],
        vec![("client_id", "blocked")],
        vec![("client_id", &*client), ("client_secret", "guessed")],
    ] {
        let form = [&form[..], &[("grant_type", "refresh_token"), ("refresh_token", "x")]].concat();
        let answer = world.post("/token", &form).await;
        assert_eq!((answer.status, &*answer.error()), (401, "invalid_client"));
        answers.push(answer.body);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let known = world.get(&format!("/register/{client}")).await;
    assert_eq!((known.status, known.body), (401, world.get("/register/nobody").await.body));
}

/// The register, token and authorize endpoints have budgets by address.
#[tokio::test]
async fn addresses_have_budgets() {
    use mcp_gateway_core::memory::MemoryRateLimiter;
    let mut options = ServerOptions::default();
    (options.requests_per_minute, options.registrations_per_minute) = (3, 1);
    let world = World::with(|server| {
        let limiter = MemoryRateLimiter::new(mcp_gateway_core::contract::SystemClock, 100);
        server.documents(None).options(options).limit_addresses(limiter)
    });
    let world = world.await;
    let from = async |path: &str, address: &str| {
        let context = McpContext::new(&mcp_gateway_core::contract::SystemClock);
        context.set_address(address.parse().unwrap()).unwrap();
        let request = Request::post(path).extension(context);
        world.send(request.header(CONTENT_TYPE, "application/x-www-form-urlencoded"), "").await.status
    };
    assert_eq!(from("/register", "198.51.100.1").await, 400);
    assert_eq!(from("/register", "198.51.100.1").await, 429);
    assert_eq!(from("/register", "198.51.100.2").await, 400, "another address");
    for _ in 0..3 {
        assert_eq!(from("/token", "198.51.100.1").await, 400);
    }
    assert_eq!(from("/token", "198.51.100.1").await, 429);
}

/// A client that asks without end leaves what the person's other clients need.
#[tokio::test]
async fn one_client_uses_up_no_other_clients_budget() {
    use mcp_gateway_core::memory::MemoryRateLimiter;
    let options = ServerOptions { requests_per_minute: 4, ..ServerOptions::default() };
    let world = World::with(|server| {
        let limiter = MemoryRateLimiter::new(mcp_gateway_core::contract::SystemClock, 100);
        server.documents(None).options(options).limit_addresses(limiter)
    });
    let world = world.await;
    let (broken, other) = (world.laptop().await, world.laptop().await);
    let (mut of_broken, of_other) = (world.tokens(&broken).await, world.tokens(&other).await);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = world.refresh(&broken, text(&of_broken, "refresh_token")).await;
        statuses.push(answer.status);
        if answer.status == 200 {
            of_broken = answer.json();
        }
    }
    // Consent and code took two already.
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(world.refresh(&other, text(&of_other, "refresh_token")).await.status, 200);
}

/// Strangers with many addresses share one budget for what they can have kept.
#[tokio::test]
async fn strangers_together_have_a_budget() {
    use mcp_gateway_core::memory::MemoryRateLimiter;
    let options = ServerOptions { registrations_total_per_minute: 2, ..ServerOptions::default() };
    let world = World::with(|server| {
        let limiter = MemoryRateLimiter::new(mcp_gateway_core::contract::SystemClock, 100);
        server.documents(None).options(options).limit_addresses(limiter)
    });
    let world = world.await;
    let client = world.laptop().await;
    world.laptop().await;
    assert_eq!(world.register(json!({ "redirect_uris": [REDIRECT] })).await.status, 429);
    for status in [303, 303, 429] {
        assert_eq!(world.authorize("https://made.up.example/client.json", &[]).await.status, status);
    }
    assert_eq!(world.authorize(&client, &[]).await.status, 303, "who is known goes on");
}

/// A body that comes as slowly as its sender likes.
struct Slow(bool);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        if std::mem::take(&mut self.0) {
            return Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(b"g")))));
        }
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::new().await;
    for path in ["/token", "/revoke", "/introspect", "/register", "/authorize/decide"] {
        for (begins, limit) in [(false, ServerLimits::FIRST_BYTE), (true, ServerLimits::WHOLE_BODY)] {
            let request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let before = tokio::time::Instant::now();
            let answer = world.server.clone().call(request.body(Slow(begins)).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 408, "{path}");
            let waited = before.elapsed();
            assert!(waited >= limit && waited < limit + Duration::from_secs(1), "{path} {waited:?}");
        }
    }
}

/// What is kept cannot be used by whoever reads the store.
#[tokio::test]
async fn the_store_holds_no_token_code_or_secret() {
    use mcp_gateway_core::contract::{Query, ResourceStore as _};
    use mcp_gateway_core::record::Resource as _;
    let world = World::new().await;
    let client = world.laptop().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post" });
    let confidential = world.register(metadata).await.json();
    let code = world.code(&client).await;
    let tokens = world.tokens(&client).await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    let mut kept = String::new();
    for kind in [OAuthClient::KIND, Grant::KIND, AuthorizationCode::KIND, PendingRequest::KIND] {
        for record in world.store.list(&Query::all(kind)).await.unwrap().records {
            kept.push_str(&record.key.id);
            kept.push_str(std::str::from_utf8(&record.value).unwrap());
        }
    }
    let nonce = cookie.split_once('=').unwrap().1;
    for secret in [
        &*code,
        text(&tokens, "access_token"),
        text(&tokens, "refresh_token"),
        text(&confidential, "client_secret"),
        text(&confidential, "registration_access_token"),
        &page.csrf,
        nonce,
    ] {
        assert!(!kept.contains(secret));
    }
    let grant = world.kept::<Grant>().list(None, None, 10).await.unwrap().0.remove(0).value;
    assert!(!kept.contains(grant.refresh_key.unwrap().expose()), "it is sealed");
}
