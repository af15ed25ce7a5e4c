//! Registration by clients (RFC 7591, RFC 7592).

use super::*;

#[tokio::test]
async fn the_clients_of_today_register_as_they_are() {
    let world = World::new().await;
    // As Cursor and VS Code send them: several kinds in one request, no application_type.
    for uris in [
        json!([
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "https://cursor.com/cb",
            "http://localhost:8787/callback"
        ]),
        json!(["https://vscode.dev/redirect", "http://127.0.0.1:33418/"]),
        json!(["https://claude.ai/api/mcp/auth_callback"]),
    ] {
        let answer = world.register(json!({ "redirect_uris": uris, "grant_types": ["authorization_code"] })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let body = answer.json();
        assert_eq!(body["redirect_uris"], uris);
        assert_eq!(body["token_endpoint_auth_method"], "none");
        assert_eq!(body["grant_types"], json!(["authorization_code", "refresh_token"]), "nobody is starved");
        assert!(body.get("client_secret").is_none(), "no secret for public clients");
    }
}

#[tokio::test]
async fn registrations_that_cannot_be_good_are_refused() {
    let world = World::new().await;
    let many: Vec<String> = (0..21).map(|n| format!("http://127.0.0.1/{n}")).collect();
    let long = "n".repeat(ServerLimits::CLIENT_NAME + 1);
    for (metadata, error) in [
        (json!({}), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": many }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [REDIRECT, "javascript:alert(1)"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": ["http://evil.example/cb"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": ["unlisted://cb"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [REDIRECT], "client_name": long }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "client_name": "Tools\u{202e}evil" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "client_name": "Cla\u{200b}ude" }), "invalid_client_metadata"),
        (
            json!({ "redirect_uris": [REDIRECT], "client_name": "Claude\u{201d} of Anthropic" }),
            "invalid_client_metadata",
        ),
        (json!({ "redirect_uris": [REDIRECT], "client_name": "a\nb" }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "response_types": ["token"] }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "grant_types": ["implicit"] }), "invalid_client_metadata"),
        (
            json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "tls_client_auth" }),
            "invalid_client_metadata",
        ),
        (
            json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt" }),
            "invalid_client_metadata",
        ),
        (json!([]), "invalid_client_metadata"),
    ] {
        let answer = world.register(metadata.clone()).await;
        assert_eq!((answer.status, &*answer.error()), (400, error), "{metadata}");
    }
    let exactly = format!("Ada\u{2019}s {}", "n".repeat(ServerLimits::CLIENT_NAME - 8));
    let metadata = json!({ "redirect_uris": &many[..20], "client_name": exactly });
    assert_eq!(world.register(metadata).await.status, 201, "the limits themselves are allowed");
}

#[tokio::test]
async fn another_web_host_waits_for_an_administrator() {
    let world = World::new().await;
    let uri = "https://claude.evil.example/cb";
    let client = world.register(json!({ "redirect_uris": [uri] })).await.json();
    let id = text(&client, "client_id");
    for response_type in ["code", "token"] {
        let changes = [("redirect_uri", uri), ("response_type", response_type)];
        let refused = world.authorize(id, &changes).await;
        assert_eq!(refused.status, 403);
        assert!(!refused.headers.contains_key("location"), "not even an error goes there");
        assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::ClientNotApproved));
    }

    let clients = world.kept::<OAuthClient>();
    let mut approved = clients.get(id).await.unwrap().unwrap().value;
    approved.known_by = KnownBy::Operator;
    clients.save(id, &approved, mcp_gateway_core::contract::When::Any).await.unwrap();
    world.ask(id, "ada", &[("redirect_uri", uri)]).await;

    let policy = RegistrationPolicy::default().with_mode(RegistrationMode::Open);
    let open = World::with(|server| server.documents(None).policy(policy)).await;
    let client = open.register(json!({ "redirect_uris": [uri] })).await.json();
    open.ask(text(&client, "client_id"), "ada", &[("redirect_uri", uri)]).await;
}

#[tokio::test]
async fn automation_registers_with_a_token_and_others_do_not() {
    let mut policy = RegistrationPolicy::default().with_mode(RegistrationMode::Token);
    policy.tokens_sha256 = vec![hex_hash("first"), hex_hash("second")];
    let world = World::with(|server| server.documents(None).policy(policy)).await;
    let body = json!({ "redirect_uris": [REDIRECT] }).to_string();
    for (token, status) in [(None, 401), (Some("Bearer wrong"), 401), (Some("Bearer second"), 201)] {
        let mut request = Request::post("/register");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        assert_eq!(world.send(request, body.clone()).await.status, status, "{token:?}");
    }
}

