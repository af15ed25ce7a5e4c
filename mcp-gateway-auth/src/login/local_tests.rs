use std::net::Ipv4Addr;

use mcp_gateway_core::contract::SystemClock;
use mcp_gateway_core::memory::MemoryRateLimiter;
use mcp_gateway_core::record::{ApiKey, Roles, TenantId, User};

use super::*;
use crate::testing::{World, owner};
use crate::user::{Asserted, AssertedGroup};

const FIRST: &str = "chosen by an admin";
const SECOND: &str = "known to ada alone";

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn logins(world: &World) -> LocalLogins {
    let limiter = MemoryRateLimiter::new(SystemClock, 100);
    LocalLogins::new(world.users.clone(), world.of(), Passwords::default(), limiter, world.clock.clone())
}

async fn with_ada(world: &World) -> (LocalLogins, String) {
    let logins = logins(world);
    let new = NewUser { name: "Ada".into(), email: Some("Ada@A.example".into()), ..NewUser::default() };
    let (ada, revision) = logins.create(&owner(), new, "ada@a.example", &secret(FIRST)).await.unwrap();
    world.applied(revision).await;
    (logins, ada)
}

fn refused<T: fmt::Debug>(answer: &Result<T, LoginError>) -> bool {
    matches!(answer, Err(LoginError::Refused))
}

#[tokio::test]
async fn the_first_password_only_buys_another_one() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    let kept = world.users.get(&ada).await.unwrap().unwrap().value;
    assert_eq!(kept.email.map(|email| (email.address, email.verified)), Some(("ada@a.example".into(), false)));
    let first = logins.sign_in(" ADA@a.example ", &secret(FIRST), Attempt::default()).await.unwrap();
    assert_eq!(first, LocalSignIn::MustChange);

    let change = |old: &str, new: &str| {
        let (logins, old, new) = (logins.clone(), secret(old), secret(new));
        async move { logins.change("ada@a.example", &old, &new, Attempt::default()).await }
    };
    assert!(refused(&change("wrong password!", SECOND).await));
    assert!(matches!(change(FIRST, "too short").await, Err(LoginError::Unfit)));
    assert!(matches!(change(FIRST, FIRST).await, Err(LoginError::Unfit)), "it would still be known");
    let (user, _) = change(FIRST, SECOND).await.unwrap();
    assert_eq!((&*user.id, user.epoch), (&*ada, 1), "sessions of before end");
    assert!(refused(&logins.sign_in("ada@a.example", &secret(FIRST), Attempt::default()).await));
    assert_eq!(
        logins.sign_in("ada@a.example", &secret(SECOND), Attempt::default()).await.unwrap(),
        LocalSignIn::Done(user)
    );
}

