use mcp_gateway_core::contract::StoreErrorKind;
use mcp_gateway_core::record::Email;

use super::*;
use crate::testing::{World, owner};
use crate::user::{Asserted, AssertedGroup, IdentityKey};

const ISSUER: &str = "https://login.example";

fn asserted(subject: &str) -> Asserted {
    Asserted::new(IdentityKey::new(ISSUER, subject), subject)
}

fn groups(ids: &[&str]) -> Vec<AssertedGroup> {
    ids.iter().map(|id| AssertedGroup { id: (*id).to_owned(), name: id.to_uppercase() }).collect()
}

fn with_roles(id: &str, roles: Roles) -> Principal {
    Principal::new("local", id).with_roles(roles.with_included())
}

/// A user who signed in and was given these roles.
async fn made(world: &World, name: &str, roles: Roles) -> String {
    let id = world.users.sign_in(&asserted(name)).await.unwrap().id;
    world.applied(world.users.set_roles(&owner(), &id, roles, None).await.unwrap()).await;
    id.into()
}

#[tokio::test]
async fn a_person_is_an_identity_and_never_an_address() {
    let world = World::new().await;
    let email = Some(Email::verified_by("ada@a.example", "https://login.example"));
    let ada = world.users.sign_in(&asserted("1").with_email(email.clone())).await.unwrap();
    assert!(ada.first && ada.user.roles == Roles::BASIC);
    let again = world.users.sign_in(&asserted("1")).await.unwrap();
    assert_eq!((&again.id, again.first, &again.user.email), (&ada.id, false, &email), "what is not said stays");

    let elsewhere = Asserted::new(IdentityKey::new("https://evil.example", "1"), "Ada").with_email(email);
    assert_ne!(world.users.sign_in(&elsewhere).await.unwrap().id, ada.id);
    let nameless = Asserted::new(IdentityKey::new(ISSUER, ""), "Ada");
    assert!(matches!(world.users.sign_in(&nameless).await, Err(UserError::Invalid { field: "identity", .. })));
}

