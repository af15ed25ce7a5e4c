//! Refresh tokens (RFC 9700 §4.14), revocation and introspection.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn within_the_grace_the_same_successor_comes_again_and_after_it_the_family_ends() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    let first = text(&tokens, "refresh_token");
    let second = world.refresh(&client, first).await.json();
    world.clock.advance(60 * SECOND - Duration::from_millis(1));
    let again = world.refresh(&client, first).await.json();
    assert_eq!(text(&again, "refresh_token"), text(&second, "refresh_token"));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.refresh(&client, first).await.error(), "invalid_grant");
    world.settle().await;
    assert!(world.call(text(&second, "access_token"), "github").await.is_err(), "the whole family has ended");
    assert_eq!(world.refresh(&client, text(&second, "refresh_token")).await.error(), "invalid_grant");
}

#[tokio::test]
async fn the_token_before_the_one_before_ends_the_family_even_within_the_grace() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    let first = text(&tokens, "refresh_token");
    let second = world.refresh(&client, first).await.json();
    let third = world.refresh(&client, text(&second, "refresh_token")).await.json();
    assert_eq!(world.refresh(&client, first).await.error(), "invalid_grant");
    assert_eq!(world.refresh(&client, text(&third, "refresh_token")).await.error(), "invalid_grant");
}

#[tokio::test]
async fn several_processes_that_share_a_token_get_one_successor() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    let first = text(&tokens, "refresh_token");
    let go = || world.refresh(&client, first);
    let (a, b, c, d, e) = tokio::join!(go(), go(), go(), go(), go());
    let successors: HashSet<_> =
        [a, b, c, d, e].iter().map(|answer| text(&answer.json(), "refresh_token").to_owned()).collect();
    assert_eq!(successors.len(), 1);
}

#[tokio::test]
async fn made_up_tokens_and_those_of_other_clients_end_nothing() {
    let world = World::new().await;
    let (client, other) = (world.laptop().await, world.laptop().await);
    let tokens = world.tokens(&client).await;
    let refresh = text(&tokens, "refresh_token");
    let [grant, _, _] = <[&str; 3]>::try_from(refresh.split('.').collect::<Vec<_>>()).unwrap();
    let proof = "A".repeat(43);
    for bad in
        [format!("{grant}.0.{proof}"), format!("{grant}.7.{proof}"), format!("{refresh}x"), String::from("mcpgwr_x.0")]
    {
        assert_eq!(world.refresh(&client, &bad).await.error(), "invalid_grant", "{bad}");
    }
    assert_eq!(world.refresh(&other, refresh).await.error(), "invalid_grant");
    assert_eq!(world.refresh(&client, refresh).await.status, 200);
}

#[tokio::test]
async fn a_grant_ends_idle_and_absolutely() {
    let world = World::new().await;
    let client = world.laptop().await;
    let day = 24 * 3_600 * SECOND;
    let mut refresh = text(&world.tokens(&client).await, "refresh_token").to_owned();
    for _ in 0..8 {
        world.clock.advance(20 * day);
        refresh = text(&world.refresh(&client, &refresh).await.json(), "refresh_token").to_owned();
    }
    world.clock.advance(20 * day);
    assert_eq!(world.refresh(&client, &refresh).await.error(), "invalid_grant", "180 days are over");
    let idle = text(&world.tokens(&client).await, "refresh_token").to_owned();
    world.clock.advance(30 * day);
    assert_eq!(world.refresh(&client, &idle).await.error(), "invalid_grant");
}

#[tokio::test]
async fn access_that_was_taken_away_is_noticed_at_refresh() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    world.servers.hidden.lock().unwrap().insert(("github".into(), "ada".into()));
    assert_eq!(world.refresh(&client, text(&tokens, "refresh_token")).await.error(), "invalid_grant");
}

#[tokio::test]
async fn counting_up_a_persons_epoch_ends_tokens_and_grants() {
    let world = World::new().await;
    let client = world.laptop().await;
    let (tokens, code) = (world.tokens(&client).await, world.code(&client).await);
    world.standing.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_err());
    assert_eq!(world.refresh(&client, text(&tokens, "refresh_token")).await.error(), "invalid_grant");
    assert_eq!(world.redeem(&client, &code, &[]).await.error(), "invalid_grant");
    let tokens = world.tokens(&client).await;
    assert!(world.call(text(&tokens, "access_token"), "github").await.is_ok(), "after a new consent");
}

#[tokio::test]
async fn ending_a_login_or_a_person_ends_grants_for_ever_and_nobody_elses() {
    use mcp_gateway_core::record::Revoked;
    let world = World::new().await;
    let client = world.laptop().await;
    let ada = Subject::local("ada");
    for what in [Revoked::Session("login-of-ada"), Revoked::Subject(&ada), Revoked::Client(&client)] {
        let tokens = world.tokens(&client).await;
        let (page, cookie) = world.ask(&client, "bob", &[]).await;
        let code = world.decide(&page, &cookie, "bob", "allow").await.parameters().remove("code").unwrap();
        let bobs = world.redeem(&client, &code, &[]).await.json();
        let unused = world.code(&client).await;
        let is_client = matches!(what, Revoked::Client(_));
        assert_eq!(world.server.end_grants(what).await.unwrap(), if is_client { 2 } else { 1 }, "{what:?}");
        world.settle().await;
        assert!(world.call(text(&tokens, "access_token"), "github").await.is_err());
        assert_eq!(world.redeem(&client, &unused, &[]).await.error(), "invalid_grant", "a code of before");
        assert_eq!(world.call(text(&bobs, "access_token"), "github").await.is_ok(), !is_client);
        world.clock.advance(25 * 3_600 * SECOND);
        assert_eq!(world.refresh(&client, text(&tokens, "refresh_token")).await.error(), "invalid_grant");
        let bobs = world.refresh(&client, text(&bobs, "refresh_token")).await;
        assert_eq!(bobs.status, if is_client { 400 } else { 200 });
        if let Some(refresh) = bobs.json()["refresh_token"].as_str() {
            // For the next round.
            world.post("/revoke", &[("client_id", &client), ("token", refresh)]).await;
        }
    }
}

