use mcp_gateway_core::record::{ApiKey, Roles, TenantId};
use serde_json::json;

use super::*;
use crate::login::{SessionOptions, SessionUser};
use crate::testing::{World, owner};
use crate::user::{Asserted, AssertedGroup, UserError, group_id};

const ISSUER: &str = "https://login.example.com";
const OTHER: &str = "https://other.example.com";

struct Client {
    world: World,
    scim: Scim,
    sessions: Sessions,
}

impl Client {
    async fn new() -> Self {
        let world = World::new().await;
        let sessions = Sessions::new(world.of(), world.clock.clone(), SessionOptions::default());
        let preset = [(group_id(ISSUER, "board").into(), Roles::OWNER)].into_iter().collect();
        let base = "https://gateway.example/scim/v2";
        let scim = Scim::new(world.users.clone(), sessions.clone(), Arc::new(preset), world.clock.clone(), base);
        Self { world, scim, sessions }
    }

    async fn create(&self, name: &str) -> ScimResource {
        let user = json!({ "userName": format!("{name}@a.example"), "externalId": name, "displayName": name });
        let made = self.scim.create_user(ISSUER, &user).await.unwrap();
        self.world.applied(made.applied.unwrap()).await;
        made
    }

    async fn set_active(&self, id: &str, active: bool) -> ScimResource {
        let patch = json!({ "Operations": [{ "op": "Replace", "path": "active", "value": active }] });
        let changed = self.scim.patch_user(ISSUER, id, None, &patch).await.unwrap();
        if let Some(revision) = changed.applied {
            self.world.applied(revision).await;
        }
        changed
    }

    async fn members(&self, group: &str, patch: Value) -> Result<Vec<String>, ScimError> {
        let changed = self.scim.patch_group(ISSUER, group, None, &json!({ "Operations": [patch] })).await?;
        if let Some(revision) = changed.applied {
            self.world.applied(revision).await;
        }
        let group = self.scim.group(ISSUER, group, false).await?.body;
        let members = group["members"].as_array().unwrap();
        Ok(members.iter().map(|member| member["value"].as_str().unwrap().to_owned()).collect())
    }
}

fn query(filter: &str) -> ScimQuery {
    ScimQuery { filter: Some(filter.to_owned()), start: 1, count: 100, without_members: false }
}

#[tokio::test]
async fn whoever_is_provisioned_signs_in_as_the_same_person() {
    let client = Client::new().await;
    let ada = client.create("ada").await;
    assert_eq!((&ada.body["userName"], &ada.body["active"]), (&json!("ada@a.example"), &json!(true)));
    let login = Asserted::new(IdentityKey::new(ISSUER, "ada"), "Ada");
    let signed_in = client.world.users.sign_in(&login).await.unwrap();
    assert_eq!((&*signed_in.id, signed_in.first), (&*ada.id, false));
    // And the other way round; the name is the client's from then on.
    let bob = client.world.users.sign_in(&Asserted::new(IdentityKey::new(ISSUER, "bob"), "Bob")).await.unwrap();
    assert_eq!(client.create("bob").await.id, *bob.id);

    for (again, what) in [
        (json!({ "userName": "ADA@a.example", "externalId": "eve" }), "userName, without case"),
        (json!({ "userName": "eve@a.example", "externalId": "ada" }), "externalId"),
    ] {
        assert!(matches!(client.scim.create_user(ISSUER, &again).await, Err(ScimError::Exists(_))), "{what}");
    }
    for nobody in [json!({ "userName": "eve" }), json!({ "userName": "eve", "externalId": "" })] {
        assert!(matches!(client.scim.create_user(ISSUER, &nobody).await, Err(ScimError::Bad("invalidValue", _))));
    }
    // Another provider's client sees none of them, and its people are others.
    assert!(matches!(client.scim.user(OTHER, &ada.id).await, Err(ScimError::Missing)));
    let elsewhere = json!({ "userName": "ada@a.example", "externalId": "ada" });
    assert_ne!(client.scim.create_user(OTHER, &elsewhere).await.unwrap().id, ada.id);
}

