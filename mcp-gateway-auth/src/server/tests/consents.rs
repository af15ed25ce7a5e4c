//! What is agreed to, what is remembered of it, and what administrators do.

use mcp_gateway_core::contract::StoreErrorKind;
use mcp_gateway_core::record::Revoked;

use super::*;

const CALLBACK: &str = "https://portal.example/callback";

/// A client that an administrator has made, with a secret.
async fn portal(world: &World) -> CreatedClient {
    let mut new = NewClient::named("Portal");
    new.redirect_uris = vec![CALLBACK.to_owned()];
    new.secret = true;
    world.server.create_client(new).await.unwrap()
}

/// What a person who is logged in gets to see: the consent page, or the way on.
async fn ask(world: &World, client: &str, redirect: &str, more: &[(&str, &str)]) -> Answer {
    let held = world.authorize(client, &[&[("redirect_uri", redirect)], more].concat()).await;
    assert_eq!(held.status, 303, "{held:?}");
    let request = Request::get(held.location()).header(COOKIE, cookie(&held)).header("x-user", "ada");
    world.send(request, "").await
}

fn is_asked(answer: &Answer) -> bool {
    answer.body == "consent"
}

#[tokio::test]
async fn consent_is_remembered_for_clients_that_nobody_can_pass_for() {
    let world = World::new().await;
    let portal = portal(&world).await;
    let agree = async || {
        let (page, cookie) = world.ask(&portal.id, "ada", &[("redirect_uri", CALLBACK)]).await;
        let answer = world.decide(&page, &cookie, "ada", "allow").await;
        assert!(answer.parameters().contains_key("code"), "{answer:?}");
    };
    agree().await;
    let again = ask(&world, &portal.id, CALLBACK, &[]).await;
    assert!(again.location().starts_with(CALLBACK) && again.parameters().contains_key("code"), "{again:?}");
    // Nothing but the very same: another server, another person, and whoever wants to be asked.
    let gitlab = [("resource", "https://gateway.example/mcp-connect/gitlab")];
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &gitlab).await));
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &[("prompt", "consent")]).await));
    let (page, _) = world.ask(&portal.id, "bob", &[("redirect_uri", CALLBACK)]).await;
    assert_eq!(page.subject, Subject::local("bob"));

    // What was shown has changed.
    let clients = world.kept::<OAuthClient>();
    let kept = clients.get(&portal.id).await.unwrap().unwrap();
    let changed = OAuthClient { name: Some("Portal of somebody else".to_owned()), ..kept.value.clone() };
    clients.save(&portal.id, &changed, mcp_gateway_core::contract::When::Any).await.unwrap();
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
    clients.save(&portal.id, &kept.value, mcp_gateway_core::contract::When::Any).await.unwrap();
    assert!(!is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));

    // A new epoch of the person, and whatever ends what the person has.
    world.standing.1.store(1, std::sync::atomic::Ordering::SeqCst);
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
    agree().await;
    world.server.end_grants(Revoked::Subject(&Subject::local("ada"))).await.unwrap();
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
}