#[tokio::test]
async fn registrations_that_nobody_agreed_to_end_and_used_ones_stay() {
    let world = World::new().await;
    let (unused, used) = (world.laptop().await, world.laptop().await);
    world.tokens(&used).await;
    world.clock.advance(OAuthClient::UNUSED);
    assert_eq!(world.authorize(&unused, &[]).await.status, 400);
    assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::UnknownClient), "with the remedy on the page");
    assert_eq!(world.refresh(&unused, "x").await.error(), "invalid_client", "so that clients register anew");
    world.tokens(&used).await;
    world.clock.advance(OAuthClient::USED - Duration::from_secs(1));
    assert_eq!(world.authorize(&used, &[]).await.status, 303);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.authorize(&used, &[]).await.status, 400);
}

#[tokio::test]
async fn a_client_reads_and_ends_its_own_registration() {
    let world = World::new().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_basic" });
    let registered = world.register(metadata).await.json();
    let (id, management) = (text(&registered, "client_id"), text(&registered, "registration_access_token"));
    assert_eq!(text(&registered, "registration_client_uri"), format!("{ORIGIN}/register/{id}"));
    let send = async |method: &str, token: &str| {
        let request = Request::builder().method(method).uri(format!("/register/{id}"));
        world.send(request.header(AUTHORIZATION, format!("Bearer {token}")), "").await
    };
    assert_eq!(send("GET", "wrong").await.status, 401);
    let read = send("GET", management).await.json();
    assert_eq!(text(&read, "client_id"), id);
    assert!(read.get("client_secret").is_none(), "it was shown once");

    let secret = text(&registered, "client_secret");
    let code = world.code(id).await;
    assert_eq!(world.redeem(id, &code, &[]).await.status, 401, "a client with a secret shows it");
    let tokens = world.redeem(id, &code, &[("client_secret", secret)]).await.json();
    assert_eq!(send("DELETE", management).await.status, 204);
    world.settle().await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_err(), "what it had ends with it");
    assert_eq!(send("GET", management).await.status, 401);
}

#[tokio::test]
async fn a_blocked_client_is_good_for_nothing_until_it_is_unblocked() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    world.server.block_client(&client).await.unwrap();
    world.settle().await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_err(), "what it had has ended");
    assert_eq!(world.decide(&page, &cookie, "ada", "allow").await.status, 403);
    assert_eq!(world.authorize(&client, &[]).await.status, 403);
    assert_eq!(world.refresh(&client, text(&tokens, "refresh_token")).await.error(), "invalid_client");
    world.clock.advance(OAuthClient::USED);
    assert_eq!(world.authorize(&client, &[]).await.status, 403, "a block does not expire");

    world.server.unblock_client(&client).await.unwrap();
    world.settle().await;
    world.clock.advance(Duration::from_secs(1));
    let tokens = world.tokens(&client).await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok());
}

#[tokio::test]
async fn who_was_not_blocked_loses_nothing_by_being_unblocked() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    world.clock.advance(Duration::from_secs(1));
    world.server.unblock_client(&client).await.unwrap();
    world.server.unblock_client("nobody").await.unwrap();
    world.settle().await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok());
    assert_eq!(world.refresh(&client, text(&tokens, "refresh_token")).await.status, 200);
    assert_eq!(world.server.clients(None, 10).await.unwrap().0.len(), 1, "nor is anything kept of it");
}

/// A block ends what a client has: letting it in again brings nothing of it back.
#[tokio::test]
async fn what_a_block_ended_stays_ended_after_it() {
    let world = World::new().await;
    let mut new = NewClient::named("Desk");
    (new.secret, new.redirect_uris) = (true, vec!["https://desk.example/cb".into()]);
    let made = world.server.create_client(new).await.unwrap();
    let (id, secret) = (&*made.id, made.secret.unwrap());
    let proof = [("redirect_uri", "https://desk.example/cb"), ("client_secret", secret.expose())];
    let (page, cookie) = world.ask(id, "ada", &proof[..1]).await;
    let code = world.decide(&page, &cookie, "ada", "allow").await.parameters().remove("code").unwrap();
    let before = world.redeem(id, &code, &proof).await.json();
    assert!(world.call(text(&before, "access_token"), "github").await.is_ok());
    assert_eq!(world.server.consents(None, None, 10).await.unwrap().0.len(), 1);

    world.server.block_client(id).await.unwrap();
    assert!(world.server.grants(None, None, 10).await.unwrap().0.is_empty());
    assert!(world.server.consents(None, None, 10).await.unwrap().0.is_empty());
    world.clock.advance(Duration::from_secs(1));
    world.server.unblock_client(id).await.unwrap();
    world.settle().await;
    world.clock.advance(Duration::from_secs(1));
    assert!(world.call(text(&before, "access_token"), "github").await.is_err());
    let refresh = [
        ("grant_type", "refresh_token"),
        ("client_id", id),
        ("client_secret", secret.expose()),
        ("refresh_token", text(&before, "refresh_token")),
    ];
    assert_eq!(world.post("/token", &refresh).await.error(), "invalid_grant");
    let (page, cookie) = world.ask(id, "ada", &proof[..1]).await;
    let code = world.decide(&page, &cookie, "ada", "allow").await.parameters().remove("code").unwrap();
    let after = world.redeem(id, &code, &proof).await.json();
    assert!(world.call(text(&after, "access_token"), "github").await.is_ok(), "what comes after it is good");
}