/// Whoever has made something in a person's name, or knows their password, gets nothing by what a provider says of them.
#[tokio::test]
async fn a_provider_is_linked_to_whom_nobody_else_can_be() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    let company = IdentityKey::new("https://login.example", "7");
    let refused = world.users.link(&ada, &company).await;
    assert!(
        matches!(refused, Err(UserError::Invalid { field: "identity", .. })),
        "an administrator knows the password"
    );
    let (user, _) = logins.change("ada@a.example", &secret(FIRST), &secret(SECOND), Attempt::default()).await.unwrap();
    let keys = world.of::<ApiKey>();
    let key: ApiKey = serde_json::from_value(serde_json::json!({
        "name": "k", "secret_sha256": "0f".repeat(32), "subject": User::subject(TenantId::default(), &ada),
        "scopes": ["mcp"], "servers": ["*"], "created_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    keys.save("k", &key, When::Any).await.unwrap();
    world.applied(world.users.link(&ada, &company).await.unwrap()).await;
    assert_eq!(world.snapshots.load().users[&*ada].epoch, user.epoch + 1, "sessions of before end");
    assert!(keys.get("k").await.unwrap().is_none());
}

/// With a password nobody has said anything about groups.
#[tokio::test]
async fn groups_lapse_for_whoever_signs_in_with_a_password() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    logins.change("ada@a.example", &secret(FIRST), &secret(SECOND), Attempt::default()).await.unwrap();
    let company = IdentityKey::new("https://login.example", "7");
    world.users.link(&ada, &company).await.unwrap();
    let ops = AssertedGroup { id: "ops".into(), name: "Ops".into() };
    world.users.sign_in(&Asserted::new(company, "Ada").in_groups(vec![ops])).await.unwrap();
    for (later, groups) in [(Duration::ZERO, 1), (world.users.options.heard_for + Duration::from_secs(1), 0)] {
        world.clock.advance(later);
        logins.sign_in("ada@a.example", &secret(SECOND), Attempt::default()).await.unwrap();
        assert_eq!(world.users.get(&ada).await.unwrap().unwrap().value.groups.len(), groups);
    }
}

#[tokio::test]
async fn an_administrator_sets_another_password() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    logins.change("ada@a.example", &secret(FIRST), &secret(SECOND), Attempt::default()).await.unwrap();
    world.applied(logins.reset(&owner(), &ada, &secret(FIRST)).await.unwrap()).await;
    assert!(refused(&logins.sign_in("ada@a.example", &secret(SECOND), Attempt::default()).await));
    let again = logins.sign_in("ada@a.example", &secret(FIRST), Attempt::default()).await.unwrap();
    assert_eq!(again, LocalSignIn::MustChange);
    assert_eq!(world.users.get(&ada).await.unwrap().unwrap().value.epoch, 2);
    assert!(matches!(logins.reset(&owner(), "nobody", &secret(FIRST)).await, Err(UserError::Missing)));
}

#[tokio::test]
async fn whoever_may_not_sign_in_learns_nothing_else() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    for (login, password) in [
        ("ada@a.example", "wrong password!"),
        ("nobody", FIRST),
        ("", FIRST),
        ("a b", FIRST),
        ("ada@a.example", &"x".repeat(2_000)),
        ("ada@a.example", ""),
    ] {
        assert!(refused(&logins.sign_in(login, &secret(password), Attempt::default()).await), "{login:?}");
    }
    world.users.set_state(&owner(), &ada, UserState::Disabled, None).await.unwrap();
    assert!(refused(&logins.sign_in("ada@a.example", &secret(FIRST), Attempt::default()).await));
    world.users.delete(&owner(), &ada, None).await.unwrap();
    assert!(refused(&logins.sign_in("ada@a.example", &secret(FIRST), Attempt::default()).await));
    let id = IdentityKey::new(Subject::LOCAL, "ada@a.example").id();
    assert!(world.of::<PasswordRecord>().get(&id).await.unwrap().is_none(), "it goes with its user");
}

#[tokio::test]
async fn attempts_are_counted_by_name_and_by_address() {
    let world = World::new().await;
    let (logins, _) = with_ada(&world).await;
    let logins = logins.with_throttle(Throttle::per_period(2, 5, 4));
    let attempt = |login: &'static str, n: u8, device: Option<&'static str>| {
        let (logins, address) = (logins.clone(), Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))));
        async move { logins.sign_in(login, &secret(FIRST), Attempt { address, device }).await }
    };
    let throttled = |answer: Result<LocalSignIn, LoginError>| match answer {
        Err(LoginError::Throttled { retry_after }) => {
            assert!(retry_after <= Throttle::PERIOD);
            true
        }
        _ => false,
    };
    logins.remember("Ada@a.example", "browser").await.unwrap();
    // From one place, whatever the password, for names that nobody has, too.
    for (login, n) in [("ada@a.example", 1), ("nobody", 2)] {
        for tried_before in [false, false, true] {
            assert_eq!(throttled(attempt(login, n, None).await), tried_before, "{login}");
        }
    }
    // From wherever, for all strangers together: the fifth passes, the sixth does not.
    for (n, used_up) in [(3, false), (3, false), (4, false), (5, true)] {
        assert_eq!(throttled(attempt("ada@a.example", n, Some("another browser")).await), used_up, "{n}");
    }
    // A browser that Ada has signed in with is not locked out by them, and has a budget of its own.
    for used_up in [false, false, true] {
        assert_eq!(throttled(attempt("ada@a.example", 6, Some("browser")).await), used_up);
    }
    // The address's: the fourth passes, the fifth does not, whoever is tried.
    for (login, used_up) in [("a", false), ("b", false), ("c", false), ("d", false), ("e", true)] {
        assert_eq!(throttled(attempt(login, 8, None).await), used_up, "{login}");
    }
}