#[tokio::test]
async fn a_refresh_keeps_to_its_resource() {
    let world = World::new().await;
    let client = world.laptop().await;
    let tokens = world.tokens(&client).await;
    let other = "https://gateway.example/mcp-connect/gitlab";
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", &*client),
        ("refresh_token", text(&tokens, "refresh_token")),
        ("resource", other),
    ];
    assert_eq!(world.post("/token", &form).await.error(), "invalid_target");
}

#[tokio::test]
async fn revoking_ends_the_grant_or_the_one_token_and_tells_strangers_nothing() {
    let world = World::new().await;
    let (client, other) = (world.laptop().await, world.laptop().await);
    let tokens = world.tokens(&client).await;
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    for token in [access, refresh, "unknown"] {
        assert_eq!(world.post("/revoke", &[("client_id", &other), ("token", token)]).await.status, 200);
    }
    world.settle().await;
    assert!(world.call(access, "github").await.is_ok(), "another client's word counts for nothing");

    assert_eq!(world.post("/revoke", &[("client_id", &client), ("token", access)]).await.status, 200);
    world.settle().await;
    assert!(world.call(access, "github").await.is_err());
    let next = world.refresh(&client, refresh).await.json();
    assert!(world.call(text(&next, "access_token"), "github").await.is_ok(), "only the one token");

    let form = [("client_id", &*client), ("token", text(&next, "refresh_token"))];
    assert_eq!(world.post("/revoke", &form).await.status, 200);
    world.settle().await;
    assert!(world.call(text(&next, "access_token"), "github").await.is_err());
    assert_eq!(world.refresh(&client, text(&next, "refresh_token")).await.error(), "invalid_grant");
}

#[tokio::test]
async fn a_server_introspects_the_tokens_that_are_for_it_alone() {
    let world = World::new().await;
    let client = world.laptop().await;
    let access = text(&world.tokens(&client).await, "access_token").to_owned();
    let server = |id: &str| OAuthClient {
        client_id: None,
        name: None,
        known_by: KnownBy::Operator,
        redirect_uris: Vec::new(),
        authentication: ClientAuthentication::Secret { sha256: hex_hash("secret") },
        grants: Vec::new(),
        resource_server: Some(id.to_owned()),
        management_sha256: None,
        blocked: false,
        approved: false,
        issuer: None,
        created_at: world.clock.now(),
        used_at: None,
    };
    let clients = world.kept::<OAuthClient>();
    let any = mcp_gateway_core::contract::When::Any;
    clients.save("rs-github", &server("github"), any).await.unwrap();
    clients.save("rs-gitlab", &server("gitlab"), any).await.unwrap();
    let ask = async |who: &str, token: &str| {
        world.post("/introspect", &[("client_id", who), ("client_secret", "secret"), ("token", token)]).await
    };
    let mine = ask("rs-github", &access).await.json();
    assert_eq!((&mine["active"], &mine["sub"]), (&json!(true), &json!("ada")));
    assert_eq!(ask("rs-gitlab", &access).await.json(), json!({ "active": false }));
    assert_eq!(ask("rs-github", "unknown").await.json(), json!({ "active": false }));
    assert_eq!(ask("nobody", &access).await.status, 401);
    assert_eq!(
        world.post("/introspect", &[("client_id", &client), ("token", &access)]).await.error(),
        "unauthorized_client"
    );
    world.post("/revoke", &[("client_id", &client), ("token", &access)]).await;
    world.settle().await;
    assert_eq!(ask("rs-github", &access).await.json(), json!({ "active": false }));
}

/// This process has not heard of the logout when the code comes.
#[tokio::test]
async fn no_grant_outlives_a_logout_at_the_same_time() {
    use mcp_gateway_core::record::Revoked;
    let world = World::new().await;
    let client = world.laptop().await;
    let (code, _) = (world.code(&client).await, world.tokens(&client).await);
    let (grants, _) = world.server.grants(None, None, 10).await.unwrap();
    let inner = &world.server.0;
    let stands = async |id: &str| inner.state.standing(id, &grants[0].value).await.unwrap();
    let (login, grant, of_client) = (stands("a").await, stands("b").await, stands("c").await);
    for (what, checks) in
        [(Revoked::Session("login-of-ada"), login), (Revoked::Grant("b"), grant), (Revoked::Client(&client), of_client)]
    {
        let revoke = inner.state.revoke(what, "meanwhile", &*world.clock).unwrap();
        inner.state.commit(vec![revoke]).await.unwrap();
        let late = inner.state.commit(checks.unwrap()).await;
        assert_eq!(late.unwrap_err().kind(), mcp_gateway_core::contract::StoreErrorKind::Conflict, "{what:?}");
        assert!(stands("b").await.is_none(), "{what:?}");
    }
    assert_eq!(world.redeem(&client, &code, &[]).await.error(), "invalid_grant");
    assert_eq!(world.server.grants(None, None, 10).await.unwrap().0.len(), 1, "none came of the code");
}