#[tokio::test]
async fn users_are_found_and_paged() {
    let client = Client::new().await;
    let ada = client.create("ada").await;
    for name in ["bob", "eve"] {
        client.create(name).await;
    }
    for (filter, total) in [
        ("userName eq \"Ada@A.example\"", 1),
        ("externalId eq \"ada\"", 1),
        (&*format!("id eq \"{}\"", ada.id), 1),
        ("userName eq \"nobody\"", 0),
        ("id eq \"../x\"", 0),
    ] {
        assert_eq!(client.scim.list_users(ISSUER, &query(filter)).await.unwrap()["totalResults"], total, "{filter}");
        assert_eq!(client.scim.list_users(OTHER, &query(filter)).await.unwrap()["totalResults"], 0, "{filter}");
    }
    for filter in ["userName co \"a\"", "title eq \"x\"", "userName eq \"a\" or id eq \"b\""] {
        let refused = client.scim.list_users(ISSUER, &query(filter)).await;
        assert!(matches!(refused, Err(ScimError::Bad("invalidFilter", _))), "{filter}");
    }
    let mut seen = std::collections::BTreeSet::new();
    for start in [1, 3] {
        let query = ScimQuery { start, count: 2, ..ScimQuery::default() };
        let page = client.scim.list_users(ISSUER, &query).await.unwrap();
        assert_eq!((&page["totalResults"], &page["startIndex"]), (&json!(3), &json!(start)));
        seen.extend(page["Resources"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.len(), 3);
    let none = ScimQuery { start: 1, count: 0, ..ScimQuery::default() };
    assert_eq!(client.scim.list_users(ISSUER, &none).await.unwrap()["itemsPerPage"], 0);
}

#[tokio::test]
async fn whoever_is_deactivated_has_nothing_from_that_moment_on() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    let session = client.sessions.begin(&SessionUser { id: ada.as_str().into(), epoch: 0 }, "company").await.unwrap();
    let subject = User::subject(TenantId::default(), &ada);
    let record: ApiKey = serde_json::from_value(json!({
        "name": "k", "secret_sha256": "0f".repeat(32), "subject": subject, "scopes": ["mcp"], "servers": ["*"],
        "created_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    client.world.applied(client.world.of::<ApiKey>().save("k", &record, When::Any).await.unwrap()).await;
    let now = client.world.clock.now();
    let grant: Grant = serde_json::from_value(json!({
        "subject": subject, "clientId": "c", "server": "s", "scope": "mcp", "createdAt": now, "endsAt": now,
        "rotatedAt": now,
    }))
    .unwrap();
    let grants = client.world.of::<Grant>();
    grants.save("g", &grant, When::Any).await.unwrap();

    assert_eq!(client.set_active(&ada, false).await.body["active"], false);
    let snapshot = client.world.snapshots.load().clone();
    assert!(snapshot.key("k").is_none() && !snapshot.users[&*ada].enabled);
    assert!(!snapshot.revocations.is_empty());
    assert!(client.sessions.find(session.token.expose()).await.unwrap().is_none());
    assert!(grants.get("g").await.unwrap().is_none());
    let login = Asserted::new(IdentityKey::new(ISSUER, "ada"), "Ada");
    assert!(matches!(client.world.users.sign_in(&login).await, Err(UserError::Disabled)));

    assert_eq!(client.set_active(&ada, true).await.body["active"], true);
    assert_eq!(
        client.world.users.get(&ada).await.unwrap().unwrap().value.epoch,
        1,
        "what was issued before stays ended"
    );
    // What an administrator has blocked, a client does not open.
    let by = owner();
    client.world.applied(client.world.users.set_state(&by, &ada, UserState::Disabled, None).await.unwrap()).await;
    assert_eq!(client.set_active(&ada, true).await.body["active"], false);
}

/// In a chain of blocks, the client lifts its own, and only while it is the last.
#[tokio::test]
async fn what_an_administrator_has_blocked_since_a_client_does_not_open() {
    let client = Client::new().await;
    let state = async |id: &str, state| {
        client.world.applied(client.world.users.set_state(&owner(), id, state, None).await.unwrap()).await;
    };
    let (ada, bob) = (client.create("ada").await.id, client.create("bob").await.id);
    client.set_active(&ada, false).await;
    state(&ada, UserState::Active).await;
    state(&ada, UserState::Disabled).await;
    assert_eq!(client.set_active(&ada, true).await.body["active"], false);

    client.set_active(&bob, false).await;
    state(&bob, UserState::Disabled).await;
    assert_eq!(client.set_active(&bob, true).await.body["active"], false);

    let eve = json!({ "userName": "eve", "externalId": "eve", "active": false });
    let eve = client.scim.create_user(ISSUER, &eve).await.unwrap();
    assert_eq!(eve.body["active"], false);
    assert_eq!(client.set_active(&eve.id, true).await.body["active"], true);
}

#[tokio::test]
async fn a_change_at_the_same_time_is_not_the_clients_matter() {
    let client = Client::new().await;
    let ada = client.create("ada").await;
    let other = std::cell::Cell::new(true);
    let write = |old: UserDocument| {
        if other.replace(false) {
            let mut scim = Box::pin(client.scim.update(ISSUER, &ada.id, None, |old| {
                Ok(UserDocument { display_name: Some("Ada King".into()), ..old })
            }));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(scim.as_mut().poll(&mut cx).is_ready(), "the store of tests never waits");
        }
        Ok(UserDocument { active: false, ..old })
    };
    client.scim.update(ISSUER, &ada.id, None, write).await.unwrap();
    let user = client.scim.user(ISSUER, &ada.id).await.unwrap();
    assert_eq!((&user.body["displayName"], &user.body["active"]), (&json!("Ada King"), &json!(false)), "both hold");
    other.set(true);
    let seen = client.scim.update(ISSUER, &ada.id, Some(user.revision), write).await;
    assert!(matches!(seen, Err(ScimError::Changed)));
}

#[tokio::test]
async fn a_removed_user_is_disabled_and_may_come_back() {
    let client = Client::new().await;
    let ada = client.create("ada").await;
    let stale = Some(Revision(ada.revision.0 - 1));
    assert!(matches!(client.scim.delete_user(ISSUER, &ada.id, stale).await, Err(ScimError::Changed)));
    let revision = client.scim.delete_user(ISSUER, &ada.id, Some(ada.revision)).await.unwrap().unwrap();
    client.world.applied(revision).await;
    assert!(matches!(client.scim.user(ISSUER, &ada.id).await, Err(ScimError::Missing)));
    let all = ScimQuery { start: 1, count: 10, ..ScimQuery::default() };
    assert_eq!(client.scim.list_users(ISSUER, &all).await.unwrap()["totalResults"], 0);
    assert!(!client.world.snapshots.load().users[&*ada.id].enabled);
    let back = client.create("ada").await;
    assert_eq!((back.id, &back.body["active"]), (ada.id, &json!(true)));
}

#[tokio::test]
async fn changes_are_checked_and_versioned() {
    let client = Client::new().await;
    let ada = client.create("ada").await;
    client.create("bob").await;
    let other = json!({ "userName": "ada@a.example", "externalId": "eve" });
    let refused = client.scim.replace_user(ISSUER, &ada.id, None, &other).await;
    assert!(matches!(refused, Err(ScimError::Bad("mutability", _))));
    let taken = json!({ "userName": "bob@a.example", "externalId": "ada" });
    assert!(client.scim.replace_user(ISSUER, &ada.id, None, &taken).await.is_err());
    let renamed = json!({ "userName": "ada.king@a.example", "externalId": "ada", "displayName": "Ada King" });
    let changed = client.scim.replace_user(ISSUER, &ada.id, Some(ada.revision), &renamed).await.unwrap();
    assert!(changed.revision > ada.revision);
    let stale = client.scim.replace_user(ISSUER, &ada.id, Some(ada.revision), &renamed).await;
    assert!(matches!(stale, Err(ScimError::Changed)));
    assert_eq!(client.world.users.get(&ada.id).await.unwrap().unwrap().value.name, "Ada King");
    client.set_active(&ada.id, false).await;
    let silent = client.scim.replace_user(ISSUER, &ada.id, None, &renamed).await.unwrap();
    assert_eq!(silent.body["active"], false, "where nothing is said of it, it stays");
    // The old name is free, the new one taken.
    let old = client.scim.list_users(ISSUER, &query("userName eq \"ada@a.example\"")).await.unwrap();
    assert_eq!(old["totalResults"], 0);
}

#[tokio::test]
async fn the_last_owner_is_not_deactivated() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    client.world.applied(client.world.users.set_roles(&owner(), &ada, Roles::OWNER, None).await.unwrap()).await;
    let patch = json!({ "Operations": [{ "op": "replace", "value": { "active": false } }] });
    let refused = client.scim.patch_user(ISSUER, &ada, None, &patch).await.unwrap_err();
    assert_eq!((refused.status(), &refused.body()["scimType"]), (http::StatusCode::CONFLICT, &json!("mutability")));
    let kept = client.scim.people.get(&ada).await.unwrap().unwrap().value;
    assert!(kept.document.active && kept.disabled_in.is_none(), "nothing is kept of what was not done");
    assert!(client.world.snapshots.load().users[&*ada].enabled);
}

#[tokio::test]
async fn groups_carry_roles_and_never_those_of_owners() {
    let client = Client::new().await;
    let (ada, bob) = (client.create("ada").await.id, client.create("bob").await.id);
    let group = json!({ "displayName": "Ops", "externalId": "ops", "members": [{ "value": ada }] });
    let ops = client.scim.create_group(ISSUER, &group).await.unwrap();
    client.world.applied(ops.applied.unwrap()).await;
    assert_eq!(ops.id, group_id(ISSUER, "ops"));
    assert!(matches!(client.scim.create_group(ISSUER, &group).await, Err(ScimError::Exists(_))));
    let admin = client.world.users.set_group_roles(&owner(), &ops.id, Roles::ADMIN, None).await.unwrap();
    client.world.applied(admin).await;
    assert!(client.world.users.effective_roles(&ada).contains(Roles::ADMIN));

    let add = json!({ "op": "Add", "path": "members", "value": [{ "value": bob }] });
    assert_eq!(client.members(&ops.id, add.clone()).await.unwrap().len(), 2);
    let remove = json!({ "op": "remove", "path": format!("members[value eq \"{ada}\"]") });
    assert_eq!(client.members(&ops.id, remove).await.unwrap(), std::slice::from_ref(&bob));
    assert!(!client.world.users.effective_roles(&ada).contains(Roles::ADMIN));
    let replace = json!({ "op": "replace", "path": "members", "value": [{ "value": ada }] });
    assert_eq!(client.members(&ops.id, replace).await.unwrap(), std::slice::from_ref(&ada));
    let stranger = json!({ "op": "add", "path": "members", "value": [{ "value": "nobody" }] });
    assert!(matches!(client.members(&ops.id, stranger).await, Err(ScimError::Bad("invalidValue", _))));

    // By a role of the group, and by one of the configuration. There is another owner, so that these may go.
    client.members(&ops.id, add.clone()).await.unwrap();
    let boss = client.create("boss").await.id;
    client.world.applied(client.world.users.set_roles(&owner(), &boss, Roles::OWNER, None).await.unwrap()).await;
    let owners = client.world.users.set_group_roles(&owner(), &ops.id, Roles::OWNER, None).await.unwrap();
    client.world.applied(owners).await;
    let replace = |ids: &[&str]| {
        let ids: Vec<_> = ids.iter().map(|id| json!({ "value": id })).collect();
        json!({ "op": "replace", "path": "members", "value": ids })
    };
    let eve = client.create("eve").await.id;
    assert!(matches!(client.members(&ops.id, replace(&[&ada, &eve])).await, Err(ScimError::Forbidden(_))));
    let gone = client.world.users.get(&bob).await.unwrap().unwrap();
    assert!(gone.value.groups.is_empty(), "whoever goes, goes");
    assert_eq!(client.members(&ops.id, replace(&[&ada])).await.unwrap(), std::slice::from_ref(&ada));
    assert_eq!(client.members(&ops.id, replace(&[])).await.unwrap(), [""; 0]);
    assert!(matches!(client.members(&ops.id, add).await, Err(ScimError::Forbidden(_))));
    let board = json!({ "displayName": "Board", "externalId": "board", "members": [{ "value": bob }] });
    assert!(matches!(client.scim.create_group(ISSUER, &board).await, Err(ScimError::Forbidden(_))));

    // What a login says of groups, and what a client says, are the same groups.
    let login = Asserted::new(IdentityKey::new(ISSUER, "bob"), "Bob");
    let login = login.in_groups(vec![AssertedGroup { id: "ops".into(), name: "Ops".into() }]);
    assert_eq!(client.world.users.sign_in(&login).await.unwrap().user.groups, std::slice::from_ref(&ops.id));
    let found = client.scim.list_groups(ISSUER, &query("displayName eq \"OPS\"")).await.unwrap();
    assert_eq!(found["Resources"][0]["id"], ops.id.as_str());
    client.scim.delete_group(ISSUER, &ops.id, None).await.unwrap();
    assert!(matches!(client.scim.group(ISSUER, &ops.id, false).await, Err(ScimError::Missing)));
    assert!(client.world.users.group(&ops.id).await.unwrap().is_none());
}

#[tokio::test]
async fn the_last_owner_is_not_taken_out_of_the_group_that_makes_owners() {
    let client = Client::new().await;
    let (ada, bob) = (client.create("ada").await.id, client.create("bob").await.id);
    let members = json!([{ "value": ada }, { "value": bob }]);
    let group = json!({ "displayName": "Owners", "externalId": "owners", "members": members });
    let owners = client.scim.create_group(ISSUER, &group).await.unwrap();
    client.world.applied(owners.applied.unwrap()).await;
    let give = async |roles| {
        let given = client.world.users.set_group_roles(&owner(), &owners.id, roles, None).await.unwrap();
        client.world.applied(given).await;
    };
    give(Roles::OWNER).await;
    let remove = |ids: &[&str]| {
        let ids: Vec<_> = ids.iter().map(|id| json!({ "value": id })).collect();
        json!({ "op": "remove", "path": "members", "value": ids })
    };
    // Both at once, whoever is named first; by a new list; and with the group.
    for patch in [remove(&[&ada, &bob]), json!({ "op": "replace", "path": "members", "value": [] })] {
        let refused = client.members(&owners.id, patch).await.unwrap_err();
        assert_eq!((refused.status().as_u16(), &refused.body()["scimType"]), (409, &json!("mutability")));
    }
    assert!(matches!(client.scim.delete_group(ISSUER, &owners.id, None).await, Err(ScimError::LastOwner)));
    let out = |id: &str| json!({ "op": "remove", "path": format!("members[value eq \"{id}\"]") });
    assert_eq!(client.members(&owners.id, out(&bob)).await.unwrap(), std::slice::from_ref(&ada), "one is left");
    assert!(matches!(client.members(&owners.id, out(&ada)).await, Err(ScimError::LastOwner)));
    assert!(client.world.users.effective_roles(&ada).contains(Roles::OWNER));
    // Where a person is an owner in their own right, the group may go.
    client.world.applied(client.world.users.set_roles(&owner(), &bob, Roles::OWNER, None).await.unwrap()).await;
    client.scim.delete_group(ISSUER, &owners.id, None).await.unwrap();
}

/// A provider's word holds at a login; that nobody is left is told.
#[tokio::test]
async fn a_login_that_takes_the_last_owners_group_says_so() {
    let client = Client::new().await;
    let users = &client.world.users;
    let board = AssertedGroup { id: "management".into(), name: "Management".into() };
    let login = Asserted::new(IdentityKey::new(ISSUER, "ada"), "Ada");
    let ada = users.sign_in(&login.clone().in_groups(vec![board])).await.unwrap();
    let group = &ada.user.groups[0];
    client.world.applied(users.set_group_roles(&owner(), group, Roles::OWNER, None).await.unwrap()).await;
    let bob = client.create("bob").await.id;
    client.world.applied(users.set_roles(&owner(), &bob, Roles::OWNER, None).await.unwrap()).await;
    assert!(!users.sign_in(&login.clone().in_groups(Vec::new())).await.unwrap().ownerless, "Bob is one");
    let back = AssertedGroup { id: "management".into(), name: "Management".into() };
    client.world.applied(users.sign_in(&login.clone().in_groups(vec![back])).await.unwrap().revision).await;
    client.world.applied(users.set_roles(&owner(), &bob, Roles::BASIC, None).await.unwrap()).await;
    let gone = users.sign_in(&login.in_groups(Vec::new())).await.unwrap();
    assert!(gone.ownerless && !users.effective_roles(&ada.id).contains(Roles::OWNER));
}

#[tokio::test]
async fn whoever_comes_back_has_nothing_of_what_they_had() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    let group = json!({ "displayName": "Ops", "externalId": "ops", "members": [{ "value": ada }] });
    client.world.applied(client.scim.create_group(ISSUER, &group).await.unwrap().applied.unwrap()).await;
    let users = &client.world.users;
    client.world.applied(users.set_roles(&owner(), &ada, Roles::ADMIN, None).await.unwrap()).await;
    let keys = client.world.of::<ApiKey>();
    let have_key = async |id: &str| {
        let record: ApiKey = serde_json::from_value(json!({
            "name": "k", "secret_sha256": "0f".repeat(32), "subject": User::subject(TenantId::default(), &ada),
            "scopes": ["mcp"], "servers": ["*"], "created_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        keys.save(id, &record, When::Any).await.unwrap();
    };
    have_key("k").await;
    client.set_active(&ada, false).await;
    client.set_active(&ada, true).await;
    assert!(keys.get("k").await.unwrap().is_none(), "a key does not come back with the person");
    let kept = users.get(&ada).await.unwrap().unwrap().value;
    assert_eq!((kept.roles, kept.groups.len()), (Roles::ADMIN, 1), "whoever was only away is the same");

    have_key("l").await;
    client.world.applied(client.scim.delete_user(ISSUER, &ada, None).await.unwrap().unwrap()).await;
    have_key("m").await;
    assert_eq!(client.create("ada").await.id, ada);
    let anew = users.get(&ada).await.unwrap().unwrap().value;
    assert_eq!((anew.roles, anew.groups.len(), anew.state), (Roles::BASIC, 0, UserState::Active));
    assert!(keys.get("l").await.unwrap().is_none() && keys.get("m").await.unwrap().is_none());
}

#[tokio::test]
async fn whom_an_administrator_has_deleted_a_client_makes_again_as_somebody_new() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    client.world.applied(client.world.users.delete(&owner(), &ada, None).await.unwrap()).await;
    let all = ScimQuery { start: 1, count: 10, ..ScimQuery::default() };
    assert_eq!(client.scim.list_users(ISSUER, &all).await.unwrap()["totalResults"], 0);
    let anew = client.create("ada").await;
    assert_ne!(anew.id, ada);
    let found = client.scim.list_users(ISSUER, &query("userName eq \"ada@a.example\"")).await.unwrap();
    assert_eq!((&found["totalResults"], &found["Resources"][0]["id"]), (&json!(1), &json!(anew.id)));
}

#[tokio::test]
async fn entra_must_send_the_object_id_that_its_tokens_have() {
    const ENTRA: &str = "https://login.microsoftonline.com/8eaef023-2b34-4da1-9baa-8bc8c9d6a490/v2.0";
    const OBJECT: &str = "0F1E2D3C-1111-4222-8333-445566778899";
    let client = Client::new().await;
    let user = |external_id: &str| json!({ "userName": "ada@a.example", "externalId": external_id });
    for nickname in ["ada", "0f1e2d3c111142228333445566778899", "0F1E2D3C-1111-4222-8333-44556677889g"] {
        let refused = client.scim.create_user(ENTRA, &user(nickname)).await;
        assert!(
            matches!(refused, Err(ScimError::Bad("invalidValue", text)) if text.contains("objectId")),
            "{nickname}"
        );
    }
    let made = client.scim.create_user(ENTRA, &user(OBJECT)).await.unwrap();
    assert_eq!(made.body["externalId"], OBJECT, "it reads what it has sent");
    let login = Asserted::new(IdentityKey::new(ENTRA, OBJECT.to_ascii_lowercase()), "Ada");
    assert_eq!(*client.world.users.sign_in(&login).await.unwrap().id, *made.id);
    let found = client.scim.list_users(ENTRA, &query(&format!("externalId eq \"{OBJECT}\""))).await.unwrap();
    assert_eq!(found["totalResults"], 1);
    // The same in another case is no change of who it is.
    client.scim.replace_user(ENTRA, &made.id, None, &user(&OBJECT.to_ascii_lowercase())).await.unwrap();
}

/// A list that is gone through is one list: nobody is passed over or told twice while others come and go.
#[tokio::test]
async fn a_list_is_gone_through_to_its_end_as_it_was_at_its_beginning() {
    let client = Client::new().await;
    for name in ["ada", "bob", "eve"] {
        client.create(name).await;
    }
    let ids = |page: &Value| -> Vec<String> {
        page["Resources"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let at = async |start| {
        let query = ScimQuery { start, count: 1, ..ScimQuery::default() };
        ids(&client.scim.list_users(ISSUER, &query).await.unwrap())
    };
    let first = at(1).await;
    client.scim.delete_user(ISSUER, &first[0], None).await.unwrap();
    let rest = [at(2).await, at(3).await].concat();
    assert!(rest.len() == 2 && !rest.contains(&first[0]), "nobody was passed over");
    assert_eq!(client.scim.list_users(ISSUER, &query("id eq \"x\"")).await.unwrap()["totalResults"], 0);
    assert_eq!([at(1).await, at(2).await, at(3).await].concat().len(), 2, "a new list is as it is now");
    client.world.clock.advance(std::time::Duration::from_secs(600));
    assert_eq!(at(2).await.len(), 1, "when nothing is remembered, all are gone through");
}

#[tokio::test]
async fn a_user_of_two_providers_is_provisioned_by_the_first_alone() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    client.world.users.link(&ada, &IdentityKey::new(OTHER, "7")).await.unwrap();
    let other = json!({ "userName": "ada@b.example", "externalId": "7" });
    assert!(matches!(client.scim.create_user(OTHER, &other).await, Err(ScimError::Exists(_))));
    client.set_active(&ada, false).await;
    assert!(!client.world.snapshots.load().users[&*ada].enabled);
}

/// Whoever comes back by an identity that was taken away would be somebody whom the client could not deactivate.
#[tokio::test]
async fn whom_a_client_provisions_does_not_take_that_provider_away() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    let users = &client.world.users;
    let (company, other) = (IdentityKey::new(ISSUER, "ada"), IdentityKey::new(OTHER, "7"));
    users.link(&ada, &other).await.unwrap();
    let unlink = async |key: &IdentityKey| users.unlink(&owner(), &ada, &key.id(), |_| true).await;
    assert!(matches!(unlink(&company).await, Err(UserError::Provisioned)));
    unlink(&other).await.unwrap();
    users.link(&ada, &other).await.unwrap();
    client.scim.delete_user(ISSUER, &ada, None).await.unwrap();
    unlink(&company).await.unwrap();
}

/// What a client keeps is for it to take, whatever logins say or do not.
#[tokio::test]
async fn groups_that_a_client_keeps_do_not_lapse() {
    let client = Client::new().await;
    let ada = client.create("ada").await.id;
    let group = json!({ "displayName": "Ops", "externalId": "ops", "members": [{ "value": ada }] });
    let group = client.scim.create_group(ISSUER, &group).await.unwrap().id;
    let users = &client.world.users;
    let other = IdentityKey::new(OTHER, "7");
    users.link(&ada, &other).await.unwrap();
    client.world.clock.advance(std::time::Duration::from_secs(30 * 24 * 3_600));
    assert_eq!(users.sign_in(&Asserted::new(other, "Ada")).await.unwrap().user.groups, [&*group]);
    assert!(!users.disavow(&ada, ISSUER, None).await.unwrap());
    assert_eq!(users.get(&ada).await.unwrap().unwrap().value.groups, [&*group]);
}

/// A group that gives something else by now is not deleted as the one that was looked at.
#[tokio::test]
async fn a_group_goes_as_it_was_seen() {
    let client = Client::new().await;
    let users = &client.world.users;
    let made = client.scim.create_group(ISSUER, &json!({ "displayName": "Ops", "externalId": "ops" })).await.unwrap();
    let writes = client.scim.gone(&made.id, made.revision).await.unwrap();
    users.set_group_roles(&owner(), &made.id, Roles::OWNER, None).await.unwrap();
    assert!(users.users.store().commit(writes).await.is_err());
    // A login has made its one member the last owner meanwhile.
    let ops = AssertedGroup { id: "ops".into(), name: "Ops".into() };
    let login = Asserted::new(IdentityKey::new(ISSUER, "ada"), "Ada").in_groups(vec![ops]);
    client.world.applied(users.sign_in(&login).await.unwrap().revision).await;
    assert!(matches!(client.scim.gone(&made.id, made.revision).await, Err(ScimError::LastOwner)));
}

/// Another process, which remembers no list, passes over nobody while others come.
#[tokio::test]
async fn whoever_is_made_last_comes_last() {
    let client = Client::new().await;
    let mut made = Vec::new();
    for n in 0..8 {
        made.push(client.create(&format!("person-{n}")).await.id);
        client.world.clock.advance(std::time::Duration::from_secs(1));
    }
    let listed = client.scim.list_users(ISSUER, &ScimQuery { start: 1, count: 8, ..ScimQuery::default() }).await;
    let listed = listed.unwrap();
    let ids = listed["Resources"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap());
    assert_eq!(ids.collect::<Vec<_>>(), made);
}

/// At the size of a company; the figures are for people.
#[tokio::test]
async fn ten_thousand_users_in_a_thousand_groups() {
    let client = Client::new().await;
    let begun = std::time::Instant::now();
    let mut ids = Vec::new();
    for n in 0..10_000 {
        let user = json!({ "userName": format!("{n}@a.example"), "externalId": n.to_string(), "displayName": "n" });
        ids.push(client.scim.create_user(ISSUER, &user).await.unwrap().id);
    }
    println!("10,000 users made: {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    let mut last = None;
    for n in 0..1_000 {
        let members: Vec<_> = (0..20).map(|m| json!({ "value": ids[(n * 20 + m) % 10_000] })).collect();
        let group = json!({ "displayName": format!("g{n}"), "externalId": format!("g{n}"), "members": members });
        last = client.scim.create_group(ISSUER, &group).await.unwrap().applied;
    }
    client.world.applied(last.unwrap()).await;
    println!("1,000 groups of 20 made: {:?}", begun.elapsed());
    let timed = async |what: &str, start| {
        let begun = std::time::Instant::now();
        let query = ScimQuery { start, count: 200, ..ScimQuery::default() };
        let page = if what == "users" {
            client.scim.list_users(ISSUER, &query).await.unwrap()
        } else {
            client.scim.list_groups(ISSUER, &query).await.unwrap()
        };
        println!("200 {what} from {start}: {:?}", begun.elapsed());
        assert_eq!(page["itemsPerPage"], 200);
    };
    for start in [1, 201, 9_801] {
        timed("users", start).await;
    }
    for start in [1, 801] {
        timed("groups with members", start).await;
    }
    let (begun, group) = (std::time::Instant::now(), group_id(ISSUER, "g0"));
    let patch = json!({ "op": "add", "path": "members", "value": [{ "value": ids[9_999] }] });
    client.members(&group, patch).await.unwrap();
    println!("one member added, with the group read: {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    let found = client.scim.list_users(ISSUER, &query("userName eq \"5000@a.example\"")).await.unwrap();
    println!("one user found by name: {:?}", begun.elapsed());
    assert_eq!(found["totalResults"], 1);
}