#[tokio::test]
async fn users_with_a_login_are_made_with_care() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    let create = |new: NewUser, login: &'static str, password: &'static str, by: Principal| {
        let logins = logins.clone();
        async move { logins.create(&by, new, login, &secret(password)).await.map(|(id, _)| id) }
    };
    let bob = || NewUser { name: "Bob".into(), ..NewUser::default() };
    let admin = || Principal::new("local", "adam").with_roles(Roles::ADMIN);
    let field = |answer: Result<String, UserError>| match answer {
        Err(UserError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(create(bob(), "bob", "short", owner()).await), "password");
    assert_eq!(field(create(bob(), "b ob", FIRST, owner()).await), "login");
    assert_eq!(field(create(NewUser { name: "\n".into(), ..bob() }, "bob", FIRST, owner()).await), "name");
    assert_eq!(field(create(NewUser { email: Some("bob".into()), ..bob() }, "bob", FIRST, owner()).await), "email");
    assert_eq!(field(create(NewUser { id: Some("b/ob".into()), ..bob() }, "bob", FIRST, owner()).await), "id");
    assert!(matches!(create(bob(), "ADA@a.example", FIRST, owner()).await, Err(UserError::Exists("login"))));
    let taken = NewUser { id: Some(ada), ..bob() };
    assert!(matches!(create(taken, "bob", FIRST, owner()).await, Err(UserError::Exists("id"))));

    let as_owner = NewUser { roles: Some(Roles::OWNER), ..bob() };
    assert!(matches!(create(as_owner.clone(), "bob", FIRST, admin()).await, Err(UserError::Forbidden(_))));
    // Naming an id takes over the keys of that subject: an owner's act.
    let named = NewUser { id: Some("owner".into()), ..bob() };
    assert!(matches!(create(named.clone(), "bob", FIRST, admin()).await, Err(UserError::Forbidden(_))));
    assert_eq!(create(NewUser { roles: as_owner.roles, ..named }, "bob", FIRST, owner()).await.unwrap(), "owner");
    create(bob(), "bob2", FIRST, admin()).await.unwrap();
}

#[tokio::test]
async fn whose_password_somebody_else_knows_becomes_no_owner() {
    let world = World::new().await;
    let (logins, ada) = with_ada(&world).await;
    for roles in [Roles::OWNER, Roles::BASIC.union(Roles::AUDITOR)] {
        let refused = world.users.set_roles(&owner(), &ada, roles, None).await;
        assert!(matches!(refused, Err(UserError::Invalid { field: "roles", .. })), "{refused:?}");
    }
    logins.change("ada@a.example", &secret(FIRST), &secret(SECOND), Attempt::default()).await.unwrap();
    world.users.set_roles(&owner(), &ada, Roles::OWNER, None).await.unwrap();
}

#[tokio::test]
async fn what_is_kept_of_a_password_is_sealed() {
    let world = World::new().await;
    with_ada(&world).await;
    let kept = world.store.list(&mcp_gateway_core::contract::Query::all(PasswordRecord::KIND)).await.unwrap();
    let kept: Vec<_> = kept.records.iter().map(|one| String::from_utf8_lossy(&one.value).into_owned()).collect();
    assert!(kept.len() == 1 && !kept[0].contains("argon2id") && !kept[0].contains(FIRST), "{kept:?}");
}