/// OAuth 2.1 has no `redirect_uri` at the token endpoint, RFC 6749 has: one that is there must be right.
#[tokio::test]
async fn a_redirect_uri_at_the_token_endpoint_may_be_left_out_but_not_be_another() {
    let world = World::new().await;
    let client = world.laptop().await;
    let code = world.code(&client).await;
    assert_eq!(world.redeem(&client, &code, &[("redirect_uri", "")]).await.status, 200);
    let code = world.code(&client).await;
    let other = world.redeem(&client, &code, &[("redirect_uri", "http://127.0.0.1:33418/other")]).await;
    assert_eq!(other.error(), "invalid_grant");
}

#[tokio::test]
async fn registration_and_refresh_tokens_are_told_apart() {
    let world = World::new().await;
    let registered = world.register(json!({ "redirect_uris": [REDIRECT] })).await.json();
    let tokens = world.tokens(text(&registered, "client_id")).await;
    assert!(text(&registered, "registration_access_token").starts_with("mcpgwm_"));
    assert!(text(&tokens, "refresh_token").starts_with("mcpgwr_"));
}

#[tokio::test]
async fn a_registration_is_small() {
    let world = World::new().await;
    for (bytes, status) in [(ServerLimits::REGISTRATION, 201), (ServerLimits::REGISTRATION + 1, 413)] {
        let mut body = json!({ "redirect_uris": [REDIRECT] }).to_string();
        body.push_str(&" ".repeat(bytes - body.len()));
        assert_eq!(world.send(Request::post("/register"), body).await.status, status, "{bytes}");
    }
}

/// Revocations are in everybody's memory: whoever registers and leaves must not fill it.
#[tokio::test]
async fn a_client_that_nobody_agreed_to_leaves_without_a_trace() {
    use mcp_gateway_core::record::Revocation;
    let world = World::new().await;
    for used in [false, true] {
        let registered = world.register(json!({ "redirect_uris": [REDIRECT] })).await.json();
        let id = text(&registered, "client_id");
        if used {
            world.tokens(id).await;
        }
        let bearer = format!("Bearer {}", text(&registered, "registration_access_token"));
        let request = Request::delete(format!("/register/{id}")).header(AUTHORIZATION, bearer);
        assert_eq!(world.send(request, "").await.status, 204);
        let (revocations, _) = world.kept::<Revocation>().list(None, None, 10).await.unwrap();
        assert_eq!(revocations.len(), usize::from(used));
    }
}

/// RFC 9700 §4.11.2: whoever can register a place must not have browsers sent there by us.
#[tokio::test]
async fn open_registration_sends_nobody_away_before_consent() {
    let uri = "https://phish.example/cb";
    let policy = RegistrationPolicy::default().with_mode(RegistrationMode::Open);
    let world = World::with(|server| server.documents(None).policy(policy)).await;
    let client = world.register(json!({ "redirect_uris": [uri] })).await.json();
    let id = text(&client, "client_id");
    let bad = [("redirect_uri", uri), ("response_type", "token")];
    let refused = world.authorize(id, &bad).await;
    assert_eq!((refused.status, refused.headers.get("location")), (400, None));
    world.servers.hidden.lock().unwrap().insert(("github".to_owned(), "ada".to_owned()));
    let held = world.authorize(id, &[("redirect_uri", uri)]).await;
    let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
    let refused = world.send(request, "").await;
    assert_eq!((refused.status, refused.headers.get("location")), (403, None));
    assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::NoAccess));

    // A listed host is told, and one that somebody has agreed to.
    let listed = json!({ "redirect_uris": ["https://claude.ai/cb"] });
    let listed = world.register(listed).await.json();
    let changes = [("redirect_uri", "https://claude.ai/cb"), ("response_type", "token")];
    assert_eq!(world.authorize(text(&listed, "client_id"), &changes).await.status, 303);
    world.servers.hidden.lock().unwrap().clear();
    let (page, cookie) = world.ask(id, "ada", &[("redirect_uri", uri)]).await;
    world.decide(&page, &cookie, "ada", "allow").await;
    assert_eq!(world.authorize(id, &bad).await.parameters()["error"], "unsupported_response_type");
}
