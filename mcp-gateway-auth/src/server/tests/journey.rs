//! What works: from metadata to calls.

use mcp_gateway_core::contract::{AuditFull, Seq};
use mcp_gateway_core::record::{AuditEvent, Outcome};

use super::*;

/// Keeps what it is told, until it is full.
#[derive(Default)]
struct Trail(Mutex<(Vec<AuditEvent>, bool)>);

#[async_trait]
impl AuditSink for Trail {
    fn record(&self, event: AuditEvent) -> MaybeReady<Result<Seq, AuditFull>> {
        let mut trail = self.0.lock().unwrap();
        if trail.1 {
            return Err(AuditFull::Space).into();
        }
        trail.0.push(event);
        Ok(Seq(0)).into()
    }

    async fn flush(&self) {}
}

#[tokio::test]
async fn metadata_says_what_clients_need_and_is_one_set() {
    let world = World::new().await;
    let server = world.get("/.well-known/oauth-authorization-server").await;
    let openid = world.get("/.well-known/openid-configuration").await;
    assert_eq!(server.body, openid.body);
    let metadata = server.json();
    assert_eq!(metadata["issuer"], ORIGIN, "without a trailing slash");
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    for name in
        ["jwks_uri", "subject_types_supported", "id_token_signing_alg_values_supported", "registration_endpoint"]
    {
        assert!(metadata.get(name).is_some(), "{name}");
    }
    assert!(text(&metadata, "token_endpoint").starts_with(ORIGIN));
    assert_eq!(server.headers["access-control-allow-origin"], "*");
    let keys = world.get("/jwks.json").await.json();
    assert_eq!((keys["keys"][0]["alg"].as_str(), keys["keys"][0]["use"].as_str()), (Some("ES256"), Some("sig")));

    let off = World::with(|server| {
        server.documents(None).policy(RegistrationPolicy::default().with_mode(RegistrationMode::Off))
    });
    let off = off.await;
    let metadata = off.get("/.well-known/oauth-authorization-server").await.json();
    assert!(metadata.get("registration_endpoint").is_none());
    assert_eq!(metadata["client_id_metadata_document_supported"], false);
    assert_eq!(off.register(json!({})).await.status, 404);
}

#[tokio::test]
async fn a_person_logs_in_agrees_and_the_client_calls_and_refreshes() {
    let world = World::new().await;
    let client = world.laptop().await;
    let held = world.authorize(&client, &[]).await;
    assert_eq!(held.status, 303);
    let set = held.headers["set-cookie"].to_str().unwrap();
    assert!(set.starts_with("__Host-") && set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{set}");
    let login = world.send(Request::get(held.location()).header("cookie", cookie(&held)), "").await;
    assert_eq!(login.location(), format!("/login?then={}", held.location()), "nobody is logged in yet");

    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    assert_eq!(page.client_name.as_deref(), Some("Laptop"));
    assert_eq!((page.known_by, &page.redirect), (KnownBy::Registration, &RedirectKind::Loopback));
    assert_eq!(page.server, Some(("github".to_owned(), "The github".to_owned())));
    assert_eq!(page.scopes, ["mcp"], "scopes that nobody knows are ignored");
    let allowed = world.decide(&page, &cookie, "ada", "allow").await;
    assert!(allowed.location().starts_with(REDIRECT));
    let parameters = allowed.parameters();
    assert_eq!((&*parameters["state"], &*parameters["iss"]), ("s t&te", ORIGIN));

    let answer = world.redeem(&client, &parameters["code"], &[]).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "application/json");
    let tokens = answer.json();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(3_600)));
    let principal = world.call(text(&tokens, "access_token"), "github").await.unwrap();
    assert_eq!((&*principal.subject.id, &*principal.actor.id), ("ada", &*client));
    assert!(world.call(text(&tokens, "access_token"), "gitlab").await.is_err(), "another audience");

    let refreshed = world.refresh(&client, text(&tokens, "refresh_token")).await.json();
    assert_ne!(text(&refreshed, "refresh_token"), text(&tokens, "refresh_token"));
    assert!(world.call(text(&refreshed, "access_token"), "github").await.is_ok());
}