#[tokio::test]
async fn what_is_remembered_is_seen_forgotten_and_ends() {
    let world = World::new().await;
    let portal = portal(&world).await;
    let agree = async || {
        let (page, cookie) = world.ask(&portal.id, "ada", &[("redirect_uri", CALLBACK)]).await;
        world.decide(&page, &cookie, "ada", "allow").await;
    };
    agree().await;
    let ada = Subject::local("ada");
    let (of_ada, _) = world.server.consents(Some(&ada), None, 10).await.unwrap();
    let [kept] = &*of_ada else { panic!("{of_ada:?}") };
    assert_eq!((&*kept.value.client_id, &*kept.value.server, &*kept.value.scope), (&*portal.id, "github", "mcp"));
    assert_eq!(kept.value.redirect_uri, CALLBACK);
    assert!(world.server.consents(Some(&Subject::local("bob")), None, 10).await.unwrap().0.is_empty());
    world.server.forget_consent(&kept.id).await.unwrap();
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
    assert!(matches!(world.server.forget_consent(&kept.id).await, Err(AdminError::Missing)));

    // 180 days from when the person was asked, however often it was gone by meanwhile.
    agree().await;
    let days = |days: u64| Duration::from_secs(days * 24 * 3_600);
    world.clock.advance(days(100));
    assert!(!is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
    world.clock.advance(days(80) - Duration::from_secs(1));
    assert!(!is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
    world.clock.advance(Duration::from_secs(1));
    assert!(is_asked(&ask(&world, &portal.id, CALLBACK, &[]).await));
}

/// RFC 8252 §8.6: any program can take a loopback address or a scheme, and anybody can register a name.
#[tokio::test]
async fn consent_to_a_program_on_a_machine_is_asked_for_each_time() {
    let world = World::new().await;
    let registered = world.laptop().await;
    let at_host = json!({ "redirect_uris": ["https://claude.ai/callback"] });
    let at_host = text(&world.register(at_host).await.json(), "client_id").to_owned();
    let scheme = json!({ "redirect_uris": ["cursor://anysphere/callback"] });
    let scheme = text(&world.register(scheme).await.json(), "client_id").to_owned();
    let mut new = NewClient::named("Tool");
    (new.redirect_uris, new.secret) = (vec![REDIRECT.to_owned()], true);
    let on_loopback = world.server.create_client(new).await.unwrap().id;
    for (client, redirect) in [
        (&registered, REDIRECT),
        (&at_host, "https://claude.ai/callback"),
        (&scheme, "cursor://anysphere/callback"),
        (&on_loopback, REDIRECT),
    ] {
        let (page, cookie) = world.ask(client, "ada", &[("redirect_uri", redirect)]).await;
        assert_eq!(world.decide(&page, &cookie, "ada", "allow").await.status, 303);
        assert!(is_asked(&ask(&world, client, redirect, &[]).await), "{redirect}");
    }
}

#[tokio::test]
async fn an_answer_is_for_what_was_shown() {
    let world = World::new().await;
    let portal = portal(&world).await;
    let (page, cookie) = world.ask(&portal.id, "ada", &[("redirect_uri", CALLBACK)]).await;
    let clients = world.kept::<OAuthClient>();
    let kept = clients.get(&portal.id).await.unwrap().unwrap().value;
    let redirect_uris = vec![CALLBACK.to_owned(), "https://elsewhere.example/".to_owned()];
    let changed = OAuthClient { redirect_uris, ..kept };
    clients.save(&portal.id, &changed, mcp_gateway_core::contract::When::Any).await.unwrap();
    assert_eq!(world.decide(&page, &cookie, "ada", "allow").await.status, 400);
    assert_eq!(*world.people.problem.lock().unwrap(), Some(Problem::RequestGone));
}

#[tokio::test]
async fn a_client_that_waits_is_seen_and_approved() {
    let world = World::new().await;
    let there = "https://startup.example/callback";
    let answer = world.register(json!({ "redirect_uris": [there] })).await;
    let id = text(&answer.json(), "client_id").to_owned();
    assert_eq!(world.authorize(&id, &[("redirect_uri", there)]).await.status, 403);
    let (listed, _) = world.server.clients(None, 10).await.unwrap();
    assert!(listed.iter().any(|client| *client.id == *id && !world.server.may_be_used(&client.value)));
    let shown = world.server.client(&id).await.unwrap().unwrap().revision;
    world.server.approve_client(&id, Some(shown)).await.unwrap();
    assert!(world.server.may_be_used(&world.server.client(&id).await.unwrap().unwrap().value));
    assert!(is_asked(&ask(&world, &id, there, &[]).await));
    // What it says later was not approved.
    let token = text(&answer.json(), "registration_access_token").to_owned();
    let elsewhere = json!({ "client_id": id, "redirect_uris": ["https://other.example/callback"] });
    let put = Request::put(format!("/register/{id}")).header(AUTHORIZATION, format!("Bearer {token}"));
    assert_eq!(world.send(put, elsewhere.to_string()).await.status, 200);
    assert_eq!(world.authorize(&id, &[("redirect_uri", "https://other.example/callback")]).await.status, 403);
    assert!(matches!(world.server.approve_client("nobody", None).await, Err(AdminError::Missing)));
    // Nor is what has changed between the look and the approval.
    match world.server.approve_client(&id, Some(shown)).await {
        Err(AdminError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
        other => panic!("{other:?}"),
    }
    assert!(!world.server.may_be_used(&world.server.client(&id).await.unwrap().unwrap().value));
}

/// RFC 7592 §2.2.
#[tokio::test]
async fn a_client_replaces_what_it_said_of_itself() {
    let world = World::new().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "client_secret_post" });
    let made = world.register(metadata).await.json();
    let (id, token) = (text(&made, "client_id"), text(&made, "registration_access_token"));
    let put = async |body: Value, token: &str| {
        let request = Request::put(format!("/register/{id}")).header(AUTHORIZATION, format!("Bearer {token}"));
        world.send(request, body.to_string()).await
    };
    let new = json!({
        "client_id": id, "client_name": "Renamed", "redirect_uris": ["http://127.0.0.1:1/other"],
        "token_endpoint_auth_method": "client_secret_basic",
    });
    assert_eq!(put(new.clone(), "wrong").await.status, 401);
    let mut of_another = new.clone();
    of_another["client_id"] = "another".into();
    assert_eq!(put(of_another, token).await.error(), "invalid_client_metadata");
    let mut wrong_secret = new.clone();
    wrong_secret["client_secret"] = "guessed".into();
    assert_eq!(put(wrong_secret, token).await.error(), "invalid_client_metadata");
    let answer = put(new.clone(), token).await;
    assert_eq!((answer.status, text(&answer.json(), "client_name")), (200, "Renamed"));
    assert!(answer.json().get("client_secret").is_none(), "it keeps the one that it has");
    let kept = world.server.client(id).await.unwrap().unwrap().value;
    assert_eq!(kept.redirect_uris, ["http://127.0.0.1:1/other"]);
    let secret = text(&made, "client_secret");
    let form = [("grant_type", "refresh_token"), ("client_id", id), ("client_secret", secret), ("refresh_token", "x")];
    assert_eq!(world.post("/token", &form).await.error(), "invalid_grant", "the client is who it was");
    let open = json!({ "client_id": id, "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    assert_eq!(put(open, token).await.status, 200);
    assert!(world.server.client(id).await.unwrap().unwrap().value.is_public());
}

#[tokio::test]
async fn administrators_make_clients_that_can_be() {
    let world = World::new().await;
    let base = NewClient::named("x");
    let with = |edit: fn(&mut NewClient)| {
        let mut new = base.clone();
        edit(&mut new);
        new
    };
    for (new, wrong) in [
        (with(|new| new.name.clear()), "name"),
        (with(|new| new.redirect_uris = vec!["javascript:x".into()]), "redirect_uris"),
        (with(|new| new.redirect_uris = vec![CALLBACK.into(); ServerLimits::REDIRECT_URIS + 1]), "redirect_uris"),
        (with(|new| new.grants = [GrantType::AuthorizationCode].into()), "redirect_uris"),
        (base.clone(), "secret"),
        (with(|new| new.keys = Some("{}".into())), "jwks"),
    ] {
        match world.server.create_client(new).await {
            Err(AdminError::Invalid { field, .. }) => assert_eq!(field, wrong),
            other => panic!("{wrong}: {other:?}"),
        }
    }
    let made = world.server.create_client(with(|new| new.secret = true)).await.unwrap();
    assert_eq!(made.client.grants, [GrantType::ClientCredentials]);
    world.server.block_client(&made.id).await.unwrap();
    assert!(matches!(world.server.delete_client(&made.id).await, Err(AdminError::Blocked)), "it could come again");
    world.server.unblock_client(&made.id).await.unwrap();
    world.server.delete_client(&made.id).await.unwrap();
    assert!(world.server.client(&made.id).await.unwrap().is_none());
    assert!(matches!(world.server.delete_client(&made.id).await, Err(AdminError::Missing)));
}

#[tokio::test]
async fn grants_are_listed_by_person_and_ended_one_by_one() {
    let world = World::new().await;
    let client = world.laptop().await;
    let (first, second) = (world.tokens(&client).await, world.tokens(&client).await);
    let ada = Subject::local("ada");
    let (of_ada, _) = world.server.grants(Some(&ada), None, 10).await.unwrap();
    assert_eq!(of_ada.len(), 2);
    assert!(world.server.grants(Some(&Subject::local("bob")), None, 10).await.unwrap().0.is_empty());
    let ended = of_ada.iter().find(|grant| text(&first, "refresh_token").contains(&*grant.id)).unwrap();
    let revision = world.server.end_grant(&ended.id).await.unwrap();
    world.snapshots.wait_for(revision).await;
    assert!(world.call(text(&first, "access_token"), "github").await.is_err());
    assert_eq!(world.refresh(&client, text(&first, "refresh_token")).await.error(), "invalid_grant");
    assert!(world.call(text(&second, "access_token"), "github").await.is_ok());
    assert!(matches!(world.server.end_grant(&ended.id).await, Err(AdminError::Missing)));
}