#[tokio::test]
async fn one_person_who_signs_in_many_times_at_once_is_one_user() {
    let world = World::new().await;
    let ada = asserted("1").in_groups(groups(&["ops"]));
    let all = [(); 4].map(|()| world.users.sign_in(&ada));
    let [a, b, c, d] = all;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let ids: std::collections::BTreeSet<_> = [a, b, c, d].map(|one| one.unwrap().id).into_iter().collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(world.users.list(None, 10).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn roles_of_groups_follow_the_last_login() {
    let world = World::new().await;
    let ada = world.users.sign_in(&asserted("1").in_groups(groups(&["admins", "all"]))).await.unwrap();
    let (listed, _) = world.users.list_groups(None, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    let admins = listed.iter().find(|group| group.value.external_id == "admins").unwrap();
    assert_eq!((&*admins.value.provider, &*admins.value.name, admins.value.roles), (ISSUER, "ADMINS", Roles::NONE));
    // A group of the same name at another provider is another group.
    let eve = Asserted::new(IdentityKey::new("https://evil.example", "1"), "Eve").in_groups(groups(&["admins"]));
    let eve = world.users.sign_in(&eve).await.unwrap();
    world.applied(world.users.set_group_roles(&owner(), &admins.id, Roles::ADMIN, None).await.unwrap()).await;
    assert!(world.users.effective_roles(&ada.id).contains(Roles::ADMIN));
    assert!(!world.users.effective_roles(&eve.id).contains(Roles::ADMIN));

    let left = world.users.sign_in(&asserted("1").in_groups(groups(&["all"]))).await.unwrap();
    world.applied(left.revision).await;
    assert!(!world.users.effective_roles(&ada.id).contains(Roles::ADMIN));

    let many = |count: usize| (0..count).map(|n| AssertedGroup { id: format!("g{n}"), name: String::new() }).collect();
    let most = world.users.sign_in(&asserted("2").in_groups(many(UserLimits::GROUPS))).await.unwrap();
    assert_eq!(most.user.groups.len(), UserLimits::GROUPS);
    let more = world.users.sign_in(&asserted("2").in_groups(many(UserLimits::GROUPS + 1))).await;
    assert!(matches!(more, Err(UserError::Invalid { field: "groups", .. })));
}

#[tokio::test]
async fn only_owners_make_and_touch_owners_and_auditors() {
    let world = World::new().await;
    let ada = made(&world, "ada", Roles::OWNER).await;
    let eve = made(&world, "eve", Roles::BASIC).await;
    let admin = with_roles("adam", Roles::ADMIN);
    let users = &world.users;
    for roles in [Roles::OWNER, Roles::AUDITOR, Roles::BASIC.union(Roles::AUDITOR)] {
        assert!(matches!(users.set_roles(&admin, &eve, roles, None).await, Err(UserError::Forbidden(_))));
    }
    let group = users.sign_in(&asserted("g").in_groups(groups(&["ops"]))).await.unwrap().user.groups[0].clone();
    assert!(matches!(users.set_group_roles(&admin, &group, Roles::OWNER, None).await, Err(UserError::Forbidden(_))));
    users.set_group_roles(&admin, &group, Roles::ADMIN, None).await.unwrap();
    world.applied(users.set_roles(&admin, &eve, Roles::ADMIN, None).await.unwrap()).await;

    assert!(matches!(users.set_roles(&admin, &ada, Roles::BASIC, None).await, Err(UserError::Forbidden(_))));
    assert!(matches!(users.set_state(&admin, &ada, UserState::Disabled, None).await, Err(UserError::Forbidden(_))));
    assert!(matches!(users.delete(&admin, &ada, None).await, Err(UserError::Forbidden(_))));
    assert!(matches!(users.end_sessions(&admin, &ada).await, Err(UserError::Forbidden(_))));
    users.end_sessions(&with_roles(&ada, Roles::NONE), &ada).await.unwrap();
    users.end_sessions(&admin, &eve).await.unwrap();
    assert!(matches!(users.set_roles(&owner(), "nobody", Roles::BASIC, None).await, Err(UserError::Missing)));
}

#[tokio::test]
async fn an_owner_by_group_is_as_far_from_admins_reach() {
    let world = World::new().await;
    let ada = world.users.sign_in(&asserted("ada").in_groups(groups(&["board"]))).await.unwrap();
    let board = ada.user.groups[0].clone();
    world.applied(world.users.set_group_roles(&owner(), &board, Roles::OWNER, None).await.unwrap()).await;
    let by = with_roles("adam", Roles::ADMIN);
    let refused = world.users.set_state(&by, &ada.id, UserState::Disabled, None).await;
    assert!(matches!(refused, Err(UserError::Forbidden(_))));
}

#[tokio::test]
async fn what_clients_may_do_in_a_persons_name_goes_with_the_person() {
    use crate::server::{Consent, Grant};
    let world = World::new().await;
    let (grants, consents) = (world.of::<Grant>(), world.of::<Consent>());
    let (ada, eve) = (made(&world, "ada", Roles::BASIC).await, made(&world, "eve", Roles::BASIC).await);
    for id in [&ada, &eve] {
        let now = world.clock.now();
        let subject = User::subject(TenantId::default(), id);
        let grant = serde_json::json!({
            "subject": subject, "clientId": "c", "server": "s", "scope": "mcp", "createdAt": now,
            "endsAt": "2999-01-01T00:00:00Z", "rotatedAt": now,
        });
        let consent =
            serde_json::json!({ "subject": subject, "clientId": "c", "shown": "", "personEpoch": 0, "agreedAt": now });
        grants.save(id, &serde_json::from_value(grant).unwrap(), When::Any).await.unwrap();
        consents.save(id, &serde_json::from_value(consent).unwrap(), When::Any).await.unwrap();
    }
    world.users.delete(&owner(), &ada, None).await.unwrap();
    assert!(grants.get(&ada).await.unwrap().is_none() && consents.get(&ada).await.unwrap().is_none());
    assert!(grants.get(&eve).await.unwrap().is_some() && consents.get(&eve).await.unwrap().is_some());
}

/// What others may know of a person goes before a group makes them an owner, however they come into it.
#[tokio::test]
async fn nobody_becomes_an_owner_by_a_group_with_what_others_know() {
    let world = World::new().await;
    let users = &world.users;
    let chosen = async |id: &str, must_change: bool| {
        let identity = Identity::new(IdentityKey::new(Subject::LOCAL, id), id, world.clock.now());
        let key = users.identities.key(&identity.key.id());
        let password = Key::new(key.tenant.clone(), PASSWORD, key.id.clone());
        let value = format!(r#"{{"mustChange":{must_change}}}"#).into_bytes().into();
        let identity = users.identities.put(&identity.key.id(), &identity, None, When::Any).unwrap();
        let put = Write::Put { key: password.clone(), value, index: Vec::new(), ttl: None, when: When::Any };
        let revision = users.users.store().commit(vec![identity, put]).await.unwrap();
        world.applied(revision).await;
        password
    };
    let key_of = async |id: &str, name: &str, scope| {
        let key = ApiKey {
            name: name.to_owned(),
            secret_sha256: String::new(),
            subject: User::subject(TenantId::default(), id),
            owner: false,
            scopes: vec![scope],
            servers: Vec::new(),
            created_at: world.clock.now(),
            expires_at: None,
            rate: None,
        };
        users.keys.save(name, &key, When::Any).await.unwrap();
    };
    let ada = users.sign_in(&asserted("ada").in_groups(groups(&["board"]))).await.unwrap();
    let board = ada.user.groups[0].clone();
    world.applied(ada.revision).await;
    chosen(&ada.id, true).await;
    let refused = users.set_group_roles(&owner(), &board, Roles::OWNER, None).await;
    assert!(matches!(refused, Err(UserError::Invalid { field: "roles", .. })), "{refused:?}");
    chosen(&ada.id, false).await;
    key_of(&ada.id, "api", mcp_gateway_core::record::Scope::ApiWrite).await;
    key_of(&ada.id, "mcp", mcp_gateway_core::record::Scope::Mcp).await;
    world.applied(users.set_group_roles(&owner(), &board, Roles::OWNER, None).await.unwrap()).await;
    assert_eq!(users.get(&ada.id).await.unwrap().unwrap().value.epoch, 1, "sessions of before end");
    assert!(users.keys.get("api").await.unwrap().is_none() && users.keys.get("mcp").await.unwrap().is_some());

    // A provider's word holds: what others know goes instead.
    let bob = users.sign_in(&asserted("bob")).await.unwrap();
    world.applied(bob.revision).await;
    let password = chosen(&bob.id, true).await;
    key_of(&bob.id, "bobs", mcp_gateway_core::record::Scope::ApiRead).await;
    let bob = users.sign_in(&asserted("bob").in_groups(groups(&["board"]))).await.unwrap();
    assert_eq!(bob.user.epoch, 1);
    assert!(users.keys.get("bobs").await.unwrap().is_none());
    assert!(users.users.store().get(&[password]).await.unwrap()[0].is_none());
    let again = users.sign_in(&asserted("bob").in_groups(groups(&["board"]))).await.unwrap();
    assert_eq!(again.user.epoch, 1, "once");

    // Of a group that has changed since it was read, nobody loses anything.
    let dev = users.sign_in(&asserted("carl").in_groups(groups(&["dev"]))).await.unwrap();
    world.applied(dev.revision).await;
    key_of(&dev.id, "carls", mcp_gateway_core::record::Scope::ApiRead).await;
    let read = users.group(&dev.user.groups[0]).await.unwrap().unwrap().revision;
    world.applied(users.set_group_roles(&owner(), &dev.user.groups[0], Roles::ADMIN, None).await.unwrap()).await;
    let late = users.set_group_roles(&owner(), &dev.user.groups[0], Roles::OWNER, Some(read)).await;
    assert!(matches!(late, Err(UserError::Store(error)) if error.kind() == StoreErrorKind::Conflict));
    assert!(users.keys.get("carls").await.unwrap().is_some());
}

#[tokio::test]
async fn the_last_owner_stays() {
    let world = World::new().await;
    let ada = made(&world, "ada", Roles::OWNER).await;
    let by = with_roles(&ada, Roles::OWNER);
    let users = &world.users;
    assert!(matches!(users.set_roles(&by, &ada, Roles::ADMIN, None).await, Err(UserError::LastOwner)));
    assert!(matches!(users.set_state(&by, &ada, UserState::Disabled, None).await, Err(UserError::LastOwner)));
    assert!(matches!(users.delete(&by, &ada, None).await, Err(UserError::LastOwner)));
    made(&world, "bob", Roles::OWNER).await;
    users.set_roles(&by, &ada, Roles::ADMIN, None).await.unwrap();
}

#[tokio::test]
async fn two_owners_who_unmake_each_other_at_once_leave_one() {
    let world = World::new().await;
    let (ada, bob) = (made(&world, "ada", Roles::OWNER).await, made(&world, "bob", Roles::OWNER).await);
    let (by_ada, by_bob) = (with_roles(&ada, Roles::OWNER), with_roles(&bob, Roles::OWNER));
    let users = &world.users;
    let (first, second) = tokio::join!(
        users.set_roles(&by_ada, &bob, Roles::BASIC, None),
        users.set_state(&by_bob, &ada, UserState::Disabled, None)
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    world.applied(first.or(second).unwrap()).await;
    assert!(world.users.directory.has_owner_but(""));
}

#[tokio::test]
async fn the_last_owner_by_a_group_stays() {
    let world = World::new().await;
    let ada = world.users.sign_in(&asserted("ada").in_groups(groups(&["board"]))).await.unwrap();
    let board = ada.user.groups[0].clone();
    let users = &world.users;
    world.applied(users.set_group_roles(&owner(), &board, Roles::OWNER, None).await.unwrap()).await;
    assert!(matches!(users.set_group_roles(&owner(), &board, Roles::NONE, None).await, Err(UserError::LastOwner)));
    // As an owner in person, too, Ada remains one.
    world.applied(users.set_roles(&owner(), &ada.id, Roles::OWNER, None).await.unwrap()).await;
    users.set_group_roles(&owner(), &board, Roles::NONE, None).await.unwrap();
}

#[tokio::test]
async fn whoever_becomes_an_owner_has_no_key_or_session_that_others_may_have_made() {
    let world = World::new().await;
    let eve = made(&world, "eve", Roles::ADMIN).await;
    let keys = world.of::<ApiKey>();
    for (id, scope) in [("plain", "mcp"), ("admin", "api:read")] {
        let record: ApiKey = serde_json::from_value(serde_json::json!({
            "name": "k", "secret_sha256": "0f".repeat(32), "subject": User::subject(TenantId::default(), &eve),
            "scopes": [scope], "servers": ["*"], "created_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        keys.save(id, &record, When::Any).await.unwrap();
    }
    world.applied(world.users.set_roles(&owner(), &eve, Roles::OWNER, None).await.unwrap()).await;
    assert!(keys.get("plain").await.unwrap().is_some() && keys.get("admin").await.unwrap().is_none());
    assert_eq!(world.users.get(&eve).await.unwrap().unwrap().value.epoch, 1, "sessions of before end");
}

#[tokio::test]
async fn changes_are_compared_with_what_was_read() {
    let world = World::new().await;
    let eve = world.users.sign_in(&asserted("eve")).await.unwrap();
    let read = world.users.get(&eve.id).await.unwrap().unwrap().revision;
    world.users.set_roles(&owner(), &eve.id, Roles::ADMIN, Some(read)).await.unwrap();
    match world.users.set_roles(&owner(), &eve.id, Roles::BASIC, Some(read)).await {
        Err(UserError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::Conflict),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_is_deleted_is_gone_with_all_that_was_theirs() {
    let world = World::new().await;
    let eve = made(&world, "eve", Roles::ADMIN).await;
    let keys = world.of::<ApiKey>();
    let record: ApiKey = serde_json::from_value(serde_json::json!({
        "name": "k", "secret_sha256": "0f".repeat(32), "subject": User::subject(TenantId::default(), &eve),
        "scopes": ["mcp"], "servers": ["*"], "created_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    world.applied(keys.save("k", &record, When::Any).await.unwrap()).await;
    assert!(world.snapshots.load().key("k").is_some());

    let revision = world.users.delete(&owner(), &eve, None).await.unwrap();
    world.applied(revision).await;
    assert!(world.snapshots.load().key("k").is_none());
    assert!(keys.get("k").await.unwrap().is_none());
    assert!(world.users.get(&eve).await.unwrap().is_none());
    assert!(world.users.list(None, 10).await.unwrap().0.is_empty());
    let emptied = world.of::<User>().get(&eve).await.unwrap().unwrap().value;
    assert_eq!((&*emptied.name, emptied.email, emptied.epoch), ("", None, 1));
    // A key that is made for the id all the same is dead.
    world.applied(keys.save("late", &record, When::Any).await.unwrap()).await;
    assert!(world.snapshots.load().key("late").is_none());
    // The same identity is somebody new, without the roles of before.
    let anew = world.users.sign_in(&asserted("eve")).await.unwrap();
    assert!(anew.first && *anew.id != *eve && anew.user.roles == Roles::BASIC);
}

#[tokio::test]
async fn who_is_disabled_cannot_sign_in_until_enabled() {
    let world = World::new().await;
    let eve = world.users.sign_in(&asserted("eve")).await.unwrap().id;
    world.users.set_state(&owner(), &eve, UserState::Disabled, None).await.unwrap();
    assert!(matches!(world.users.sign_in(&asserted("eve")).await, Err(UserError::Disabled)));
    world.users.set_state(&owner(), &eve, UserState::Active, None).await.unwrap();
    let back = world.users.sign_in(&asserted("eve")).await.unwrap();
    assert_eq!((&back.id, back.user.epoch), (&eve, 1), "sessions of before stay ended");
    assert!(world.users.get("a/b").await.unwrap().is_none() && world.users.group("%").await.unwrap().is_none());
}

#[tokio::test]
async fn a_preset_makes_an_owner_of_a_verified_address_alone() {
    let presets = [("ada@a.example".into(), Roles::OWNER)].into_iter().collect();
    let world = World::with_presets(presets).await;
    for (subject, verified) in [("1", false), ("2", true)] {
        let email =
            if verified { Email::verified_by("ada@a.example", ISSUER) } else { Email::unverified("ada@a.example") };
        let email = Some(email);
        let ada = world.users.sign_in(&asserted(subject).with_email(email)).await.unwrap();
        world.applied(ada.revision).await;
        assert_eq!(world.users.effective_roles(&ada.id).contains(Roles::OWNER), verified);
    }
}

/// Sessions and tokens know the epoch; what other issuers have given knows only when it was given.
#[tokio::test]
async fn what_ends_a_person_is_in_the_feed_for_everything_that_depends_on_it() {
    use mcp_gateway_core::record::{Dependence, Revoked, Subject};
    let world = World::new().await;
    let by = owner();
    for act in 0..4 {
        let id: Box<str> = made(&world, &format!("person-{act}"), Roles::BASIC).await.into();
        let subject = Subject::local(&*id);
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let given = Dependence { epoch, on: [Revoked::Subject(&subject).id()].into() };
        assert!(!world.snapshots.load().revocations.end(&given));
        let revision = match act {
            0 => world.users.set_state(&by, &id, UserState::Disabled, None).await.unwrap(),
            1 => world.users.end_sessions(&by, &id).await.unwrap(),
            2 => world.users.delete(&by, &id, None).await.unwrap(),
            _ => world.users.set_roles(&by, &id, Roles::POWER_USER, None).await.unwrap(),
        };
        world.applied(revision).await;
        assert_eq!(world.snapshots.load().revocations.end(&given), act < 3, "roles are looked up, and end nothing");
    }
}
