use std::time::Duration;

use http::Request;
use mcp_gateway_core::record::Roles;

use super::*;
use crate::login::{SessionOptions, SessionUser, csrf_token};
use crate::testing::{World, owner};
use crate::user::{Asserted, IdentityKey};

const ORIGIN: &str = "https://gateway.example";

struct Browser {
    world: World,
    sessions: Sessions,
    authenticator: SessionAuthenticator,
    user: String,
    token: String,
}

impl Browser {
    async fn new() -> Self {
        let world = World::new().await;
        let sessions = Sessions::new(world.of(), world.clock.clone(), SessionOptions::default());
        let directory = Arc::new(world.snapshots.clone());
        let authenticator = SessionAuthenticator::new(sessions.clone(), directory, TenantId::default(), ORIGIN);
        let asserted = Asserted::new(IdentityKey::new("https://login.example", "1"), "Ada");
        let signed_in = world.users.sign_in(&asserted).await.unwrap();
        world.applied(signed_in.revision).await;
        let user = SessionUser { id: signed_in.id.clone(), epoch: signed_in.user.epoch };
        let token = sessions.begin(&user, "local").await.unwrap().token.expose().to_owned();
        Self { world, sessions, authenticator, user: signed_in.id.into(), token }
    }

    async fn ask(&self, request: http::request::Builder) -> Result<Option<Arc<Principal>>, AuthError> {
        self.ask_at(request, None).await
    }

    async fn ask_at(
        &self,
        request: http::request::Builder,
        server: Option<&str>,
    ) -> Result<Option<Arc<Principal>>, AuthError> {
        let request = request.header("cookie", format!("__Host-mcpgw_session={}", self.token));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let resource = Resource { url: ORIGIN.into(), metadata: None, server: server.map(Into::into) };
        match self.authenticator.authenticate(&parts, &resource) {
            MaybeReady::Ready(answer) => answer,
            MaybeReady::Wait(wait) => wait.await,
        }
    }

    async fn get(&self) -> Result<Option<Arc<Principal>>, AuthError> {
        self.ask(Request::get("/")).await
    }
}

#[tokio::test]
async fn a_session_is_its_user_with_the_roles_of_now() {
    let browser = Browser::new().await;
    let principal = browser.get().await.unwrap().unwrap();
    assert_eq!((&*principal.subject.issuer, &*principal.subject.id), ("local", &*browser.user));
    assert_eq!((principal.actor.kind, principal.roles), (ActorKind::Session, Roles::BASIC));
    assert!(principal.has(Scope::ApiWrite) && !principal.has(Scope::Mcp));
    assert_eq!(principal.authenticated_at, Some(mcp_gateway_core::contract::Clock::now(&*browser.world.clock)));
    let users = &browser.world.users;
    browser.world.applied(users.set_roles(&owner(), &browser.user, Roles::ADMIN, None).await.unwrap()).await;
    assert!(browser.get().await.unwrap().unwrap().roles.contains(Roles::ADMIN));
}

#[tokio::test]
async fn cookies_are_nothing_on_the_data_plane_and_beside_a_bearer() {
    let browser = Browser::new().await;
    assert!(browser.ask_at(Request::post("/"), Some("everything")).await.unwrap().is_none());
    assert!(browser.ask(Request::post("/").header("authorization", "Bearer x")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_must_come_from_a_page_of_the_gateway() {
    let browser = Browser::new().await;
    let token = csrf_token(&browser.token);
    let (site, origin, header) = ("sec-fetch-site", "origin", "x-csrf-token");
    let same = Some((site, "same-origin"));
    for (from, proof, fine) in [
        (same, Some(token.as_str()), true),
        (Some((origin, ORIGIN)), Some(token.as_str()), true),
        (same, None, false),
        (same, Some("guess"), false),
        (same, Some(browser.token.as_str()), false),
        (None, Some(token.as_str()), false),
        (Some((site, "cross-site")), Some(token.as_str()), false),
        (Some((site, "same-site")), Some(token.as_str()), false),
        (Some((site, "none")), Some(token.as_str()), false),
        (Some((origin, "https://gateway.example.evil.example")), Some(token.as_str()), false),
        (Some((origin, "null")), Some(token.as_str()), false),
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let mut request = Request::builder().method(method).uri("/");
            if let Some((name, value)) = from {
                request = request.header(name, value);
            }
            if let Some(proof) = proof {
                request = request.header(header, proof);
            }
            match browser.ask(request).await {
                Ok(Some(_)) => assert!(fine, "{method} {from:?} {proof:?}"),
                Err(AuthError::Forged(_)) => assert!(!fine, "{method} {from:?} {proof:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
    // A browser that says both is believed about the site.
    let both = Request::post("/").header(site, "cross-site").header(origin, ORIGIN).header(header, &token);
    assert!(matches!(browser.ask(both).await, Err(AuthError::Forged(_))));
}

#[tokio::test]
async fn sessions_end_with_what_they_depend_on() {
    let browser = Browser::new().await;
    browser.world.applied(browser.world.users.end_sessions(&owner(), &browser.user).await.unwrap()).await;
    assert!(matches!(browser.get().await, Err(AuthError::Invalid(_))), "another epoch");

    let browser = Browser::new().await;
    browser.sessions.end(&browser.token).await.unwrap();
    assert!(matches!(browser.get().await, Err(AuthError::Invalid(_))), "signed out");

    let browser = Browser::new().await;
    let disabled = mcp_gateway_core::record::UserState::Disabled;
    let users = &browser.world.users;
    browser.world.applied(users.set_state(&owner(), &browser.user, disabled, None).await.unwrap()).await;
    assert!(matches!(browser.get().await, Err(AuthError::Invalid(_))), "disabled");

    let browser = Browser::new().await;
    browser.world.clock.advance(Duration::from_secs(13 * 3_600));
    assert!(matches!(browser.get().await, Err(AuthError::Invalid(_))), "idle");

    let twice = Request::get("/").header("cookie", format!("__Host-mcpgw_session={}", browser.token));
    assert!(matches!(browser.ask(twice).await, Err(AuthError::Malformed(_))));
}