#[tokio::test]
async fn without_a_resource_the_person_chooses_a_server_or_none() {
    let world = World::new().await;
    let client = world.laptop().await;
    for bare in ["", ORIGIN] {
        let (page, cookie) = world.ask(&client, "ada", &[("resource", bare)]).await;
        assert_eq!(page.server, None);
        let nothing = world.decide(&page, &cookie, "ada", "allow").await;
        assert_eq!(nothing.parameters()["error"], "invalid_target");

        let (page, cookie) = world.ask(&client, "ada", &[("resource", bare)]).await;
        let form = [("request", &*page.request), ("csrf", &page.csrf), ("decision", "allow"), ("server", "gitlab")];
        let request = Request::post("/authorize/decide")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(COOKIE, cookie)
            .header("x-user", "ada");
        let chosen = world.send(request, encoded(&form)).await;
        let code = chosen.parameters().remove("code").unwrap();
        let tokens = world.redeem(&client, &code, &[("resource", "")]).await.json();
        assert!(world.call(text(&tokens, "access_token"), "gitlab").await.is_ok());
        assert!(world.call(text(&tokens, "access_token"), "github").await.is_err());
    }
}

#[tokio::test]
async fn saying_no_and_having_no_access_look_the_same_to_the_client() {
    let world = World::new().await;
    let client = world.laptop().await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    let no = world.decide(&page, &cookie, "ada", "deny").await;
    world.servers.hidden.lock().unwrap().insert(("github".into(), "eve".into()));
    let mut answers = vec![no.location().to_owned()];
    for server in ["https://gateway.example/mcp-connect/github", "https://gateway.example/mcp-connect/none"] {
        let held = world.authorize(&client, &[("resource", server)]).await;
        let request = Request::get(held.location()).header(COOKIE, super::cookie(&held)).header("x-user", "eve");
        answers.push(world.send(request, "").await.location().to_owned());
    }
    assert!(answers[0].contains("error=access_denied") && answers.iter().all(|one| *one == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn a_client_calls_for_itself_with_a_secret_or_a_signature() {
    use mcp_gateway_core::contract::Signer as _;
    let world = World::new().await;
    let client = |authentication| OAuthClient {
        client_id: None,
        name: None,
        known_by: KnownBy::Operator,
        redirect_uris: Vec::new(),
        authentication,
        grants: vec![GrantType::ClientCredentials],
        resource_server: None,
        management_sha256: None,
        blocked: false,
        approved: false,
        issuer: None,
        created_at: world.clock.now(),
        used_at: None,
    };
    let secret = client(ClientAuthentication::Secret { sha256: hex_hash("correct horse") });
    let keys = world.keys.document().to_string();
    let clients = world.kept::<OAuthClient>();
    let any = mcp_gateway_core::contract::When::Any;
    clients.save("ci", &secret, any).await.unwrap();
    clients.save("agent", &client(ClientAuthentication::PrivateKeyJwt { keys }), any).await.unwrap();
    clients.save("public", &client(ClientAuthentication::None), any).await.unwrap();

    let resource = "https://gateway.example/mcp-connect/github";
    let form = [("grant_type", "client_credentials"), ("resource", resource)];
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("ci:correct+horse"));
    let tokens = world.post_as("/token", &form, Some(&basic)).await.json();
    assert!(tokens.get("refresh_token").is_none());
    let principal = world.call(text(&tokens, "access_token"), "github").await.unwrap();
    assert_eq!((&*principal.subject.issuer, &*principal.subject.id), (CLIENT_SUBJECT, "ci"));
    // A person of the same id is somebody else, and what ends the one is nothing to the other.
    let person = Subject::local("ci");
    assert_ne!(principal.subject, person);
    world.server.end_grants(mcp_gateway_core::record::Revoked::Subject(&person)).await.unwrap();
    world.settle().await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok());

    let now = world.clock.now().as_second();
    let claims =
        |jti: &str, aud: Value, exp: i64| json!({ "iss": "agent", "sub": "agent", "aud": aud, "jti": jti, "exp": exp });
    let send = async |claims: Value| {
        let assertion = world.keys.sign("JWT", claims.to_string().as_bytes()).await.unwrap();
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let assertion = [("client_assertion", &*assertion), ("client_assertion_type", kind)];
        world.post("/token", &[&form[..], &assertion].concat()).await
    };
    let good = claims("1", json!(ORIGIN), now + 60);
    assert_eq!(send(good.clone()).await.status, 200);
    assert_eq!(send(good).await.status, 401, "an assertion is used once");
    assert_eq!(send(claims("2", json!("https://gateway.example/token"), now + 60)).await.status, 200);
    for (jti, aud, exp) in [
        ("3", json!("https://other.example"), now + 60),
        ("4", json!([ORIGIN, "https://other.example"]), now + 60),
        ("5", json!(ORIGIN), now - 60),
        ("6", json!(ORIGIN), now + 601),
    ] {
        assert_eq!(send(claims(jti, aud.clone(), exp)).await.status, 401, "{aud} {exp}");
    }
    let mut other = claims("7", json!(ORIGIN), now + 60);
    other["iss"] = "ci".into();
    assert_eq!(send(other).await.status, 401);

    let public = [&form[..], &[("client_id", "public")]].concat();
    assert_eq!(world.post("/token", &public).await.error(), "unauthorized_client");
    let nowhere = [("grant_type", "client_credentials")];
    assert_eq!(world.post_as("/token", &nowhere, Some(&basic)).await.error(), "invalid_target");
}

#[tokio::test]
async fn endpoints_answer_browsers_of_any_origin_and_name_their_methods() {
    let world = World::new().await;
    for path in ["/token", "/register", "/revoke", "/.well-known/oauth-authorization-server", "/jwks.json"] {
        let preflight = world.send(Request::options(path), "").await;
        assert_eq!((preflight.status, &preflight.headers["access-control-allow-origin"]), (204, &"*".parse().unwrap()));
        assert!(!preflight.headers.contains_key("access-control-allow-credentials"));
    }
    for (method, path) in [("PUT", "/token"), ("GET", "/token"), ("POST", "/authorize"), ("GET", "/authorize/decide")] {
        let answer = world.send(Request::builder().method(method).uri(path), "").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(answer.headers.contains_key("allow"));
    }
    assert!(!world.get("/authorize").await.headers.contains_key("access-control-allow-origin"));
    assert_eq!(world.get("/other").await.status, 404);
}

#[tokio::test]
async fn the_trail_says_who_agreed_to_what_and_a_full_one_stops_giving() {
    let trail = Arc::new(Trail::default());
    let sink = trail.clone();
    let world = World::with(|server| server.documents(None).audit(sink)).await;
    let client = world.laptop().await;
    let code = world.code(&client).await;
    let tokens = world.redeem(&client, &code, &[]).await.json();
    world.redeem(&client, &code, &[]).await;
    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    world.decide(&page, &cookie, "ada", "deny").await;
    let tokens_of_another = world.tokens(&client).await;
    let form = [("client_id", &*client), ("token", text(&tokens_of_another, "refresh_token"))];
    world.post("/revoke", &form).await;
    let events = std::mem::take(&mut trail.0.lock().unwrap().0);
    let names: Vec<_> = events.iter().map(|event| (event.method.as_deref().unwrap(), event.outcome)).collect();
    assert_eq!(
        names,
        [
            ("oauth.consent", Outcome::Ok),
            ("oauth.token", Outcome::Ok),
            ("oauth.reuse", Outcome::Denied),
            ("oauth.consent", Outcome::Denied),
            ("oauth.consent", Outcome::Ok),
            ("oauth.token", Outcome::Ok),
            ("oauth.revoke", Outcome::Ok),
        ]
    );
    let consent = &events[0];
    let actor = consent.actor.as_ref().unwrap();
    assert_eq!((&*actor.subject.id, &*actor.id, consent.server.as_deref()), ("ada", &*client, Some("github")));
    let printed = format!("{events:?}");
    for secret in [&*code, text(&tokens, "access_token"), text(&tokens, "refresh_token")] {
        assert!(!printed.contains(secret));
    }

    let (page, cookie) = world.ask(&client, "ada", &[]).await;
    let code = world.code(&client).await;
    trail.0.lock().unwrap().1 = true;
    assert_eq!(world.decide(&page, &cookie, "ada", "allow").await.status, 503);
    assert_eq!(world.redeem(&client, &code, &[]).await.status, 503);
    let registered = world.register(json!({ "redirect_uris": [REDIRECT] })).await;
    assert_eq!(registered.status, 201, "strangers have no rows in the trail, and gain no access by this");
    let form = [("client_id", &*client), ("token", text(&tokens, "refresh_token"))];
    assert_eq!(world.post("/revoke", &form).await.status, 200, "what ends access goes on");
    trail.0.lock().unwrap().1 = false;
    assert_eq!(world.redeem(&client, &code, &[]).await.status, 200, "the code was not used up meanwhile");

    // A client changes itself: of interest as soon as somebody has agreed to it.
    let registered = registered.json();
    let id = text(&registered, "client_id");
    let change = async || {
        let bearer = format!("Bearer {}", text(&registered, "registration_access_token"));
        let request = Request::put(format!("/register/{id}")).header(AUTHORIZATION, bearer);
        let body = json!({ "client_id": id, "redirect_uris": [REDIRECT] }).to_string();
        trail.0.lock().unwrap().0.clear();
        assert_eq!(world.send(request, body).await.status, 200);
        trail
            .0
            .lock()
            .unwrap()
            .0
            .iter()
            .filter_map(|event| event.method.as_deref().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert!(change().await.is_empty());
    world.tokens(id).await;
    assert_eq!(change().await, ["oauth.reregister"]);
}

/// A company's identity provider decides (ID-JAG): each claim counts, and an assertion is used once.
#[tokio::test]
async fn an_identity_provider_decides_for_its_people_once_and_for_what_it_names() {
    use mcp_gateway_core::contract::{Signer as _, When};
    const IDP: &str = "https://idp.example";
    let idp = World::new().await;
    let keys = idp.keys.clone();
    let trail = Arc::new(Trail::default());
    let sink = trail.clone();
    let world = World::with(|server| {
        let provider = IdentityProvider::new(IDP, keys).with_client("agent").with_client("public");
        server.documents(None).identity_provider(provider).audit(sink)
    });
    let world = world.await;
    let metadata = world.get("/.well-known/oauth-authorization-server").await.json();
    assert!(metadata["authorization_grant_profiles_supported"].is_array());
    let client = |authentication| OAuthClient {
        client_id: None,
        name: None,
        known_by: KnownBy::Operator,
        redirect_uris: Vec::new(),
        authentication,
        grants: vec![GrantType::JwtBearer],
        resource_server: None,
        management_sha256: None,
        blocked: false,
        approved: false,
        issuer: None,
        created_at: world.clock.now(),
        used_at: None,
    };
    let clients = world.kept::<OAuthClient>();
    let secret = || ClientAuthentication::Secret { sha256: hex_hash("secret") };
    clients.save("agent", &client(secret()), When::Any).await.unwrap();
    clients.save("other", &client(secret()), When::Any).await.unwrap();
    clients.save("public", &client(ClientAuthentication::None), When::Any).await.unwrap();

    let now = world.clock.now().as_second();
    let claims = |jti: &str| {
        json!({
            "iss": IDP, "sub": "u-1", "aud": ORIGIN, "client_id": "agent", "jti": jti, "iat": now, "exp": now + 300,
            "resource": "https://gateway.example/mcp-connect/github",
        })
    };
    let send = async |client: &str, typ: &'static str, claims: &Value| {
        let assertion = idp.keys.sign(typ, claims.to_string().as_bytes()).await.unwrap();
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let form =
            [("grant_type", grant), ("client_id", client), ("client_secret", "secret"), ("assertion", &assertion)];
        world.post("/token", &form).await
    };
    let first = send("agent", "oauth-id-jag+jwt", &claims("1")).await;
    let tokens = first.json();
    assert_eq!((&tokens["expires_in"], tokens.get("refresh_token")), (&json!(600), None), "{tokens}");
    let principal = world.call(text(&tokens, "access_token"), "github").await.unwrap();
    assert_eq!((&*principal.subject.issuer, &*principal.subject.id), (IDP, "u-1"));
    assert_eq!(send("agent", "oauth-id-jag+jwt", &claims("1")).await.error(), "invalid_grant", "used once");
    let mut scoped = claims("scoped");
    scoped["scope"] = "chat mcp".into();
    let narrowed = send("agent", "oauth-id-jag+jwt", &scoped).await.json();
    assert_eq!(narrowed["scope"], "mcp", "of what is agreed, what is known here");
    (scoped["scope"], scoped["jti"]) = ("chat".into(), "other scope".into());
    assert_eq!(send("agent", "oauth-id-jag+jwt", &scoped).await.error(), "invalid_scope");
    let events = std::mem::take(&mut trail.0.lock().unwrap().0);
    let exchanges = events.iter().filter(|event| event.method.as_deref() == Some("oauth.exchange"));
    let exchanges: Vec<_> = exchanges.map(|event| (event.outcome, event.actor.is_some())).collect();
    let (given, refused) = ((Outcome::Ok, true), (Outcome::Denied, false));
    assert_eq!(exchanges, [given, refused, given, refused]);

    assert_eq!(send("agent", "JWT", &claims("2")).await.error(), "invalid_grant");
    for (name, value) in [
        ("iss", json!("https://other.example")),
        ("aud", json!("https://other.example")),
        ("aud", json!([ORIGIN])),
        ("client_id", json!("other")),
        ("exp", json!(now - 31)),
        ("exp", json!(now + 601)),
        ("iat", json!(now + 31)),
        ("resource", json!("https://gateway.example/mcp-connect/none")),
        ("resource", json!("https://other.example/mcp-connect/github")),
        ("resource", json!(ORIGIN)),
        ("resource", Value::Null),
        ("sub", Value::Null),
    ] {
        let mut wrong = claims(&format!("{name} {value}"));
        wrong[name] = value.clone();
        assert_eq!(send("agent", "oauth-id-jag+jwt", &wrong).await.error(), "invalid_grant", "{name} {value}");
    }
    let mut others = claims("4");
    others["client_id"] = "other".into();
    assert_eq!(send("other", "oauth-id-jag+jwt", &others).await.error(), "invalid_grant", "not on the list");
    assert_eq!(send("public", "oauth-id-jag+jwt", &claims("5")).await.error(), "invalid_client");
    let mut of_public = claims("5");
    of_public["client_id"] = "public".into();
    let assertion = idp.keys.sign("oauth-id-jag+jwt", of_public.to_string().as_bytes()).await.unwrap();
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("client_id", "public"),
        ("assertion", &*assertion),
    ];
    assert_eq!(world.post("/token", &form).await.error(), "unauthorized_client", "it proves nothing");
    let mut bound = claims("7");
    bound["cnf"] = json!({ "jkt": "0" });
    assert_eq!(send("agent", "oauth-id-jag+jwt", &bound).await.error(), "invalid_grant", "bound to a key");
    let forged = world.keys.sign("oauth-id-jag+jwt", claims("6").to_string().as_bytes()).await.unwrap();
    let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    let form = [("grant_type", grant), ("client_id", "agent"), ("client_secret", "secret"), ("assertion", &*forged)];
    assert_eq!(world.post("/token", &form).await.error(), "invalid_grant");

    // Another replica has heard of it.
    let replica = AuthorizationServer::new(ServerParts {
        mount: Mount::new(ORIGIN, "/mcp-connect").unwrap(),
        tenant: TenantId::default(),
        store: world.store.clone(),
        sealer: world.sealer.clone(),
        signer: world.keys.clone(),
        keys: world.keys.clone(),
        resolve: world.servers.clone(),
        standing: world.standing.clone(),
        interaction: world.people.clone(),
        clock: world.clock.clone(),
    });
    let provider = IdentityProvider::new(IDP, idp.keys.clone()).with_client("agent");
    let replica = World { server: replica.documents(None).identity_provider(provider), ..world };
    for (jti, status) in [("1", 400), ("8", 200)] {
        let assertion = idp.keys.sign("oauth-id-jag+jwt", claims(jti).to_string().as_bytes()).await.unwrap();
        let form =
            [("grant_type", grant), ("client_id", "agent"), ("client_secret", "secret"), ("assertion", &*assertion)];
        assert_eq!(replica.post("/token", &form).await.status, status, "{jti}");
    }
}
