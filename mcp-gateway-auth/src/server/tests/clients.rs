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
    let exactly = "n".repeat(ServerLimits::CLIENT_NAME);
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
    let tokens = world.tokens(&client).await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok());
}
